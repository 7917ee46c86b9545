"""Generators that are told a style: by its features' moments, or by a code."""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.layers.blocks import ReflectionPad2d
from models.layers.generator import Generator
from models.layers.norms import ImageStatistics, norm_layer
from models.objectives.losses import MOMENTS_EPS, moments
from models.objectives.perceptual import Features

ENCODER_NETWORK, ENCODER_LAYERS = "vgg19", ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
DEEPEST = ENCODER_LAYERS[-1]


class AdainGenerator(Generator):
    """Gives a photo's features the moments of a style's, and decodes them (Huang & Belongie 2017, section 5).

    Args:
        encoder: the frozen VGG19; it is part of the state_dict, so that testing needs no other file.
        decoder: maps features of relu4_1, (N, 512, H / 8, W / 8), to images, see `build_decoder`.
    """

    multiple = 8
    smallest = 16

    def __init__(self, encoder: Features, decoder: nn.Sequential):
        super().__init__()
        self.encoder, self.restyle, self.decoder = encoder, Restyle(), decoder

    def run(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """Return x in a style.

        Args:
            conditions: the means and deviations of the style's deepest features, (N, 512, 1, 1) each, and how
                far to go to them from the photo's own, 0-d.
        """
        mean, deviation, alpha = conditions
        return self.decode(self.restyle(self.encoder(x, (DEEPEST,))[DEEPEST], mean, deviation, alpha))

    def decode(self, features: Tensor) -> Tensor:
        """Return the images of features of relu4_1."""
        enlarging = (at for at, layer in enumerate(self.decoder) if isinstance(layer, nn.Upsample))
        for first, end in pairwise([0, *enlarging, len(self.decoder)]):
            layers = self.decoder[first:end]
            features = self.segment(layers, layers, features)
        return features

    def moments_of(self, styles: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moments of the deepest features of images, (N, 3, H, W): (N, 512, 1, 1) each."""
        return moments(self.encoder(styles, (DEEPEST,))[DEEPEST])


class Restyle(ImageStatistics):
    """Gives features other moments (AdaIN: Huang & Belongie 2017, eq. 8 and 14)."""

    def forward(
        self, features: Tensor, mean: Tensor, deviation: Tensor, alpha: Tensor | float = 1.0
    ) -> Tensor:
        """Return features, (N, C, H, W), with these moments, (N, C, 1, 1) each.

        With an `alpha` below 1 they lie between the features' own and these.
        """
        count = features[0, 0].numel()
        own_mean, variance = self.moments(features)
        own_deviation = (variance * (count / (count - 1)) + MOMENTS_EPS).sqrt()  # as in `moments`
        normalised = (features - own_mean) / own_deviation
        return normalised * own_deviation.lerp(deviation, alpha) + own_mean.lerp(mean, alpha)


def build_decoder(ngf: int) -> nn.Sequential:
    """Return the mirror image of VGG19 up to relu4_1, with `ngf` channels at its end (ibid., section 5).

    There are no norms, which would take the style away again; a tanh keeps the images in their range.
    """
    return nn.Sequential(
        *_convolution(512, ngf * 4),
        nn.Upsample(scale_factor=2),
        *(layer for _ in range(3) for layer in _convolution(ngf * 4, ngf * 4)),
        *_convolution(ngf * 4, ngf * 2),
        nn.Upsample(scale_factor=2),
        *_convolution(ngf * 2, ngf * 2),
        *_convolution(ngf * 2, ngf),
        nn.Upsample(scale_factor=2),
        *_convolution(ngf, ngf),
        ReflectionPad2d(1),
        nn.Conv2d(ngf, 3, 3),
        nn.Tanh(),
    )


def _convolution(before: int, after: int) -> tuple[nn.Module, ...]:
    return ReflectionPad2d(1), nn.Conv2d(before, after, 3), nn.ReLU()


class UnifiedGenerator(Generator):
    """One encoder and one decoder that colour a grey image, or colour it in a style.

    A style's code is the mean over its image of what the encoder makes of it; a learned code stands for no
    style. The decoder sees the image's features with a code beside them at every place, and on its way up
    the features of each size, as in a U-Net.

    Args:
        ngf: channels after the first of four halvings; they double three times from there.
        norm: ``batch`` or ``none``, see `models.unified_model`.
    """

    multiple = smallest = 16

    def __init__(self, ngf: int, norm: str):
        super().__init__()
        widths = [ngf * 2**level for level in range(4)]
        down: list[nn.Module] = []
        for before, after in pairwise([3, *widths[:-1]]):
            layers = nn.Conv2d(before, after, 3, 2, 1), norm_layer(norm, after), nn.ReLU()
            down.append(nn.Sequential(*layers))
        self.down = nn.ModuleList([*down, nn.Conv2d(widths[-2], widths[-1], 3, 2, 1)])
        up: list[nn.Module] = []
        for width in widths[-2::-1]:
            enlarge = nn.ConvTranspose2d(4 * width, width, 3, 2, 1, output_padding=1)
            up.append(nn.Sequential(enlarge, norm_layer(norm, width), nn.ReLU()))
        self.up = nn.ModuleList(up)
        self.out = nn.ConvTranspose2d(2 * ngf, 3, 3, 2, 1, output_padding=1)
        self.no_style = nn.Parameter(torch.zeros(1, widths[-1], 1, 1))

    def run(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """Return grey images (N, 1, H, W) in the style of a code (N, C, 1, 1)."""
        (code,) = conditions
        return self.decode(self.encode(x), code)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the features of images, (N, 1 or 3, H, W): at half their size first, then ever smaller."""
        x, features = images.expand(-1, 3, -1, -1), []
        for layer in self.down:
            x = self.segment(layer, layer, x)
            features.append(x)
        return features

    def decode(self, features: list[Tensor], code: Tensor) -> Tensor:
        """Return the images, (N, 3, H, W), of features with one code each, (N, C, 1, 1)."""
        *skips, x = features
        parts = x, code.expand_as(x)
        for layer, skip in zip(self.up, reversed(skips), strict=True):
            parts = self.segment(layer, partial(of_joined, layer), *parts), skip
        return of_joined(self.out, *parts).tanh()


def of_joined(layer: nn.Module, *parts: Tensor) -> Tensor:
    """Return what `layer` makes of feature maps of one size together."""
    return layer(torch.cat(parts, 1))


def style_code(features: list[Tensor]) -> Tensor:
    """Return the code of styles, (N, C, 1, 1): the mean of the last of their features."""
    return features[-1].mean((2, 3), keepdim=True)
