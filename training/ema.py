"""Exponential moving averages of the generators' weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from util.checking import COUNT
from util.weights import load_into


class Ema:
    """Exponential moving averages of networks' parameters; buffers are copied.

    Args:
        decay: weight of the old average in an update; update n uses at most (1 + n) / (10 + n).

    Attributes:
        nets: the averages by name.
    """

    STATE: ClassVar[object] = {"nets": {str: {str: Tensor}}, "updates": COUNT}
    """The shape of `state_dict`."""

    def __init__(self, nets: Mapping[str, nn.Module], decay: float):
        self.nets = {name: deepcopy(net).requires_grad_(False) for name, net in nets.items()}
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def restart(self, nets: Mapping[str, nn.Module]) -> None:
        """Let the averages start at the present weights of `nets`."""
        self.updates = 0
        for name, average in self.nets.items():
            average.load_state_dict(nets[name].state_dict())

    @torch.no_grad()
    def update(self, nets: Mapping[str, nn.Module]) -> None:
        """Update the averages with the present weights of `nets`."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, average in self.nets.items():
            torch._foreach_lerp_(list(average.parameters()), list(nets[name].parameters()), weight)
            for copy, buffer in zip(average.buffers(), nets[name].buffers(), strict=True):
                copy.copy_(buffer)

    @contextmanager
    def applied_to(self, nets: Mapping[str, nn.Module]) -> Iterator[None]:
        """Let `nets` have the averages as their weights within the context; afterwards they are as before."""
        self._exchange(nets)
        try:
            yield
        finally:
            self._exchange(nets)

    def _exchange(self, nets: Mapping[str, nn.Module]) -> None:
        # Storage is exchanged, not values: training continues to the bit, at the addresses of CUDA graphs.
        for name, average in self.nets.items():
            net = nets[name]
            averages, weights = ([*owner.parameters(), *owner.buffers()] for owner in (average, net))
            for one, other in zip(averages, weights, strict=True):
                one.data, other.data = other.data, one.data

    def state_dict(self) -> dict[str, Any]:
        """Return the averages and the number of updates."""
        return {"nets": {name: net.state_dict() for name, net in self.nets.items()}, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict`."""
        self.updates = state["updates"]
        for name, net in self.nets.items():
            load_into(net, state["nets"][name], f"the saved average of network {name}")
