"""What the channels of the images A and B hold, and how file values become the input of networks and back."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor
from torch.nn import functional as F

Kind = Literal["8bit", "values", "labels", "instances", "mask"]
"""What the file of a part holds:

- ``8bit``: an image that is read as RGB or grey with 8 bits, whatever the file holds;
- ``values``: numbers that are kept as they are in the file;
- ``labels``: class numbers, which networks get one-hot;
- ``instances``: numbers of objects, of which networks get the edges;
- ``mask``: weights of pixels, read as grey with 8 bits, which no network sees.
"""

DTYPES = ("uint8", "uint16", "int16", "float32")
"""The types in which values travel from file to device."""


@dataclass(frozen=True)
class Values:
    """The type of values, and the interval of them, in the file's units, that is [-1, 1] in networks.

    Attributes:
        dtype: one of `DTYPES`.
    """

    dtype: str = "uint8"
    low: float = 0.0
    high: float = 255.0

    @property
    def span(self) -> float:
        """The length of the interval."""
        return self.high - self.low

    def cast(self, values: NDArray[np.floating]) -> NDArray[np.generic]:
        """Return values in the file's units as `dtype`; integers are rounded and limited to its range."""
        kind = np.dtype(self.dtype)
        if kind.kind == "f":
            return values.astype(kind)
        limits = np.iinfo(kind)
        return np.clip(np.rint(values), limits.min, limits.max).astype(kind)


EIGHT_BITS = Values()


def full_range(dtype: DTypeLike) -> tuple[float, float]:
    """Return the interval of a type's values that ``full`` maps to [-1, 1]: 0 to 1 of floating point."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return 0.0, 1.0
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def parse_interval(text: str) -> tuple[float, float] | None:
    """Return the ends of ``LO,HI``; None if the text is not two finite numbers, the smaller one first."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        return None
    return (low, high) if -math.inf < low < high < math.inf else None


def parse_percentile(text: str) -> float | None:
    """Return P of ``percentile:P``; None if the text is something else or P is not from 0 to below 50."""
    word, _, number = text.partition(":")
    try:
        share = float(number)
    except ValueError:
        return None
    return share if word == "percentile" and 0 <= share < 50 else None


@dataclass(frozen=True)
class Part:
    """One of the images that A or B consists of, each from a file of its own.

    Attributes:
        name: ``A`` or ``B`` if it is the only one; else its folder without the phase, such as ``A2``.
        flag: whose flags describe it: ``input`` or ``output``.
        range: the value of ``--input_range`` or ``--output_range`` for it.
        channels: its channels in networks: for ``labels`` the number of classes.
        bands: the channels of the file that are used, from 1, in this order; empty for all.
        values: of ``values`` parts; the type alone of ``labels`` and ``instances``.
        nan_value: what takes the place of NaN and infinite values; None: they are an error.
        ignore: the class number that belongs to no class: all its channels are 0.
        colors: the RGB colour of each class; empty for files that hold class numbers.
    """

    name: str
    kind: Kind = "8bit"
    flag: str = "input"
    range: str = "8bit"
    channels: int = 3
    bands: tuple[int, ...] = ()
    values: Values = EIGHT_BITS
    nan_value: float | None = None
    ignore: int | None = None
    colors: tuple[tuple[int, int, int], ...] = ()

    @cached_property
    def text(self) -> str:
        """Its text in keys of the cache, made once because every sample needs it."""
        return repr(self)

    @property
    def stored(self) -> int:
        """The number of its channels before `Side.encode`."""
        return 1 if self.kind in ("labels", "instances") else self.channels

    @property
    def is_image(self) -> bool:
        """Whether networks see it as values in [-1, 1]."""
        return self.kind in ("8bit", "values")


@dataclass(frozen=True)
class Side:
    """A or B: its parts, joined along the channels."""

    parts: tuple[Part, ...]

    @classmethod
    def eight_bits(cls, name: str, channels: int = 3) -> "Side":
        """Return a side of one RGB or grey image with 8 bits."""
        return cls((Part(name, flag="input" if name == "A" else "output", channels=channels),))

    @property
    def channels(self) -> int:
        """The number of channels that networks see."""
        return sum(part.channels for part in self.parts)

    @property
    def is_8bit(self) -> bool:
        """Whether all parts are RGB or grey images with 8 bits."""
        return all(part.kind == "8bit" for part in self.parts)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type in which its parts travel to the device together."""
        dtypes = {np.dtype(part.values.dtype) for part in self.parts}
        common = np.result_type(*dtypes)
        return common if common.name in DTYPES else np.dtype(np.float32)

    def split(self, images: Tensor, dim: int = -3) -> Iterator[tuple[Part, Tensor]]:
        """Yield each part with its channels of images, (..., C, H, W), as networks see them."""
        channels = [part.channels for part in self.parts]
        yield from zip(self.parts, images.split(channels, dim), strict=True)

    def encode(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Return images as networks see them: values in [-1, 1], classes one-hot, edges of objects 0 or 1.

        Args:
            images: (N, C, H, W) as stored: in the files' units, one channel per map of labels or instances.
        """
        stored = images.split([part.stored for part in self.parts], 1)
        encoded = [_encode(part, image, dtype) for part, image in zip(self.parts, stored, strict=True)]
        return encoded[0] if len(encoded) == 1 else torch.cat(encoded, 1)

    def in_units(self, images: Tensor) -> Tensor:
        """Return images in [-1, 1], (..., C, H, W), in the units of their files, as float64."""
        low, span = _scales(self, images.device)
        return (images.double() + 1) * (span / 2) + low

    def spans(self, device: torch.device) -> Tensor:
        """Return the length of the interval of each channel in its file's units, (C, 1, 1) float64."""
        return _scales(self, device)[1]


RGB_A, RGB_B = Side.eight_bits("A"), Side.eight_bits("B")


@dataclass(frozen=True)
class Sides:
    """What the images of a data set hold, ``--direction`` already applied."""

    A: Side = RGB_A
    B: Side = RGB_B

    @classmethod
    def of_grey(cls, A: bool, B: bool) -> "Sides":
        """Return sides of 8-bit images that are grey or RGB."""
        return cls(Side.eight_bits("A", 1 if A else 3), Side.eight_bits("B", 1 if B else 3))

    @property
    def is_8bit(self) -> bool:
        """Whether both are RGB or grey images with 8 bits."""
        return self.A.is_8bit and self.B.is_8bit

    @property
    def have_brightness(self) -> bool:
        """Whether the means over the channels of both are the brightness of images, not of class maps."""
        return all(part.is_image for side in (self.A, self.B) for part in side.parts)

    def of(self, label: str) -> Side:
        """Return the side that a model's image belongs to by its name, such as fake_B or idt_A."""
        # idt_A is what G_A makes of an image of side B; fake is that of the only generator.
        name = label.removesuffix("_rgb")
        return self.B if name == "fake" or name.endswith("_B") != name.startswith("idt_") else self.A


EIGHT_BIT_SIDES = Sides()


@lru_cache(maxsize=64)
def _scales(side: Side, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the lower ends and the lengths of the intervals of all channels, (C, 1, 1) float64."""
    ends = [(part.values.low, part.values.span) for part in side.parts for _ in range(part.channels)]
    low, span = torch.tensor(ends, dtype=torch.float64, device=device).view(-1, 2, 1, 1).unbind(1)
    return low, span


def _encode(part: Part, image: Tensor, dtype: torch.dtype) -> Tensor:
    if part.kind == "labels":
        return _one_hot(image, part, dtype)
    if part.kind == "instances":
        return edges(image).to(dtype)
    values = part.values
    # float32 holds 16-bit integers exactly; lower precision does not.
    exact = torch.promote_types(dtype, torch.float32)
    scaled = (image.to(exact) - values.low).mul_(2 / values.span).sub_(1).clamp_(-1, 1)
    return scaled.to(dtype)


def _one_hot(image: Tensor, part: Part, dtype: torch.dtype) -> Tensor:
    classes = torch.arange(part.channels, device=image.device).view(1, -1, 1, 1)
    numbers = image.to(torch.int32)
    one_hot = numbers == classes
    if part.ignore is not None:
        one_hot &= numbers != part.ignore
    return one_hot.to(dtype)


def edges(instances: Tensor) -> Tensor:
    """Return whether a pixel's number, (N, 1, H, W), differs from that of one of its four neighbours.

    Source: Wang et al. 2018, section 3.3 (pix2pixHD).
    """
    numbers = instances.to(torch.int32)
    across = numbers[..., 1:] != numbers[..., :-1]
    down = numbers[..., 1:, :] != numbers[..., :-1, :]
    return (
        F.pad(across, (1, 0)) | F.pad(across, (0, 1)) | F.pad(down, (0, 0, 1, 0)) | F.pad(down, (0, 0, 0, 1))
    )
