"""Losses as pure functions: of logits, for GAN training and chosen by flags, and of features of pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.layers import apply_to_both
from options.base_options import NetworkOptions
from options.train_options import OptimizationOptions
from util.errors import UserError

MOMENTS_EPS = 1e-5


def discriminator_loss(mode: str, logits: Tensor, real: bool) -> Tensor:
    """Return how wrong a discriminator is about pictures that are all real or all fake, a mean over logits.

    Args:
        mode: ``vanilla`` (Goodfellow et al. 2014, cross-entropy), ``lsgan`` (Mao et al. 2017, eq. 9 without
            its factor, targets 1 and 0), ``hinge`` (Lim & Ye 2017) or ``wgangp`` (Gulrajani et al. 2017, the
            critic of eq. 3).
    """
    if mode == "vanilla":
        return F.softplus(-logits if real else logits).mean()
    if mode == "lsgan":
        return ((logits - 1) ** 2 if real else logits**2).mean()
    if mode == "hinge":
        return F.relu(1 - logits if real else 1 + logits).mean()
    if mode == "wgangp":
        return (-logits if real else logits).mean()
    raise ValueError(f"gan_mode {mode}")


def generator_loss(mode: str, logits: Tensor) -> Tensor:
    """Return how far fakes with these logits are from passing for real (``vanilla``: non-saturating)."""
    return -logits.mean() if mode == "hinge" else discriminator_loss(mode, logits, real=True)


def gradient_penalty(net: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """Return E[(‖∇D(x)‖₂ − 1)²] at x = αreal + (1 − α)fake (Gulrajani et al. 2017, eq. 3, unweighted).

    Args:
        net: the discriminator; must treat pictures separately, that is, have no batch norm.
        real, fake: (N, C, H, W).
        alpha: (N, 1, 1, 1) in [0, 1].
    """
    x = (alpha * real + (1 - alpha) * fake).detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of self-attention cannot be differentiated twice
        logits = net(x)
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    norm = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
    return (norm - 1).square().mean()


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of 0-d losses."""
    return torch.stack(tuple(losses.values())).sum()


def feature_loss(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Tensor:
    """Return the mean squared difference of features, summed over layers (Johnson et al. 2016, eq. 2)."""
    return torch.stack([(ours[layer] - theirs[layer]).pow(2).mean() for layer in theirs]).sum()


def gram(features: Tensor) -> Tensor:
    """Return the Gram matrices of features, (N, C, H, W) to (N, C, C), divided by C·H·W (ibid., eq. 3).

    They are computed at least in float32, whatever the precision of the features.
    """
    with torch.autocast(features.device.type, enabled=False):
        x = features.to(torch.promote_types(features.dtype, torch.float32)).flatten(2)
        return x @ x.mT / x[0].numel()


def grams(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the Gram matrix of every layer's features."""
    return {layer: gram(found) for layer, found in features.items()}


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return each feature map's mean and standard deviation, (N, C, 1, 1) each, at least in float32."""
    x = features.to(torch.promote_types(features.dtype, torch.float32))
    return x.mean((2, 3), keepdim=True), (x.var((2, 3), keepdim=True) + MOMENTS_EPS).sqrt()


def moments_loss(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Tensor:
    """Return the mean squared differences of features' moments, summed (Huang & Belongie 2017, eq. 13)."""
    stacked = [
        {layer: torch.cat(moments(found), 1) for layer, found in side.items()} for side in (ours, theirs)
    ]
    return 2 * feature_loss(*stacked)  # a mean over both halves is half the sum of their means


def total_variation(pictures: Tensor) -> Tensor:
    """Return half the sum of squared differences between neighbours, divided by N·C·H·W."""
    down, right = pictures.diff(dim=2).pow(2).sum(), pictures.diff(dim=3).pow(2).sum()
    return (down + right) / 2 / pictures.numel()


@dataclass(frozen=True)
class Objective:
    """What ``--gan_mode`` names, with its gradient penalty weighted by `lambda_gp`."""

    mode: str
    lambda_gp: float = 0.0

    @classmethod
    def from_options(cls, options: OptimizationOptions, network: NetworkOptions) -> Self:
        lambda_gp = options.lambda_gp if options.gan_mode == "wgangp" else 0.0
        if lambda_gp and network.norm == "batch":
            raise UserError(
                "--gan_mode wgangp: the gradient penalty needs a discriminator that judges each picture by"
                " itself, which batch norm prevents; use --norm instance, or --lambda_gp 0 for no penalty"
            )
        return cls(options.gan_mode, lambda_gp)

    def draws(self, names: Sequence[str], count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return where between real and fake `count` pictures' penalties are taken, (count, 1, 1, 1)."""
        if not self.lambda_gp:
            return {}
        return {name: torch.rand(count, 1, 1, 1, generator=generator, dtype=torch.float64) for name in names}

    def generator(self, fake_logits: Tensor) -> Tensor:
        """Return the generator's loss for the logits of its fakes."""
        return generator_loss(self.mode, fake_logits)

    def discriminator(
        self, D: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor | None, *conditions: Tensor
    ) -> dict[str, Tensor]:
        """Return the discriminator's losses by name: ``real``, ``fake`` and, if there is a penalty, ``gp``.

        Args:
            real, fake: (N, C, H, W); no gradient flows to what made the fakes.
            alpha: one of `draws`, on their device; None if there is no penalty.
            conditions: what D is given beside the pictures, (N, ...) each.
        """
        fake = fake.detach()
        if conditions:
            twice = (torch.cat([condition, condition]) for condition in conditions)
            fake_logits, real_logits = D(torch.cat([fake, real]), *twice).chunk(2)
        else:
            fake_logits, real_logits = apply_to_both(D, fake, real)
        losses = {
            "real": discriminator_loss(self.mode, real_logits, real=True),
            "fake": discriminator_loss(self.mode, fake_logits, real=False),
        }
        if alpha is not None:
            losses["gp"] = self.lambda_gp * gradient_penalty(
                lambda x: D(x, *conditions), real, fake, alpha.to(real.dtype)
            )
        return losses
