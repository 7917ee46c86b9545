"""Checkpoints: ``<tag>_state.pth`` with everything a run needs to resume, and the networks' weights.

A state file ends with its own SHA-256 to detect damage, and the previous one is kept as
``<tag>_state.prev.pth``. A save begins with ``<tag>_state.next.pth``, which becomes ``<tag>_state.pth`` when
all other files are written: if the process ends in between, the save can be repeated from it. Files are read
with ``weights_only=True``, so that they cannot run code.
"""

import hashlib
import logging
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from functools import partial
from glob import escape
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from util.checking import COUNT, check, open_regular
from util.errors import UserError
from util.files import copy_file, link_or_copy, remove_temporary, sync_folder, write_atomically
from util.weights import EMA_SUFFIX, describe_load_error, export_state_dict, read_weights, weights_path

log = logging.getLogger(__name__)

MARK = b"sha256:"
TRAILER_LENGTH = len(MARK) + hashlib.sha256().digest_size


ID_BYTES = 1 << 16
"""Bytes at the end of a state that tell it from others."""

TAG = re.compile(r"\d+|iter_\d+|best|latest")
"""The names of checkpoints that a run saves."""

ORDER = {"checkpoints?": {str: COUNT}, "progress": {"pictures": COUNT}}
"""The shape of the parts of a state that tell which of two states is newer."""


class SavedState(NamedTuple):
    """A state, the file that it comes from, and whether it is that of a save that did not end."""

    content: dict[str, Any]
    path: Path
    is_interrupted: bool = False


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
    folder: Path,
    tags: list[str],
    state: Mapping[str, Any],
    nets: Mapping[str, nn.Module],
    keep_state: str = "all",
) -> None:
    """Write the networks' weights and the state under every tag; the states are links to the same data.

    The last tag's state appears last, and its previous state is kept. After an interruption `find_state`
    returns the new state if it is complete, and the save has to be repeated; otherwise the previous one.

    Args:
        keep_state: ``all``, or ``latest``: only the last tag gets the state.

    Raises:
        OSError: the disk is full; `find_state` returns the previous state, or the new one.
    """
    last = state_path(folder, tags[-1])
    announced = _announced(last)
    write_atomically(announced, partial(_dump, dict(state), checksum=True))
    needed = False
    try:
        for tag in tags:
            for name, net in nets.items():
                path = weights_path(folder, tag, name)
                if tag == tags[0]:
                    write_atomically(path, partial(_dump, export_state_dict(net)))
                else:
                    copy_file(weights_path(folder, tags[0], name), path)
                needed = tag == tags[-1]
            if tag != tags[-1] and keep_state == "all":
                link_or_copy(announced, state_path(folder, tag))
            elif tag != tags[-1]:
                state_path(folder, tag).unlink(missing_ok=True)  # an earlier one, of other weights
        if last.exists():
            link_or_copy(last, _previous(last))
    except BaseException:
        if not needed:
            announced.unlink(missing_ok=True)
        raise
    announced.replace(last)
    for tag in tags:
        # Averages that the run no longer has, or of an earlier run: test.py --ema would use them.
        for path in folder.glob(f"{escape(tag)}_net_*{EMA_SUFFIX}.pth"):
            if path not in (weights_path(folder, tag, name) for name in nets):
                path.unlink()
    sync_folder(folder)


def find_state(folder: Path, tag: str) -> SavedState | None:
    """Return the state to resume from: that of an interrupted save, else the newest undamaged one, else None.

    If the state ``latest`` was removed or never copied, the run's newest other one takes its place.

    Raises:
        UserError: all state files are damaged.
    """
    saved = _interrupted_save(folder, tag) or _newest_state(folder, tag)
    # Beside a checkpoint of an earlier run, the others may be of that run too.
    if saved or tag != "latest" or any(folder.glob("replaced_*.pth")):
        return saved
    tags = [path.name.removesuffix("_state.pth") for path in folder.glob("*_state.pth")]
    images = {
        other: _images(order)
        for other in filter(TAG.fullmatch, tags)
        if (order := _read_order(state_path(folder, other)))
    }
    if not images:
        return None
    newest = max(images, key=lambda other: images[other])
    log.warning("%s: there is no latest_state.pth; %s_state.pth takes its place", folder, newest)
    return _newest_state(folder, newest)


def load_state(folder: Path, tag: str) -> dict[str, Any] | None:
    """Return the newest undamaged state `tag`, or None if there is no state file.

    Raises:
        UserError: all state files are damaged.
    """
    saved = _newest_state(folder, tag)
    return saved.content if saved else None


def _newest_state(folder: Path, tag: str) -> SavedState | None:
    newest = state_path(folder, tag)
    # A link without a target is a state on a disk that is not there now.
    candidates = [path for path in (newest, _previous(newest)) if os.path.lexists(path)]
    for path in candidates:
        try:
            return SavedState(_read_state(path), path)
        except UserError as error:
            log.warning("%s", error)
    if candidates:
        raise UserError(
            f"{newest}: no undamaged state is left to resume from; start a new run without --continue_train,"
            " or resume from an older checkpoint (train.py --epoch N)"
        )
    return None


def _interrupted_save(folder: Path, tag: str) -> SavedState | None:
    """Return the state of a save, with `tag` as its last tag, that did not end; None without one."""
    newest = state_path(folder, tag)
    announced = _announced(newest)
    if not announced.exists():
        return None
    try:
        state = check(_read_state(announced), ORDER, announced)
    except UserError as error:
        log.warning("%s", error)
        return None
    earlier = _read_order(newest)
    if earlier is not None and save_numbers(state).get(tag, 0) <= save_numbers(earlier).get(tag, 0):
        return None
    return SavedState(state, announced, is_interrupted=True)


def peek_state(path: Path) -> dict[str, Any] | None:
    """Return a state without checking its checksum, or None if it cannot be read.

    It is memory-mapped: of a large file only a little is read.
    """
    try:
        with open_regular(path):
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception:
        return None
    return state if isinstance(state, dict) else None


def state_id(path: Path) -> str:
    """Return a text that differs between states, and not between copies of one; empty without the file."""
    try:
        with path.open("rb") as file:
            # The end has the checksums of all parts.
            file.seek(max(0, path.stat().st_size - ID_BYTES))
            return hashlib.sha256(file.read()).hexdigest()
    except FileNotFoundError:
        return ""


def remove_state(folder: Path, tag: str) -> None:
    """Remove the state `tag`, its previous one and that of an interrupted save, if they exist."""
    newest = state_path(folder, tag)
    for path in (_announced(newest), _previous(newest), newest):
        path.unlink(missing_ok=True)


def set_aside(folder: Path, tag: str, new_tag: str) -> bool:
    """Rename the checkpoint `tag`; return whether there was one."""
    paths = [*folder.glob(f"{escape(tag)}_state*.pth"), *folder.glob(f"{escape(tag)}_net_*.pth")]
    for path in paths:
        path.replace(path.with_name(new_tag + path.name.removeprefix(tag)))
    return bool(paths)


def clean_up(folder: Path) -> None:
    """Remove temporary files of processes that were killed; nobody may be saving in the folder."""
    for suffix in (".pth", ".json", ".txt"):
        remove_temporary(folder, suffix)
    for path in folder.glob("*.pth.tmp"):  # of earlier versions
        path.unlink()


def discard_first_save(folder: Path, tag: str) -> None:
    """Remove what an interrupted first save under `tag` has written, in a folder without a state `tag`."""
    newest = state_path(folder, tag)
    if _announced(newest).exists() and not newest.exists() and not _previous(newest).exists():
        for path in (*folder.glob(f"{escape(tag)}_net_*.pth"), _announced(newest)):
            path.unlink()


def changed_weights(folder: Path, tag: str, saved: SavedState, names: Iterable[str]) -> list[Path]:
    """Return the files of weights `tag` that were changed or replaced after the run had saved them.

    Those of an interrupted save are not among them.

    Args:
        saved: the state that is resumed from.
        names: of the exported networks.
    """
    newest = state_path(folder, tag)
    if saved.path == _previous(newest):
        return []  # the weights are those of the damaged state
    states = [saved.content]
    if saved.is_interrupted and (earlier := peek_state(newest)):
        states.append(earlier)
    changed = []
    for name in names:
        path = weights_path(folder, tag, name)
        if not path.exists():
            continue
        try:
            weights = read_weights(path)
        except UserError as error:
            if zipfile.is_zipfile(path):  # complete, so what somebody else has saved
                changed.append(path)
            else:
                log.warning("%s; the state has its own weights", error)
            continue
        if not any(_same_weights(weights, state, name) for state in states) and not _is_of_later_state(
            weights, name, folder, tag, saved.content
        ):
            changed.append(path)
    return changed


def _is_of_later_state(
    weights: Mapping[str, Tensor], name: str, folder: Path, tag: str, state: Mapping[str, Any]
) -> bool:
    """Return whether weights are of a save by an earlier version, ended before it had written its state."""
    if "checkpoints" in state:
        return False
    if (folder / f"{tag}_state.pth.tmp").exists():
        return True
    for path in folder.glob("*_state.pth"):
        order = _read_order(path)
        if order is not None and _images(order) > _images(state) and _same_weights(weights, order, name):
            return True
    return False


def _same_weights(weights: Mapping[str, Tensor], state: Mapping[str, Any], name: str) -> bool:
    """Return whether a file of weights holds the values of network `name` in a state."""
    try:
        average = name.endswith(EMA_SUFFIX)
        nets = state["model"]["state"]["ema"]["nets"] if average else state["model"]["nets"]
        own = nets[name.removesuffix(EMA_SUFFIX)]
        return all(_same_tensor(weights[key], value) for key, value in own.items())
    except (KeyError, TypeError, AttributeError):
        return False


def _same_tensor(exported: Tensor, value: Tensor) -> bool:
    value = value.float() if value.is_floating_point() else value
    return exported.shape == value.shape and bool(((exported == value) | (value != value)).all())


def save_numbers(state: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of each tag's last save that a state records; none for states of earlier versions."""
    return dict(state.get("checkpoints", {}))


def _images(state: Mapping[str, Any]) -> int:
    """Return the images seen in the run, which states of all versions record."""
    return int(state["progress"]["pictures"])


class SaveOrder:
    """The order in which a folder's checkpoints were saved, for ``--keep_last``.

    File times do not tell it: they change in copies and with the clock. So saves are numbered, and a state
    records the number of each tag's last save. States of earlier versions are older, and ordered by the
    images seen in the run.

    Attributes:
        numbers: of the last save, by tag.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.numbers: dict[str, int] = {}
        self._images: dict[str, int] = {}  # of tags without a number
        latest = {*folder.glob("latest_state*.pth")}  # these record the numbers of all checkpoints
        for path in (*latest, *({*folder.glob("*_state.pth")} - latest)):
            tag = path.name.partition("_state")[0]
            if (path in latest or tag not in self.numbers) and (state := _read_order(path)) is not None:
                for name, number in save_numbers(state).items():
                    if TAG.fullmatch(name):
                        self.numbers[name] = max(number, self.numbers.get(name, 0))
                self._images[tag] = _images(state)

    def add(self, tags: Iterable[str]) -> None:
        """Record the next save, under `tags`."""
        number = max(self.numbers.values(), default=0) + 1
        self.numbers.update(dict.fromkeys(tags, number))

    def remove_old(self, count: int) -> None:
        """Remove all but the newest `count` checkpoints of epochs, and likewise of ``iter_N``."""
        states = {path.name.removesuffix("_state.pth") for path in self.folder.glob("*_state.pth")}
        weights = {tag for tag in self.numbers if any(self.folder.glob(f"{escape(tag)}_net_*.pth"))}
        for kind in (r"\d+", r"iter_\d+"):
            tags = [tag for tag in states | weights if re.fullmatch(kind, tag)]
            for tag in sorted(tags, key=self._age)[:-count]:
                for file in (*self.folder.glob(f"{tag}_net_*.pth"), state_path(self.folder, tag)):
                    file.unlink(missing_ok=True)
                self.numbers.pop(tag, None)

    def _age(self, tag: str) -> tuple[int, int, int]:
        """Return a key that is larger for newer checkpoints."""
        return self.numbers.get(tag, 0), self._images.get(tag, 0), int(tag.removeprefix("iter_"))


def _read_order(path: Path) -> dict[str, Any] | None:
    """Return a state if it can be read and has the shape `ORDER`; it is not loaded, see `peek_state`."""
    try:
        return check(peek_state(path), ORDER, path)
    except UserError:
        return None


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
    try:
        with open_regular(path) as file:
            left = max(0, path.stat().st_size - TRAILER_LENGTH)
            file.seek(left)
            trailer = file.read()
            file.seek(0)
            digest = hashlib.sha256()
            while left > 0 and trailer.startswith(MARK):
                block = file.read(min(left, 1 << 20))
                digest.update(block)
                left -= len(block) or left
    except PermissionError:
        raise  # it is not damaged, so that an earlier state must not take its place
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if trailer != MARK + digest.digest():
        raise UserError(f"{path}: damaged or incomplete (its checksum does not match)")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: cannot be read as a state ({describe_load_error(error)})") from error
    return check(state, dict, path)


def _announced(path: Path) -> Path:
    return path.with_name(f"{path.stem}.next{path.suffix}")


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.prev{path.suffix}")
