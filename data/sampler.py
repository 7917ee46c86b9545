"""Which pictures make up which batch: a function of (seed, epoch) alone."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from util.seeding import numpy_rng


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Yields batches of (epoch, index); can start in the middle of an epoch.

    Args:
        size: pictures in the data set.
        shuffle: take them in a new random order every epoch.
    """

    def __init__(self, size: int, batch_size: int, shuffle: bool, seed: int):
        self.size, self.batch_size, self.shuffle, self.seed = size, batch_size, shuffle, seed
        self.epoch, self.start = 0, 0

    def set_position(self, epoch: int, start: int) -> None:
        """Make the next iteration go through `epoch` from its picture number `start` on."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if self.shuffle:
            order = numpy_rng("order", self.seed, self.epoch).permutation(self.size)
        else:
            order = np.arange(self.size)
        for first in range(self.start, self.size, self.batch_size):
            yield [(self.epoch, int(index)) for index in order[first : first + self.batch_size]]

    def __len__(self) -> int:
        return -(-(self.size - self.start) // self.batch_size)
