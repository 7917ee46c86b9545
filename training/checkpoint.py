"""Checkpoints: ``<tag>_state.pth`` with all that a run needs to go on, and the networks' weights beside it.

A state file ends in its own SHA-256, so that damage is noticed; the one before it stays as
``<tag>_state.prev.pth``. It is read with ``weights_only=True``: it cannot run code.
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
    """A binary file that hashes what is written to it, and remembers why it could not be."""

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
    """Return the file of the state `tag`."""
    return folder / f"{tag}_state.pth"


def save_checkpoint(
    folder: Path, tags: list[str], state: Mapping[str, Any], nets: Mapping[str, nn.Module]
) -> None:
    """Write the networks' weights and the state under every tag; tags share their files' bytes.

    The last tag's state comes last: a process that ends before it will go on from the old one, and write
    everything again. Of this tag the state before stays.

    Raises:
        OSError: there is no room; all earlier checkpoints are as they were.
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
            f"{newest}: no undamaged state is left to go on from; start again without --continue_train, or go"
            " on from an older one (train.py: --epoch N)"
        )
    return None


def remove_state(folder: Path, tag: str) -> None:
    """Remove the state `tag` and the one before it, where they exist."""
    newest = state_path(folder, tag)
    for path in (_previous(newest), newest):
        path.unlink(missing_ok=True)


def set_aside(folder: Path, tag: str, new_tag: str) -> bool:
    """Rename the checkpoint `tag`; return whether there was one."""
    found = [*folder.glob(f"{escape(tag)}_state*.pth"), *folder.glob(f"{escape(tag)}_net_*.pth")]
    for path in found:
        path.replace(path.with_name(new_tag + path.name.removeprefix(tag)))
    return bool(found)


def remove_old(folder: Path, count: int) -> None:
    """Remove all checkpoints of epochs but the newest `count`, and likewise of ``iter_N``."""
    for kind in (r"(\d+)_state\.pth", r"(iter_\d+)_state\.pth"):
        states = [path for path in folder.glob("*_state.pth") if re.fullmatch(kind, path.name)]
        # By time: a run that goes on from an older epoch meets higher numbers, which are not newer.
        for path in sorted(states, key=lambda path: path.stat().st_mtime_ns)[:-count]:
            tag = path.name.removesuffix("_state.pth")
            for file in (*folder.glob(f"{tag}_net_*.pth"), path):
                file.unlink()


def _dump(content: object, file: IO[bytes], checksum: bool = False) -> None:
    writer = _HashingWriter(file)
    try:
        torch.save(content, cast(IO[bytes], writer))
    except RuntimeError:
        # torch's own words for a write that failed do not tell why.
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
            raise UserError(f"{path}: damaged or not completely written (its checksum does not fit)")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: cannot be read as a state ({describe_load_error(error)})") from error


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.prev{path.suffix}")
