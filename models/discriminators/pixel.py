"""PixelGAN: ``--netD pixel``."""

from torch import Tensor, nn

from models.layers.convolutions import conv_before
from models.layers.discriminator import Discriminator
from models.layers.norms import norm_layer
from models.registry import discriminator


@discriminator("pixel")
class PixelDiscriminator(Discriminator):
    """PixelGAN (Isola et al. 2017, section 6.1.2): one logit per pixel, by 1 x 1 convolutions.

    Maps (N, input_nc, H, W) to (N, 1, H, W).
    """

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
