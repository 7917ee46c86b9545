"""ResNet generators: ``--netG resnet_9blocks`` and ``--netG resnet_6blocks``."""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from models.layers.attention import attention_after, check_attention, run_layers
from models.layers.blocks import Dropout, padding_layer, upsampling_layer
from models.layers.convolutions import conv_before, deconv_before
from models.layers.generator import Generator
from models.layers.norms import norm_layer
from models.registry import generator


class ResnetBlock(nn.Module):
    """Two 3 x 3 convolutions with a skip connection (no ReLU after the sum)."""

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
        n_blocks: number of residual blocks.
        ngf: channels of the first convolution; each of the two strided ones doubles them.
        dropout: drop half of the features between the convolutions of every block.
        attention: depths of the feature maps with self-attention, see `check_attention`: 1 or 2; they have it
            before and after the residual blocks.
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
        check_attention(attention, 2, "G")
        attending: dict[int, int] = {}  # channels of layers that self-attention follows
        layers: list[nn.Module] = [padding_layer(padding, 3), conv_before(norm, input_nc, ngf, 7)]
        layers += [norm_layer(norm, ngf), nn.ReLU()]
        for depth, width in ((1, ngf * 2), (2, ngf * 4)):
            layers += [conv_before(norm, width // 2, width, 3, 2, 1), norm_layer(norm, width), nn.ReLU()]
            attending |= {len(layers) - 1: width} if depth in attention else {}
        blocks = range(len(layers), len(layers) + n_blocks)
        layers += [ResnetBlock(ngf * 4, norm, dropout, padding) for _ in blocks]
        attending |= {len(layers) - 1: ngf * 4} if 2 in attention else {}
        for depth, width in ((1, ngf * 2), (0, ngf)):
            enlarge = deconv_before(norm, width * 2, width, 3, 2, 1, output_padding=1)
            layers += [upsampling_layer(upsample, enlarge, padding), norm_layer(norm, width), nn.ReLU()]
            attending |= {len(layers) - 1: width} if depth in attention else {}
        layers += [padding_layer(padding, 3), nn.Conv2d(ngf, output_nc, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)
        self.attention = attention_after(attending)
        # Down-sampling, three blocks at a time, up-sampling: segments of similar memory.
        self.segments = list(pairwise([0, *blocks[::3], blocks.stop, len(layers)]))

    def run(self, x: Tensor, *conditions: Tensor) -> Tensor:
        if not self.recomputes:
            return run_layers(self.model, self.attention, x)
        for first, end in self.segments:
            layers = self.model[first:end]
            x = self.segment(layers, partial(run_layers, layers, self.attention), x)
        return x


generator("resnet_9blocks", n_blocks=9)(ResnetGenerator)
generator("resnet_6blocks", n_blocks=6)(ResnetGenerator)
