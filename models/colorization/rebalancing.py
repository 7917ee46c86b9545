"""Weights that make rare colours count as much as common ones (Zhang et al. 2016, section 2.2)."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from models.layers.running_mean import RunningMean
from util.batch import Batch
from util.color import AB_BINS, AB_SCALE, AB_STEP

MIX, MOMENTUM = 0.5, 0.99


class ColorFrequencies:
    """The frequencies of the 313 quantised colours in the training images, and weights from them.

    Attributes:
        frequencies: (313,), a running mean that sums to 1; initially uniform.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype):
        uniform = torch.full((len(AB_BINS),), 1 / len(AB_BINS), device=device, dtype=dtype)
        self._mean = RunningMean(device, MOMENTUM, {"frequencies": uniform})
        grid = torch.arange(-AB_SCALE, AB_SCALE + 1, AB_STEP, dtype=torch.float64)
        points = torch.cartesian_prod(grid, grid)
        bins = torch.tensor(AB_BINS, dtype=torch.float64)
        self._nearest = torch.cdist(points, bins).argmin(1).to(device)
        self._side = len(grid)

    @property
    def frequencies(self) -> Tensor:
        return self._mean.means["frequencies"]

    def weights(self, ab: Tensor, batch: Batch) -> Tensor:
        """Count the pixels of `batch` and return the weight of each: (N, 2, H, W) to (N, 1, H, W).

        Args:
            ab: in the networks' scale, see `to_L_ab`.

        Returns:
            Weights whose mean over the colours seen is 1.
        """
        a, b = ((ab.detach() + 1) * (AB_SCALE / AB_STEP)).round().long().clamp(0, self._side - 1).unbind(1)
        bins = self._nearest[a * self._side + b]
        ones = torch.full_like(bins, 1, dtype=ab.dtype).flatten() / bins.numel()
        seen = torch.zeros_like(self.frequencies).index_add(0, bins.flatten(), ones)
        frequencies = self._mean.update({"frequencies": seen}, batch)["frequencies"]
        weights = 1 / ((1 - MIX) * frequencies + MIX / len(AB_BINS))
        return (weights / (frequencies * weights).sum())[bins][:, None]

    def buffers(self) -> Iterable[Tensor]:
        return self._mean.buffers()

    def state_dict(self) -> dict[str, Any]:
        """Return the frequencies."""
        return {"frequencies": self.frequencies.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state_dict`."""
        self.frequencies.copy_(state["frequencies"])
