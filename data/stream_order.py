"""The order of samples in a stream: a function of (seed, epoch, rank, world size).

A rank reads a fixed number of lanes in turn; each lane reads its own tar files from beginning to end, and
shuffles the samples in a buffer. The order does not depend on the number of worker processes.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

LANES = 8
"""The number of tar files that a rank reads at a time, and the maximal number of its worker processes."""

BUFFER = 128
"""Samples in the shuffle buffer of a lane: one is drawn at random and replaced by the next that is read."""


def deal(
    shards: Sequence[Sequence[int]], rank: int, world_size: int, rng: np.random.Generator | None
) -> list[list[Sequence[int]]]:
    """Return, for each lane of a rank, the parts of shards that it reads one after the other.

    The shards, shuffled by `rng`, are divided among the ranks so that their numbers of samples differ by at
    most one, because ranks have to make the same number of steps. A shard at the border of two ranks is read
    by both, each with its own samples. Without `rng` there is one lane, in the order of `shards`.

    Args:
        shards: the positions of the samples of each shard.
    """
    total = sum(map(len, shards))
    begin, end = total * rank // world_size, total * (rank + 1) // world_size
    parts, seen = [], 0
    for number in range(len(shards)) if rng is None else rng.permutation(len(shards)):
        positions = shards[number]
        part = positions[max(begin - seen, 0) : max(end - seen, 0)]
        seen += len(positions)
        if part:
            parts.append(part)
    lanes = 1 if rng is None else min(LANES, len(parts))
    return [parts[lane::lanes] for lane in range(lanes)]


def mix(count: int, rng: np.random.Generator | None) -> list[int]:
    """Return the numbers 0..count-1, shuffled in a buffer of size `BUFFER`; in order without `rng`."""
    if rng is None:
        return list(range(count))
    waiting: list[int] = []
    order = []
    for number in range(count):
        waiting.append(number)
        if len(waiting) == BUFFER:
            chosen = int(rng.integers(BUFFER))
            order.append(waiting[chosen])
            waiting[chosen] = waiting[-1]
            waiting.pop()
    return order + [waiting[chosen] for chosen in rng.permutation(len(waiting))]


def advance(lengths: Sequence[int], count: int) -> list[int]:
    """Return how many samples of each lane are among the first `count`, when lanes take turns until empty."""
    turns = range(max(lengths, default=0) + 1)
    complete = bisect_right(turns, count, key=lambda turn: sum(min(length, turn) for length in lengths)) - 1
    done = [min(length, complete) for length in lengths]
    remaining = count - sum(done)
    for lane, length in enumerate(lengths):
        if remaining and length > complete:
            done[lane] += 1
            remaining -= 1
    return done
