"""Option files: ours, and those of every version of the peer."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from options.older_flags import NOT_FLAGS, OTHER_DEFAULTS, translate
from util.checking import read_json, read_limited
from util.errors import UserError
from util.text import decode

ENTRY = re.compile(r"^ *(\w+): (.*?) *(\t\[default: .*\])?$", re.MULTILINE)
"""A line of a text file; the peer's first versions wrote no defaults."""

TRAINING_RECORDS = ("train_opt.json", "train_opt.txt", "opt.txt")
"""Files that record the options of a training, best first; the last is of the peer's first versions."""

FLAG_VALUES = {str: str | int | float | bool | None}
"""The shape of train_opt.json and test_opt.json."""

log = logging.getLogger(__name__)


class Record(NamedTuple):
    """The values in an option file.

    Attributes:
        values: by today's names; from a text file as strings.
        foreign: whether it may have flags that never were ours.
        older: the older names in it.
    """

    source: str = ""
    values: Mapping[str, Any] = {}
    foreign: bool = False
    older: Sequence[str] = ()

    def log_translated(self) -> None:
        """Log which older names were translated."""
        if self.older:
            log.info("%s: older names of flags: %s", self.source, ", ".join(self.older))


def read_record(path: Path) -> Record:
    """Return the values in an option file of ours, a JSON object, or of the peer's form.

    Raises:
        UserError: It cannot be read, or holds no options.
    """
    if path.suffix == ".json":
        return Record(str(path), read_json(path, FLAG_VALUES))
    text = decode(read_limited(path))
    if text.lstrip().startswith("{"):
        return Record(str(path), read_json(path, FLAG_VALUES))
    entries = {match[1]: match for match in ENTRY.finditer(text) if match[1] not in NOT_FLAGS}
    if not entries:
        raise UserError(f"{path}: no options in it (lines such as 'netG: unet_256', or a JSON object)")
    chosen = {
        name: match[2] for name, match in entries.items() if match[3] or OTHER_DEFAULTS.get(name) != match[2]
    }
    chosen.pop("suffix", None)  # it is part of the name there
    values, older = translate(chosen)
    return Record(str(path), values, foreign=True, older=older)


def read_training_record(folder: Path) -> Record:
    """Return the options that a run was trained with; an empty record if there is none."""
    for name in TRAINING_RECORDS:
        if (folder / name).is_file():
            return read_record(folder / name)
    return Record()


def read_opt_txt(text: str) -> dict[str, str]:
    """Return the values in an options file in the peer's format, as strings."""
    return {match[1]: match[2] for match in ENTRY.finditer(text)}


def read_changed(text: str) -> dict[str, str]:
    """Return the values in an option file of the peer's form that differ from their defaults, as texts."""
    return {match[1]: match[2] for match in ENTRY.finditer(text) if match[3]}
