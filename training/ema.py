"""Running means of generators' weights, which make better images than the weights themselves."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from util.weights import load_into

EMA_SUFFIX = "_ema"
"""Ends the name of an average in the names of files."""


class Ema:
    """Exponential moving averages of networks; buffers are those of the networks.

    Args:
        decay: share that an update keeps, once there have been many: the first ones keep less, as
            (1 + n) / (10 + n) of update n.

    Attributes:
        nets: the averages.
    """

    def __init__(self, nets: Mapping[str, nn.Module], decay: float):
        self.nets = {name: deepcopy(net).requires_grad_(False) for name, net in nets.items()}
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, nets: Mapping[str, nn.Module]) -> None:
        """Take in the weights that `nets` have now."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, average in self.nets.items():
            torch._foreach_lerp_(list(average.parameters()), list(nets[name].parameters()), weight)
            for mine, theirs in zip(average.buffers(), nets[name].buffers(), strict=True):
                mine.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages and the number of updates."""
        return {"nets": {name: net.state_dict() for name, net in self.nets.items()}, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.updates = state["updates"]
        for name, net in self.nets.items():
            load_into(net, state["nets"][name], f"the saved average of network {name}")
