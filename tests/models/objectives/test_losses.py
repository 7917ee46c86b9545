"""Adversarial losses and penalties against their formulas, in float64."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from models.objectives.losses import discriminator_loss, generator_loss, gradient_penalty, l1

LOGITS = torch.tensor([[-3.0, -0.5, 0.2, 1.7]], dtype=torch.float64)

FORMULAS = {
    "vanilla": (lambda x: -torch.log(torch.sigmoid(x)), lambda x: -torch.log(1 - torch.sigmoid(x))),
    "lsgan": (lambda x: (x - 1) ** 2, lambda x: x**2),
    "hinge": (lambda x: torch.clamp(1 - x, min=0), lambda x: torch.clamp(1 + x, min=0)),
    "wgangp": (lambda x: -x, lambda x: x),
}


@pytest.mark.parametrize("mode", FORMULAS)
def test_losses_agree_with_their_formulas(mode: str) -> None:
    real, fake = FORMULAS[mode]
    for formula, is_real in ((real, True), (fake, False)):
        expected = formula(LOGITS).mean()
        torch.testing.assert_close(discriminator_loss(mode, LOGITS, is_real), expected, rtol=1e-12, atol=0)
        x = LOGITS.clone().requires_grad_()
        assert gradcheck(lambda x, r=is_real: discriminator_loss(mode, x, r), (x,))
    expected = -LOGITS.mean() if mode == "hinge" else real(LOGITS).mean()
    torch.testing.assert_close(generator_loss(mode, LOGITS), expected, rtol=1e-12, atol=0)


def test_vanilla_is_finite_for_large_logits() -> None:
    assert discriminator_loss("vanilla", torch.tensor([-200.0]), real=True).item() == pytest.approx(200)


def test_the_penalty_of_a_linear_critic() -> None:
    weight = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False).double())
    net[1].weight = nn.Parameter(weight)
    real, fake = torch.rand(2, 5, 2, 1, 1, dtype=torch.float64)
    penalty = gradient_penalty(net, real, fake, torch.rand(5, 1, 1, 1, dtype=torch.float64))
    assert penalty.item() == pytest.approx((5 - 1) ** 2, rel=1e-9)


def test_the_penalty_is_taken_between_real_and_fake_and_trains_the_critic() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Softplus(), nn.Conv2d(3, 1, 2)).double()
    real, fake = torch.rand(2, 2, 2, 5, 5, dtype=torch.float64)
    alpha = torch.tensor([0.25, 0.75], dtype=torch.float64).view(2, 1, 1, 1)
    x = (alpha * real + (1 - alpha) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(net(x).mean((1, 2, 3)).sum(), x)
    expected = ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
    torch.testing.assert_close(gradient_penalty(net, real, fake, alpha), expected, rtol=1e-9, atol=0)

    def of_weight(weight: torch.Tensor) -> torch.Tensor:
        def critic(x: torch.Tensor) -> torch.Tensor:
            return F.conv2d(F.softplus(F.conv2d(x, weight)), net[2].weight)

        return gradient_penalty(critic, real, fake, alpha)  # type: ignore[arg-type]

    assert gradcheck(of_weight, (net[0].weight.detach().clone().requires_grad_(),))


def test_a_mask_weights_pixels_within_each_image() -> None:
    images = torch.rand(3, 5, 4, 4, dtype=torch.float64, requires_grad=True)
    targets, mask = torch.rand_like(images), torch.rand(3, 1, 4, 4, dtype=torch.float64)
    mask[2] = 0
    distances = (images - targets).abs()
    means = [(mask[n] * distances[n]).sum() / (5 * mask[n].sum()) for n in (0, 1)]
    torch.testing.assert_close(l1(images, targets, mask), sum(means) / 3, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(l1(images, targets, mask), images)
    assert gradient.isfinite().all() and not gradient[2].any() and gradient[:2].all()
    # Neither the composition of a batch nor a part of it matters.
    alone = torch.stack([l1(images[n : n + 1], targets[n : n + 1], mask[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(alone.mean(), l1(images, targets, mask), rtol=1e-12, atol=0)


def test_without_a_mask_the_distance_is_torchs_to_the_bit() -> None:
    images, targets = torch.rand(2, 3, 2, 5, 7).unbind(0)
    assert torch.equal(l1(images, targets), F.l1_loss(images, targets))
    torch.testing.assert_close(l1(images, targets, torch.ones(3, 1, 5, 7)), F.l1_loss(images, targets))
