"""CycleGAN: unpaired image-to-image translation with cycle consistency (Zhu et al. 2017)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.base_model import BaseModel, Update
from models.layers.blocks import apply_to_both
from models.networks import build_discriminator, build_generator
from models.objectives.image_pool import ImagePool
from models.objectives.losses import l1, total
from options.base_options import CommandOptions
from options.option import option
from options.train_options import TrainOptions
from util.batch import Batch, Step
from util.errors import UserError


@dataclass(frozen=True)
class CycleGANOptions:
    """Flags of CycleGAN."""

    lambda_A: float = option(10.0, "weight of the cycle A to B to A", minimum=0, phase="train")
    lambda_B: float = option(10.0, "weight of the cycle B to A to B", minimum=0, phase="train")
    lambda_identity: float = option(
        0.5,
        "weight of the identity loss, relative to the weight of the cycle; 0: none",
        minimum=0,
        phase="train",
    )


LOSSES = ("D_A", "G_A", "cycle_A", "idt_A", "D_B", "G_B", "cycle_B", "idt_B")
"""The order of log lines, as in the peer."""


class CycleGANModel(BaseModel):
    """G_A translates A into B and G_B back; D_A judges images of B and D_B images of A (eq. 3)."""

    Options = CycleGANOptions
    options: CycleGANOptions
    defaults: ClassVar[Mapping[str, object]] = {"no_dropout": True}
    judged = ("output_nc", "input_nc")
    watched_losses = ("cycle_A", "cycle_B")
    reads_B = True
    takes_masks = True

    def build(self, options: CommandOptions) -> dict[str, nn.Module]:
        network = options.network
        input_nc, output_nc = network.input_nc, network.output_nc
        nets: dict[str, nn.Module] = {
            "G_A": build_generator(network, input_nc, output_nc),
            "G_B": build_generator(network, output_nc, input_nc),
        }
        if isinstance(options, TrainOptions):
            identity = self.options.lambda_identity
            if identity and input_nc != output_nc:
                raise UserError(
                    f"--lambda_identity {identity:g} compares input and output, which have {input_nc} and"
                    f" {output_nc} channels: use --lambda_identity 0"
                )
            if identity and options.files.holds_classes("input") != options.files.holds_classes("output"):
                raise UserError(
                    f"--lambda_identity {identity:g} gives a generator images of the other side, and one side"
                    " is a map of classes: use --lambda_identity 0"
                )
            nets["D_A"] = build_discriminator(network, output_nc)
            nets["D_B"] = build_discriminator(network, input_nc)
            pool_size, batch_size = options.adversarial.pool_size, options.data.batch_size
            self.fake_A_pool = ImagePool(pool_size, batch_size)
            self.fake_B_pool = ImagePool(pool_size, batch_size)
            self.state = {"fake_A_pool": self.fake_A_pool, "fake_B_pool": self.fake_B_pool}
        return nets

    def draws(self, count: int, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            "pool_B": self.fake_B_pool.draw(count, generator),
            "pool_A": self.fake_A_pool.draw(count, generator),
            **super().draws(count, iteration, generator),
        }

    def train_step(self, batch: Batch, update: Update) -> Step:
        real_A, real_B = batch.pair()
        draws, D_A, D_B = batch.draws, self.nets["D_A"], self.nets["D_B"]
        visuals = self.translations(real_A, real_B, identity=self.options.lambda_identity > 0)
        if batch.sides.have_brightness:
            self.diagnostics.record_translation("G_A", real_A, visuals["fake_B"])
            self.diagnostics.record_translation("G_B", real_B, visuals["fake_A"])

        # G_A and G_B: fool the discriminators, close the cycles, leave images of the target unchanged
        g = self.generator_losses(visuals, draws, batch.mask)
        update("G", total(g))

        # D_A and D_B: tell real images from fakes of this step and of earlier ones
        fake_B = self.fake_B_pool.query(visuals["fake_B"], draws["pool_B"])
        fake_A = self.fake_A_pool.query(visuals["fake_A"], draws["pool_A"])
        d = {
            "D_A": total(self.objective.discriminator(D_A, real_B, fake_B, draws, name="D_A")) / 2,
            "D_B": total(self.objective.discriminator(D_B, real_A, fake_A, draws, name="D_B")) / 2,
        }
        update("D", d["D_A"] + d["D_B"])
        # An identity loss without a weight is logged as 0.
        return Step(dict.fromkeys(LOSSES, real_A.new_zeros(())) | g | d, visuals)

    def translations(self, real_A: Tensor, real_B: Tensor, identity: bool) -> dict[str, Tensor]:
        """Return the images of both directions, in the order in which galleries show them."""
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
        self, visuals: Mapping[str, Tensor], draws: Mapping[str, Tensor], mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of both generators by name; an identity loss (section 5.2) if it has a weight.

        Args:
            mask: weights of pixels of both sides, see `l1`.
        """
        v, losses, nets, weights = visuals, {}, self.nets, self.options
        losses["G_A"] = self.objective.generator(nets["D_A"], v["fake_B"], draws, name="D_A")
        losses["G_B"] = self.objective.generator(nets["D_B"], v["fake_A"], draws, name="D_B")
        losses["cycle_A"] = weights.lambda_A * l1(v["rec_A"], v["real_A"], mask)
        losses["cycle_B"] = weights.lambda_B * l1(v["rec_B"], v["real_B"], mask)
        if weights.lambda_identity:
            identity_A, identity_B = l1(v["idt_A"], v["real_B"], mask), l1(v["idt_B"], v["real_A"], mask)
            losses["idt_A"] = weights.lambda_identity * weights.lambda_B * identity_A
            losses["idt_B"] = weights.lambda_identity * weights.lambda_A * identity_B
        return losses

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        return self.translations(*batch.pair(), identity=False)
