"""Which images make up which batch: a function of (seed, epoch) alone."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from util.distributed import rank_slice
from util.seeding import numpy_rng


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Yields batches of (epoch, index); can start in the middle of an epoch.

    Several processes get their share of each full batch. A smaller one, at the end, every process gets whole:
    its images cannot be shared out as the others' are.

    Args:
        size: images in the data set.
        shuffle: take them in a new random order every epoch.
        process: the number of this process, and how many there are.
        by_turns: the processes get whole batches in turn instead.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        shuffle: bool,
        seed: int,
        process: tuple[int, int] = (0, 1),
        by_turns: bool = False,
    ):
        self.size, self.batch_size, self.shuffle, self.seed = size, batch_size, shuffle, seed
        self.process, self.by_turns = process, by_turns
        self.epoch, self.start = 0, 0

    def set_position(self, epoch: int, start: int) -> None:
        """Make the next iteration go through `epoch` from its image number `start` on."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if self.shuffle:
            order = numpy_rng("order", self.seed, self.epoch).permutation(self.size)
        else:
            order = np.arange(self.size)
        number, count = self.process
        mine = rank_slice(self.batch_size, count, number)
        turns, step = (number, count) if self.by_turns else (0, 1)
        for first in range(self.start + turns * self.batch_size, self.size, step * self.batch_size):
            batch = order[first : first + self.batch_size]
            if len(batch) == self.batch_size and not self.by_turns:
                batch = batch[mine]
            yield [(self.epoch, int(index)) for index in batch]

    def shared_out(self, position: int) -> int:
        """Return how many images the batch at `position` has if processes share them, else 0."""
        whole = position + self.batch_size <= self.size
        return self.batch_size if whole and self.process[1] > 1 and not self.by_turns else 0

    def __len__(self) -> int:
        batches = -(-(self.size - self.start) // self.batch_size)
        number, count = self.process
        return len(range(number, batches, count)) if self.by_turns else batches
