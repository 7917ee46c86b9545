"""Differentiable augmentation of what discriminators see (Zhao et al. 2020, section 3.2)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from util.errors import UserError

POLICIES = ("color", "translation", "cutout")
AUGMENTATION_DRAWS = 7
SHIFT, HOLE = 1 / 8, 1 / 2
"""The largest shift, and the side of the square that is cut out, as shares of an image's sides."""


def parse_policy(text: str) -> tuple[str, ...]:
    """Return the augmentations in a text such as ``color,cutout``; none in ``none``.

    Raises:
        UserError: one of them does not exist.
    """
    if text == "none":
        return ()
    found = tuple(part.strip() for part in text.split(","))
    for part in found:
        if part not in POLICIES:
            raise UserError(f"--diffaug {text}: expected none or some of {', '.join(POLICIES)}, not {part!r}")
    return found


def augment(x: Tensor, policy: tuple[str, ...], draws: Tensor) -> Tensor:
    """Return images, (N, C, H, W) in [-1, 1], changed each in its own way; differentiable.

    Args:
        policy: some of `POLICIES`.
        draws: (N, 7) in [0, 1): brightness, saturation, contrast, the shift's and the hole's two places.
    """
    if "color" in policy:
        x = change_color(x, draws[:, :3])
    if "translation" in policy:
        x = translate(x, draws[:, 3:5])
    if "cutout" in policy:
        x = cut_out(x, draws[:, 5:])
    return x


def change_color(x: Tensor, draws: Tensor) -> Tensor:
    """Return images with another brightness (up to 0.5), saturation (0 to 2) and contrast (0.5 to 1.5)."""
    brightness, saturation, contrast = draws[..., None, None, None].unbind(1)
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (2 * saturation)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (contrast + 0.5)


def translate(x: Tensor, draws: Tensor) -> Tensor:
    """Return images shifted by up to an eighth of their sides, with zeros beyond their old edges."""
    count, _, height, width = x.shape
    reach = [int(side * SHIFT + 0.5) for side in (height, width)]
    rows, columns = (
        torch.arange(side, device=x.device) + (draw * (2 * far + 1)).floor().long()[:, None]
        for side, far, draw in zip((height, width), reach, draws.unbind(1), strict=True)
    )
    padded = F.pad(x, (reach[1], reach[1], reach[0], reach[0])).permute(0, 2, 3, 1)
    batch = torch.arange(count, device=x.device)[:, None, None]
    return padded[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cut_out(x: Tensor, draws: Tensor) -> Tensor:
    """Return images with a square of half their sides set to zero, in part beyond their edges."""
    inside = []
    for side, draw in zip(x.shape[2:], draws.unbind(1), strict=True):
        centre = (draw * side).floor()[:, None]
        distance = (torch.arange(side, device=x.device, dtype=x.dtype) - centre + 0.5).abs()
        inside.append(distance < side * HOLE / 2)
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return x.masked_fill(hole, 0.0)
