"""Objectives of GAN training, as pure functions of a discriminator's logits."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


def gradient_penalty(net: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """Return E[(‖∇D(x)‖₂ − 1)²] at x = αreal + (1 − α)fake (Gulrajani et al. 2017, eq. 3, unweighted).

    Args:
        net: the discriminator; must treat pictures separately, that is, have no batch norm.
        real, fake: (N, C, H, W).
        alpha: (N, 1, 1, 1) in [0, 1].
    """
    x = (alpha * real + (1 - alpha) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    norm = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
    return (norm - 1).square().mean()
