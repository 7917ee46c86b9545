"""Layers that networks are built from, and how a network treats the images of a batch."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from models.layers.convolutions import Conv2d, ConvBeforeNorm2d, ConvTransposeBeforeNorm2d
from models.layers.norms import BatchNorm2d

image_seeds: list[int] = []
"""The dropout seed of each image of the batch within `separate_images`."""


class Dropout(nn.Dropout):
    """Dropout that can draw each image's mask from a seed of its own, see `separate_images`.

    Attributes:
        number: index among the dropout layers of the networks within `separate_images`, else None.
    """

    number: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.number is None:
            return super().forward(x)
        return dropout_per_image(x, self.number, self.p)


@torch.library.custom_op("atelier::dropout_per_image", mutates_args=())
def dropout_per_image(x: Tensor, number: int, p: float) -> Tensor:
    """Return x, (N, C, H, W), with dropout of probability `p`, by image i's seed plus `number`.

    This is a custom operator because compiled networks can neither create generators nor, where their weights
    are frozen, depend on anything but their input.
    """
    # Drawn on the CPU in float32, so that an image's mask is the same on every device.
    rngs = [torch.Generator().manual_seed(seed + number) for seed in image_seeds]
    draws = torch.stack([torch.rand(x.shape[1:], generator=rng) for rng in rngs])
    return x * (draws >= p).to(x) / (1 - p)


@dropout_per_image.register_fake
def _(x: Tensor, number: int, p: float) -> Tensor:
    return torch.empty_like(x)


class ReflectionPad2d(nn.ReflectionPad2d):
    """Reflection padding with a deterministic gradient where torch uses deterministic algorithms."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda and torch.are_deterministic_algorithms_enabled():
            return reflect(x, self.padding[0])
        return super().forward(x)


def reflect(x: Tensor, width: int) -> Tensor:
    """Return x with `width` reflected pixels on every side, concatenated from slices."""
    for side in (-1, -2):
        first = x.narrow(side, 1, width).flip(side)
        last = x.narrow(side, x.shape[side] - 1 - width, width).flip(side)
        x = torch.cat([first, x, last], side)
    return x


def padding_layer(padding: str, width: int) -> nn.Module:
    """Return a layer that pads `width` pixels on every side: ``reflect``, ``replicate`` or ``zero``."""
    layer = {"reflect": ReflectionPad2d, "replicate": nn.ReplicationPad2d, "zero": nn.ZeroPad2d}[padding]
    return layer(width)


def upsampling_layer(upsample: str, deconvolution: nn.ConvTranspose2d, padding: str) -> nn.Module:
    """Return a layer that doubles both sides.

    Args:
        upsample: ``deconv`` for `deconvolution` itself; ``nearest`` or ``bilinear`` for interpolation and a
            3 x 3 convolution with the same channels, which leaves no checkerboard (Odena et al. 2016).
        padding: border padding mode of the 3 x 3 convolution, see `padding_layer`.
    """
    if upsample == "deconv":
        return deconvolution
    channels, bias = (deconvolution.in_channels, deconvolution.out_channels), deconvolution.bias is not None
    align_corners = None if upsample == "nearest" else False
    enlarge = nn.Upsample(scale_factor=2, mode=upsample, align_corners=align_corners)
    conv_class = ConvBeforeNorm2d if isinstance(deconvolution, ConvTransposeBeforeNorm2d) else Conv2d
    return nn.Sequential(enlarge, padding_layer(padding, 1), conv_class(*channels, 3, bias=bias))


@contextmanager
def separate_images(nets: Iterable[nn.Module], seeds: list[int]) -> Iterator[None]:
    """Make networks in training mode compute for each image what they would for a batch of that image.

    Batch norm uses each image's own statistics and does not update the running ones, dropout draws the mask
    of image i from ``seeds[i]``, and spectral norm does not update its estimates.

    Args:
        seeds: one per image of the batch, below 2**63.
    """
    layers = [layer for net in nets for layer in net.modules()]
    norms = [layer for layer in layers if isinstance(layer, BatchNorm2d)]
    dropouts = [layer for layer in layers if isinstance(layer, Dropout)]
    estimates = [layer for layer in layers if isinstance(layer, _SpectralNorm) and layer.training]
    try:
        for norm in norms:
            norm.separate = True
        image_seeds[:] = seeds
        for number, dropout in enumerate(dropouts):
            dropout.number = number
        for estimate in estimates:
            estimate.eval()
        yield
    finally:
        for norm in norms:
            norm.separate = False
        for dropout in dropouts:
            dropout.number = None
        for estimate in estimates:
            estimate.train()


def apply_to_both(
    net: nn.Module, first: Tensor, second: Tensor, *conditions: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the outputs of `net` for two batches, in one call where that does not change the result.

    Args:
        conditions: (N, ...) each, passed with either batch.
    """
    # Batch norm would mix them; images of unequal size do not fit into one batch.
    if first.shape[1:] != second.shape[1:] or any(isinstance(layer, BatchNorm2d) for layer in net.modules()):
        return net(first, *conditions), net(second, *conditions)
    repeated = (torch.cat([condition, condition]) for condition in conditions)
    of_first, of_second = net(torch.cat([first, second]), *repeated).split([len(first), len(second)])
    return of_first, of_second
