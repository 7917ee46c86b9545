"""Differentiable augmentation of discriminators' inputs (DiffAugment: Zhao et al. 2020, section 3.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from util.errors import UserError

POLICIES = ("color", "translation", "cutout")
COLOR_CHANNELS = (1, 3)
AUGMENTATION_DRAWS = 7
SHIFT, HOLE = 1 / 8, 1 / 2
"""The largest translation and the side of the cutout, as fractions of an image's sides."""


def parse_policy(text: str) -> tuple[str, ...]:
    """Return the augmentations that ``--diffaug`` lists, such as ``color,cutout``; none for ``none``.

    Raises:
        UserError: an augmentation does not exist.
    """
    if text == "none":
        return ()
    policy = tuple(part.strip() for part in text.split(","))
    for part in policy:
        if part not in POLICIES:
            raise UserError(f"--diffaug {text}: expected none or some of {', '.join(POLICIES)}, not {part!r}")
    return policy


def check_channels(policy: tuple[str, ...], channels: int, source: str = "", one_image: bool = True) -> None:
    """Raise a `UserError` if `policy` has ``color`` and images of so many channels are not RGB or grey.

    Args:
        source: the flag that the number comes from, for the message.
        one_image: whether the channels are those of one image, not classes or parts.
    """
    if "color" in policy and (channels not in COLOR_CHANNELS or not one_image):
        what = f"have {channels} channels" if one_image else "hold classes or several images"
        others = ",".join(part for part in policy if part != "color") or "translation,cutout"
        raise UserError(
            f"--diffaug {','.join(policy)}: color changes RGB and grey images, but the images that the"
            f" discriminator judges {what}{source and f' (--{source})'}; use"
            f" --diffaug {others}"
        )


def augment(x: Tensor, policy: tuple[str, ...], draws: Tensor, condition_nc: int = 0) -> Tensor:
    """Return images, (N, C, H, W) in [-1, 1], each augmented by its own draws; affine in `x`.

    Args:
        policy: some of `POLICIES`.
        draws: (N, 7) in [0, 1): brightness, saturation, contrast, translation (vertical, horizontal), centre
            of the cutout (vertical, horizontal).
        condition_nc: number of first channels that are a condition; their values are not changed by
            ``color``, and they are translated and cut with the image.

    Raises:
        UserError: ``color`` for channels that are not an RGB or grey image.
    """
    if "color" in policy:
        condition, image = x[:, :condition_nc], x[:, condition_nc:]
        check_channels(policy, image.shape[1])
        x = torch.cat([condition, change_color(image, draws[:, :3])], 1)
    if "translation" in policy:
        x = translate(x, draws[:, 3:5])
    if "cutout" in policy:
        x = cut_out(x, draws[:, 5:])
    return x


@dataclass
class View:
    """What a discriminator sees of images: the same augmentation and noise in every call.

    Args:
        policy, condition_nc: see `augment`.
        draws: (N, 7), see `augment`; None without augmentation.
        std: standard deviation of the noise, also of a condition; it is drawn in the first call.
    """

    policy: tuple[str, ...]
    draws: Tensor | None
    std: float | Tensor
    condition_nc: int = 0
    noise: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return images, (N, C, H, W), as the discriminator sees them; affine in `x`."""
        if self.draws is not None:
            x = augment(x, self.policy, self.draws.to(x.dtype), self.condition_nc)
        if isinstance(self.std, float) and not self.std:
            return x
        if self.noise is None:
            std = self.std.to(x.dtype) if isinstance(self.std, Tensor) else self.std
            self.noise = std * torch.randn_like(x)
        return x + self.noise


def change_color(x: Tensor, draws: Tensor) -> Tensor:
    """Return images with another brightness, saturation and contrast.

    Brightness changes by -0.5 to 0.5, saturation by a factor of 0 to 2, contrast by a factor of 0.5 to 1.5.
    """
    brightness, saturation, contrast = draws[..., None, None, None].unbind(1)
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (2 * saturation)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (contrast + 0.5)


def translate(x: Tensor, draws: Tensor) -> Tensor:
    """Return images translated by up to an eighth of their sides, padded with zeros."""
    count, _, height, width = x.shape
    largest = [int(side * SHIFT + 0.5) for side in (height, width)]
    rows, columns = (
        torch.arange(side, device=x.device) + (draw * (2 * shift + 1)).floor().long()[:, None]
        for side, shift, draw in zip((height, width), largest, draws.unbind(1), strict=True)
    )
    padded = F.pad(x, (largest[1], largest[1], largest[0], largest[0])).permute(0, 2, 3, 1)
    batch = torch.arange(count, device=x.device)[:, None, None]
    return padded[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cut_out(x: Tensor, draws: Tensor) -> Tensor:
    """Return images with a rectangle of half their sides set to zero; it may extend beyond the image."""
    inside = []
    for side, draw in zip(x.shape[2:], draws.unbind(1), strict=True):
        centre = (draw * side).floor()[:, None]
        distance = (torch.arange(side, device=x.device, dtype=x.dtype) - centre + 0.5).abs()
        inside.append(distance < side * HOLE / 2)
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return x.masked_fill(hole, 0.0)
