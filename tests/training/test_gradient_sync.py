"""Gradients go out during the backward pass, in the same order everywhere, each once."""

import pytest
import torch
from torch import Tensor, nn

from training.gradient_sync import GradientSync
from util import distributed


class Doubled:
    """Stands in for the sum over two processes that have the same."""

    sent: list[list[Tensor]]

    def __init__(self, tensors: list[Tensor]):
        self.tensors = tensors
        Doubled.sent.append([tensor.clone() for tensor in tensors])

    def wait(self) -> None:
        for tensor in self.tensors:
            tensor *= 2


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> nn.Sequential:
    """Four layers, a message each."""
    Doubled.sent = []
    monkeypatch.setattr(distributed, "AsyncAllReduce", Doubled)
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 4 * 3 * 3)
    return nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(4)))


def test_messages_leave_while_earlier_layers_are_computed(layers: nn.Sequential) -> None:
    gradients, loss = GradientSync(list(layers.parameters())), layers(torch.ones(1, 3)).sum()
    sent_before: list[int] = []
    layers[0].weight.register_hook(lambda _: sent_before.append(len(Doubled.sent)))
    value = loss.detach().clone()
    expected = torch.autograd.grad(loss, list(layers.parameters()), retain_graph=True)
    sent_before.clear()
    gradients.begin(value)
    loss.backward()
    assert sent_before == [3]
    gradients.finish()
    assert [len(message) for message in Doubled.sent] == [2, 1, 1, 1]  # the loss goes with the first
    for layer, gradient in zip(layers, expected, strict=True):
        torch.testing.assert_close(layer.weight.grad, 2 * gradient)
    torch.testing.assert_close(value, 2 * loss.detach())


def test_what_the_loss_does_not_reach_keeps_the_order(layers: nn.Sequential) -> None:
    """The third layer has no gradient: what comes after its message goes out at the end."""
    gradients = GradientSync(list(layers.parameters()))
    loss = layers[3](layers[1](layers[0](torch.ones(1, 3)))).sum()
    gradients.begin(loss.detach())
    loss.backward()
    assert len(Doubled.sent) == 1
    gradients.finish()
    assert [len(message) for message in Doubled.sent] == [2, 0, 1, 1]
    assert layers[2].weight.grad is None


def test_only_the_last_part_of_a_batch_is_sent(layers: nn.Sequential) -> None:
    gradients = GradientSync(list(layers.parameters()))
    layers(torch.ones(1, 3)).sum().backward()
    assert not Doubled.sent
    first = layers[0].weight.grad.clone()
    loss = layers(torch.ones(1, 3)).sum()
    gradients.begin(loss.detach())
    loss.backward()
    gradients.finish()
    torch.testing.assert_close(layers[0].weight.grad, 2 * 2 * first)
    assert len(Doubled.sent) == 4
