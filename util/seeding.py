"""Randomness as a function of its purpose and of numbers such as (seed, epoch, index), never of history."""

from random import Random
from zlib import crc32

import numpy as np
import torch


def seed_for(purpose: str, *numbers: int) -> int:
    """Return a seed in [0, 2**64) that depends on `purpose` and on non-negative `numbers` alone."""
    sequence = np.random.SeedSequence([crc32(purpose.encode()), *numbers])
    return int(sequence.generate_state(1, np.uint64)[0])


def numpy_rng(purpose: str, *numbers: int) -> np.random.Generator:
    """Return a numpy generator seeded by `seed_for`."""
    return np.random.default_rng(seed_for(purpose, *numbers))


def python_rng(purpose: str, *numbers: int) -> Random:
    """Return a generator that depends on `purpose` and `numbers` alone.

    Made in an eighth of the time of numpy's, it suits a few numbers for each of many samples.
    """
    return Random(f"{purpose} {numbers}")


def torch_rng(purpose: str, *numbers: int) -> torch.Generator:
    """Return a CPU torch generator seeded by `seed_for`."""
    return torch.Generator().manual_seed(seed_for(purpose, *numbers))
