"""pix2pix: paired image-to-image translation with a conditional GAN (Isola et al. 2017)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from models.base_model import BaseModel, MakeOptimizer, Step, adam
from models.layers import has_batch_norm
from models.losses import discriminator_loss, generator_loss, gradient_penalty
from models.networks import apply_to_both, build_discriminator, build_generator
from options.base_options import CommandOptions
from options.option import option
from options.train_options import TrainOptions
from util.batch import Batch
from util.errors import UserError


@dataclass(frozen=True)
class Pix2PixOptions:
    """Flags of pix2pix."""

    lambda_L1: float = option(
        100.0, "weight of the L1 distance to the real picture", minimum=0, phase="train"
    )


class Pix2PixModel(BaseModel):
    """G translates A into B; D tells pairs (A, B) from (A, G(A)); an L1 term keeps G(A) near B (eq. 4).

    Args:
        G: generator.
        D: discriminator of A and B stacked; None for testing.
        gan_mode: see `models.losses`.
        lambda_gp: weight of the gradient penalty on D; 0 for none.
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
        gan_mode: str = "vanilla",
        lambda_L1: float = 100.0,
        lambda_gp: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ):
        super().__init__({"G": G} if D is None else {"G": G, "D": D}, torch.device(device), dtype, seed)
        self.gan_mode, self.lambda_L1, self.lambda_gp = gan_mode, lambda_L1, lambda_gp
        if make_optimizer:
            self.optimizers = {name: make_optimizer(net.parameters()) for name, net in self.nets.items()}

    @classmethod
    def from_options(cls, options: CommandOptions, device: torch.device) -> Self:
        network, run = options.network, options.run
        dtype = torch.float64 if run.precision == "fp64" else torch.float32
        G = build_generator(network, network.input_nc, network.output_nc)
        if not isinstance(options, TrainOptions):
            return cls(G, device=device, dtype=dtype, seed=run.seed)

        optimization = options.optimization
        if optimization.pool_size:
            raise UserError(
                f"--pool_size {optimization.pool_size}: pix2pix keeps no earlier fakes; use --pool_size 0"
            )
        D = build_discriminator(network, network.input_nc + network.output_nc)
        lambda_gp = optimization.lambda_gp if optimization.gan_mode == "wgangp" else 0.0
        if lambda_gp and has_batch_norm(D):
            raise UserError(
                "--gan_mode wgangp: the gradient penalty needs a discriminator that judges each picture by"
                " itself, which batch norm prevents; use --norm instance, or --lambda_gp 0 for no penalty"
            )
        return cls(
            G,
            D,
            make_optimizer=adam(optimization),
            gan_mode=optimization.gan_mode,
            lambda_L1=options.model.lambda_L1,
            lambda_gp=lambda_gp,
            device=device,
            dtype=dtype,
            seed=run.seed,
        )

    def draws(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        if not self.lambda_gp:
            return {}
        return {"alpha": torch.rand(len(batch), 1, 1, 1, generator=generator, dtype=self.dtype)}

    def train_step(self, batch: Batch) -> Step:
        real_A, real_B = batch.pair()
        fake_B = self.nets["G"](real_A)

        # D: tell (A, B) from (A, G(A))
        fake, real = torch.cat([real_A, fake_B.detach()], 1), torch.cat([real_A, real_B], 1)
        d = self.discriminator_losses(fake, real, batch.draws)
        self.minimize("D", (d["D_real"] + d["D_fake"] + d.get("D_gp", 0)) / 2)

        # G: fool D, stay near B
        g = self.generator_losses(real_A, fake_B, real_B)
        self.minimize("G", g["G_GAN"] + g["G_L1"])
        return Step(losses={**g, **d}, visuals={"real_A": real_A, "fake_B": fake_B, "real_B": real_B})

    def discriminator_losses(
        self, fake: Tensor, real: Tensor, draws: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        D = self.nets["D"]
        fake_logits, real_logits = apply_to_both(D, fake, real)
        losses = {
            "D_real": discriminator_loss(self.gan_mode, real_logits, real=True),
            "D_fake": discriminator_loss(self.gan_mode, fake_logits, real=False),
        }
        if self.lambda_gp:
            losses["D_gp"] = self.lambda_gp * gradient_penalty(D, real, fake, draws["alpha"])
        return losses

    def generator_losses(self, real_A: Tensor, fake_B: Tensor, real_B: Tensor) -> dict[str, Tensor]:
        logits = self.nets["D"](torch.cat([real_A, fake_B], 1))
        return {
            "G_GAN": generator_loss(self.gan_mode, logits),
            "G_L1": self.lambda_L1 * (fake_B - real_B).abs().mean(),
        }

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        real_A, real_B = batch.pair()
        return {"real_A": real_A, "fake_B": self.nets["G"](real_A), "real_B": real_B}
