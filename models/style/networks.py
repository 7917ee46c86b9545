"""Generators conditioned on a style: on the moments of its features, or on a code."""

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
    """AdaIN: decodes a photo's features with the moments of a style's (Huang & Belongie 2017, section 5).

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
            conditions: means and standard deviations of the style's relu4_1, (N, 512, 1, 1) each, and
                `alpha`, 0-d, see `Restyle`.
        """
        mean, deviation, alpha = conditions
        return self.decode(self.restyle(self.encoder(x, (DEEPEST,))[DEEPEST], mean, deviation, alpha))

    def decode(self, features: Tensor) -> Tensor:
        """Return the images for features of relu4_1, (N, 512, H, W) to (N, 3, 8 H, 8 W)."""
        upsamplings = (at for at, layer in enumerate(self.decoder) if isinstance(layer, nn.Upsample))
        for first, end in pairwise([0, *upsamplings, len(self.decoder)]):
            layers = self.decoder[first:end]
            features = self.segment(layers, layers, features)
        return features

    def moments_of(self, styles: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moments of relu4_1 of images, (N, 3, H, W) to (N, 512, 1, 1) each."""
        return moments(self.encoder(styles, (DEEPEST,))[DEEPEST])


class Restyle(ImageStatistics):
    """Replaces the moments of features (AdaIN: Huang & Belongie 2017, eq. 8 and 14)."""

    def forward(
        self, features: Tensor, mean: Tensor, deviation: Tensor, alpha: Tensor | float = 1.0
    ) -> Tensor:
        """Return features, (N, C, H, W), with the given mean and standard deviation, (N, C, 1, 1) each.

        Args:
            alpha: 0 keeps the features' own moments, 1 uses the given ones; linear in between.
        """
        count = features[0, 0].numel()
        own_mean, variance = self.moments(features)
        own_deviation = (variance * (count / (count - 1)) + MOMENTS_EPS).sqrt()  # as in `moments`
        normalised = (features - own_mean) / own_deviation
        return normalised * own_deviation.lerp(deviation, alpha) + own_mean.lerp(mean, alpha)


def build_decoder(ngf: int) -> nn.Sequential:
    """Return VGG19 up to relu4_1 mirrored, with `ngf` channels before the last layer.

    Huang & Belongie 2017, section 5: without norms, which would remove the style. A tanh bounds the images.
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
    """Colours a grey image, by default in its natural colours, or in a style.

    The code of a style is the spatial mean of the encoder's output for its image; a learned code stands for
    no style. The decoder gets the image's features, concatenated with the code at every position, and has
    the skip connections of a U-Net.

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
        """Return coloured images, (N, 3, H, W), for grey ones, (N, 1, H, W), and a code, (N, C, 1, 1)."""
        (code,) = conditions
        return self.decode(self.encode(x), code)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the features of images, (N, 1 or 3, H, W), of 1/2, 1/4, 1/8 and 1/16 of their sides."""
        x, features = images.expand(-1, 3, -1, -1), []
        for layer in self.down:
            x = self.segment(layer, layer, x)
            features.append(x)
        return features

    def decode(self, features: list[Tensor], code: Tensor) -> Tensor:
        """Return images, (N, 3, H, W), for the features of `encode` and a code per image, (N, C, 1, 1)."""
        *skips, x = features
        parts = x, code.expand_as(x)
        for layer, skip in zip(self.up, reversed(skips), strict=True):
            parts = self.segment(layer, partial(apply_to_concatenated, layer), *parts), skip
        return apply_to_concatenated(self.out, *parts).tanh()


def apply_to_concatenated(layer: nn.Module, *parts: Tensor) -> Tensor:
    """Return the output of `layer` for feature maps of the same size, concatenated along channels."""
    return layer(torch.cat(parts, 1))


def style_code(features: list[Tensor]) -> Tensor:
    """Return the code of styles, (N, C, 1, 1): the spatial mean of the last features of `encode`."""
    return features[-1].mean((2, 3), keepdim=True)
