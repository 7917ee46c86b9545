"""PatchGAN: ``--netD basic`` and ``--netD n_layers``."""

from torch import Tensor, nn

from models.layers.attention import attention_after, check_attention, run_layers
from models.layers.convolutions import conv_before
from models.layers.discriminator import Discriminator
from models.layers.norms import norm_layer
from models.registry import discriminator


class PatchDiscriminator(Discriminator):
    """PatchGAN (Isola et al. 2017, section 6.1.2): one logit per patch; 70 x 70 pixels for three layers.

    Maps (N, input_nc, H, W) to (N, 1, h, w).

    Args:
        n_layers: number of strided convolutions; their widths double from `ndf` to at most 8 ndf.
        attention: depths of the feature maps with self-attention, see `check_attention`: 1 to `n_layers`.
    """

    def __init__(self, input_nc: int, ndf: int, n_layers: int, norm: str, attention: tuple[int, ...] = ()):
        super().__init__()
        check_attention(attention, n_layers, "D")
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


discriminator("basic", n_layers=3)(PatchDiscriminator)
discriminator("n_layers", example={"n_layers_D": 2})(PatchDiscriminator)
