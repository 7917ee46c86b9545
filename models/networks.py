"""Generators and discriminators: plain modules with plain arguments, in any floating point precision.

Names and shapes in their state_dicts are those of junyanz/pytorch-CycleGAN-and-pix2pix, so that weights are
exchanged with it in both directions. No activation works in place: the skip connections see the same values
as there, because each is followed by a ReLU, for which LeakyReLU(x) and x are the same.
"""

from functools import partial
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from models.layers.attention import attention_after, check_attention, run_layers
from models.layers.blocks import Dropout, initialise, normalise_spectrum, padding_layer, upsampling_layer
from models.layers.convolutions import Conv2d, conv_before, deconv_before
from models.layers.generator import Generator
from models.layers.norms import norm_layer
from models.layers.recomputation import Recomputing
from options.base_options import NetworkOptions
from util.errors import UserError

Net = TypeVar("Net", bound=nn.Module)


class UnetBlock(Recomputing):
    """One level of a U-Net: down, everything below it, up, and the skip connection around all that.

    Args:
        outer_nc: channels at this level's outer side, also of its up-sampled output.
        inner_nc: channels after going down.
        input_nc: channels of the input where they differ from `outer_nc` (the outermost level).
        below: the next level; None for the innermost.
        outermost: this is the first level: no activation before it, tanh after it, no skip connection.
        attend_down, attend_up: give the feature map self-attention after going down, and after coming up.
    """

    def __init__(
        self,
        outer_nc: int,
        inner_nc: int,
        *,
        norm: str,
        input_nc: int | None = None,
        below: "UnetBlock | None" = None,
        outermost: bool = False,
        dropout: bool = False,
        attend_down: bool = False,
        attend_up: bool = False,
        upsample: str = "deconv",
    ):
        super().__init__()
        self.outermost = outermost
        inward, outward = (input_nc or outer_nc, inner_nc, 4, 2, 1), (outer_nc, 4, 2, 1)
        down: list[nn.Module] = [] if outermost else [nn.LeakyReLU(0.2)]
        if outermost or below is None:
            # The innermost level has no norm on its way down: its feature map may be a single pixel.
            down.append(Conv2d(*inward, bias=norm == "instance"))
        else:
            down += [conv_before(norm, *inward), norm_layer(norm, inner_nc)]
        from_below = inner_nc if below is None else inner_nc * 2
        up: list[nn.Module] = [nn.ReLU()]
        if outermost:
            enlarge = nn.ConvTranspose2d(from_below, *outward)
            up += [upsampling_layer(upsample, enlarge, "zero"), nn.Tanh()]
        else:
            enlarge = deconv_before(norm, from_below, *outward)
            up += [upsampling_layer(upsample, enlarge, "zero"), norm_layer(norm, outer_nc)]
        layers = [*down, *([] if below is None else [below]), *up]
        self.turn = len(down)
        attention = {len(down) - 1: inner_nc} if attend_down else {}
        self.attention = attention_after(attention | ({len(layers) - 1: outer_nc} if attend_up else {}))
        self.model = nn.Sequential(*layers, *([Dropout(0.5)] if dropout else []))

    def forward(self, x: Tensor) -> Tensor:
        y = self.come_back(x) if self.recomputes else run_layers(self.model, self.attention, x)
        return y if self.outermost else torch.cat([x, y], 1)

    def come_back(self, x: Tensor) -> Tensor:
        """Return what comes up again, computed in segments: the way down, what is below, the way up."""
        below = self.model[self.turn]
        down = self.model[: self.turn]
        deep = self.segment(down, partial(run_layers, down, self.attention), x)
        if not isinstance(below, UnetBlock):
            up = self.model[self.turn :]
            return self.segment(up, partial(run_layers, up, self.attention), deep)
        up = self.model[self.turn + 1 :]

        def join_and_rise(skip: Tensor, y: Tensor) -> Tensor:
            # The skip connection's copy is made again too.
            return run_layers(up, self.attention, torch.cat([skip, y], 1))

        return self.segment(up, join_and_rise, deep, below.come_back(deep))


class UnetGenerator(Generator):
    """U-Net (Ronneberger et al. 2015; Isola et al. 2017, section 6.1.1).

    Args:
        num_downs: how often the input is halved, 5 or more.
        ngf: channels after the first halving; they double three times from there.
        dropout: drop half of the features after the up-sampling of every middle level.
        attention: how often the feature maps with self-attention are halved, each 1 to ``num_downs - 1``;
            they get it on the way down and on the way up.
        upsample: see `upsampling_layer`.
    """

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        num_downs: int,
        ngf: int,
        norm: str,
        dropout: bool,
        attention: tuple[int, ...] = (),
        upsample: str = "deconv",
    ):
        super().__init__()
        self.multiple = self.smallest = 2**num_downs
        check_attention(attention, num_downs - 1, "--netG", "G")
        widths = [output_nc, *(ngf * min(2**level, 8) for level in range(num_downs))]
        block: UnetBlock | None = None
        for level in reversed(range(num_downs)):
            block = UnetBlock(
                widths[level],
                widths[level + 1],
                norm=norm,
                input_nc=input_nc if level == 0 else None,
                below=block,
                outermost=level == 0,
                dropout=dropout and 4 <= level < num_downs - 1,
                attend_down=level + 1 in attention,
                attend_up=level in attention,
                upsample=upsample,
            )
        assert block is not None
        self.model = block


class ResnetBlock(nn.Module):
    """Two 3 x 3 convolutions, added to their input (no ReLU after the sum)."""

    def __init__(self, channels: int, norm: str, dropout: bool, padding: str):
        super().__init__()
        self.conv_block = nn.Sequential(
            padding_layer(padding, 1),
            conv_before(norm, channels, channels, 3),
            norm_layer(norm, channels),
            nn.ReLU(),
            *([Dropout(0.5)] if dropout else []),
            padding_layer(padding, 1),
            conv_before(norm, channels, channels, 3),
            norm_layer(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class ResnetGenerator(Generator):
    """Two strided convolutions, residual blocks, two transposed convolutions (Johnson et al. 2016).

    Args:
        attention: how often the feature maps with self-attention are halved, each 1 or 2; they get it before
            and after the residual blocks.
        upsample, padding: see `upsampling_layer` and `padding_layer`.
    """

    model: nn.Sequential
    multiple = 4
    smallest = 8  # instance norm needs more than the one pixel that is left of 4

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        n_blocks: int,
        ngf: int,
        norm: str,
        dropout: bool,
        attention: tuple[int, ...] = (),
        upsample: str = "deconv",
        padding: str = "reflect",
    ):
        super().__init__()
        check_attention(attention, 2, "--netG", "G")
        channels: dict[int, int] = {}
        layers: list[nn.Module] = [padding_layer(padding, 3), conv_before(norm, input_nc, ngf, 7)]
        layers += [norm_layer(norm, ngf), nn.ReLU()]
        for depth, width in ((1, ngf * 2), (2, ngf * 4)):
            layers += [conv_before(norm, width // 2, width, 3, 2, 1), norm_layer(norm, width), nn.ReLU()]
            channels |= {len(layers) - 1: width} if depth in attention else {}
        blocks = range(len(layers), len(layers) + n_blocks)
        layers += [ResnetBlock(ngf * 4, norm, dropout, padding) for _ in blocks]
        channels |= {len(layers) - 1: ngf * 4} if 2 in attention else {}
        for depth, width in ((1, ngf * 2), (0, ngf)):
            enlarge = deconv_before(norm, width * 2, width, 3, 2, 1, output_padding=1)
            layers += [upsampling_layer(upsample, enlarge, padding), norm_layer(norm, width), nn.ReLU()]
            channels |= {len(layers) - 1: width} if depth in attention else {}
        layers += [padding_layer(padding, 3), nn.Conv2d(ngf, output_nc, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)
        self.attention = attention_after(channels)
        # The way down, three blocks at a time, the way up: none takes much more memory than another.
        self.segments = list(pairwise([0, *blocks[::3], blocks.stop, len(layers)]))

    def run(self, x: Tensor, *conditions: Tensor) -> Tensor:
        if not self.recomputes:
            return run_layers(self.model, self.attention, x)
        for first, end in self.segments:
            layers = self.model[first:end]
            x = self.segment(layers, partial(run_layers, layers, self.attention), x)
        return x


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, section 6.1.2): a logit for every patch; 70 x 70 pixels for three layers.

    Maps (N, input_nc, H, W) to (N, 1, h, w); needs sides of at least `minimum` pixels.

    Args:
        n_layers: strided convolutions; their widths double from `ndf` to at most 8 ndf.
        attention: how often the feature maps with self-attention are halved, each 1 to `n_layers`.
    """

    def __init__(self, input_nc: int, ndf: int, n_layers: int, norm: str, attention: tuple[int, ...] = ()):
        super().__init__()
        check_attention(attention, n_layers, "--netD", "D")
        self.minimum = 3 * 2**n_layers
        widths = [ndf * min(2**n, 8) for n in range(n_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(input_nc, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
        for n in range(1, n_layers + 1):
            stride = 2 if n < n_layers else 1
            layers += [conv_before(norm, widths[n - 1], widths[n], 4, stride, 1)]
            layers += [norm_layer(norm, widths[n]), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.model = nn.Sequential(*layers)
        self.attention = attention_after({3 * depth - 2: widths[depth - 1] for depth in attention})

    def forward(self, x: Tensor) -> Tensor:
        return run_layers(self.model, self.attention, x)


class PixelDiscriminator(nn.Module):
    """A logit for every pixel, by 1 x 1 convolutions: maps (N, input_nc, H, W) to (N, 1, H, W)."""

    minimum = 2

    def __init__(self, input_nc: int, ndf: int, norm: str):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(input_nc, ndf, 1),
            nn.LeakyReLU(0.2),
            conv_before(norm, ndf, ndf * 2, 1),
            norm_layer(norm, ndf * 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(ndf * 2, 1, 1, bias=norm == "instance"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def build_generator(options: NetworkOptions, input_nc: int, output_nc: int) -> Generator:
    """Return the generator that ``--netG`` names, with initial weights."""
    kind, size = options.netG.split("_")
    common = (
        options.ngf,
        options.norm,
        not options.no_dropout,
        options.attention_depths("G"),
        options.upsample,
    )
    net: Generator
    if kind == "unet":
        net = UnetGenerator(input_nc, output_nc, int(size).bit_length() - 1, *common)
    else:
        n_blocks = int(size.removesuffix("blocks"))
        net = ResnetGenerator(input_nc, output_nc, n_blocks, *common, options.padding)
    return init_network(net, options, "G")


def build_discriminator(options: NetworkOptions, input_nc: int) -> PatchDiscriminator | PixelDiscriminator:
    """Return the discriminator that ``--netD`` names, with initial weights."""
    attention = options.attention_depths("D")
    if options.netD == "pixel":
        if attention:
            raise UserError("--attention: --netD pixel has no feature maps for it; add --attention_nets G")
        return init_network(PixelDiscriminator(input_nc, options.ndf, options.norm), options, "D")
    n_layers = options.n_layers_D if options.netD == "n_layers" else 3
    return init_network(
        PatchDiscriminator(input_nc, options.ndf, n_layers, options.norm, attention), options, "D"
    )


def allow_only(reason: str, options: NetworkOptions, **only: object) -> None:
    """Raise a `UserError` with the reason for a flag that does not have the one value that a model has."""
    for name, value in only.items():
        if getattr(options, name) != value:
            raise UserError(f"--{name} {getattr(options, name)}: {reason}; say --{name} {value}, or nothing")


def init_network(net: Net, options: NetworkOptions, kind: str) -> Net:
    """Give a new network its initial weights and, if asked for, spectral norm."""
    initialise(net, options.init_type, options.init_gain)
    if kind in options.spectral_norm:
        normalise_spectrum(net)
    return net
