"""Make rare colours count as much as common ones (Zhang et al. 2016, section 2.2)."""

from typing import Any

import torch
from torch import Tensor

from util import distributed
from util.color import AB_BINS, AB_SCALE, AB_STEP

MIX, MEMORY = 0.5, 0.99


class ColourFrequencies:
    """How often each of the 313 colours occurs in the images seen, and the weights that follow.

    Attributes:
        frequencies: (313,), a running mean that sums to 1; uniform in the beginning.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.frequencies = torch.full((len(AB_BINS),), 1 / len(AB_BINS), device=device, dtype=dtype)
        grid = torch.arange(-AB_SCALE, AB_SCALE + 1, AB_STEP, dtype=torch.float64)
        places = torch.cartesian_prod(grid, grid)
        bins = torch.tensor(AB_BINS, dtype=torch.float64)
        self._nearest = torch.cdist(places, bins).argmin(1).to(device)
        self._side = len(grid)

    def weights(self, ab: Tensor, share: float = 1.0) -> Tensor:
        """Return the weight of every pixel, a mean of 1 over the colours seen: (N, 2, H, W) to (N, 1, H, W).

        This counts the pixels as seen, those of all processes. `ab` is in the networks' scale, see `to_L_ab`;
        it is of a `share` of a batch.
        """
        a, b = ((ab.detach() + 1) * (AB_SCALE / AB_STEP)).round().long().clamp(0, self._side - 1).unbind(1)
        bins = self._nearest[a * self._side + b]
        each = torch.full_like(bins, 1, dtype=ab.dtype).flatten() / bins.numel()
        seen = torch.zeros_like(self.frequencies).index_add(0, bins.flatten(), each)
        memory: Tensor | float = MEMORY**share
        if distributed.is_data_parallel():
            counted = torch.cat([seen, torch.ones_like(seen[:1])]) * share
            distributed.all_reduce_sum([counted])
            memory, seen = MEMORY ** counted[-1], counted[:-1] / counted[-1]
        self.frequencies.mul_(memory).add_((1 - memory) * seen)  # in place, for captured steps
        weights = 1 / ((1 - MIX) * self.frequencies + MIX / len(AB_BINS))
        return (weights / (self.frequencies * weights).sum())[bins][:, None]

    def state_dict(self) -> dict[str, Any]:
        """Return the frequencies."""
        return {"frequencies": self.frequencies.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.frequencies.copy_(state["frequencies"])
