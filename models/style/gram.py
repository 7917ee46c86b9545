"""What the images of a set of styles have in common."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from util import distributed


class MeanGrams:
    """The mean of the Gram matrices seen so far, by layer.

    The squared distance to it has, on average over the styles, the gradient of the squared distance to each
    of them, without its noise.
    """

    def __init__(self, device: torch.device):
        self.count = torch.zeros((), device=device)
        self.means: dict[str, Tensor] = {}

    def add(self, grams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take in the Gram matrices of some images, (N, C, C) a layer, and return the means, (1, C, C).

        Those of all processes count.
        """
        number = torch.full_like(self.count, len(next(iter(grams.values()))))
        means = {layer: found.mean(0, keepdim=True) for layer, found in grams.items()}
        if distributed.is_data_parallel():
            means = {layer: mean * number for layer, mean in means.items()}
            distributed.all_reduce_sum([*means.values(), number])
            means = {layer: mean / number for layer, mean in means.items()}
        self.count += number
        for layer, mean in means.items():
            kept = self.means.setdefault(layer, mean.clone())
            kept.lerp_(mean, (number / self.count).to(mean))  # in place, for captured steps
        return {layer: mean.clone() for layer, mean in self.means.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the means and how many images they are of."""
        return {
            "count": self.count.clone(),
            "means": {layer: mean.clone() for layer, mean in self.means.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        device = self.count.device
        self.count = state["count"].to(device)
        self.means = {layer: mean.to(device) for layer, mean in state["means"].items()}
