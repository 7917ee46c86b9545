"""Styles given as image files on the command line."""

from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.style.networks import AdainGenerator
from util.batch import normalise
from util.errors import UserError
from util.image_io import read_image


class ReferenceStyle:
    """A weighted mean of the styles of one or more images.

    Args:
        images: (1, 3, H, W) each, in [-1, 1].
        weights: one per image; they sum to 1.
        name: caption in a gallery.
    """

    def __init__(self, images: list[Tensor], weights: list[float], name: str):
        self.images, self.weights, self.name = images, weights, name
        self._moments: tuple[Tensor, Tensor] | None = None

    @classmethod
    def from_files(cls, files: str, weights: str, size: int) -> Self | None:
        """Return the style of the images in `files`, or None if there are none.

        Args:
            files: paths, separated by commas.
            weights: see `parse_weights`.
            size: the side, in pixels, that the shorter side of each image is scaled to.

        Raises:
            UserError: an image cannot be read, or the weights do not fit.
        """
        if not files:
            if weights:
                raise UserError(f"--style_weights {weights}: there is no --style that they belong to")
            return None
        paths = [Path(path.strip()) for path in files.split(",")]
        numbers = parse_weights(weights, len(paths))
        names = [f"{path.name} ({weight:.2f})" for path, weight in zip(paths, numbers, strict=True)]
        return cls(
            [_read(path, size) for path in paths],
            numbers,
            ", ".join(names) if len(paths) > 1 else paths[0].name,
        )

    def moments(self, G: AdainGenerator, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moments of the style's features, (1, 512, 1, 1) each, computed at the first call.

        Args:
            G: with its final weights, which include the encoder's.
            like: a tensor of the device and type to compute with.
        """
        if self._moments is None:
            moments = zip(*(G.moments_of(image.to(like)) for image in self.images), strict=True)
            mean, deviation = (
                torch.stack([weight * one for weight, one in zip(self.weights, of_images, strict=True)]).sum(
                    0
                )
                for of_images in moments
            )
            self._moments = mean, deviation
        return self._moments


def parse_weights(text: str, count: int) -> list[float]:
    """Return `count` weights that sum to 1 from ``--style_weights``; equal ones for an empty text.

    Raises:
        UserError: there are more or fewer, or their sum or one of them is not a weight.
    """
    try:
        weights = [float(part) for part in text.split(",")] if text else [1.0] * count
    except ValueError:
        raise UserError(f"--style_weights {text}: expected numbers such as 0.7,0.3") from None
    if len(weights) != count or min(weights) < 0 or not sum(weights) > 0:
        raise UserError(
            f"--style_weights {text}: expected {count} numbers not below 0, one for each --style, not all 0"
        )
    return [weight / sum(weights) for weight in weights]


def _read(path: Path, size: int) -> Tensor:
    image = read_image(str(path))
    scale = size / min(image.size)
    scaled = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
    pixels = np.array(image.resize(scaled, Image.Resampling.BICUBIC))
    return normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None], torch.float32)
