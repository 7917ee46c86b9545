"""The networks of DCGAN: noise to images by transposed convolutions, images to a logit by convolutions."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.blocks import upsampling_layer
from models.layers.discriminator import Discriminator
from models.layers.norms import norm_layer
from models.layers.recomputation import Recomputing
from util.errors import UserError

SIDES = {
    base << depth: (base, depth)
    for base in range(4, 8)
    for depth in range(2, 6)
    if 28 <= base << depth <= 128
}
"""Supported sides of images, 28 to 128 pixels: side of the smallest feature map, and number of doublings."""


class DcganGenerator(Recomputing):
    """Maps noise, (N, nz), to images, (N, output_nc, size, size) in [-1, 1] (Radford et al. 2016).

    Args:
        size: one of `SIDES`.
        ngf: channels before the last layer; they double with every halving, up to 8 ngf.
        classes: number of classes; the class is concatenated to the noise, one-hot. 0: unconditional.
        upsample: see `upsampling_layer`.
    """

    def __init__(
        self,
        size: int,
        nz: int,
        output_nc: int,
        ngf: int,
        norm: str,
        classes: int = 0,
        upsample: str = "deconv",
    ):
        super().__init__()
        self.nz, self.classes = nz, classes
        base, depth = SIDES[size]
        widths = _widths(ngf, depth)
        bias = norm == "none"
        layers: list[nn.Module] = [nn.ConvTranspose2d(nz + classes, widths[-1], base, bias=bias)]
        starts = [0]
        for level in reversed(range(depth)):
            starts.append(len(layers))
            layers += [norm_layer(norm, widths[level]), nn.ReLU()]
            below = widths[level - 1] if level else output_nc
            enlarge = nn.ConvTranspose2d(widths[level], below, 4, 2, 1, bias=bias or level == 0)
            layers.append(upsampling_layer(upsample, enlarge, "zero"))
        self.model = nn.Sequential(*layers, nn.Tanh())
        self.segments = list(pairwise([*starts, len(self.model)]))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Return images; `label`, (N,), is needed if there are classes."""
        if label is not None:
            z = torch.cat([z, F.one_hot(label, self.classes).to(z.dtype)], 1)
        x = z[..., None, None]
        for first, end in self.segments:
            layers = self.model[first:end]
            x = self.segment(layers, layers, x)
        return x


class DcganDiscriminator(Discriminator):
    """The generator mirrored: maps (N, input_nc, size, size) to (N, 1).

    With classes it is a projection discriminator (Miyato & Koyama 2018, eq. 3): it adds the inner product of
    the class's embedding and the last features, at all positions, as each sees only a part of the image.

    Args:
        size, classes: see `DcganGenerator`.
        ndf: channels after the first layer; they double with every halving, up to 8 ndf.
        dropout: probability after every layer but the last.
    """

    def __init__(self, size: int, input_nc: int, ndf: int, norm: str, classes: int = 0, dropout: float = 0.0):
        super().__init__()
        self.minimum = size
        base, depth = SIDES[size]
        widths = _widths(ndf, depth)
        layers: list[nn.Module] = [nn.Conv2d(input_nc, ndf, 4, 2, 1), _activation(dropout)]
        for level in range(1, depth):
            layers.append(nn.Conv2d(widths[level - 1], widths[level], 4, 2, 1, bias=norm == "none"))
            layers += [norm_layer(norm, widths[level]), _activation(dropout)]
        self.model = nn.Sequential(*layers)
        self.last = nn.Conv2d(widths[-1], 1, base)
        self.project = nn.Conv2d(widths[-1], classes, base, bias=False) if classes else None

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Return logits; `label`, (N,), is needed if there are classes."""
        features = self.model(x)
        logits = self.last(features).flatten(1)
        if self.project is None or label is None:
            return logits
        return logits + self.project(features).flatten(1).gather(1, label[:, None])


def _activation(dropout: float) -> nn.Module:
    """Return an activation with dropout, as one module: the names of other layers do not depend on it."""
    return nn.Sequential(nn.LeakyReLU(0.2), nn.Dropout(dropout)) if dropout else nn.LeakyReLU(0.2)


def check_side(size: int) -> None:
    """Raise a `UserError` unless images of this side are supported."""
    if size not in SIDES:
        sides = ", ".join(map(str, sorted(SIDES)))
        nearest = min(sorted(SIDES), key=lambda side: abs(side - size))
        raise UserError(
            f"--crop_size {size}: dcgan makes images with sides of {sides} pixels; take --crop_size {nearest}"
        )


def _widths(outermost: int, depth: int) -> list[int]:
    return [outermost * min(2**level, 8) for level in range(depth)]
