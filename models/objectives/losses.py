"""Losses as pure functions of logits, of discriminators' gradients, and of image features."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.layers.precision import at_least_float32

MOMENTS_EPS = 1e-5


def discriminator_loss(mode: str, logits: Tensor, real: bool, smoothing: float = 0.0) -> Tensor:
    """Return a discriminator's loss on images that are all real or all fake, a mean over logits.

    Args:
        mode: ``vanilla`` (Goodfellow et al. 2014, cross-entropy), ``lsgan`` (Mao et al. 2017, eq. 9 without
            its factor, targets 1 and 0), ``hinge`` (Lim & Ye 2017) or ``wgangp`` (Gulrajani et al. 2017, the
            critic of eq. 3).
        smoothing: 1 minus the target of real images (Salimans et al. 2016, section 3.4); only for
            ``vanilla`` and ``lsgan``.
    """
    if mode == "vanilla" and real and smoothing:
        return ((1 - smoothing) * F.softplus(-logits) + smoothing * F.softplus(logits)).mean()
    if mode == "vanilla":
        return F.softplus(-logits if real else logits).mean()
    if mode == "lsgan":
        return ((logits - (1 - smoothing)) ** 2 if real else logits**2).mean()
    if mode == "hinge":
        return F.relu(1 - logits if real else 1 + logits).mean()
    if mode == "wgangp":
        return (-logits if real else logits).mean()
    raise ValueError(f"gan_mode {mode}")


def generator_loss(mode: str, logits: Tensor) -> Tensor:
    """Return a generator's loss, a mean over the logits of fakes (``vanilla``: non-saturating)."""
    return -logits.mean() if mode == "hinge" else discriminator_loss(mode, logits, real=True)


def gradient_penalty(net: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """Return E[(‖∇D(x)‖₂ − 1)²] at x = α·real + (1 − α)·fake (Gulrajani et al. 2017, eq. 3, unweighted).

    D(x) is the mean of an image's logits.

    Args:
        net: the discriminator, without batch norm: its output for an image must not depend on the others.
            It returns logits, (N, ...).
        real, fake: (N, C, H, W).
        alpha: (N, 1, 1, 1) in [0, 1].
    """
    norm = (squared_gradients(net, alpha * real + (1 - alpha) * fake) + 1e-12).sqrt()
    return (norm - 1).square().mean()


def r1_penalty(net: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Return E[‖∇D(x)‖₂²] / 2 at real images, (N, C, H, W) (Mescheder et al. 2018, eq. 9, unweighted).

    D(x) is the mean of an image's logits.

    Args:
        net: see `gradient_penalty`.
    """
    return squared_gradients(net, real).mean() / 2


def squared_gradients(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the squared norm of the gradient of each image's mean logit, (N,), in float32 or better."""
    x = at_least_float32(x.detach()).requires_grad_()
    # Fused attention kernels have no second derivative.
    with torch.autocast(x.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        # The mean, as in the adversarial losses: a sum would weigh a PatchGAN's penalty by its patches.
        logits = net(x).flatten(1).mean(1)
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.flatten(1).square().sum(1)


def l1(images: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean absolute difference of images, (N, C, H, W).

    Args:
        mask: weights of pixels, (N, 1, H, W) in [0, 1]: each image's mean is weighted, and all images count
            alike; one without weight counts as 0. None: all pixels count alike.
    """
    if mask is None:
        return F.l1_loss(images, targets)
    distances = (at_least_float32(images) - at_least_float32(targets)).abs().mean(1, keepdim=True)
    weights = at_least_float32(mask)
    # A sum of weights is 0 or at least 1/255.
    return ((weights * distances).sum((1, 2, 3)) / weights.sum((1, 2, 3)).clamp(min=1e-3)).mean()


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of losses, 0-d."""
    return torch.stack(tuple(losses.values())).sum()


def feature_loss(features: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Return the mean squared difference of features, summed over the targets' layers.

    Johnson et al. 2016, eq. 2.
    """
    return torch.stack(
        [
            (at_least_float32(features[name]) - at_least_float32(targets[name])).pow(2).mean()
            for name in targets
        ]
    ).sum()


def gram(features: Tensor) -> Tensor:
    """Return the Gram matrices of features, (N, C, H, W) to (N, C, C), divided by C·H·W.

    Johnson et al. 2016, eq. 3; computed in float32 or better.
    """
    with torch.autocast(features.device.type, enabled=False):
        x = at_least_float32(features).flatten(2)
        return x @ x.mT / x[0].numel()


def grams(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the Gram matrix of every layer's features."""
    return {layer: gram(maps) for layer, maps in features.items()}


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each feature map, (N, C, 1, 1) each, in float32 or better."""
    x = at_least_float32(features)
    return x.mean((2, 3), keepdim=True), (x.var((2, 3), keepdim=True) + MOMENTS_EPS).sqrt()


def moments_loss(features: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Return the mean squared differences of the features' means and of their standard deviations, summed.

    Huang & Belongie 2017, eq. 13.
    """
    stacked = [
        {layer: torch.cat(moments(maps), 1) for layer, maps in side.items()} for side in (features, targets)
    ]
    return 2 * feature_loss(*stacked)  # the mean over both moments is half the sum of their means


def total_variation(images: Tensor) -> Tensor:
    """Return half the sum of squared differences between neighbouring pixels, divided by N·C·H·W."""
    vertical, horizontal = images.diff(dim=2).pow(2).sum(), images.diff(dim=3).pow(2).sum()
    return (vertical + horizontal) / 2 / images.numel()
