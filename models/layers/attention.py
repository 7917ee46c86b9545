"""Self-attention between a network's layers."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from util.errors import UserError


class SelfAttention(nn.Module):
    """Self-attention (Zhang et al. 2019, section 3): every place looks at all others; starts as the identity.

    Maps (N, C, H, W) to the same shape. Queries and keys have C / 8 channels; scores are not scaled by their
    number.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.query = nn.Conv2d(channels, max(1, channels // 8), 1)
        self.key = nn.Conv2d(channels, max(1, channels // 8), 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        found = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.gamma * found.transpose(1, 2).reshape(x.shape)


def attention_after(channels: Mapping[int, int]) -> nn.ModuleDict:
    """Return self-attention for `run_layers`, by the position of the layer after which it comes."""
    return nn.ModuleDict({str(position): SelfAttention(count) for position, count in channels.items()})


def run_layers(layers: nn.Sequential, attention: nn.ModuleDict, x: Tensor) -> Tensor:
    """Return what `layers` make of x, with `attention` in between, which leaves the layers' names alone."""
    for position, layer in layers.named_children():
        x = layer(x)
        if position in attention:
            x = attention[position](x)
    return x


def check_attention(depths: tuple[int, ...], deepest: int, flag: str, net: str) -> None:
    """Raise a `UserError` unless every depth is from 1 to `deepest`."""
    for depth in depths:
        if not 1 <= depth <= deepest:
            other = {"G": "D", "D": "G"}[net]
            raise UserError(
                f"--attention 1/{2**depth}: this {flag} has feature maps of 1/2 to 1/{2**deepest} of a"
                f" image's side; take one of those, or --attention_nets {other} to leave it without"
            )
