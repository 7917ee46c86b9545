"""CycleGAN: unpaired image-to-image translation with cycle consistency (Zhu et al. 2017)."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base_model import BaseModel
from models.layers.blocks import apply_to_both
from models.networks import build_discriminator, build_generator
from models.objectives.gan import Objective
from models.objectives.image_pool import ImagePool
from models.objectives.losses import total
from options.base_options import CommandOptions
from options.option import option
from options.train_options import TrainOptions
from training.optimizers import MakeOptimizer, adam
from util.batch import Batch, Step
from util.errors import UserError


@dataclass(frozen=True)
class CycleGANOptions:
    """Flags of CycleGAN."""

    lambda_A: float = option(10.0, "weight of the cycle A to B to A", minimum=0, phase="train")
    lambda_B: float = option(10.0, "weight of the cycle B to A to B", minimum=0, phase="train")
    lambda_identity: float = option(
        0.5,
        "weight of leaving images of the target as they are, a share of the cycle's weight; 0: none",
        minimum=0,
        phase="train",
    )


LSGAN = Objective("lsgan")


class CycleGANModel(BaseModel):
    """G_A translates A into B and G_B back; D_A judges images of B and D_B images of A (eq. 3).

    Args:
        G_A, G_B: generators.
        D_A, D_B: discriminators; None for testing.
        lambda_identity: weight of the identity loss (section 5.2), times that of the cycle.
        pool_size, batch_size: see `ImagePool`.
    """

    Options = CycleGANOptions
    defaults: ClassVar[Mapping[str, object]] = {"no_dropout": True}
    watched_losses = ("cycle_A", "cycle_B")

    def __init__(
        self,
        G_A: nn.Module,
        G_B: nn.Module,
        D_A: nn.Module | None = None,
        D_B: nn.Module | None = None,
        *,
        make_optimizer: MakeOptimizer | None = None,
        objective: Objective = LSGAN,
        lambda_A: float = 10.0,
        lambda_B: float = 10.0,
        lambda_identity: float = 0.5,
        pool_size: int = 50,
        batch_size: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ):
        nets = {"G_A": G_A, "G_B": G_B, "D_A": D_A, "D_B": D_B}
        present = {name: net for name, net in nets.items() if net is not None}
        super().__init__(present, torch.device(device), dtype, seed, objective)
        self.lambda_A, self.lambda_B, self.lambda_identity = lambda_A, lambda_B, lambda_identity
        self.fake_A_pool = ImagePool(pool_size, batch_size)
        self.fake_B_pool = ImagePool(pool_size, batch_size)
        if D_A and D_B and make_optimizer:
            self.optimizers = {
                "G": make_optimizer("G", chain(G_A.parameters(), G_B.parameters())),
                "D": make_optimizer("D", chain(D_A.parameters(), D_B.parameters())),
            }
            self.state |= {"fake_A_pool": self.fake_A_pool, "fake_B_pool": self.fake_B_pool}

    @classmethod
    def from_options(cls, options: CommandOptions, device: torch.device) -> Self:
        network, run = options.network, options.run
        generators = (
            build_generator(network, network.input_nc, network.output_nc),
            build_generator(network, network.output_nc, network.input_nc),
        )
        if not isinstance(options, TrainOptions):
            return cls(*generators, device=device, dtype=run.dtype, seed=run.seed)

        own, optimization = options.model, options.optimization
        if own.lambda_identity and network.input_nc != network.output_nc:
            raise UserError(
                f"--lambda_identity {own.lambda_identity:g} compares input and output, which have"
                f" {network.input_nc} and {network.output_nc} channels: use --lambda_identity 0"
            )
        return cls(
            *generators,
            build_discriminator(network, network.output_nc),
            build_discriminator(network, network.input_nc),
            make_optimizer=adam(optimization),
            objective=Objective.from_options(options.adversarial, network),
            lambda_A=own.lambda_A,
            lambda_B=own.lambda_B,
            lambda_identity=own.lambda_identity,
            pool_size=options.adversarial.pool_size,
            batch_size=options.data.batch_size,
            device=device,
            dtype=run.dtype,
            seed=run.seed,
        )

    def draws(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            "pool_B": self.fake_B_pool.draw(count, generator),
            "pool_A": self.fake_A_pool.draw(count, generator),
            **self.objective.draws(("D_A", "D_B"), count, generator, self.iteration),
        }

    def train_step(self, batch: Batch) -> Step:
        real_A, real_B = batch.pair()
        visuals = self.translations(real_A, real_B, identity=self.lambda_identity > 0)

        self.diagnostics.record_translation("G_A", real_A, visuals["fake_B"])
        self.diagnostics.record_translation("G_B", real_B, visuals["fake_A"])

        # Both generators: fool the discriminators, close the cycles, leave images of the target alone
        g = self.generator_losses(visuals, batch.draws)
        self.minimize("G", total(g))

        # Both discriminators: tell real images from fakes, earlier ones among them
        draws, D_A, D_B = batch.draws, self.nets["D_A"], self.nets["D_B"]
        fake_B = self.fake_B_pool.query(visuals["fake_B"], draws["pool_B"])
        fake_A = self.fake_A_pool.query(visuals["fake_A"], draws["pool_A"])
        d_A = self.objective.discriminator(D_A, real_B, fake_B, draws, name="D_A")
        d_B = self.objective.discriminator(D_B, real_A, fake_A, draws, name="D_B")
        d = {name: total(of) / 2 for name, of in (("D_A", d_A), ("D_B", d_B))}
        self.minimize("D", d["D_A"] + d["D_B"])
        return Step(losses={**g, **d}, visuals=visuals)

    def translations(self, real_A: Tensor, real_B: Tensor, identity: bool) -> dict[str, Tensor]:
        """Return both directions' images in the order in which they are shown."""
        G_A, G_B = self.nets["G_A"], self.nets["G_B"]
        A, B = {"real_A": real_A}, {"real_B": real_B}
        if identity:
            A["fake_B"], B["idt_A"] = apply_to_both(G_A, real_A, real_B)
            B["fake_A"], A["idt_B"] = apply_to_both(G_B, real_B, real_A)
        else:
            A["fake_B"], B["fake_A"] = G_A(real_A), G_B(real_B)
        A["rec_A"], B["rec_B"] = G_B(A["fake_B"]), G_A(B["fake_A"])
        return {**A, **B}

    def generator_losses(
        self, visuals: Mapping[str, Tensor], draws: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        v, losses, nets = visuals, {}, self.nets
        losses["G_A"] = self.objective.generator(nets["D_A"], v["fake_B"], draws, name="D_A")
        losses["G_B"] = self.objective.generator(nets["D_B"], v["fake_A"], draws, name="D_B")
        losses["cycle_A"] = self.lambda_A * F.l1_loss(v["rec_A"], v["real_A"])
        losses["cycle_B"] = self.lambda_B * F.l1_loss(v["rec_B"], v["real_B"])
        if self.lambda_identity:
            losses["idt_A"] = self.lambda_identity * self.lambda_B * F.l1_loss(v["idt_A"], v["real_B"])
            losses["idt_B"] = self.lambda_identity * self.lambda_A * F.l1_loss(v["idt_B"], v["real_A"])
        return losses

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        return self.translations(*batch.pair(), identity=False)
