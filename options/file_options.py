"""The flags that say what image files hold."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from options.option import Fixed, option
from util.checking import parse_json, read_limited
from util.errors import UserError

if TYPE_CHECKING:
    from util.parts import Kind

PER_PART = "; with --inputs or --outputs one for all, or by part: A1:full,A2:0,4095, or a .json file of these"


SIDES = ("input", "output")
BY_PART = ("input_range", "output_range", "input_bands", "output_bands")
"""The flags with values by part."""


@dataclass(frozen=True)
class FileOptions:
    """What the image files hold, and how it becomes the input of networks."""

    input_range: str = option(
        "8bit",
        "values of input files: 8bit reads RGB or grey with 8 bits, whatever the file holds; the others keep"
        " the file's type and channels and map to [-1, 1]: full the whole range of an integer type (0..1 of"
        " floating point), LO,HI an interval in the file's units, percentile:P what lies between the P-th and"
        " the (100 - P)-th percentile of the training images" + PER_PART,
        nonempty=True,
        architecture=True,
    )
    output_range: str = option(
        "8bit", "values of output files, see --input_range", nonempty=True, architecture=True
    )
    input_bands: str = option(
        "",
        "channels of input files to use, from 1, in this order, such as 4,3,2; by default all" + PER_PART,
        architecture=True,
    )
    output_bands: str = option("", "channels of output files to use, see --input_bands", architecture=True)
    nan_value: float | None = option(
        None,
        "value in the file's units in place of NaN and infinite values; inf: they are an error",
        architecture=True,
    )
    inputs: str = option(
        "",
        "several input images per sample, joined along the channels: the folders <phase>A1, <phase>A2 are"
        " A1,A2; files are paired by name",
        architecture=True,
    )
    outputs: str = option(
        "", "several output images per sample, such as B1,B2, see --inputs", architecture=True
    )
    label_nc: int = option(
        0,
        "the input is a map of class numbers, 0 to N - 1, which networks get one-hot: N; 0: it is an image",
        minimum=0,
        architecture=True,
    )
    label_ignore: int | None = option(
        None,
        "class number without a class, such as 255, whose pixels are 0 in all channels; inf: there is none",
        minimum=0,
        architecture=True,
    )
    label_colors: str = option(
        "",
        "file with the colour of each class, a line R G B each: label maps are images of these colours, and"
        " pages show the classes in them",
        architecture=True,
    )
    no_instance: bool = option(
        False,
        "with --label_nc, do not add the edges of objects from <phase>_inst as an input channel",
        architecture=True,
    )
    mask: bool = option(
        False,
        "weight pixel losses and metrics by the grey images in <phase>M (0 to 255 as 0 to 1)",
    )
    tiff_pages: str = option(
        "samples",
        "pages of a TIFF file: each is a sample, or they are the channels of one",
        choices=("samples", "channels"),
        architecture=True,
    )
    slice_axis: int = option(
        2,
        "axis of a volume (NIfTI) along which its slices are the samples",
        minimum=0,
        below=3,
        architecture=True,
    )
    value_ranges: str = option(
        "",
        "types and intervals of values by part, as measured in the training images; train.py records them for"
        " test.py and --continue_train",
        architecture=True,
        cosmetic=True,
    )

    def __post_init__(self) -> None:
        for flag in ("inputs", "outputs"):
            names = part_names(getattr(self, flag))
            wrong = [name for name in names if not re.fullmatch(r"[A-Za-z0-9_]+", name)]
            if wrong or len(set(names)) < len(names):
                raise UserError(
                    f"--{flag} {getattr(self, flag)}: expected different names of letters and digits,"
                    " separated by commas, such as A1,A2"
                )
        for flag in BY_PART:
            side = flag.partition("_")[0]
            text, names = getattr(self, flag), self._parts(side)
            given = by_part(flag, text).keys()
            unknown = given - {*names, ""}
            # Values of all parts may be given once for runs that each use some of them.
            if unknown and not given >= {*names}:
                raise UserError(
                    f"--{flag} {text}: there is no part {min(unknown)} of the {side}, only {', '.join(names)}"
                )

    def _parts(self, side: str) -> tuple[str, ...]:
        """Return the names that parts of a side, ``input`` or ``output``, can have."""
        alone = ("A", "label", "inst") if side == "input" else ("B",)
        return part_names(getattr(self, f"{side}s")) or alone

    def value(self, flag: str, part: str) -> str:
        """Return the value of one of the flags `BY_PART` for a part."""
        values = by_part(flag, getattr(self, flag))
        return values.get(part, values.get("", ""))

    def range(self, part: str, side: str) -> str:
        """Return the value of ``--input_range`` or ``--output_range`` for a part."""
        return self.value(f"{side}_range", part) or "8bit"

    def bands(self, part: str, side: str) -> tuple[int, ...]:
        """Return the channels of its files that a part has, from 1; empty for all.

        Raises:
            UserError: They are no numbers of channels.
        """
        text = self.value(f"{side}_bands", part)
        try:
            bands = tuple(int(word) for word in text.split(",")) if text else ()
            if bands and min(bands) < 1:
                raise ValueError
        except ValueError:
            raise UserError(
                f"--{side}_bands {text}: expected numbers of channels from 1, such as 4,3,2"
            ) from None
        return bands

    def kind(self, part: str, side: str) -> "Kind":
        """Return what the files of a part hold.

        Args:
            side: ``input``, ``output``, or ``mask`` for masks.
        """
        if side == "mask":
            return "mask"
        text = self.range(part, side)
        if text in ("labels", "instances"):
            return "labels" if text == "labels" else "instances"
        if side == "input" and self.label_input and part in ("A", "label", "inst"):
            return "instances" if part == "inst" else "labels"
        return "8bit" if text == "8bit" else "values"

    def several(self, side: str) -> bool:
        """Return whether a side, ``input`` or ``output``, consists of several images."""
        return len(part_names(getattr(self, f"{side}s"))) > 1

    @property
    def label_input(self) -> bool:
        """Whether ``--label_nc`` means the input: no range says which part holds the class numbers."""
        return self.label_nc > 0 and not any(map(self._has_label_range, SIDES))

    def holds_classes(self, side: str) -> bool:
        """Return whether a part of a side, ``input`` or ``output``, is a map of class numbers."""
        return self._has_label_range(side) or (side == "input" and self.label_input)

    def _has_label_range(self, side: str) -> bool:
        flag = f"{side}_range"
        values = by_part(flag, getattr(self, flag))
        return "labels" in {values.get(name, values.get("")) for name in self._parts(side)}


def only_rgb(reason: str, losses: str) -> dict[str, Fixed]:
    """Return flags for `fixed` of a model that works on RGB and grey images with 8 bits alone.

    Args:
        reason: why, after "supports only --input_range 8bit".
        losses: why it has no masks.
    """
    fixed: dict[str, object] = {f"{side}_range": "8bit" for side in SIDES}
    fixed |= {"input_bands": "", "output_bands": "", "inputs": "", "outputs": "", "label_nc": 0}
    return {flag: Fixed(value, reason) for flag, value in fixed.items()} | {"mask": Fixed(False, losses)}


def part_names(text: str) -> tuple[str, ...]:
    """Return the names in a value of ``--inputs`` or ``--outputs``."""
    return tuple(text.split(",")) if text else ()


def from_parts(values: Mapping[str, str]) -> str:
    """Return values by part as a flag's text, see `by_part`."""
    return ",".join(f"{name}:{value}" if name else value for name, value in sorted(values.items()))


def by_part(flag: str, text: str) -> Mapping[str, str]:
    """Return a flag's value by part, under "" that of all parts: ``A1:full,A2:0,4095`` has two.

    A word before a colon is a part's name if it is not itself a value, as in ``percentile:1``.

    Args:
        text: the values, or the name of a .json file that has them.

    Raises:
        UserError: A part has two values, or the file cannot be read.
    """
    if text.endswith(".json"):
        advice = 'expected values by part, such as {"A1": "full", "A2": [0, 4095]}'
        loaded = parse_json(read_limited(Path(text)), {str: object}, text, advice)
        return {
            name: ",".join(map(str, value)) if isinstance(value, list) else str(value)
            for name, value in loaded.items()
        }
    values: dict[str, str] = {}
    name = ""
    for word in text.split(",") if text else ():
        head, colon, rest = word.partition(":")
        if colon and head != "percentile":
            name, word = head, rest
            if name in values:
                raise UserError(f"--{flag} {text}: two values of {name}")
        values[name] = f"{values[name]},{word}" if name in values else word
    return values
