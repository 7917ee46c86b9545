"""How a picture is scaled, cropped and flipped: decided once, applied to every picture of a sample."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from options.base_options import DataOptions
from util.errors import UserError

Size = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True)
class Decision:
    """Where to crop (left and top edge, in pixels of the scaled picture), and whether to mirror."""

    x: int
    y: int
    flip: bool


@dataclass(frozen=True)
class Transform:
    """The five ``--preprocess`` modes; sizes in pixels.

    ``resize_and_crop`` scales to a square of `load_size`, ``scale_width`` to that width (at least `crop_size`
    high), ``crop`` and ``none`` do not scale; the modes with ``crop`` in their names then cut a square of
    `crop_size`.
    """

    preprocess: str
    load_size: int
    crop_size: int
    flip: bool

    @classmethod
    def from_options(cls, options: DataOptions) -> "Transform":
        return cls(options.preprocess, options.load_size, options.crop_size, not options.no_flip)

    def decide(self, size: Size, rng: np.random.Generator) -> Decision:
        """Draw a decision for a picture of `size`."""
        width, height = self._scaled(size)
        x = int(rng.integers(0, max(0, width - self.crop_size), endpoint=True))
        y = int(rng.integers(0, max(0, height - self.crop_size), endpoint=True))
        return Decision(x, y, self.flip and bool(rng.random() < 0.5))

    def apply(self, picture: Image.Image, decision: Decision, grey: bool, path: str) -> Tensor:
        """Return the prepared picture: uint8, (3, H, W), or (1, H, W) if `grey`.

        Raises:
            UserError: the crop is larger than the picture at `path`.
        """
        if grey:
            picture = picture.convert("L")
        scaled = self._scaled(picture.size)
        if scaled != picture.size:
            picture = picture.resize(scaled, Image.Resampling.BICUBIC)
        if "crop" in self.preprocess:
            if min(picture.size) < self.crop_size:
                raise UserError(
                    f"{path}: --crop_size {self.crop_size} is larger than this picture of {picture.width} x"
                    f" {picture.height} pixels; lower it, or scale with --preprocess resize_and_crop"
                )
            right, bottom = decision.x + self.crop_size, decision.y + self.crop_size
            picture = picture.crop((decision.x, decision.y, right, bottom))
        if decision.flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture))
        return (pixels[None] if grey else pixels.permute(2, 0, 1)).contiguous()

    def _scaled(self, size: Size) -> Size:
        width, height = size
        if self.preprocess == "resize_and_crop":
            return self.load_size, self.load_size
        if "scale_width" in self.preprocess and not (width == self.load_size and height >= self.crop_size):
            return self.load_size, int(max(self.load_size * height / width, self.crop_size))
        return size


def drop_color(picture: Tensor) -> Tensor:
    """Return a (3, H, W) picture whose three channels are equal as (1, H, W), any other as it is."""
    return picture[:1] if (picture[0] == picture[1]).all() and (picture[0] == picture[2]).all() else picture
