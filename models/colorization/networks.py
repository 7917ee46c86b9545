"""Colorization networks conditioned on a colour feature (Yoo et al. 2019, section 3.2)."""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.blocks import Dropout
from models.layers.convolutions import Conv2d, conv_before, deconv_before
from models.layers.discriminator import Discriminator
from models.layers.generator import Generator
from models.layers.norms import InstanceNorm2d

HIDDEN = 256


class ColorUnet(Generator):
    """A U-Net whose normalised feature maps are scaled and shifted by a function of a colour feature (AdaIN).

    The outermost and the innermost level are not normalised.

    Args:
        num_downs: how often the input is halved, 4 or more.
        ngf: channels after the first halving; they double three times from there.
        feature_size: size of a colour feature.
        dropout: drop half of the features after the first three up-samplings.
    """

    def __init__(
        self, input_nc: int, output_nc: int, num_downs: int, ngf: int, feature_size: int, dropout: bool
    ):
        super().__init__()
        self.multiple = self.smallest = 2**num_downs
        widths = [ngf * min(2**level, 8) for level in range(num_downs)]
        self.down = nn.ModuleList(
            conv_before("instance", before, after, 4, 2, 1)
            if 0 < level < num_downs - 1
            else Conv2d(before, after, 4, 2, 1)
            for level, (before, after) in enumerate(pairwise([input_nc, *widths]))
        )
        ups = [
            (widths[-1], widths[-2]),
            *((2 * widths[k], widths[k - 1]) for k in range(num_downs - 2, 0, -1)),
        ]
        self.up = nn.ModuleList(deconv_before("instance", before, after, 4, 2, 1) for before, after in ups)
        self.out = nn.ConvTranspose2d(2 * widths[0], output_nc, 4, 2, 1)
        self.dropout = Dropout(0.5) if dropout else nn.Identity()
        # Channels of the normalised feature maps, of down-sampling and of up-sampling.
        self.styled = [*widths[1:-1], *(after for _, after in ups)]
        self.norms = nn.ModuleList(AdaptiveInstanceNorm2d(width) for width in self.styled)
        self.mlp = nn.Sequential(
            nn.Linear(feature_size, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, 2 * sum(self.styled)),
        )

    def run(self, x: Tensor, *conditions: Tensor) -> Tensor:
        (feature,) = conditions
        styles = self.mlp(feature)[..., None, None].split([2 * width for width in self.styled], 1)
        inner = len(self.down) - 2
        skips: list[Tensor] = []
        for level in range(len(self.down)):
            style = styles[level - 1 : level] if 0 < level <= inner else ()
            x = self.segment(self.down, partial(self._downsample, level), x, *style)
            skips.append(x)
        parts: tuple[Tensor, ...] = (skips.pop(),)
        for step in range(len(self.up)):
            y = self.segment(self.dropout, partial(self._upsample, step), styles[inner + step], *parts)
            parts = skips.pop(), y
        return self.out(F.relu(torch.cat(parts, 1))).tanh()

    def _downsample(self, level: int, x: Tensor, *style: Tensor) -> Tensor:
        x = self.down[level](F.leaky_relu(x, 0.2) if level else x)
        return self.norms[level - 1](x, *style) if style else x

    def _upsample(self, step: int, style: Tensor, *parts: Tensor) -> Tensor:
        x = self.up[step](F.relu(torch.cat(parts, 1)))
        x = self.norms[len(self.down) - 2 + step](x, style)
        return self.dropout(x) if step < 3 else x


class AdaptiveInstanceNorm2d(nn.Module):
    """Instance norm with given scales and shifts (Huang & Belongie 2017, eq. 8).

    Maps (N, C, H, W) and a style, (N, 2 C, 1, 1), to (N, C, H, W). The style holds the scales minus 1, and
    the shifts.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = InstanceNorm2d(channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = style.chunk(2, 1)
        return self.norm(x) * (1 + scale) + shift


class ColorDiscriminator(Discriminator):
    """One logit per image, given a colour feature.

    Maps (N, input_nc, H, W) and (N, K) to (N, 1). There is no norm, so that images do not affect each other.
    """

    minimum = 16

    def __init__(self, input_nc: int, ndf: int, feature_size: int):
        super().__init__()
        widths = [ndf * min(2**level, 8) for level in range(4)]
        self.first = nn.Conv2d(input_nc, ndf, 4, 2, 1)
        # Equals a convolution of the feature as further, constant channels of the image.
        self.feature = nn.Linear(feature_size, ndf, bias=False)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.LeakyReLU(0.2), nn.Conv2d(before, after, 4, 2, 1)]
        self.layers = nn.Sequential(*layers, nn.LeakyReLU(0.2))
        self.out = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        x = self.first(x) + self.feature(feature)[..., None, None]
        return self.out(self.layers(x).mean((2, 3)))
