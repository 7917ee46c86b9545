"""Checkpoints: ``<tag>_state.pth`` with all that a run needs to go on, and weights in the peer's form.

A state file ends in its own SHA-256, so that damage is noticed; it is written beside the old one, flushed to
the disk and renamed, and the old one stays as ``<tag>_state.prev.pth``. Every file is read with
``weights_only=True``: none can run code.
"""

import hashlib
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn

from util.errors import UserError

log = logging.getLogger(__name__)

MARK = b"sha256:"
TRAILER_LENGTH = len(MARK) + hashlib.sha256().digest_size


class _HashingWriter:
    """A binary file that hashes what is written to it."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def state_path(folder: Path, tag: str) -> Path:
    """Return the file of the state `tag`."""
    return folder / f"{tag}_state.pth"


def weights_path(folder: Path, tag: str, name: str) -> Path:
    """Return the file of the exported weights of network `name`."""
    return folder / f"{tag}_net_{name}.pth"


def save_checkpoint(
    folder: Path, tags: list[str], state: Mapping[str, Any], nets: Mapping[str, nn.Module]
) -> None:
    """Write the state and then the networks' weights under every tag; tags share their files' bytes."""
    first, *others = tags
    _write_atomically(state_path(folder, first), partial(_write_state, state), keep_previous=True)
    for name, net in nets.items():
        _write_atomically(weights_path(folder, first, name), partial(torch.save, exported(net)))
    for tag in others:
        _share(state_path(folder, first), state_path(folder, tag))
        for name in nets:
            _share(weights_path(folder, first, name), weights_path(folder, tag, name))


def load_state(folder: Path, tag: str) -> dict[str, Any] | None:
    """Return the newest undamaged state `tag`, or None if none was ever saved.

    Raises:
        UserError: there are state files, but all are damaged.
    """
    newest = state_path(folder, tag)
    candidates = [path for path in (newest, _previous(newest)) if path.exists()]
    for path in candidates:
        try:
            return _read_state(path)
        except UserError as error:
            log.warning("%s", error)
    if candidates:
        raise UserError(
            f"{newest}: no undamaged state is left to go on from; --epoch N names an older checkpoint"
        )
    return None


def load_weights(net: nn.Module, path: Path) -> None:
    """Load exported weights, ours or the peer's, old forms included, into `net`.

    Raises:
        UserError: the file is missing, unreadable, or of another architecture.
    """
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint; check --name, --checkpoints_dir and --epoch")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: cannot be read as weights ({str(error).splitlines()[0]})") from error
    if not isinstance(weights, Mapping):
        raise UserError(f"{path}: expected a state_dict, found {type(weights).__name__}")
    load_into(net, weights, str(path))


def load_into(net: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy `weights` into `net`, leaving out what older versions of torch stored beside them.

    Raises:
        UserError: names or shapes differ; the message says which.
    """
    weights, own = _modernised(net, weights), net.state_dict()
    differences = [
        (f"{len(names)} entries {what}", names)
        for what, names in (
            ("are missing in the file", own.keys() - weights.keys()),
            ("are unknown to the network", weights.keys() - own.keys()),
            ("differ in shape", {n for n in own.keys() & weights.keys() if own[n].shape != weights[n].shape}),
        )
        if names
    ]
    if differences:
        found = "; ".join(f"{what}, such as {min(names)}" for what, names in differences)
        raise UserError(
            f"{source}: these weights are of another architecture: {found}. Give the flags that they"
            " were trained with: --netG, --norm, --ngf, --input_nc, --output_nc, --no_dropout (generators);"
            " --netD, --n_layers_D, --norm, --ndf (discriminators)"
        )
    net.load_state_dict(weights)


def exported(net: nn.Module) -> dict[str, Tensor]:
    """Return the state_dict of `net` in the peer's form: on the CPU, floating point values in float32."""
    weights = net.state_dict()
    for name, tensor in weights.items():
        weights[name] = tensor.cpu().float() if tensor.is_floating_point() else tensor.cpu()
    return weights


def _modernised(net: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `weights` without wrappers' prefixes and the statistics that instance norm once stored."""
    plain_norms = {
        name
        for name, layer in net.named_modules()
        if isinstance(layer, nn.InstanceNorm2d) and not layer.track_running_stats
    }
    result = {}
    for name, tensor in weights.items():
        for prefix in ("module.", "_orig_mod."):
            name = name.removeprefix(prefix)
        layer, _, entry = name.rpartition(".")
        if layer in plain_norms and entry in ("running_mean", "running_var", "num_batches_tracked"):
            continue
        result[name] = tensor
    return result


def _write_state(state: Mapping[str, Any], file: IO[bytes]) -> None:
    writer = _HashingWriter(file)
    torch.save(dict(state), cast(IO[bytes], writer))
    file.write(MARK + writer.hash.digest())


def _read_state(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        size = path.stat().st_size
        digest, left = hashlib.sha256(), size - TRAILER_LENGTH
        while left > 0:
            block = file.read(min(left, 1 << 20))
            digest.update(block)
            left -= len(block)
        if file.read() != MARK + digest.digest():
            raise UserError(f"{path}: damaged or not completely written (its checksum does not fit)")
    return torch.load(path, map_location="cpu", weights_only=True)


def _write_atomically(path: Path, write: Callable[[IO[bytes]], None], keep_previous: bool = False) -> None:
    """Write a file so that at every moment `path` is either the whole old file or the whole new one."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    if keep_previous and path.exists():
        _share(path, _previous(path))
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _share(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it where the file system has no links."""
    temporary = target.with_name(f"{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.prev{path.suffix}")
