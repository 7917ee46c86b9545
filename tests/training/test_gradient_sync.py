"""Gradients are all-reduced during the backward pass, in the same order on all ranks, each once."""

import pytest
import torch
from torch import Tensor, nn

from training.gradient_sync import GradientSync
from util import distributed


class Doubled:
    """Stands in for the all-reduce of two ranks with equal gradients."""

    buckets: list[list[Tensor]]

    def __init__(self, tensors: list[Tensor]):
        self.tensors = tensors
        Doubled.buckets.append([tensor.clone() for tensor in tensors])

    def wait(self) -> None:
        for tensor in self.tensors:
            tensor *= 2


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> nn.Sequential:
    """Four layers, each with a bucket of its own."""
    Doubled.buckets = []
    monkeypatch.setattr(distributed, "AsyncAllReduce", Doubled)
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 4 * 3 * 3)
    return nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(4)))


def test_buckets_are_reduced_while_the_backward_pass_continues(layers: nn.Sequential) -> None:
    gradients, loss = GradientSync(list(layers.parameters())), layers(torch.ones(1, 3)).sum()
    reduced_before: list[int] = []
    layers[0].weight.register_hook(lambda _: reduced_before.append(len(Doubled.buckets)))
    value = loss.detach().clone()
    expected = torch.autograd.grad(loss, list(layers.parameters()), retain_graph=True)
    reduced_before.clear()
    gradients.begin(value)
    loss.backward()
    assert reduced_before == [3]
    gradients.finish()
    assert [len(bucket) for bucket in Doubled.buckets] == [2, 1, 1, 1]  # the first bucket also has the loss
    for layer, gradient in zip(layers, expected, strict=True):
        torch.testing.assert_close(layer.weight.grad, 2 * gradient)
    torch.testing.assert_close(value, 2 * loss.detach())


def test_parameters_without_a_gradient_keep_the_order(layers: nn.Sequential) -> None:
    """The third layer has no gradient: the buckets after its own are reduced by `finish`."""
    gradients = GradientSync(list(layers.parameters()))
    loss = layers[3](layers[1](layers[0](torch.ones(1, 3)))).sum()
    gradients.begin(loss.detach())
    loss.backward()
    assert len(Doubled.buckets) == 1
    gradients.finish()
    assert [len(bucket) for bucket in Doubled.buckets] == [2, 0, 1, 1]
    assert layers[2].weight.grad is None


def test_gradients_are_reduced_in_the_last_part_of_a_batch(layers: nn.Sequential) -> None:
    gradients = GradientSync(list(layers.parameters()))
    layers(torch.ones(1, 3)).sum().backward()
    assert not Doubled.buckets
    first = layers[0].weight.grad.clone()
    loss = layers(torch.ones(1, 3)).sum()
    gradients.begin(loss.detach())
    loss.backward()
    gradients.finish()
    torch.testing.assert_close(layers[0].weight.grad, 2 * 2 * first)
    assert len(Doubled.buckets) == 4
