"""The base class of discriminators."""

from torch import nn


class Discriminator(nn.Module):
    """Maps images, (N, input_nc, H, W), and conditions to logits, (N, 1, h, w) or (N, 1).

    Attributes:
        minimum: the smallest H and W, in pixels.
    """

    minimum: int
