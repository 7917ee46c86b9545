"""Learning-rate policies, epoch by epoch."""

import pytest
import torch

from training.schedules import LearningRate, Plateau, cosine, linear, step


def test_linear() -> None:
    rates = [linear(epoch, 100, 100) for epoch in range(1, 201)]
    assert rates[:100] == [1] * 100
    assert rates[100] == pytest.approx(100 / 101)
    assert rates[149] == pytest.approx(51 / 101)
    assert rates[199] == pytest.approx(1 / 101)  # the last epoch still learns
    assert linear(7, 0, 6) == 0 == linear(7, 0, 6)
    assert linear(3, 3, 0) == 1


def test_step() -> None:
    assert [step(epoch, 2) for epoch in range(1, 6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_cosine() -> None:
    rates = [cosine(epoch, 4) for epoch in range(1, 5)]
    assert rates == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])


def test_plateau_falls_as_torch_has_it() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.2, threshold=0.01, patience=5)
    state = Plateau()
    values = [5, 4, 3.99, 3.98, 3.97, 3.9699, 3.9698, 3.96, 3.97, 3, 3, 3, 3, 3, 3, 3, 3, 3, 2.98, 2.9]
    for value in values:
        reference.step(value)
        state = state.after(value)
        assert state.factor == pytest.approx(optimizer.param_groups[0]["lr"])
    assert state.factor < 1


def test_plateau_takes_falling_negative_losses_for_progress() -> None:
    state = Plateau()
    for value in (-1, -2, -3, -4, -5, -6, -7, -8):
        state = state.after(value)
    assert state == Plateau(1.0, -8, 0)


def test_every_policy_is_reached_by_its_name_and_keeps_its_state() -> None:
    def factors(policy: str) -> list[float]:
        rate, found = LearningRate(policy, n_epochs=4, n_epochs_decay=6, lr_decay_iters=3), []
        for epoch in range(1, 11):
            found.append(rate.factor(epoch))
            rate.end_epoch(1.0)
            resumed = LearningRate(policy, n_epochs=4, n_epochs_decay=6, lr_decay_iters=3)
            resumed.load_state_dict(rate.state_dict())
            rate = resumed
        return found

    epochs = range(1, 11)
    assert factors("linear") == [linear(epoch, 4, 6) for epoch in epochs]
    assert factors("step") == [step(epoch, 3) for epoch in epochs]
    assert factors("cosine") == [cosine(epoch, 10) for epoch in epochs]
    assert factors("plateau") == [1.0] * 7 + [0.2] * 3
