"""The order of samples: a function of (seed, epoch)."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from util.distributed import rank_slice
from util.seeding import numpy_rng


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Yields batches of (epoch, index); can start in the middle of an epoch.

    Each rank gets its rows of every full batch. A smaller batch at the end of an epoch goes to every rank as
    a whole, because it cannot be split like the others.

    Args:
        size: number of samples.
        shuffle: use a new random order in every epoch.
        whole_batches: give ranks whole batches in turn instead.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        whole_batches: bool = False,
    ):
        self.size, self.batch_size, self.shuffle, self.seed = size, batch_size, shuffle, seed
        self.rank, self.world_size, self.whole_batches = rank, world_size, whole_batches
        self.epoch, self.start = 0, 0

    def set_position(self, epoch: int, start: int) -> None:
        """Set the epoch, and the number of the sample in it, at which the next iteration starts."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if self.shuffle:
            order = numpy_rng("order", self.seed, self.epoch).permutation(self.size)
        else:
            order = np.arange(self.size)
        rows = rank_slice(self.batch_size, self.world_size, self.rank)
        offset, step = (self.rank, self.world_size) if self.whole_batches else (0, 1)
        for first in range(self.start + offset * self.batch_size, self.size, step * self.batch_size):
            batch = order[first : first + self.batch_size]
            if len(batch) == self.batch_size and not self.whole_batches:
                batch = batch[rows]
            yield [(self.epoch, int(index)) for index in batch]

    def global_size(self, position: int) -> int:
        """Return the size over all ranks of the batch at `position` if they split it, else 0."""
        full = position + self.batch_size <= self.size
        return self.batch_size if full and self.world_size > 1 and not self.whole_batches else 0

    def __len__(self) -> int:
        batches = -(-(self.size - self.start) // self.batch_size)
        return len(range(self.rank, batches, self.world_size)) if self.whole_batches else batches
