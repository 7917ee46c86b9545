"""How an image is scaled, cropped and flipped: decided once, applied to every image of a sample."""

from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from options.base_options import DataOptions
from util.errors import UserError

Size = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True)
class Decision:
    """Where to crop (left and top edge, in pixels of the scaled image), and whether to mirror."""

    x: int
    y: int
    flip: bool


@dataclass(frozen=True)
class Transform:
    """The five ``--preprocess`` modes; sizes in pixels.

    ``resize_and_crop`` scales to a square of `load_size`, ``scale_width`` to that width (at least `crop_size`
    high), ``crop`` and ``none`` do not scale; the modes with ``crop`` in their names then cut a square of
    `crop_size`.

    Args:
        exact: scale with Pillow. Torch is several times as fast on 8-bit integers; it always scales the width
            first and then the height, and its weights have fewer digits.
    """

    preprocess: str
    load_size: int
    crop_size: int
    flip: bool
    exact: bool = False

    @classmethod
    def from_options(cls, options: DataOptions) -> "Transform":
        return cls(
            options.preprocess,
            options.load_size,
            options.crop_size,
            flip=not options.no_flip,
            exact=options.exact_resize,
        )

    def scale(self, image: Image.Image, grey: bool) -> Tensor:
        """Return the scaled image: uint8, (3, H, W) or (1, H, W) if `grey`, its channels last in memory."""
        if grey:
            image = image.convert("L")
        width, height = self._scaled(image.size)
        if self.exact and (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        # RGB has four bytes a pixel in Pillow: to take the fourth out costs more than to scale it.
        channels, layout = (1, "L") if image.mode == "L" else (3, "RGBX")
        pixels = torch.frombuffer(bytearray(image.tobytes("raw", layout)), dtype=torch.uint8)
        # The strides of a batch of one, not only of an image, tell torch that the channels come last: then
        # it leaves them together, in half the time.
        batch = pixels.view(1, *image.size[::-1], -1).permute(0, 3, 1, 2)
        if batch.shape[2:] != (height, width):
            batch = functional.interpolate(batch, (height, width), mode="bicubic", antialias=True)
        return batch[0, :channels]

    def decide(self, scaled: Tensor, rng: Random) -> Decision:
        """Draw a decision for a scaled image, (C, H, W)."""
        height, width = scaled.shape[1:]
        x = rng.randint(0, max(0, width - self.crop_size))
        y = rng.randint(0, max(0, height - self.crop_size))
        return Decision(x, y, self.flip and rng.random() < 0.5)

    def apply(self, scaled: Tensor, decision: Decision, path: str) -> Tensor:
        """Return a scaled image, (C, H, W), cropped and flipped, in contiguous memory of its own.

        Raises:
            UserError: the crop is larger than the image at `path`.
        """
        pixels = scaled.numpy()
        if "crop" in self.preprocess:
            height, width = pixels.shape[1:]
            if min(width, height) < self.crop_size:
                raise UserError(
                    f"{path}: --crop_size {self.crop_size} is larger than this image of {width} x"
                    f" {height} pixels; lower it, or scale with --preprocess resize_and_crop"
                )
            rows = slice(decision.y, decision.y + self.crop_size)
            pixels = pixels[:, rows, decision.x : decision.x + self.crop_size]
        if pixels.strides[2] != 1 or not decision.flip:
            # Numpy copies faster than torch, above all channels that come last, and flips more slowly.
            pixels = np.array(pixels, order="C")
        own = torch.from_numpy(pixels)
        return own.flip(2) if decision.flip else own

    def _scaled(self, size: Size) -> Size:
        width, height = size
        if self.preprocess == "resize_and_crop":
            return self.load_size, self.load_size
        if "scale_width" in self.preprocess and not (width == self.load_size and height >= self.crop_size):
            return self.load_size, int(max(self.load_size * height / width, self.crop_size))
        return size


def drop_color(image: Tensor) -> Tensor:
    """Return a (3, H, W) image whose three channels are equal as (1, H, W), any other as it is."""
    return image[:1] if (image[0] == image[1]).all() and (image[0] == image[2]).all() else image
