"""pix2pix: paired image-to-image translation with a conditional GAN (Isola et al. 2017)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from models.base_model import BaseModel, Update
from models.networks import build_discriminator, build_generator
from models.objectives.losses import l1, total
from options.base_options import CommandOptions
from options.option import option
from options.train_options import TrainOptions
from util.batch import Batch, Step


@dataclass(frozen=True)
class Pix2PixOptions:
    """Flags of pix2pix."""

    lambda_L1: float = option(100.0, "weight of the L1 distance to the real image", minimum=0, phase="train")


class Pix2PixModel(BaseModel):
    """G translates A into B; D tells pairs (A, B) from (A, G(A)); an L1 term keeps G(A) near B (eq. 4)."""

    Options = Pix2PixOptions
    options: Pix2PixOptions
    defaults: ClassVar[Mapping[str, object]] = {
        "dataset_mode": "aligned",
        "netG": "unet_256",
        "norm": "batch",
        "gan_mode": "vanilla",
    }
    fixed: ClassVar[Mapping[str, object]] = {"pool_size": 0}
    watched_losses = ("G_L1",)
    reads_B = True
    takes_masks = True

    def build(self, options: CommandOptions) -> dict[str, nn.Module]:
        network = options.network
        nets: dict[str, nn.Module] = {"G": build_generator(network, network.input_nc, network.output_nc)}
        if isinstance(options, TrainOptions):
            nets["D"] = build_discriminator(network, network.input_nc + network.output_nc)
        return nets

    def train_step(self, batch: Batch, update: Update) -> Step:
        real_A, real_B = batch.pair()
        G, D = self.nets["G"], self.nets["D"]
        fake_B = G(real_A)

        # D: tell (A, B) from (A, G(A))
        d = self.objective.discriminator(D, real_B, fake_B, batch.draws, source=real_A)
        update("D", total(d) / 2)

        # G: fool D, stay near B
        g = {"G_GAN": self.objective.generator(D, fake_B, batch.draws, source=real_A)}
        g["G_L1"] = self.options.lambda_L1 * l1(fake_B, real_B, batch.mask)
        update("G", g["G_GAN"] + g["G_L1"])
        losses = g | {f"D_{name}": loss for name, loss in d.items()}
        return Step(losses, visuals={"real_A": real_A, "fake_B": fake_B, "real_B": real_B})

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        real_A, real_B = batch.pair()
        return {"real_A": real_A, "fake_B": self.nets["G"](real_A), "real_B": real_B}
