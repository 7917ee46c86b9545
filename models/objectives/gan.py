"""The adversarial objective: losses, penalties and augmentation that the flags choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn

from models.layers.blocks import apply_to_both
from models.layers.precision import at_least_float32
from models.objectives.augmentation import AUGMENTATION_DRAWS, View, check_channels, parse_policy
from models.objectives.diagnostics import Diagnostics
from models.objectives.losses import discriminator_loss, generator_loss, gradient_penalty, r1_penalty
from options.base_options import NetworkOptions
from options.file_options import FileOptions
from options.train_options import AdversarialOptions
from util.errors import UserError


@dataclass
class Objective:
    """The adversarial losses, regularisation and augmentation of generators and discriminators.

    Attributes:
        mode: see `discriminator_loss`.
        lambda_gp: weight of the gradient penalty.
        lambda_r1: weight of the R1 penalty on real images; it is computed in every `r1_every`-th step, with
            `r1_every` times the weight (lazy regularisation, Karras et al. 2020, appendix B).
        label_smoothing: see `discriminator_loss`.
        diffaug: augmentations of all images that discriminators see, see `augment`.
        instance_noise: standard deviation of the noise added to all of them (Sønderby et al. 2017).
        instance_noise_epochs: epochs in which the standard deviation falls linearly to 0; 0: it is constant.
        diagnostics: records the discriminators' logits and losses.
        epochs_done: epochs of training so far, with the fraction of the current one.
    """

    mode: str
    lambda_gp: float = 0.0
    lambda_r1: float = 0.0
    r1_every: int = 16
    label_smoothing: float = 0.0
    diffaug: tuple[str, ...] = ()
    instance_noise: float = 0.0
    instance_noise_epochs: int = 0
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    epochs_done: float = 0.0

    @classmethod
    def from_options(
        cls,
        options: AdversarialOptions,
        network: NetworkOptions,
        files: FileOptions,
        diagnostics: Diagnostics,
        judged: Sequence[str] = (),
    ) -> Self:
        """Return the objective that the flags choose.

        Args:
            judged: the flags with the numbers of channels of the images that discriminators judge.

        Raises:
            UserError: flags that do not go together.
        """
        policy = parse_policy(options.diffaug)
        for flag in judged:
            side = flag.removesuffix("_nc")
            one_image = not files.holds_classes(side) and not files.several(side)
            check_channels(policy, getattr(network, flag), flag, one_image)
        lambda_gp = options.lambda_gp if options.gan_mode == "wgangp" else 0.0
        for flag, weight in (("lambda_gp", lambda_gp), ("lambda_r1", options.lambda_r1)):
            if weight and network.norm == "batch":
                raise UserError(
                    f"--{flag} {weight:g}: the gradient penalty needs a discriminator without batch norm,"
                    " whose output for an image does not depend on the others; use --norm instance, or"
                    f" --{flag} 0 for no penalty"
                )
        if options.label_smoothing and options.gan_mode in ("hinge", "wgangp"):
            raise UserError(
                f"--label_smoothing {options.label_smoothing:g}: --gan_mode {options.gan_mode} has no labels"
                " to smooth; use vanilla or lsgan"
            )
        return cls(
            options.gan_mode,
            lambda_gp,
            options.lambda_r1,
            options.r1_every,
            options.label_smoothing,
            policy,
            options.instance_noise,
            options.instance_noise_epochs,
            diagnostics,
        )

    def draws(
        self, names: Sequence[str], count: int, generator: torch.Generator, iteration: int
    ) -> dict[str, Tensor]:
        """Return the random decisions of a step, which `discriminator` and `generator` require.

        Args:
            names: of the discriminators.
            count: images in the batch.

        Returns:
            On the CPU, for each discriminator, what the objective needs of: ``_alpha``, (count, 1, 1, 1), the
            points between real and fake images that the gradient penalty is taken at; ``_augment``,
            (count, 3, 7), the augmentations of real images, of the discriminator's fakes and of the
            generator's; ``_r1``, 0-d, the weight of the R1 penalty, or ``_no_r1``, (count, 0), in steps
            without it. For all of them ``instance_noise``, 0-d, its standard deviation, if it changes.
        """
        draws: dict[str, Tensor] = {}
        if self.instance_noise and self.instance_noise_epochs:
            left = max(0.0, 1 - self.epochs_done / self.instance_noise_epochs)
            draws["instance_noise"] = torch.tensor(self.instance_noise * left, dtype=torch.float64)
        for name in names:
            if self.lambda_gp:
                shape = (count, 1, 1, 1)
                draws[f"{name}_alpha"] = torch.rand(shape, generator=generator, dtype=torch.float64)
            if self.diffaug:
                decisions = torch.rand(3, count, AUGMENTATION_DRAWS, generator=generator)
                draws[f"{name}_augment"] = decisions.transpose(0, 1)
            if self.lambda_r1 and iteration % self.r1_every == 0:
                draws[f"{name}_r1"] = torch.tensor(self.lambda_r1 * self.r1_every)
            elif self.lambda_r1:
                # By its presence a step knows that it has no penalty, without reading a value on the device.
                draws[f"{name}_no_r1"] = torch.empty(count, 0)
        return draws

    def generator(
        self,
        D: nn.Module,
        fake: Tensor,
        draws: Mapping[str, Tensor],
        *conditions: Tensor,
        name: str = "D",
        source: Tensor | None = None,
    ) -> Tensor:
        """Return the generator's adversarial loss, 0-d; for the arguments see `discriminator`."""
        see = self.view(draws, name, 2, source)
        logits = at_least_float32(D(see(_joined(source, fake)), *conditions))
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
        source: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the discriminator's losses, 0-d: ``real``, ``fake``, and the penalties ``gp`` and ``r1``.

        Penalties are those of D after the augmentation and noise of the real images, by the images before
        them (as in Karras et al. 2020, Training Generative Adversarial Networks with Limited Data).

        Args:
            real, fake: (N, C, H, W); `fake` is detached.
            draws: contains those of `Objective.draws`, on the device.
            conditions: (N, ...) each, passed to D with the images.
            name: the discriminator's name in `draws`.
            source: the images that the fakes are translations of, (N, C', H, W), if D judges pairs: it gets
                them as the first channels.

        Raises:
            RuntimeError: `draws` lacks a decision that the objective needs.
            UserError: the gradient penalty, and `real` and `fake` have different sizes.
        """
        fake = fake.detach()
        images = _joined(source, real), _joined(source, fake)
        see_real, see_fake = (self.view(draws, name, role, source) for role in (0, 1))
        seen_real, seen_fake = see_real(images[0]), see_fake(images[1])
        fake_logits, real_logits = apply_to_both(D, seen_fake, seen_real, *conditions)
        fake_logits, real_logits = at_least_float32(fake_logits), at_least_float32(real_logits)
        losses = {
            "real": discriminator_loss(self.mode, real_logits, real=True, smoothing=self.label_smoothing),
            "fake": discriminator_loss(self.mode, fake_logits, real=False),
        }
        loss = (losses["real"] + losses["fake"]) / 2
        self.diagnostics.record_discriminator(name, self.mode, images, (real_logits, fake_logits), loss)
        if self.lambda_gp:
            if real.shape != fake.shape:
                sizes = " and ".join(f"{image.shape[2]} x {image.shape[3]}" for image in (real, fake))
                raise UserError(
                    "--gan_mode wgangp: the gradient penalty is taken between real and fake images of one"
                    f" size, and these have {sizes} pixels; use a --preprocess that crops, or --lambda_gp 0"
                )
            alpha = _draw(draws, f"{name}_alpha").to(real.dtype)
            penalty = gradient_penalty(lambda x: D(see_real(x), *conditions), *images, alpha)
            losses["gp"] = self.lambda_gp * penalty
        if self.lambda_r1 and f"{name}_no_r1" not in draws:
            weight = _draw(draws, f"{name}_r1").to(real.dtype)
            losses["r1"] = weight * r1_penalty(lambda x: D(see_real(x), *conditions), images[0])
        return losses

    def view(self, draws: Mapping[str, Tensor], name: str, role: int, source: Tensor | None) -> View:
        """Return what discriminator `name` sees of images, or of pairs that begin with those of `source`.

        Args:
            role: index into the augmentations: 0 for real images, 1 for the discriminator's fakes, 2 for the
                generator's.
        """
        decisions = _draw(draws, f"{name}_augment")[:, role] if self.diffaug else None
        std: float | Tensor = self.instance_noise
        if std and self.instance_noise_epochs:
            std = _draw(draws, "instance_noise")
        return View(self.diffaug, decisions, std, 0 if source is None else source.shape[1])


def _joined(source: Tensor | None, images: Tensor) -> Tensor:
    return images if source is None else torch.cat([source, images], 1)


def _draw(draws: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in draws:
        raise RuntimeError(
            f"the draws {name} are missing: a model's draws() must include those of its objective"
        )
    return draws[name]
