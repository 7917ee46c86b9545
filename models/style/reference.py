"""A style that is given by images on the command line."""

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
    """A style, or several of which each has a share.

    Args:
        images: (1, 3, H, W) each, in [-1, 1].
        shares: how much each counts; they sum to 1.

    Attributes:
        name: what a gallery says of it.
    """

    def __init__(self, images: list[Tensor], shares: list[float], name: str):
        self.images, self.shares, self.name = images, shares, name
        self._moments: tuple[Tensor, Tensor] | None = None

    @classmethod
    def from_files(cls, files: str, shares: str, size: int) -> Self | None:
        """Return the style of images, separated by commas, or None if there is none.

        Args:
            shares: how much each counts, separated by commas; nothing: all the same.
            size: what the shorter side of the images is scaled to.

        Raises:
            UserError: an image cannot be read, or the shares do not fit.
        """
        if not files:
            if shares:
                raise UserError(f"--style_weights {shares}: there is no --style that they belong to")
            return None
        paths = [Path(path.strip()) for path in files.split(",")]
        weights = parse_shares(shares, len(paths))
        names = [f"{path.name} ({share:.2f})" for path, share in zip(paths, weights, strict=True)]
        return cls(
            [_read(path, size) for path in paths],
            weights,
            ", ".join(names) if len(paths) > 1 else paths[0].name,
        )

    def moments(self, G: AdainGenerator, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moments of the style's features, (1, 512, 1, 1) each, computed once.

        G must have its final weights, which its encoder belongs to. `like` has the device and the type.
        """
        if self._moments is None:
            found = zip(*(G.moments_of(image.to(like)) for image in self.images), strict=True)
            mean, deviation = (
                torch.stack([share * part for share, part in zip(self.shares, parts, strict=True)]).sum(0)
                for parts in found
            )
            self._moments = mean, deviation
        return self._moments


def parse_shares(text: str, count: int) -> list[float]:
    """Return `count` shares that sum to 1 from numbers separated by commas; from nothing, equal ones.

    Raises:
        UserError: there are not as many, or they are no shares.
    """
    try:
        shares = [float(part) for part in text.split(",")] if text else [1.0] * count
    except ValueError:
        raise UserError(f"--style_weights {text}: expected numbers such as 0.7,0.3") from None
    if len(shares) != count or min(shares) < 0 or not sum(shares) > 0:
        raise UserError(
            f"--style_weights {text}: expected {count} numbers not below 0, one for each --style, not all 0"
        )
    return [share / sum(shares) for share in shares]


def _read(path: Path, size: int) -> Tensor:
    image = read_image(str(path))
    scale = size / min(image.size)
    wanted = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
    pixels = np.array(image.resize(wanted, Image.Resampling.BICUBIC))
    return normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None], torch.float32)
