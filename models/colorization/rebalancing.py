"""Weights that make rare colours count as much as common ones (Zhang et al. 2016, section 2.2)."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from util import distributed
from util.batch import Batch
from util.color import AB_BINS, AB_SCALE, AB_STEP

MIX = 0.5

DECAY = 0.99
"""Weight that an image leaves to the frequencies before it: they are those of about the last 100 images."""


class ColorFrequencies:
    """The frequencies of the 313 quantised colours in the training images, and weights from them.

    Images count one after the other, so that neither ``--batch_size`` nor ``--accumulate`` nor the number of
    ranks matters for how fast earlier ones are forgotten.

    Attributes:
        frequencies: (313,), a running mean that sums to 1; initially uniform.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.frequencies = torch.full((len(AB_BINS),), 1 / len(AB_BINS), device=device, dtype=dtype)
        grid = torch.arange(-AB_SCALE, AB_SCALE + 1, AB_STEP, dtype=torch.float64)
        points = torch.cartesian_prod(grid, grid)
        bins = torch.tensor(AB_BINS, dtype=torch.float64)
        self._nearest = torch.cdist(points, bins).argmin(1).to(device)
        self._side = len(grid)

    def weights(self, ab: Tensor, batch: Batch) -> Tensor:
        """Count the pixels of `batch` and return the weight of each: (N, 2, H, W) to (N, 1, H, W).

        Args:
            ab: in the networks' scale, see `to_L_ab`.

        Returns:
            For each image weights by the frequencies up to it, whose mean over the colours seen is 1.
        """
        a, b = ((ab.detach() + 1) * (AB_SCALE / AB_STEP)).round().long().clamp(0, self._side - 1).unbind(1)
        bins = self._nearest[a * self._side + b]
        frequencies = self._count(bins.flatten(1), batch)
        weights = 1 / ((1 - MIX) * frequencies + MIX / len(AB_BINS))
        weights = weights / (frequencies * weights).sum(1, keepdim=True)
        return weights.gather(1, bins.flatten(1)).view_as(bins)[:, None]

    def _count(self, bins: Tensor, batch: Batch) -> Tensor:
        """Count each image's pixels and return the frequencies after each image, (N, 313).

        Args:
            bins: (N, pixels), this rank's images.
        """
        size = len(AB_BINS)
        cells = bins + size * torch.arange(len(bins), device=bins.device)[:, None]
        ones = torch.full_like(cells, 1, dtype=self.frequencies.dtype).flatten() / bins.shape[1]
        seen = self.frequencies.new_zeros(len(bins) * size).index_add(0, cells.flatten(), ones)
        seen = distributed.all_gather_rows(seen.view(-1, size), batch.global_size)
        after = [self.frequencies]
        for image in seen:
            after.append(after[-1].mul(DECAY).add((1 - DECAY) * image))
        self.frequencies.copy_(after[-1])
        images = slice(0, len(seen))
        if distributed.is_data_parallel():
            images = distributed.rank_slice(len(seen), distributed.world_size(), distributed.rank())
        return torch.stack(after[1:])[images]

    def buffers(self) -> Iterable[Tensor]:
        return [self.frequencies]

    def state_dict(self) -> dict[str, Any]:
        """Return the frequencies."""
        return {"frequencies": self.frequencies.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state_dict`."""
        self.frequencies.copy_(state["frequencies"])
