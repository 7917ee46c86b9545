"""Means over the training images that a model has seen."""

import torch

from models.layers.running_mean import RunningMean
from tests.support.models import CPU
from util.batch import Batch


def batch_of(count: int) -> Batch:
    return Batch(torch.zeros(count, 3, 4, 4), None, [""] * count, [], torch.arange(count))


def test_every_image_counts_once() -> None:
    mean, batches = RunningMean(CPU), torch.rand(6, 3, 3, dtype=torch.float64).split([3, 2, 1])
    for batch in batches:
        found = mean.update({"a": batch.mean(0)}, batch_of(len(batch)))
    torch.testing.assert_close(found["a"], torch.cat(batches).mean(0), rtol=1e-6, atol=0)
    resumed = RunningMean(CPU)
    resumed.load_state_dict(mean.state_dict())
    found, expected = (each.update({"a": batches[0].mean(0)}, batch_of(3))["a"] for each in (resumed, mean))
    assert torch.equal(found, expected)


def test_what_is_not_finite_is_left_out() -> None:
    mean = RunningMean(CPU)
    for value in (torch.nan, 1.0, torch.inf, 3.0):
        found = mean.update({"a": torch.tensor([value])}, batch_of(2))["a"]
    assert found.item() == 2 and mean.count == 4


def test_a_step_that_is_left_out_can_be_taken_back() -> None:
    mean = RunningMean(CPU)
    before = [tensor.clone() for tensor in mean.buffers()]
    mean.update({"a": torch.tensor([5.0])}, batch_of(2))  # creates a tensor that `before` lacks
    for tensor, earlier in zip(mean.buffers(), before, strict=False):
        tensor.copy_(earlier)
    assert mean.update({"a": torch.tensor([1.0])}, batch_of(1))["a"].item() == 1
