"""Previews of images with any channels and values: RGB with 8 bits, for pages and loggers."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from util.errors import UserError
from util.image_io import Visuals, to_uint8
from util.parts import Part, Sides, parse_interval, parse_percentile

MAX_SAMPLED = 1 << 20
"""Values of an image of which percentiles are taken."""

CITYSCAPES = (
    *((0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), (111, 74, 0), (81, 0, 81), (128, 64, 128)),
    *((244, 35, 232), (250, 170, 160), (230, 150, 140), (70, 70, 70), (102, 102, 156), (190, 153, 153)),
    *((180, 165, 180), (150, 100, 100), (150, 120, 90), (153, 153, 153), (153, 153, 153), (250, 170, 30)),
    *((220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0)),
    *((0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 0, 90), (0, 0, 110), (0, 80, 100), (0, 0, 230)),
    *((119, 11, 32), (0, 0, 142)),
)
"""The colours of the 35 classes of Cityscapes, by their ids, as pix2pixHD shows them."""

COLOR_NAMES = {1: "as grey", 2: "as red and green", 3: "as RGB"}


@dataclass(frozen=True)
class View:
    """How the images of a part are shown.

    Attributes:
        shown: positions of the channels that are shown: one as grey, two as red and green, three as RGB.
        low, high: the values that are black and white, in the file's units.
        percentile: P if black and white are the P-th and the (100 - P)-th percentile of each sample instead.
    """

    shown: tuple[int, ...]
    low: float
    high: float
    percentile: float | None = None


class Display:
    """Previews of a model's images: the same bands and the same window for all images of a part.

    Args:
        sides: what the images hold.
        ranges, bands: values of ``--display_range`` and ``--display_bands`` by part, under "" that of all.

    Raises:
        UserError: a flag names a part or a channel that does not exist, or has no such value.
    """

    def __init__(self, sides: Sides, ranges: Mapping[str, str] = {}, bands: Mapping[str, str] = {}):
        self.sides = sides
        images = [part for part in (*sides.A.parts, *sides.B.parts) if part.is_image]
        for flag, values in (("display_range", ranges), ("display_bands", bands)):
            if unknown := values.keys() - {part.name for part in images} - {""}:
                names = ", ".join(part.name for part in images) or "none"
                raise UserError(f"--{flag}: no images are named {min(unknown)}; there are {names}")
        shown, for_all = dict(bands), bands.get("", "")
        if for_all:
            having = [part.name for part in images if _has_bands(part, for_all)]
            # One part at least must have the channels, and names those that it has otherwise.
            shown = dict.fromkeys(having or [part.name for part in images], for_all) | shown
        self.views = {
            part.name: _view(part, ranges.get(part.name, ranges.get("", "")), shown.get(part.name, ""))
            for part in images
        }

    def previews(self, visuals: Mapping[str, Tensor]) -> Visuals:
        """Return the images of one sample as they are shown, uint8 (H, W, 3) on the CPU, by label.

        A side of several parts has an image for each: real_A becomes real_A1 and real_A2.

        Args:
            visuals: (C, H, W) as a model returns them, by label.
        """
        images = list(parts_of(visuals, self.sides))
        windows = self._windows(images)
        return {
            label: _preview(part, image, self._view(part), windows.get(part.name))
            for label, part, image in images
        }

    def notes(self) -> list[str]:
        """Return how each part is shown, except for 8-bit images that are shown as they are."""
        # Models that generate images from noise have the same part on both sides.
        parts = dict.fromkeys((*self.sides.A.parts, *self.sides.B.parts))
        return [
            f"{part.name}: {_note(part, self._view(part))}"
            for part in parts
            if part.kind != "8bit" or self._view(part) != _view(part)
        ]

    def _view(self, part: Part) -> View:
        return self.views.get(part.name) or _view(part)

    def _windows(self, images: list[tuple[str, Part, Tensor]]) -> dict[str, tuple[float, float]]:
        """Return the percentiles of a sample, in [-1, 1], by part: of the real image if there is one."""
        windows: dict[str, tuple[float, float]] = {}
        for _, part, image in sorted(images, key=lambda item: not item[0].startswith("real")):
            view = self._view(part)
            if view.percentile is not None and part.name not in windows:
                values = image[list(view.shown)].flatten()
                values = values[:: math.ceil(len(values) / MAX_SAMPLED)].double()
                finite = values[values.isfinite()].numpy(force=True)
                ends = view.percentile, 100 - view.percentile
                low, high = np.percentile(finite, ends) if len(finite) else (-1, 1)
                windows[part.name] = float(low), float(high)
        return windows


def parts_of(visuals: Mapping[str, Tensor], sides: Sides) -> Iterator[tuple[str, Part, Tensor]]:
    """Yield the images of all parts: label, part, and image in the part's channels.

    An image whose channels are not those of its side, such as the RGB image of a model that colours, is one
    of 8 bits.

    Args:
        visuals: (..., C, H, W) by label.
    """
    for label, image in visuals.items():
        side, channels = sides.of(label), image.shape[-3]
        if channels != side.channels:
            yield label, Part(label, channels=channels), image
        elif len(side.parts) == 1:
            yield label, side.parts[0], image
        else:
            kind = label.removesuffix("_A" if side is sides.A else "_B")
            for part, channels_of_part in side.split(image):
                yield f"{kind}_{part.name}", part, channels_of_part


def classes_of(image: Tensor, nothing: int) -> Tensor:
    """Return the class number of each pixel of a one-hot image, (C, H, W), int64 (H, W).

    Args:
        nothing: the number of pixels that are 0 in all channels.
    """
    highest, classes = image.max(0)
    return classes.masked_fill_((highest == 0) & (image.amin(0) == 0), nothing)


@cache
def class_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Return the colours of `count` classes: those of Cityscapes for its 35, otherwise those of PASCAL VOC.

    The latter spread the bits of a class number over red, green and blue, from the highest.
    """
    if count == len(CITYSCAPES):
        return CITYSCAPES

    def level(number: int, color: int) -> int:
        bits = (number >> (3 * step + color) & 1 for step in range(8))
        return sum(bit << (7 - step) for step, bit in enumerate(bits))

    return tuple((level(number, 0), level(number, 1), level(number, 2)) for number in range(count))


def _preview(part: Part, image: Tensor, view: View, window: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Return an image of a part, (C, H, W), as uint8 (H, W, 3).

    Args:
        window: what is black and white, in [-1, 1], instead of the view's.
    """
    if part.kind == "labels":
        colors = (*(part.colors or class_colors(part.channels)), (0, 0, 0))
        classes = classes_of(image, nothing=part.channels)
        return np.array(colors, np.uint8)[classes.numpy(force=True)]
    if part.kind == "instances":
        return to_uint8(image * 2 - 1)
    shown = image if len(image) == len(view.shown) else image[list(view.shown)]
    low, high = window or (_in_network(part, view.low), _in_network(part, view.high))
    if (low, high) != (-1, 1):
        shown = (shown.float() - low) * (2 / ((high - low) or 1.0)) - 1
    if len(shown) == 2:
        shown = torch.cat([shown, torch.full_like(shown[:1], -1)])
    return to_uint8(shown)


def _view(part: Part, window: str = "", bands: str = "") -> View:
    """Return how a part is shown, given the values of ``--display_range`` and ``--display_bands`` for it."""
    shown = _shown(part, bands) if bands else tuple(range(3)) if part.channels >= 3 else (0,)
    low, high = part.values.low, part.values.high
    if not window:
        return View(shown, low, high)
    percentile, interval = parse_percentile(window), parse_interval(window)
    if percentile is None and interval is None:
        raise UserError(
            f"--display_range {window}: expected LO,HI in the file's units, such as 0,4095, or percentile:P"
            " with P from 0 to below 50"
        )
    return View(shown, *(interval or (low, high)), percentile)


def _in_network(part: Part, value: float) -> float:
    """Return a value in the file's units as networks see it."""
    return (value - part.values.low) * 2 / part.values.span - 1


def _shown(part: Part, text: str) -> tuple[int, ...]:
    """Return the positions of the channels with these numbers in the file."""
    words = text.split(",")
    if not all(word.isdecimal() for word in words) or len(words) > 3:
        raise UserError(
            f"--display_bands {text}: expected the number of one channel (shown as grey), of two (red and"
            " green) or of three (red, green and blue), such as 4,3,2"
        )
    numbers = _bands(part)
    if not _has_bands(part, text):
        names = ", ".join(map(str, numbers))
        raise UserError(f"--display_bands {text}: not all are channels of {part.name}, which has {names}")
    return tuple(numbers.index(int(word)) for word in words)


def _has_bands(part: Part, text: str) -> bool:
    return {*text.split(",")} <= {*map(str, _bands(part))}


def _bands(part: Part) -> tuple[int, ...]:
    """Return the number in the file of each channel, from 1."""
    return part.bands or tuple(range(1, part.channels + 1))


def _note(part: Part, view: View) -> str:
    if part.kind == "labels":
        return f"{part.channels} classes in colours; pixels without a class are black"
    if part.kind == "instances":
        return "edges of objects in white"
    values = part.values
    text = f"{values.dtype}, {view.low:g} to {view.high:g} shown as black to white"
    if view.percentile is not None:
        ends = f"{view.percentile:g} to {100 - view.percentile:g}"
        text = f"{values.dtype}, percentiles {ends} of each sample's real image shown as black to white"
    if (view.low, view.high, view.percentile) != (values.low, values.high, None):
        text += f", what is outside is clipped (its range is {values.low:g} to {values.high:g})"
    if part.channels > 1:
        bands = ", ".join(str(_bands(part)[position]) for position in view.shown)
        text += f"; band{'s' * (len(view.shown) > 1)} {bands} {COLOR_NAMES[len(view.shown)]}"
    return text
