"""pix2pix: paired image-to-image translation with a conditional GAN (Isola et al. 2017)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base_model import BaseModel
from models.networks import build_discriminator, build_generator
from models.objectives.gan import Objective
from models.objectives.losses import total
from options.base_options import CommandOptions
from options.option import option
from options.train_options import TrainOptions
from training.optimizers import MakeOptimizer, adam
from util.batch import Batch, Step
from util.errors import UserError


@dataclass(frozen=True)
class Pix2PixOptions:
    """Flags of pix2pix."""

    lambda_L1: float = option(100.0, "weight of the L1 distance to the real image", minimum=0, phase="train")


VANILLA = Objective("vanilla")


class Pix2PixModel(BaseModel):
    """G translates A into B; D tells pairs (A, B) from (A, G(A)); an L1 term keeps G(A) near B (eq. 4).

    Args:
        G: generator.
        D: discriminator of A and B stacked; None for testing.
    """

    Options = Pix2PixOptions
    defaults: ClassVar[Mapping[str, object]] = {
        "dataset_mode": "aligned",
        "netG": "unet_256",
        "norm": "batch",
        "gan_mode": "vanilla",
        "pool_size": 0,
    }
    watched_losses = ("G_L1",)

    def __init__(
        self,
        G: nn.Module,
        D: nn.Module | None = None,
        *,
        make_optimizer: MakeOptimizer | None = None,
        objective: Objective = VANILLA,
        lambda_L1: float = 100.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ):
        nets = {"G": G} if D is None else {"G": G, "D": D}
        super().__init__(nets, torch.device(device), dtype, seed, objective)
        self.lambda_L1 = lambda_L1
        if make_optimizer:
            self.optimizers = {
                name: make_optimizer(name, net.parameters()) for name, net in self.nets.items()
            }

    @classmethod
    def from_options(cls, options: CommandOptions, device: torch.device) -> Self:
        network, run = options.network, options.run
        G = build_generator(network, network.input_nc, network.output_nc)
        if not isinstance(options, TrainOptions):
            return cls(G, device=device, dtype=run.dtype, seed=run.seed)
        if pool_size := options.adversarial.pool_size:
            raise UserError(f"--pool_size {pool_size}: pix2pix keeps no earlier fakes; use --pool_size 0")
        return cls(
            G,
            build_discriminator(network, network.input_nc + network.output_nc),
            make_optimizer=adam(options.optimization),
            objective=Objective.from_options(options.adversarial, network),
            lambda_L1=options.model.lambda_L1,
            device=device,
            dtype=run.dtype,
            seed=run.seed,
        )

    def draws(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        return self.objective.draws(("D",), count, generator, self.iteration)

    def train_step(self, batch: Batch) -> Step:
        real_A, real_B = batch.pair()
        G, D = self.nets["G"], self.nets["D"]
        fake_B = G(real_A)
        real, fake = torch.cat([real_A, real_B], 1), torch.cat([real_A, fake_B], 1)

        # D: tell (A, B) from (A, G(A))
        d = self.objective.discriminator(D, real, fake, batch.draws)
        self.minimize("D", total(d) / 2)

        # G: fool D, stay near B
        g = {"G_GAN": self.objective.generator(D, fake, batch.draws)}
        g["G_L1"] = self.lambda_L1 * F.l1_loss(fake_B, real_B)
        self.minimize("G", g["G_GAN"] + g["G_L1"])
        losses = g | {f"D_{name}": loss for name, loss in d.items()}
        return Step(losses, visuals={"real_A": real_A, "fake_B": fake_B, "real_B": real_B})

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        real_A, real_B = batch.pair()
        return {"real_A": real_A, "fake_B": self.nets["G"](real_A), "real_B": real_B}
