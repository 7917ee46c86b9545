"""Distances of sets of features, against closed forms."""

import math

import torch
from torch import Tensor

from util.feature_metrics import frechet_distance


def features(mean: list[float], covariance: list[list[float]]) -> Tensor:
    """Features with exactly this mean and covariance."""
    size = len(mean)
    points = torch.cat([torch.eye(size), -torch.eye(size)]).double() * math.sqrt((2 * size - 1) / 2)
    return points @ torch.linalg.cholesky(torch.tensor(covariance).double()).mT + torch.tensor(mean)


def test_without_correlations_standard_deviations_are_compared() -> None:
    one = features([1, 2, 3], [[4, 0, 0], [0, 1, 0], [0, 0, 9]])
    other = features([1, 0, 6], [[1, 0, 0], [0, 16, 0], [0, 0, 9]])
    # ‖μ₁ − μ₂‖² + Σ(σ₁ − σ₂)²
    torch.testing.assert_close(frechet_distance(one, other).item(), 13.0 + (1 + 9 + 0))
    assert frechet_distance(one, one).item() < 1e-12


def test_covariances_that_do_not_commute() -> None:
    A, B = [[2.0, 1.0], [1.0, 3.0]], [[1.0, -0.5], [-0.5, 2.0]]
    product = torch.tensor(A) @ torch.tensor(B)
    # Of a 2 x 2 matrix the root's trace is √(tr M + 2√det M).
    root = math.sqrt(product.trace().item() + 2 * math.sqrt(torch.linalg.det(product).item()))
    expected = 5 + 3 - 2 * root
    for one, other in ((A, B), (B, A)):
        found = frechet_distance(features([0, 0], one), features([0, 0], other)).item()
        assert abs(found - expected) < 1e-6


def test_features_that_never_vary_are_no_trouble() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(50, 4, generator=generator) * torch.tensor([1.0, 0.0, 2.0, 0.0])
    assert 0 <= frechet_distance(one, one).item() < 1e-9
    shifted = frechet_distance(one, one + torch.tensor([0.0, 3.0, 0.0, 4.0])).item()
    assert abs(shifted - 25) < 1e-4
