"""The batch a data set yields and the result of a training step."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from util.errors import UserError
from util.formats import Box
from util.parts import EIGHT_BIT_SIDES, Side, Sides


class Scene(Protocol):
    """A sample that is read in parts, because its images are too large for memory.

    Attributes:
        height, width: its size in pixels.
    """

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...

    def read(self, left: int, top: int, right: int, bottom: int) -> tuple[Tensor, Tensor | None]:
        """Return the part of A, and of B if there is one, with these edges: (C, h, w), see `Batch.A`."""


@dataclass(frozen=True)
class Batch:
    """N samples with ``--direction`` applied: models always translate A to B.

    Attributes:
        A, B: (N, C, H, W), on the CPU of type `Side.dtype`, in the units of the files; after `to` as
            `Side.encode` returns them: floating point, images in [-1, 1].
        paths_A, paths_B: N file names each.
        index: (N,) int64, positions in the data set, which seed per-sample randomness.
        label: (N,) int64 class numbers from 0; None without classes.
        draws: random decisions of the training step by name, (N, ...) per sample or 0-d.
        total: size of the batch over all ranks if these are one rank's rows of it; 0 if this is all of it.
        share: fraction of the batch over all ranks that these samples are, in a training step.
        mask: (N, 1, H, W), weights of pixels in losses and metrics: uint8 on the CPU, in [0, 1] after `to`;
            None without ``--mask``.
        sides: what the channels of A and B hold.
        boxes: the place of each sample in its file; empty for data sets of 8-bit images.
        scene: the only sample of the batch if it is too large for memory; A and B are then without pixels.
    """

    A: Tensor
    B: Tensor | None
    paths_A: list[str]
    paths_B: list[str]
    index: Tensor
    label: Tensor | None = None
    draws: dict[str, Tensor] = field(default_factory=dict)
    total: int = 0
    share: float = 1.0
    mask: Tensor | None = None
    sides: Sides = EIGHT_BIT_SIDES
    boxes: list[Box] = field(default_factory=list)
    scene: Scene | None = None

    @property
    def global_size(self) -> int:
        """The number of samples over all ranks."""
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
                "--dataset_mode: the model needs images of both sides; use a data set such as aligned or"
                " unaligned. To translate one folder of images use test.py --model test, after cycle_gan"
                " with --model_suffix _A (from A to B) or _B"
            )
        return self.A, self.B

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a training step reads, by name: images, labels and draws."""
        images = {"A": self.A, "B": self.B, "label": self.label, "mask": self.mask}
        draws = {f"draws.{name}": draw for name, draw in self.draws.items()}
        return {name: tensor for name, tensor in images.items() if tensor is not None} | draws

    def copy(self) -> "Batch":
        """Return the batch with cloned tensors and without paths."""
        return replace(
            self.map_images(Tensor.clone),
            label=None if self.label is None else self.label.clone(),
            draws={name: draw.clone() for name, draw in self.draws.items()},
            paths_A=[],
            paths_B=[],
            boxes=[],
        )

    def micro_batches(self, size: int, ranks: int) -> Iterator["Batch"]:
        """Yield the fewest micro-batches of at most `size` samples, of nearly equal size.

        Args:
            ranks: number of ranks, each of which has as many samples of every micro-batch.
        """
        count = -(-len(self) // size)
        bounds = [len(self) * number // count for number in range(count + 1)]
        for start, stop in pairwise(bounds):
            part = self.select(slice(start, stop))
            yield replace(part, total=len(part) * ranks) if self.total else part

    def select(self, rows: slice) -> "Batch":
        """Return the batch of these samples, with their draws."""
        return Batch(
            A=self.A[rows],
            B=None if self.B is None else self.B[rows],
            paths_A=self.paths_A[rows],
            paths_B=self.paths_B[rows],
            index=self.index[rows],
            label=None if self.label is None else self.label[rows],
            mask=None if self.mask is None else self.mask[rows],
            sides=self.sides,
            boxes=self.boxes[rows],
            draws=select_rows(self.draws, rows),
        )

    def map_images(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with `change` applied to its images and masks."""
        B, mask = (None if image is None else change(image) for image in (self.B, self.mask))
        return replace(self, A=change(self.A), B=B, mask=mask)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> "Batch":
        """Return the batch on `device`, with images as `dtype`, as `Side.encode` returns them."""
        A, B, mask, label = (
            None if tensor is None else tensor.to(device, non_blocking=True)
            for tensor in (self.A, self.B, self.mask, self.label)
        )
        assert A is not None
        return replace(
            self,
            A=_encoded(A, self.sides.A, dtype),
            B=None if B is None else _encoded(B, self.sides.B, dtype),
            mask=None if mask is None else mask.to(dtype).div_(255),
            label=label,
        )

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, from which copies to a GPU are asynchronous."""
        label = None if self.label is None else self.label.pin_memory()
        return replace(self.map_images(Tensor.pin_memory), label=label)


def select_rows(draws: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    """Return the draws of these samples, see `Batch.draws`; 0-d draws are the same for all."""
    return {name: draw[rows] if draw.dim() else draw for name, draw in draws.items()}


class Step(NamedTuple):
    """The result of one training step.

    Attributes:
        losses: 0-d tensors on the device, by name.
        visuals: (N, C, H, W) as networks see them, by the names that galleries show: real_A, fake_B, ...
    """

    losses: dict[str, Tensor]
    visuals: dict[str, Tensor]


def normalise(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Map uint8 values 0..255 to [-1, 1] as `dtype`; cast floating point values."""
    if image.is_floating_point():
        return image.to(dtype)
    return image.to(dtype).div_(255).sub_(0.5).div_(0.5)


def _encoded(image: Tensor, side: Side, dtype: torch.dtype) -> Tensor:
    return normalise(image, dtype) if side.is_8bit else side.encode(image, dtype)
