"""The adversarial objective that flags choose, with all that steadies it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn

from models.layers.blocks import apply_to_both
from models.layers.precision import at_least_float32
from models.objectives.augmentation import AUGMENTATION_DRAWS, augment, parse_policy
from models.objectives.diagnostics import Diagnostics
from models.objectives.losses import discriminator_loss, generator_loss, gradient_penalty, r1_penalty
from options.base_options import NetworkOptions
from options.train_options import AdversarialOptions
from util.errors import UserError


@dataclass
class Objective:
    """How discriminators and generators are judged.

    Attributes:
        mode: see `discriminator_loss`.
        lambda_gp: weight of the gradient penalty.
        lambda_r1: weight of the penalty on real images, taken every `r1_every` steps with so many times the
            weight (Karras et al. 2020, appendix B).
        label_smoothing: see `discriminator_loss`.
        diffaug: what `augment` does to all images that discriminators see.
        instance_noise: standard deviation of noise on all of them (Sønderby et al. 2017).
        diagnostics: what is told of every judgement.
    """

    mode: str
    lambda_gp: float = 0.0
    lambda_r1: float = 0.0
    r1_every: int = 16
    label_smoothing: float = 0.0
    diffaug: tuple[str, ...] = ()
    instance_noise: float = 0.0
    diagnostics: Diagnostics = field(default_factory=Diagnostics)

    @classmethod
    def from_options(
        cls, options: AdversarialOptions, network: NetworkOptions, diagnostics: Diagnostics
    ) -> Self:
        lambda_gp = options.lambda_gp if options.gan_mode == "wgangp" else 0.0
        for flag, weight in (("lambda_gp", lambda_gp), ("lambda_r1", options.lambda_r1)):
            if weight and network.norm == "batch":
                raise UserError(
                    f"--{flag} {weight:g}: the gradient penalty needs a discriminator that judges each"
                    " image by itself, which batch norm prevents; use --norm instance, or"
                    f" --{flag} 0 for no penalty"
                )
        if options.label_smoothing and options.gan_mode in ("hinge", "wgangp"):
            raise UserError(
                f"--label_smoothing {options.label_smoothing:g}: --gan_mode {options.gan_mode} has no labels"
                " that could be smoothed; use vanilla or lsgan"
            )
        return cls(
            options.gan_mode,
            lambda_gp,
            options.lambda_r1,
            options.r1_every,
            options.label_smoothing,
            parse_policy(options.diffaug),
            options.instance_noise,
            diagnostics,
        )

    def draws(
        self, names: Sequence[str], count: int, generator: torch.Generator, iteration: int
    ) -> dict[str, Tensor]:
        """Return the random decisions of a step for the discriminators of these names.

        They are: where between real and fake `count` images' penalties are taken; how the real images,
        the discriminator's fakes and the generator's fakes are augmented; and, in steps that have one, the
        weight of the penalty on real images, 0-d. The others are (count, ...).
        """
        found: dict[str, Tensor] = {}
        for name in names:
            if self.lambda_gp:
                shape = (count, 1, 1, 1)
                found[f"{name}_alpha"] = torch.rand(shape, generator=generator, dtype=torch.float64)
            if self.diffaug:
                decisions = torch.rand(3, count, AUGMENTATION_DRAWS, generator=generator)
                found[f"{name}_augment"] = decisions.transpose(0, 1)
            if self.lambda_r1 and iteration % self.r1_every == 0:
                found[f"{name}_r1"] = torch.tensor(self.lambda_r1 * self.r1_every)
        return found

    def generator(
        self, D: nn.Module, fake: Tensor, draws: Mapping[str, Tensor], *conditions: Tensor, name: str = "D"
    ) -> Tensor:
        """Return how far fakes are from passing for real; for the arguments see `discriminator`."""
        logits = at_least_float32(
            D(self.augment_for_discriminator(fake, draws.get(f"{name}_augment"), 2), *conditions)
        )
        loss = generator_loss(self.mode, logits)
        self.diagnostics.record_generator(name, loss)
        return loss

    def discriminator(
        self,
        D: nn.Module,
        real: Tensor,
        fake: Tensor,
        draws: Mapping[str, Tensor],
        *conditions: Tensor,
        name: str = "D",
    ) -> dict[str, Tensor]:
        """Return the discriminator's losses by name: ``real``, ``fake``, and penalties ``gp`` and ``r1``.

        Args:
            real, fake: (N, C, H, W); no gradient flows to what made the fakes.
            draws: what `draws` returned, on their device.
            conditions: what D is given beside the images, (N, ...) each.
            name: the name that its draws have.
        """
        fake, decisions = fake.detach(), draws.get(f"{name}_augment")
        shown_real, shown_fake = (
            self.augment_for_discriminator(real, decisions, 0),
            self.augment_for_discriminator(fake, decisions, 1),
        )
        fake_logits, real_logits = apply_to_both(D, shown_fake, shown_real, *conditions)
        fake_logits, real_logits = at_least_float32(fake_logits), at_least_float32(real_logits)
        losses = {
            "real": discriminator_loss(self.mode, real_logits, real=True, smoothing=self.label_smoothing),
            "fake": discriminator_loss(self.mode, fake_logits, real=False),
        }
        judged = (losses["real"] + losses["fake"]) / 2
        self.diagnostics.record_discriminator(
            name, self.mode, (real, fake), (real_logits, fake_logits), judged
        )
        alpha, r1 = draws.get(f"{name}_alpha"), draws.get(f"{name}_r1")
        if alpha is not None:
            penalty = gradient_penalty(lambda x: D(x, *conditions), real, fake, alpha.to(real.dtype))
            losses["gp"] = self.lambda_gp * penalty
        if r1 is not None:
            losses["r1"] = r1.to(real.dtype) * r1_penalty(lambda x: D(x, *conditions), real)
        return losses

    def augment_for_discriminator(self, images: Tensor, decisions: Tensor | None, role: int) -> Tensor:
        """Return what a discriminator sees of images, (N, C, H, W)."""
        if decisions is not None:
            images = augment(images, self.diffaug, decisions[:, role].to(images.dtype))
        if self.instance_noise:
            images = images + self.instance_noise * torch.randn_like(images)
        return images
