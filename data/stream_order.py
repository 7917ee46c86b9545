"""In which order a stream hands out its samples: a function of (seed, epoch, rank, world size) alone.

A rank's samples come from a fixed number of lanes, which take turns; each lane goes through tar files of its
own, from beginning to end, and shuffles what comes within a buffer. How many processes read the lanes changes
nothing.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

LANES = 8
"""How many tar files a rank reads at a time, and so the most processes that can share the work."""

BUFFER = 128
"""Samples that wait in each lane; one of them is drawn at random, and the next that comes takes its place."""


def deal(
    shards: Sequence[Sequence[int]], rank: int, world_size: int, rng: np.random.Generator | None
) -> list[list[Sequence[int]]]:
    """Return for each of a rank's lanes the parts of shards that it reads, one after the other.

    The shards, shuffled by `rng`, are cut into one part a rank, whose numbers of samples differ by one at
    most: ranks have to make the same number of steps. So two ranks may share the shard at their border, each
    with samples of its own. Without `rng` there is one lane, in the order of `shards`.

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
    """Return the numbers 0..count-1 as a buffer hands them out that they come into one after the other."""
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
    longest = max(lengths, default=0)
    rounds = range(longest + 1)
    complete = (
        bisect_right(rounds, count, key=lambda turns: sum(min(length, turns) for length in lengths)) - 1
    )
    done = [min(length, complete) for length in lengths]
    left = count - sum(done)
    for lane, length in enumerate(lengths):
        if left and length > complete:
            done[lane] += 1
            left -= 1
    return done
