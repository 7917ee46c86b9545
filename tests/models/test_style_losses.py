"""Losses of features against numpy in float64, and their gradients against finite differences."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from models.objectives.losses import feature_loss, gram, grams, moments, moments_loss, total_variation
from models.style.networks import Restyle

restyle = Restyle()
RNG = np.random.default_rng(0)
X, Y = (RNG.normal(size=(2, 3, 4, 5)) for _ in range(2))


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values)


def numpy_gram(x: np.ndarray) -> np.ndarray:
    return np.stack([p.reshape(3, -1) @ p.reshape(3, -1).T for p in x]) / 60


def test_gram_by_hand() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])  # two maps of two pixels
    assert gram(features).tolist() == [[[5 / 4, 1 / 4], [1 / 4, 10 / 4]]]


def test_losses_agree_with_numpy() -> None:
    np.testing.assert_allclose(gram(tensor(X)), numpy_gram(X), rtol=1e-12)
    content = ((X - Y) ** 2).mean() + ((2 * X - Y) ** 2).mean()
    loss = feature_loss({"a": tensor(X), "b": tensor(2 * X)}, {"a": tensor(Y), "b": tensor(Y)})
    np.testing.assert_allclose(loss, content, rtol=1e-12)
    style = sum(((gx - gy) ** 2).sum() / 9 for gx, gy in zip(numpy_gram(X), numpy_gram(Y), strict=True)) / 2
    loss = feature_loss(grams({"a": tensor(X)}), grams({"a": tensor(Y)}))
    np.testing.assert_allclose(loss, style, rtol=1e-12)
    down, right = np.diff(X, axis=2), np.diff(X, axis=3)
    np.testing.assert_allclose(
        total_variation(tensor(X)), ((down**2).sum() + (right**2).sum()) / 2 / X.size, rtol=1e-12
    )


def numpy_moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean((2, 3), keepdims=True), np.sqrt(x.var((2, 3), ddof=1, keepdims=True) + 1e-5)


def test_adain_agrees_with_numpy() -> None:
    (mx, sx), (my, sy) = numpy_moments(X), numpy_moments(Y)
    np.testing.assert_allclose(
        moments_loss({"a": tensor(X)}, {"a": tensor(Y)}), ((mx - my) ** 2).mean() + ((sx - sy) ** 2).mean()
    )
    style = moments(tensor(Y))
    np.testing.assert_allclose(restyle(tensor(X), *style), sy * (X - mx) / sx + my, rtol=1e-10)
    blended = 0.3 * (sy * (X - mx) / sx + my) + 0.7 * X
    np.testing.assert_allclose(restyle(tensor(X), *style, 0.3), blended, rtol=1e-10)
    np.testing.assert_allclose(restyle(tensor(X), *style, 0.0), X, rtol=1e-10)


@pytest.mark.parametrize(
    "loss",
    [
        gram,
        total_variation,
        lambda x: feature_loss({"a": x}, {"a": tensor(Y)}),
        lambda x: feature_loss(grams({"a": x}), grams({"a": tensor(Y)})),
        lambda x: moments_loss({"a": x}, {"a": tensor(Y)}),
        lambda x: restyle(x, *moments(tensor(Y)), 0.7),
    ],
)
def test_gradients_are_those_of_finite_differences(loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert gradcheck(loss, tensor(X).clone().requires_grad_())


def test_gram_and_moments_are_computed_in_float32() -> None:
    x = torch.full((1, 2, 64, 64), 1.001) + torch.rand(1, 2, 64, 64) * 0.01
    with torch.autocast("cpu", torch.bfloat16):
        matrix = gram(x)
    assert matrix.dtype == torch.float32 and torch.equal(matrix, gram(x))
    assert {part.dtype for part in moments(x.bfloat16())} == {torch.float32}
