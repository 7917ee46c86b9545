"""From a file to the pixels of one part of an image, checked against what the flags say of it."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from util import formats
from util.checking import read_limited
from util.errors import UserError
from util.image_io import BadImage, read_image
from util.parts import EIGHT_BITS, Part, full_range
from util.remarks import remark
from util.text import decode

Half = Literal["", "left", "right"]
"""Which half of a file that holds A and B side by side; "" for the whole."""

LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif")
"""Extensions of files whose colours are near those that were saved."""


def read_part(path: str, part: Part, half: Half = "", window: formats.Window | None = None) -> NDArray[Any]:
    """Return the pixels of a part that is not read as 8 bits: (C, H, W), of the part's type.

    Args:
        window: left, top, right and bottom edge of what is read, of ``values`` parts.

    Raises:
        BadImage: The file cannot be read as an image.
        UserError: Its channels, type or values are not what the flags say.
    """
    if part.kind == "labels":
        return _read_labels(path, part, half)
    if part.kind == "mask":
        return _read_mask(path)
    if part.kind == "instances":
        return _as_type(_half(formats.read_indices(path)[None], path, half), path, part)
    image = _with_bands(_half(formats.read(path, window), path, half), path, part)
    image = _without_nan(image, path, part)
    _check_interval(image, path, part)
    return _as_type(image, path, part)


@dataclass(frozen=True)
class Unread:
    """An image in a file, of which only parts will be read.

    Attributes:
        shape: (C, H, W), as it would be read.
    """

    path: str
    part: Part
    shape: tuple[int, int, int]

    def read(self, left: int, top: int, right: int, bottom: int) -> Tensor:
        """Return the part with these edges, (C, h, w)."""
        return torch.from_numpy(read_part(self.path, self.part, window=(left, top, right, bottom)))


def half_image(image: Image.Image, path: str, half: Half) -> Image.Image:
    """Return the whole image, or one of the two that it holds side by side."""
    if not half:
        return image
    width = _half_width(path, image.width, image.height)
    left = 0 if half == "left" else image.width - width
    return image.crop((left, 0, left + width, image.height))


def read_colors(path: str) -> tuple[tuple[int, int, int], ...]:
    """Return the colours of the classes in a file of ``--label_colors``, a line R G B each.

    Commas are allowed between the numbers, and a class's name after them; empty lines and those that begin
    with # are left out.

    Raises:
        UserError: The file cannot be read, or is none of colours.
    """
    return _read_colors(path, os.stat(path).st_mtime_ns if os.path.exists(path) else 0)


@lru_cache(maxsize=8)
def _read_colors(path: str, changed: int) -> tuple[tuple[int, int, int], ...]:
    colors: list[tuple[int, int, int]] = []
    for number, line in enumerate(decode(read_limited(Path(path))).splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            red, green, blue = (int(word) for word in words[:3])
            if min(red, green, blue) < 0 or max(red, green, blue) > 255:
                raise ValueError
        except ValueError:
            raise UserError(
                f"--label_colors {path}: line {number} is {line.strip()!r}; expected three numbers from 0 to"
                " 255, such as 128 64 128"
            ) from None
        colors.append((red, green, blue))
    if len(set(colors)) < len(colors):
        twice = next(color for color in colors if colors.count(color) > 1)
        raise UserError(f"--label_colors {path}: two classes have the colour {' '.join(map(str, twice))}")
    return tuple(colors)


def _read_labels(path: str, part: Part, half: Half) -> NDArray[Any]:
    if part.colors:
        labels = _classes_of(np.asarray(half_image(read_image(path), path, half)), path, part)
    else:
        labels = _half(formats.read_indices(path)[None], path, half)[0]
    wrong = (labels < 0) | (labels >= part.channels)
    if part.ignore is not None:
        wrong &= labels != part.ignore
    if wrong.any():
        y, x = (int(position) for position in np.argwhere(wrong)[0])
        raise UserError(
            f"{path}: class number {labels[y, x]} at ({x}, {y}), and {np.count_nonzero(wrong)} pixels in all"
            f" outside of 0 to {part.channels - 1}: raise --label_nc {part.channels}, or name a number"
            f" without a class by --label_ignore"
        )
    return labels[None].astype(part.values.dtype)


def _read_mask(path: str) -> NDArray[np.uint8]:
    """Return the weights in a mask, 0 to 255, of a file that is not read as an 8-bit image."""
    mask = formats.read(path)
    if len(mask) != 1:
        raise UserError(f"{path}: a mask has one channel, not {len(mask)}")
    low, high = float(mask.min()), float(mask.max())
    limit = 1.0 if mask.dtype.kind == "f" or high <= 1 else full_range(mask.dtype)[1]
    if not (low >= 0 and high <= limit):  # also refuses NaN
        raise UserError(f"{path}: values from {low:g} to {high:g}; a mask has values from 0 to {limit:g}")
    return EIGHT_BITS.cast(mask.astype(np.float64) * (255 / limit)).astype(np.uint8)


def _classes_of(pixels: NDArray[np.uint8], path: str, part: Part) -> NDArray[Any]:
    """Return the class of every pixel (H, W, 3) by its colour; in a lossy file, of the nearest colour."""
    packed = pixels.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    found, positions = np.unique(packed, return_inverse=True)
    rgb = np.stack([found >> 16, found >> 8 & 255, found & 255], 1)
    colors = np.array(part.colors, np.int32)
    nearest = np.empty(len(rgb), np.int32)
    for first in range(0, len(rgb), 4096):
        rows = rgb[first : first + 4096]
        nearest[first : first + 4096] = ((rows[:, None] - colors) ** 2).sum(2).argmin(1)
    unknown = (colors[nearest] != rgb).any(1)
    if unknown.any() and not path.lower().endswith(LOSSY):
        number = int(np.flatnonzero(unknown)[0])
        y, x = (int(position) for position in np.argwhere(packed == found[number])[0])
        raise UserError(
            f"{path}: the colour {' '.join(map(str, rgb[number]))} at ({x}, {y}) is not among the"
            f" {len(colors)} of --label_colors; add it, or correct the file"
        )
    return nearest[positions].reshape(packed.shape)


def _half(image: NDArray[Any], path: str, half: Half) -> NDArray[Any]:
    if not half:
        return image
    width = _half_width(path, image.shape[2], image.shape[1])
    return image[..., :width] if half == "left" else image[..., image.shape[2] - width :]


def _half_width(path: str, width: int, height: int) -> int:
    half = width // 2
    if half == 0:
        raise BadImage(f"{path}: is 1 pixel wide and cannot hold two images side by side")
    if height >= width:
        remark(
            "half of one image",
            f"{path}: {width} x {height} pixels, so A and B are {half} x {height}: half of"
            " one image? A pair is one file with A on the left, B on the right, or two files of one"
            " name in folders such as trainA and trainB",
        )
    return half


def _with_bands(image: NDArray[Any], path: str, part: Part) -> NDArray[Any]:
    """Return the chosen channels of an image, which must be as many as the flags say."""
    count, flag = len(image), part.flag
    if part.bands:
        if max(part.bands) > count:
            raise UserError(
                f"{path}: has {_channels(count)}; --{flag}_bands asks for number {max(part.bands)}"
            )
        return image[[band - 1 for band in part.bands]]
    if count != part.channels:
        raise UserError(
            f"{path}: has {_channels(count)}, not {part.channels}: use --{flag}_nc {count}, or choose"
            f" {part.channels} of them by --{flag}_bands"
        )
    return image


def _channels(count: int) -> str:
    return f"{count} channel" + "s" * (count != 1)


def _without_nan(image: NDArray[Any], path: str, part: Part) -> NDArray[Any]:
    if image.dtype.kind != "f":
        return image
    wrong = ~np.isfinite(image)
    count = int(np.count_nonzero(wrong))
    if not count:
        return image
    if part.nan_value is None:
        raise UserError(
            f"{path}: {count} of its {image.size} values are NaN or infinite; correct the file, or give the"
            " value to use in their place by --nan_value"
        )
    return np.where(wrong, np.array(part.nan_value, image.dtype), image)


def _as_type(image: NDArray[Any], path: str, part: Part) -> NDArray[Any]:
    """Return an image in the type of the part, with the same values; ``full`` maps whole ranges.

    Raises:
        UserError: The type cannot hold the values.
    """
    dtype = np.dtype(part.values.dtype)
    if image.dtype == dtype:
        return image
    if part.range == "full":
        low, high = full_range(image.dtype)
        values = part.values
        return values.cast((image.astype(np.float64) - low) / (high - low) * values.span + values.low)
    if np.can_cast(image.dtype, dtype, "safe"):
        return image.astype(dtype)
    converted = part.values.cast(image.astype(np.float64))
    if (converted == image).all():
        return converted
    raise UserError(
        f"{path}: its values are {image.dtype}, those of other files of {part.name} {dtype}, which cannot"
        " hold them; convert the files to one type"
    )


def _check_interval(image: NDArray[Any], path: str, part: Part) -> None:
    """Remark on values that are outside of an interval that the flags name."""
    low, high = part.values.low, part.values.high
    if part.range.startswith("percentile") or (part.range == "full" and image.dtype.kind != "f"):
        return
    if part.range == "full":
        low, high = full_range(image.dtype)
    lowest, highest = float(image.min()), float(image.max())
    if lowest >= low and highest <= high:
        return
    if part.range == "full":
        raise UserError(
            f"{path}: values from {lowest:g} to {highest:g}, but --{part.flag}_range full expects 0..1,"
            " except for integers of 8 or 16 bits: give their interval, such as"
            f" --{part.flag}_range {lowest:g},{highest:g}"
        )
    count = np.count_nonzero((image < low) | (image > high))
    remark(
        f"values outside {part.name}",
        f"{path}: {count} of its {image.size} values, from {lowest:g} to {highest:g}, are outside of"
        f" --{part.flag}_range {part.range}; such values are clipped",
    )
