"""Self-attention between the layers of a network."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from util.errors import UserError


class SelfAttention(nn.Module):
    """Self-attention over the positions of a feature map (Zhang et al. 2019, section 3).

    Maps (N, C, H, W) to the same shape, initially as the identity. Queries and keys have C / 8 channels;
    scores are not scaled by their number.

    Values have C channels, and no convolution follows. The paper has values of C / 8 channels (eq. 2) and an
    output convolution back to C. As attention is linear in the values, and its weights sum to 1, both equal
    one convolution from C to C whose matrix has a rank of at most C / 8: with all C channels every function
    of the paper's layer can be learned, for C² instead of C² / 4 weights and 8 times the products of weights
    and values. Under ``--spectral_norm`` the one matrix is normalised, not each factor.
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
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.gamma * attended.transpose(1, 2).reshape(x.shape)


def attention_after(channels: Mapping[int, int]) -> nn.ModuleDict:
    """Return self-attention layers for `run_layers`.

    Args:
        channels: the channels of each layer that self-attention follows, by the layer's position.
    """
    return nn.ModuleDict({str(position): SelfAttention(count) for position, count in channels.items()})


def run_layers(layers: nn.Sequential, attention: nn.ModuleDict, x: Tensor) -> Tensor:
    """Return the output of `layers`, each followed by the entry of `attention` at its position, if any.

    Self-attention is kept apart so that the names of the layers in state_dicts do not depend on it.
    """
    for position, layer in layers.named_children():
        x = layer(x)
        if position in attention:
            x = attention[position](x)
    return x


def check_attention(depths: tuple[int, ...], deepest: int, side: str) -> None:
    """Raise a `UserError` unless a network has feature maps of all `depths`.

    Args:
        depths: how often a feature map is halved; 1 is half of the image's side.
        deepest: the largest depth that the network has; the smallest is 1.
        side: "G" for a generator, "D" for a discriminator.
    """
    for depth in depths:
        if not 1 <= depth <= deepest:
            without = {"G": "D", "D": "G"}[side]
            raise UserError(
                f"--attention 1/{2**depth}: this --net{side} has feature maps of 1/2 to 1/{2**deepest} of an"
                f" image's side; take one of those, or --attention_nets {without} to leave it without"
            )
