"""The one value that data sets hand to models."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from util.errors import UserError


@dataclass(frozen=True)
class Batch:
    """Pictures of N samples, the direction already applied: models always go from A to B.

    Attributes:
        A, B: (N, C, H, W), uint8 as decoded on the CPU; floating point in [-1, 1] after `to`.
        paths_A, paths_B: N file names each.
        index: (N,) int64, positions in the data set, for randomness that belongs to a sample.
        label: (N,) int64, the numbers of their classes, from 0; None without classes.
        draws: the random decisions of this training step, by name: (N, ...) a sample each, or 0-d.
    """

    A: Tensor
    B: Tensor | None
    paths_A: list[str]
    paths_B: list[str]
    index: Tensor
    label: Tensor | None = None
    draws: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return A and B.

        Raises:
            UserError: the data set has no B.
        """
        if self.B is None:
            raise UserError(
                "--dataset_mode: the model needs pictures of both sides, such as aligned or unaligned"
            )
        return self.A, self.B

    def parts(self, size: int) -> Iterator["Batch"]:
        """Yield the samples in as few parts of at most `size` as there can be, of nearly equal size."""
        count = -(-len(self) // size)
        bounds = [len(self) * part // count for part in range(count + 1)]
        for first, end in pairwise(bounds):
            yield self.samples(slice(first, end))

    def samples(self, chosen: slice) -> "Batch":
        """Return the batch of some samples, with their share of the random decisions."""
        return Batch(
            A=self.A[chosen],
            B=None if self.B is None else self.B[chosen],
            paths_A=self.paths_A[chosen],
            paths_B=self.paths_B[chosen],
            index=self.index[chosen],
            label=None if self.label is None else self.label[chosen],
            draws={name: draw[chosen] if draw.dim() else draw for name, draw in self.draws.items()},
        )

    def map_pictures(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with `change` applied to its pictures."""
        return replace(self, A=change(self.A), B=None if self.B is None else change(self.B))

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> "Batch":
        """Return the batch on `device`, its pictures as `dtype` in [-1, 1]."""
        batch = self.map_pictures(lambda picture: normalise(picture.to(device, non_blocking=True), dtype))
        label = None if self.label is None else self.label.to(device, non_blocking=True)
        return replace(batch, label=label)

    def pin_memory(self) -> "Batch":
        """Return the batch in memory that a GPU can fetch while it computes."""
        label = None if self.label is None else self.label.pin_memory()
        return replace(self.map_pictures(Tensor.pin_memory), label=label)


def normalise(picture: Tensor, dtype: torch.dtype) -> Tensor:
    """Map uint8 values 0..255 to [-1, 1] as `dtype`; floating point values keep theirs."""
    if picture.is_floating_point():
        return picture.to(dtype)
    return picture.to(dtype).div_(255).sub_(0.5).div_(0.5)
