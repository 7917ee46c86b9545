"""The small parts that networks are made of: norms, dropout, initial weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import init
from torch.nn.modules.conv import _ConvNd


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that can also treat each picture of a training-mode batch as a batch of its own."""

    separate = False

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.separate:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, use_input_stats=True, eps=self.eps)
        return super().forward(x)


class Dropout(nn.Dropout):
    """Dropout that can also draw each picture's mask from a generator of its own."""

    generators: list[torch.Generator] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.generators is None:
            return super().forward(x)
        # Drawn on the CPU in float32, so that a picture's mask is the same on every device.
        draws = torch.stack([torch.rand(x.shape[1:], generator=generator) for generator in self.generators])
        return x * (draws >= self.p).to(x) / (1 - self.p)


@contextmanager
def separate_pictures(nets: Iterable[nn.Module], generators: list[torch.Generator]) -> Iterator[None]:
    """Within it, a network in training mode computes for each picture of a batch what it would for it alone.

    Batch norm uses each picture's own statistics and leaves the running ones as they are; dropout takes the
    mask of picture i from ``generators[i]``.
    """
    layers = [layer for net in nets for layer in net.modules()]
    norms = [layer for layer in layers if isinstance(layer, BatchNorm2d)]
    dropouts = [layer for layer in layers if isinstance(layer, Dropout)]
    try:
        for norm in norms:
            norm.separate = True
        for dropout in dropouts:
            dropout.generators = generators
        yield
    finally:
        for norm in norms:
            norm.separate = False
        for dropout in dropouts:
            dropout.generators = None


def norm_layer(norm: str, channels: int) -> nn.Module:
    """Return a norm: ``instance`` (no parameters, no running statistics), ``batch`` or ``none``."""
    if norm == "instance":
        return nn.InstanceNorm2d(channels)
    if norm == "batch":
        return BatchNorm2d(channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm {norm}")


def apply_to_both(net: nn.Module, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``net(first), net(second)``, in one call where that changes nothing but the time."""
    # Batch norm would mix them; pictures of unequal size do not fit into one batch.
    if first.shape[1:] != second.shape[1:] or any(isinstance(layer, BatchNorm2d) for layer in net.modules()):
        return net(first), net(second)
    one, two = net(torch.cat([first, second])).split([len(first), len(second)])
    return one, two


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
