"""The scale of losses for float16."""

import torch
from torch import nn

from tests.support.models import CPU
from training.loss_scale import FIRST_SCALE, LossScale


def test_gradients_are_unscaled_and_an_overflow_halves_the_scale() -> None:
    scale = LossScale(CPU)
    weight = nn.Parameter(torch.ones(2))
    scale.apply((weight * 3).sum()).backward()
    torch.testing.assert_close(weight.grad, torch.full((2,), 3.0 * FIRST_SCALE))
    assert scale.unscale([weight]) == 0
    torch.testing.assert_close(weight.grad, torch.full((2,), 3.0))
    weight.grad = None
    scale.apply((weight * 1e35).sum()).backward()
    assert scale.unscale([weight]) == 1
    assert scale.scale == FIRST_SCALE / 2
    resumed = LossScale(CPU)
    resumed.load_state_dict(scale.state_dict())
    assert resumed.scale == scale.scale
