"""Scaling, cropping and flipping: decided once per sample, applied to each of its images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from data.augmentation import Augmentation, cut, draw, recolor, surroundings
from options.augment_options import Augment, parse_augment
from options.base_options import DataOptions
from util.errors import UserError
from util.formats import Box
from util.parts import Part

LARGE = 1 << 24
"""Pixels above which an image is copied in bands."""


class HasShape(Protocol):
    """A tensor, or what stands for one."""

    @property
    def shape(self) -> Sequence[int]: ...


Size = tuple[int, int]
"""Width and height."""


class Decision(NamedTuple):
    """Where to crop (left and top edge, in pixels of the scaled image), whether to flip, and what else."""

    x: int
    y: int
    flip: bool
    change: Augmentation | None = None


@dataclass(frozen=True)
class Transform:
    """The five ``--preprocess`` modes; sizes in pixels.

    ``resize_and_crop`` scales to a square of `load_size`, ``scale_width`` to that width (at least `crop_size`
    high), ``crop`` and ``none`` do not scale; modes with ``crop`` in their names then cut a square of
    `crop_size`.

    Args:
        exact: scale with Pillow. Torch is several times as fast on 8-bit integers; it always scales the width
            before the height, and rounds its weights to lower precision.
        augment: random changes beyond crops and flips, for training.
    """

    preprocess: str
    load_size: int
    crop_size: int
    flip: bool
    exact: bool = False
    # Not in its text, which is part of the keys of cached images: they are those before augmentation.
    augment: Augment | None = field(default=None, repr=False)

    @cached_property
    def text(self) -> str:
        """Its text in keys of the cache, made once because every sample needs it."""
        return str(self)

    @classmethod
    def from_options(cls, options: DataOptions) -> "Transform":
        return cls(
            options.preprocess,
            options.load_size,
            options.crop_size,
            flip=not options.no_flip,
            exact=options.exact_resize,
            augment=parse_augment(options.augment),
        )

    def scale(self, image: Image.Image, grey: bool) -> Tensor:
        """Return the scaled image: uint8, (3, H, W) or (1, H, W) if `grey`, its channels last in memory."""
        if grey:
            image = image.convert("L")
        width, height = self._scaled(image.size)
        if self.exact and (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        # Pillow stores RGB in four bytes a pixel: removing the fourth costs more than scaling it.
        channels, layout = (1, "L") if image.mode == "L" else (3, "RGBX")
        pixels = torch.frombuffer(_pixels(image, layout), dtype=torch.uint8)
        # Only the strides of a batch, even of one image, tell torch that the channels come last: it then
        # keeps them together, in half the time.
        batch = pixels.view(1, *image.size[::-1], -1).permute(0, 3, 1, 2)
        if batch.shape[2:] != (height, width):
            batch = functional.interpolate(batch, (height, width), mode="bicubic", antialias=True)
        return batch[0, :channels]

    def scale_values(self, image: NDArray[Any], part: Part) -> Tensor:
        """Return the scaled image of a part that is not read as 8 bits, (C, H, W), in the part's type.

        Values are scaled in float32, antialiased; class numbers and those of objects are taken from the
        nearest pixel, whose centre Pillow would choose too.
        """
        height, width = image.shape[1:]
        columns, rows = self._scaled((width, height))
        if (columns, rows) == (width, height):
            return torch.from_numpy(np.ascontiguousarray(image))
        if part.kind in ("labels", "instances"):
            return torch.from_numpy(scale_nearest(image, (columns, rows)))
        values = torch.from_numpy(image.astype(np.float32))
        if self.exact:
            bands = [
                Image.fromarray(band).resize((columns, rows), Image.Resampling.BICUBIC)
                for band in values.numpy()
            ]
            scaled = np.stack([np.asarray(band) for band in bands])
        else:
            batch = functional.interpolate(values[None], (rows, columns), mode="bicubic", antialias=True)
            scaled = batch[0].numpy()
        return torch.from_numpy(part.values.cast(scaled))

    def decide(self, scaled: HasShape, rng: Random) -> Decision:
        """Draw a decision for a scaled image, (C, H, W)."""
        height, width = scaled.shape[1:]
        x = rng.randrange(max(0, width - self.crop_size) + 1)
        y = rng.randrange(max(0, height - self.crop_size) + 1)
        flip = self.flip and rng.random() < 0.5
        # After all other draws, which are the same without it
        return Decision(x, y, flip, draw(self.augment, rng) if self.augment else None)

    def apply(
        self,
        scaled: Tensor,
        decision: Decision,
        path: str,
        part: Part | None = None,
        *,
        is_input: bool = True,
    ) -> Tensor:
        """Return a cropped, flipped and augmented copy of a scaled image, (C, H, W), contiguous.

        Args:
            part: what the image holds; it is needed to augment values.
            is_input: whether it belongs to the input, not to the target.

        Raises:
            UserError: The crop is larger than the image at `path`.
        """
        pixels, change = scaled.numpy(), decision.change
        if "crop" in self.preprocess:
            left, top, right, bottom = self.crop_of(pixels.shape, decision, path)
        else:
            left, top, right, bottom = 0, 0, pixels.shape[2], pixels.shape[1]
        if change is None:
            pixels = pixels[:, top:bottom, left:right]
        else:
            window = left, top, right - left, bottom - top
            pixels = np.ascontiguousarray(cut(pixels, window, change, part.kind if part else "8bit"))
        if not (decision.flip and pixels.strides[2] == pixels.itemsize):
            # NumPy copies faster than torch, above all from channels last, and flips more slowly.
            pixels = np.array(pixels, order="C")
        image = torch.from_numpy(pixels)
        image = image.flip(2) if decision.flip else image
        return recolor(image, change, part, is_input=is_input) if change else image

    def crop_of(self, shape: Sequence[int], decision: Decision, path: str) -> tuple[int, int, int, int]:
        """Return the left, top, right and bottom edge of the crop of a scaled image, (C, H, W).

        Raises:
            UserError: The crop is larger than the image at `path`.
        """
        _, height, width = shape
        size = self.crop_size
        if width < size or height < size:
            raise UserError(
                f"{path}: --crop_size {size} is larger than this image of {width} x"
                f" {height} pixels; lower it, or scale with --preprocess resize_and_crop"
            )
        return decision.x, decision.y, decision.x + size, decision.y + size

    def needed(self, shape: Sequence[int], decision: Decision, path: str) -> tuple[int, int, int, int]:
        """Return the edges of the part of a scaled image that `apply` reads, as `crop_of` does."""
        left, top, right, bottom = self.crop_of(shape, decision, path)
        return surroundings(shape, (left, top, right - left, bottom - top), decision.change)

    def box(self, decision: Decision, size: Size) -> Box:
        """Return what a prepared image covers of the image of this size in its file."""
        width, height = size
        columns, rows = self._scaled(size)
        left, top, right, bottom = 0, 0, columns, rows
        if "crop" in self.preprocess:
            left, top = decision.x, decision.y
            right, bottom = left + self.crop_size, top + self.crop_size
        x, y = width / columns, height / rows
        return left * x, top * y, right * x, bottom * y

    def _scaled(self, size: Size) -> Size:
        width, height = size
        if self.preprocess == "resize_and_crop":
            return self.load_size, self.load_size
        if "scale_width" in self.preprocess and not (width == self.load_size and height >= self.crop_size):
            return self.load_size, int(max(self.load_size * height / width, self.crop_size))
        return size


def _pixels(image: Image.Image, layout: str) -> bytearray:
    """Return the bytes of an image; a large one is not copied as a whole more than once."""
    width, height = image.size
    if width * height <= LARGE:
        return bytearray(image.tobytes("raw", layout))
    pixels, rows, filled = bytearray(width * height * len(layout)), max(1, LARGE // width), 0
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(height, top + rows))).tobytes("raw", layout)
        pixels[filled : filled + len(band)] = band
        filled += len(band)
    return pixels


def scale_nearest(image: NDArray[Any], size: Size) -> NDArray[Any]:
    """Return an image (..., H, W) scaled to `size` by taking the nearest pixels, as for class numbers."""
    height, width = image.shape[-2:]
    columns, rows = (
        ((np.arange(count) + 0.5) * length / count).astype(np.intp)
        for count, length in zip(size, (width, height), strict=True)
    )
    return image[..., rows[:, None], columns]


def drop_color(image: Tensor) -> Tensor:
    """Return an image (3, H, W) as (1, H, W) if its channels are equal, else unchanged."""
    return image[:1] if (image[0] == image[1]).all() and (image[0] == image[2]).all() else image
