"""Checkpoints: ``<tag>_state.pth`` with everything a run needs to resume, and the networks' weights.

A state file ends with its own SHA-256 to detect damage, and the previous one is kept as
``<tag>_state.prev.pth``. Files are read with ``weights_only=True``, so that they cannot run code.
"""

import hashlib
import logging
import re
from collections.abc import Mapping
from functools import partial
from glob import escape
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import nn

from util.errors import UserError
from util.files import link_or_copy, write_atomically
from util.weights import describe_load_error, export_state_dict, weights_path

log = logging.getLogger(__name__)

MARK = b"sha256:"
TRAILER_LENGTH = len(MARK) + hashlib.sha256().digest_size


class _HashingWriter:
    """A binary file that hashes what is written to it, and keeps the error if writing fails."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.hash = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.hash.update(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def state_path(folder: Path, tag: str) -> Path:
    """Return the path of the state `tag`."""
    return folder / f"{tag}_state.pth"


def save_checkpoint(
    folder: Path, tags: list[str], state: Mapping[str, Any], nets: Mapping[str, nn.Module]
) -> None:
    """Write the networks' weights and the state under every tag; the tags' files are links to the same data.

    The last tag's state is written last: after an interruption a run resumes from the previous one and writes
    everything again. Its previous state is kept.

    Raises:
        OSError: the disk is full; all earlier checkpoints are unchanged.
    """
    first, *others = tags
    last = state_path(folder, tags[-1])
    if last.exists():
        link_or_copy(last, _previous(last))
    for name, net in nets.items():
        write_atomically(weights_path(folder, first, name), partial(_dump, export_state_dict(net)))
    write_atomically(state_path(folder, first), partial(_dump, dict(state), checksum=True))
    for tag in others:
        for name in nets:
            link_or_copy(weights_path(folder, first, name), weights_path(folder, tag, name))
        link_or_copy(state_path(folder, first), state_path(folder, tag))


def load_state(folder: Path, tag: str) -> dict[str, Any] | None:
    """Return the newest undamaged state `tag`, or None if there is no state file.

    Raises:
        UserError: all state files are damaged.
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
            f"{newest}: no undamaged state is left to resume from; start a new run without --continue_train,"
            " or resume from an older checkpoint (train.py --epoch N)"
        )
    return None


def remove_state(folder: Path, tag: str) -> None:
    """Remove the state `tag` and its previous one if they exist."""
    newest = state_path(folder, tag)
    for path in (_previous(newest), newest):
        path.unlink(missing_ok=True)


def set_aside(folder: Path, tag: str, new_tag: str) -> bool:
    """Rename the checkpoint `tag`; return whether there was one."""
    paths = [*folder.glob(f"{escape(tag)}_state*.pth"), *folder.glob(f"{escape(tag)}_net_*.pth")]
    for path in paths:
        path.replace(path.with_name(new_tag + path.name.removeprefix(tag)))
    return bool(paths)


def remove_old(folder: Path, count: int) -> None:
    """Remove all but the newest `count` checkpoints of epochs, and likewise of ``iter_N``."""
    for kind in (r"(\d+)_state\.pth", r"(iter_\d+)_state\.pth"):
        states = [path for path in folder.glob("*_state.pth") if re.fullmatch(kind, path.name)]
        # By time: after resuming from an older epoch, higher numbers are not newer.
        for path in sorted(states, key=lambda path: path.stat().st_mtime_ns)[:-count]:
            tag = path.name.removesuffix("_state.pth")
            for file in (*folder.glob(f"{tag}_net_*.pth"), path):
                file.unlink()


def _dump(content: object, file: IO[bytes], checksum: bool = False) -> None:
    writer = _HashingWriter(file)
    try:
        torch.save(content, cast(IO[bytes], writer))
    except RuntimeError:
        # torch's message for a failed write lacks the reason.
        if writer.error:
            raise writer.error from None
        raise
    if checksum:
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
            raise UserError(f"{path}: damaged or incomplete (its checksum does not match)")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: cannot be read as a state ({describe_load_error(error)})") from error


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.prev{path.suffix}")
