"""Generators and discriminators: plain modules with plain arguments, in any floating point precision.

Names and shapes in their state_dicts are those of junyanz/pytorch-CycleGAN-and-pix2pix, so that weights are
exchanged with it in both directions. No activation works in place: the skip connections see the same values
as there, because each is followed by a ReLU, for which LeakyReLU(x) and x are the same.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import Dropout, initialise, norm_layer
from options.base_options import NetworkOptions


class UnetBlock(nn.Module):
    """One level of a U-Net: down, everything below it, up, and the skip connection around all that.

    Args:
        outer_nc: channels at this level's outer side, also of its up-sampled output.
        inner_nc: channels after going down.
        input_nc: channels of the input where they differ from `outer_nc` (the outermost level).
        below: the next level; None for the innermost.
        outermost: this is the first level: no activation before it, tanh after it, no skip connection.
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
    ):
        super().__init__()
        self.outermost = outermost
        # A norm with a shift of its own makes the convolution's bias superfluous.
        bias = norm == "instance"
        down: list[nn.Module] = [nn.Conv2d(input_nc or outer_nc, inner_nc, 4, 2, 1, bias=bias)]
        from_below = inner_nc if below is None else inner_nc * 2
        up: list[nn.Module] = [
            nn.ReLU(),
            nn.ConvTranspose2d(from_below, outer_nc, 4, 2, 1, bias=bias or outermost),
        ]
        if outermost:
            up.append(nn.Tanh())
        else:
            down.insert(0, nn.LeakyReLU(0.2))
            up.append(norm_layer(norm, outer_nc))
            if below is not None:
                # The innermost level has none: its feature map may be a single pixel.
                down.append(norm_layer(norm, inner_nc))
        if dropout:
            up.append(Dropout(0.5))
        self.model = nn.Sequential(*down, *([] if below is None else [below]), *up)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


class Generator(nn.Module):
    """What generators share: they map (N, input_nc, H, W) to (N, output_nc, H, W) in [-1, 1], any H and W.

    Pictures whose sides are not multiples of `multiple`, or below `smallest`, are padded by repeating their
    right and bottom edges, and the result is cropped back.
    """

    multiple: int
    smallest: int
    model: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        right, below = (max(-side % self.multiple, self.smallest - side) for side in (width, height))
        if not right and not below:
            return self.model(x)
        return self.model(F.pad(x, (0, right, 0, below), mode="replicate"))[..., :height, :width]


class UnetGenerator(Generator):
    """U-Net (Ronneberger et al. 2015; Isola et al. 2017, section 6.1.1).

    Args:
        num_downs: how often the input is halved, 5 or more.
        ngf: channels after the first halving; they double three times from there.
        dropout: drop half of the features after the up-sampling of every middle level.
    """

    def __init__(self, input_nc: int, output_nc: int, num_downs: int, ngf: int, norm: str, dropout: bool):
        super().__init__()
        self.multiple = self.smallest = 2**num_downs
        block = UnetBlock(ngf * 8, ngf * 8, norm=norm)
        for _ in range(num_downs - 5):
            block = UnetBlock(ngf * 8, ngf * 8, norm=norm, below=block, dropout=dropout)
        for width in (ngf * 4, ngf * 2, ngf):
            block = UnetBlock(width, width * 2, norm=norm, below=block)
        self.model = UnetBlock(output_nc, ngf, norm=norm, input_nc=input_nc, below=block, outermost=True)


class ResnetBlock(nn.Module):
    """Two 3 x 3 convolutions with reflection padding, added to their input (no ReLU after the sum)."""

    def __init__(self, channels: int, norm: str, dropout: bool):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=norm == "instance"),
            norm_layer(norm, channels),
            nn.ReLU(),
            *([Dropout(0.5)] if dropout else []),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=norm == "instance"),
            norm_layer(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class ResnetGenerator(Generator):
    """Two strided convolutions, residual blocks, two transposed convolutions (Johnson et al. 2016)."""

    multiple = 4
    smallest = 8  # instance norm needs more than the one pixel that is left of 4

    def __init__(self, input_nc: int, output_nc: int, n_blocks: int, ngf: int, norm: str, dropout: bool):
        super().__init__()
        bias = norm == "instance"
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(input_nc, ngf, 7, bias=bias)]
        layers += [norm_layer(norm, ngf), nn.ReLU()]
        for width in (ngf * 2, ngf * 4):
            layers += [nn.Conv2d(width // 2, width, 3, 2, 1, bias=bias), norm_layer(norm, width), nn.ReLU()]
        layers += [ResnetBlock(ngf * 4, norm, dropout) for _ in range(n_blocks)]
        for width in (ngf * 2, ngf):
            layers += [nn.ConvTranspose2d(width * 2, width, 3, 2, 1, output_padding=1, bias=bias)]
            layers += [norm_layer(norm, width), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, output_nc, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, section 6.1.2): a logit for every patch; 70 x 70 pixels for three layers.

    Maps (N, input_nc, H, W) to (N, 1, h, w); needs sides of at least `minimum` pixels.

    Args:
        n_layers: strided convolutions; their widths double from `ndf` to at most 8 ndf.
    """

    def __init__(self, input_nc: int, ndf: int, n_layers: int, norm: str):
        super().__init__()
        self.minimum = 3 * 2**n_layers
        widths = [ndf * min(2**n, 8) for n in range(n_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(input_nc, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
        for n in range(1, n_layers + 1):
            stride = 2 if n < n_layers else 1
            layers += [nn.Conv2d(widths[n - 1], widths[n], 4, stride, 1, bias=norm == "instance")]
            layers += [norm_layer(norm, widths[n]), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class PixelDiscriminator(nn.Module):
    """A logit for every pixel, by 1 x 1 convolutions: maps (N, input_nc, H, W) to (N, 1, H, W)."""

    minimum = 2

    def __init__(self, input_nc: int, ndf: int, norm: str):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(input_nc, ndf, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(ndf, ndf * 2, 1, bias=norm == "instance"),
            norm_layer(norm, ndf * 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(ndf * 2, 1, 1, bias=norm == "instance"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def build_generator(options: NetworkOptions, input_nc: int, output_nc: int) -> Generator:
    """Return the generator that ``--netG`` names, with initial weights."""
    kind, size = options.netG.split("_")
    dropout = not options.no_dropout
    net: Generator
    if kind == "unet":
        num_downs = int(size).bit_length() - 1
        net = UnetGenerator(input_nc, output_nc, num_downs, options.ngf, options.norm, dropout)
    else:
        n_blocks = int(size.removesuffix("blocks"))
        net = ResnetGenerator(input_nc, output_nc, n_blocks, options.ngf, options.norm, dropout)
    initialise(net, options.init_type, options.init_gain)
    return net


def build_discriminator(options: NetworkOptions, input_nc: int) -> PatchDiscriminator | PixelDiscriminator:
    """Return the discriminator that ``--netD`` names, with initial weights."""
    net: PatchDiscriminator | PixelDiscriminator
    if options.netD == "pixel":
        net = PixelDiscriminator(input_nc, options.ndf, options.norm)
    else:
        n_layers = options.n_layers_D if options.netD == "n_layers" else 3
        net = PatchDiscriminator(input_nc, options.ndf, n_layers, options.norm)
    initialise(net, options.init_type, options.init_gain)
    return net
