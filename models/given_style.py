"""A style that is given by pictures on the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.style_networks import AdainGenerator
from util.batch import normalise
from util.errors import UserError
from util.image_io import read_image


@dataclass(frozen=True)
class GivenStyle:
    """The moments of a style's features, or those between several styles.

    Attributes:
        mean, deviation: (1, 512, 1, 1).
        name: what a gallery says of it.
    """

    mean: Tensor
    deviation: Tensor
    name: str

    @classmethod
    @torch.no_grad()
    def from_files(cls, G: AdainGenerator, files: str, shares: str, size: int) -> Self | None:
        """Return the style of pictures, separated by commas, or None if there is none.

        Args:
            shares: how much each counts, separated by commas; nothing: all the same.
            size: what the shorter side of the pictures is scaled to.

        Raises:
            UserError: a picture cannot be read, or the shares do not fit.
        """
        if not files:
            if shares:
                raise UserError(f"--style_weights {shares}: there is no --style that they belong to")
            return None
        paths = [Path(path.strip()) for path in files.split(",")]
        weights = parse_shares(shares, len(paths))
        found = [G.moments_of(_read(path, size)) for path in paths]
        mean, deviation = (
            torch.stack([share * part for share, part in zip(weights, parts, strict=True)]).sum(0)
            for parts in zip(*found, strict=True)
        )
        names = (f"{path.name} ({share:.2f})" for path, share in zip(paths, weights, strict=True))
        return cls(mean, deviation, ", ".join(names) if len(paths) > 1 else paths[0].name)


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
    picture = read_image(str(path))
    scale = size / min(picture.size)
    wanted = (max(size, round(picture.width * scale)), max(size, round(picture.height * scale)))
    pixels = np.array(picture.resize(wanted, Image.Resampling.BICUBIC))
    return normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None], torch.float32)
