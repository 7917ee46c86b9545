"""Metrics in the features of frozen networks: FID and KID of sets of images, LPIPS of pairs.

The distances are computed here for any features; `util.metrics.networks` loads the networks.
"""

import math

import torch
from torch import Tensor

from util.metrics.names import metric
from util.metrics.networks import Network

LPIPS_MIN_SIDE = 31
"""AlexNet's feature maps are empty for images with a shorter side."""

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000


@metric(
    "lpips",
    higher_is_better=False,
    protocol="images in their own size",
    undefined="a side below 31 pixels",
    network="lpips",
)
def lpips(fake: Tensor, real: Tensor, network: Network) -> Tensor:
    """Return the learned perceptual distance (Zhang et al. 2018); NaN for images with a side below 31."""
    if min(fake.shape[-2:]) < LPIPS_MIN_SIDE:
        return torch.full((len(fake),), math.nan, dtype=torch.float64)
    return network.net(fake.float() / 127.5 - 1, real.float() / 127.5 - 1).flatten().double()


@metric(
    "fid",
    higher_is_better=False,
    protocol="unbiased covariances",
    per="set",
    network="inception",
)
def fid(fake: Tensor, real: Tensor) -> tuple[Tensor, str]:
    """Return the Fréchet Inception distance (Heusel et al. 2017), 0-d."""
    return frechet_distance(fake, real), ""


@metric(
    "kid",
    higher_is_better=False,
    protocol="unbiased squared MMD",
    per="set",
    network="inception",
)
def kid(fake: Tensor, real: Tensor) -> tuple[Tensor, str]:
    """Return the kernel Inception distance (Bińkowski et al. 2018), 0-d, and its protocol."""
    subsets, size = kid_subsets(len(fake), len(real))
    protocol = f"kernel (x.y / {fake.shape[1]} + 1)^3, unbiased squared MMD," + (
        f" mean over {subsets} random subsets of {size}, seed 0" if subsets > 1 else " of all images"
    )
    return kernel_distance(fake, real), protocol


def frechet_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the Fréchet distance of two sets of features taken as Gaussian (Heusel et al. 2017, eq. 6).

    ‖μ₁ − μ₂‖² + tr(C₁ + C₂ − 2(C₁C₂)^½), computed in float64.

    Args:
        x, y: (N, D) and (M, D), N and M at least 2.
    """
    x, y = x.double(), y.double()
    covariances = [features.mT.cov().reshape(x.shape[1], -1) for features in (x, y)]
    # C₁C₂ has the eigenvalues of the symmetric C₁^½ C₂ C₁^½, which stay real under rounding.
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    cross_trace = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    traces = sum(covariance.trace() for covariance in covariances)
    return ((x.mean(0) - y.mean(0)).square().sum() + traces - 2 * cross_trace).clamp(min=0)


def kernel_distance(x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
    """Return the kernel distance of two sets of features (Bińkowski et al. 2018), computed in float64.

    This is the mean over random subsets, see `kid_subsets`, of the unbiased squared MMD with the kernel
    (x·y / D + 1)³.

    Args:
        x, y: (N, D) and (M, D), N and M at least 2.
        seed: seed of the subsets.
    """
    x, y = x.double(), y.double()
    subsets, size = kid_subsets(len(x), len(y))
    generator = torch.Generator().manual_seed(seed)

    def subset(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=generator)[:size].to(features.device)]

    return torch.stack([_squared_mmd(subset(x), subset(y)) for _ in range(subsets)]).mean()


def kid_subsets(n: int, m: int) -> tuple[int, int]:
    """Return the number and size of the subsets of `n` and `m` features: 100 of up to 1000, or one of all."""
    size = min(KID_SUBSET_SIZE, n, m)
    return 1 if size == n == m else KID_SUBSETS, size


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased estimate of the squared MMD of features, (N, D) both."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.mT / a.shape[1] + 1) ** 3

    count = len(x)
    within = sum(k.sum() - k.trace() for k in (kernel(x, x), kernel(y, y)))
    return within / (count * (count - 1)) - 2 * kernel(x, y).mean()
