"""The small parts that networks are made of: norms, dropout, attention, up-sampling, initial weights."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrizations import _SpectralNorm, spectral_norm

from models.layers.convolutions import Conv2d, ConvBeforeNorm2d, ConvTransposeBeforeNorm2d
from models.layers.norms import BatchNorm2d, ImageStatistics

image_seeds: list[int] = []
"""The seeds of the images that are being translated, see `separate_images`."""


class Dropout(nn.Dropout):
    """Dropout that can also draw each image's mask from a seed of its own.

    Attributes:
        number: among the layers that do so; None: it does not.
    """

    number: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.number is None:
            return super().forward(x)
        return drop_each(x, self.number, self.p)


@torch.library.custom_op("atelier::drop_each", mutates_args=())
def drop_each(x: Tensor, number: int, share: float) -> Tensor:
    """Return x, (N, C, H, W), with a `share` of each image's values dropped, as its seed and `number` will.

    It is an operator of its own because compiled networks can have neither generators nor, where their
    weights are built in, anything else that changes but their input.
    """
    # Drawn on the CPU in float32, so that an image's mask is the same on every device.
    rngs = [torch.Generator().manual_seed(seed + number) for seed in image_seeds]
    draws = torch.stack([torch.rand(x.shape[1:], generator=rng) for rng in rngs])
    return x * (draws >= share).to(x) / (1 - share)


@drop_each.register_fake
def _(x: Tensor, number: int, share: float) -> Tensor:
    return torch.empty_like(x)


class ReflectionPad2d(nn.ReflectionPad2d):
    """Reflection padding whose gradient is computed in the same order every time, if torch is told to."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda and torch.are_deterministic_algorithms_enabled():
            return reflect(x, self.padding[0])
        return super().forward(x)


def reflect(x: Tensor, width: int) -> Tensor:
    """Return x with `width` mirrored pixels on every side, put together from its parts."""
    for side in (-1, -2):
        first = x.narrow(side, 1, width).flip(side)
        last = x.narrow(side, x.shape[side] - 1 - width, width).flip(side)
        x = torch.cat([first, x, last], side)
    return x


@contextmanager
def separate_images(nets: Iterable[nn.Module], seeds: list[int]) -> Iterator[None]:
    """Within it, a network in training mode computes for each image of a batch what it would for it alone.

    Batch norm uses each image's own statistics and leaves the running ones as they are; dropout takes the
    mask of image i from ``seeds[i]``, below 2**63.
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


@contextmanager
def statistics_from(net: nn.Module, run: Callable[[], object]) -> Iterator[None]:
    """Within it, the layers of `net` use the statistics of images that they had when `run` ran it."""
    layers = [layer for layer in net.modules() if isinstance(layer, ImageStatistics)]
    try:
        for layer in layers:
            layer.kept, layer.recording = deque(), True
        run()
        for layer in layers:
            layer.recording = False
        yield
    finally:
        for layer in layers:
            layer.kept, layer.recording = None, False


def apply_to_both(
    net: nn.Module, first: Tensor, second: Tensor, *conditions: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what `net` makes of both, in one call where that changes nothing but the time.

    Each is given the same `conditions`, (N, ...), besides.
    """
    # Batch norm would mix them; images of unequal size do not fit into one batch.
    if first.shape[1:] != second.shape[1:] or any(isinstance(layer, BatchNorm2d) for layer in net.modules()):
        return net(first, *conditions), net(second, *conditions)
    twice = (torch.cat([condition, condition]) for condition in conditions)
    one, two = net(torch.cat([first, second]), *twice).split([len(first), len(second)])
    return one, two


def padding_layer(padding: str, width: int) -> nn.Module:
    """Return a layer that adds `width` pixels on every side: ``reflect``, ``replicate`` or ``zero``."""
    layer = {"reflect": ReflectionPad2d, "replicate": nn.ReplicationPad2d, "zero": nn.ZeroPad2d}[padding]
    return layer(width)


def upsampling_layer(upsample: str, deconvolution: nn.ConvTranspose2d, padding: str) -> nn.Module:
    """Return a layer that doubles both sides.

    Args:
        upsample: ``deconv`` for `deconvolution` itself; ``nearest`` or ``bilinear`` for interpolation and a
            3 x 3 convolution with the same channels, which leaves no checkerboard (Odena et al. 2016).
        padding: what the convolution sees beyond the edge, see `padding_layer`.
    """
    if upsample == "deconv":
        return deconvolution
    channels, bias = (deconvolution.in_channels, deconvolution.out_channels), deconvolution.bias is not None
    smooth = None if upsample == "nearest" else False
    enlarge = nn.Upsample(scale_factor=2, mode=upsample, align_corners=smooth)
    kind = ConvBeforeNorm2d if isinstance(deconvolution, ConvTransposeBeforeNorm2d) else Conv2d
    return nn.Sequential(enlarge, padding_layer(padding, 1), kind(*channels, 3, bias=bias))


def normalise_spectrum(net: nn.Module) -> None:
    """Divide the weights of all layers by their largest singular value (Miyato et al. 2018)."""
    for layer in list(net.modules()):
        if isinstance(layer, (_ConvNd, nn.Linear)):
            spectral_norm(layer)


def initialise(net: nn.Module, init_type: str, gain: float) -> None:
    """Draw the weights of convolutions and linear layers; biases become 0, batch norm's scales N(1, gain).

    Args:
        init_type: ``normal`` (N(0, gain)), ``xavier`` (normal), ``kaiming`` (normal, fan-in, gain unused) or
            ``orthogonal``.
    """
    for layer in net.modules():
        if isinstance(layer, (_ConvNd, nn.Linear)):
            _draw(layer.weight, init_type, gain)
            if layer.bias is not None:
                init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            init.normal_(layer.weight, 1.0, gain)
            init.zeros_(layer.bias)


def _draw(weight: Tensor, init_type: str, gain: float) -> None:
    if init_type == "normal":
        init.normal_(weight, 0.0, gain)
    elif init_type == "xavier":
        init.xavier_normal_(weight, gain=gain)
    elif init_type == "kaiming":
        init.kaiming_normal_(weight, a=0, mode="fan_in")
    elif init_type == "orthogonal":
        init.orthogonal_(weight, gain=gain)
    else:
        raise ValueError(f"init_type {init_type}")
