"""Picture files in and out."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from util.errors import UserError


def read_image(path: str | Path) -> Image.Image:
    """Return the picture at `path`, decoded, in RGB.

    Raises:
        UserError: the file cannot be read or decoded.
    """
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    # On damaged files Pillow's decoders raise SyntaxError, TypeError, ValueError and others.
    except Exception as error:
        raise UserError(f"{path}: cannot be read as a picture ({error}); replace or remove it") from error


def save_image(picture: NDArray[np.uint8], path: Path) -> None:
    """Write `picture`, (H, W, 3) or (H, W), in the format that the ending of `path` names."""
    Image.fromarray(picture).save(path)


def to_uint8(picture: Tensor) -> NDArray[np.uint8]:
    """Return a picture (1 or 3, H, W) in [-1, 1] as (H, W, 3) in 0..255, rounded to the nearest level."""
    levels = ((picture.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    if levels.shape[0] == 1:
        levels = levels.expand(3, -1, -1)
    return levels.permute(1, 2, 0).cpu().numpy()
