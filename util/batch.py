"""What data sets hand to models, and what models hand back of a training step."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from util.errors import UserError


@dataclass(frozen=True)
class Batch:
    """Images of N samples, the direction already applied: models always go from A to B.

    Attributes:
        A, B: (N, C, H, W), uint8 as decoded on the CPU; floating point in [-1, 1] after `to`.
        paths_A, paths_B: N file names each.
        index: (N,) int64, positions in the data set, for randomness that belongs to a sample.
        label: (N,) int64, the numbers of their classes, from 0; None without classes.
        draws: the random decisions of this training step, by name: (N, ...) a sample each, or 0-d.
        total: images of the batch that these are the share of one process of; 0: they are all.
    """

    A: Tensor
    B: Tensor | None
    paths_A: list[str]
    paths_B: list[str]
    index: Tensor
    label: Tensor | None = None
    draws: dict[str, Tensor] = field(default_factory=dict)
    total: int = 0

    @property
    def global_size(self) -> int:
        """The number of images of the batch over all processes."""
        return self.total or len(self)

    def __len__(self) -> int:
        return len(self.index)

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return A and B.

        Raises:
            UserError: the data set has no B.
        """
        if self.B is None:
            raise UserError(
                "--dataset_mode: the model needs images of both sides, such as aligned or unaligned"
            )
        return self.A, self.B

    def tensors(self) -> dict[str, Tensor]:
        """Return what a training step reads, by name: images, labels and draws."""
        images = {"A": self.A, "B": self.B, "label": self.label}
        draws = {f"draws.{name}": draw for name, draw in self.draws.items()}
        return {name: each for name, each in images.items() if each is not None} | draws

    def copy(self) -> "Batch":
        """Return the batch with copies of `tensors`, and without the names of files."""
        return replace(
            self.map_images(Tensor.clone),
            label=None if self.label is None else self.label.clone(),
            draws={name: draw.clone() for name, draw in self.draws.items()},
            paths_A=[],
            paths_B=[],
        )

    def micro_batches(self, size: int, ranks: int) -> Iterator["Batch"]:
        """Yield the samples in as few parts of at most `size` as there can be, of nearly equal size.

        Where a batch is spread over processes, so is each part of it.
        """
        count = -(-len(self) // size)
        bounds = [len(self) * part // count for part in range(count + 1)]
        for first, end in pairwise(bounds):
            part = self.select(slice(first, end))
            yield replace(part, total=len(part) * ranks) if self.total else part

    def select(self, chosen: slice) -> "Batch":
        """Return the batch of some samples, with their share of the random decisions."""
        return Batch(
            A=self.A[chosen],
            B=None if self.B is None else self.B[chosen],
            paths_A=self.paths_A[chosen],
            paths_B=self.paths_B[chosen],
            index=self.index[chosen],
            label=None if self.label is None else self.label[chosen],
            draws=select_rows(self.draws, chosen),
        )

    def map_images(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with `change` applied to its images."""
        return replace(self, A=change(self.A), B=None if self.B is None else change(self.B))

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> "Batch":
        """Return the batch on `device`, its images as `dtype` in [-1, 1]."""
        batch = self.map_images(lambda image: normalise(image.to(device, non_blocking=True), dtype))
        label = None if self.label is None else self.label.to(device, non_blocking=True)
        return replace(batch, label=label)

    def pin_memory(self) -> "Batch":
        """Return the batch in memory that a GPU can fetch while it computes."""
        label = None if self.label is None else self.label.pin_memory()
        return replace(self.map_images(Tensor.pin_memory), label=label)


def select_rows(draws: Mapping[str, Tensor], chosen: slice) -> dict[str, Tensor]:
    """Return the random decisions for some samples, see `Batch.draws`."""
    return {name: draw[chosen] if draw.dim() else draw for name, draw in draws.items()}


class Step(NamedTuple):
    """What one training step hands back.

    Attributes:
        losses: 0-d, still on the device.
        visuals: (N, 3 or 1, H, W) in [-1, 1] under the names that galleries show: real_A, fake_B, ...
    """

    losses: dict[str, Tensor]
    visuals: dict[str, Tensor]


def normalise(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Map uint8 values 0..255 to [-1, 1] as `dtype`; floating point values keep theirs."""
    if image.is_floating_point():
        return image.to(dtype)
    return image.to(dtype).div_(255).sub_(0.5).div_(0.5)
