"""Samples out of tar files that are read from their beginning on: from a web server, a command, a bucket."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, count, islice
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data.base_dataset import BaseDataset, Rejected, Sample
from data.stream_order import advance, deal, mix
from data.url import Content, read_shard
from util.errors import UserError
from util.image_io import BadImage
from util.seeding import numpy_rng
from util.shards import Member

STREAM_ENDED = -1
"""The index of what is wrong with a stream as a whole."""

Result = Sample | Rejected
Files = Sequence[tuple[str, ...]]
"""The files of every sample of one side."""


class Side:
    """The samples of one side of a data set, as a stream brings them."""

    def __init__(self, files: Files):
        self.files = files
        shards: dict[str, list[int]] = {}
        for position, (first, *_) in enumerate(files):
            assert isinstance(first, Member)
            shards.setdefault(first.shard, []).append(position)
        self.shards = [sorted(positions, key=self._offset) for positions in shards.values()]

    def __len__(self) -> int:
        return len(self.files)

    def read(
        self, parts: Sequence[Sequence[int]], rng: np.random.Generator | None, skip: int
    ) -> Iterator[tuple[int, Content]]:
        """Yield positions with their files, mixed by `rng`, from number `skip` on.

        A shard whose samples are all among those skipped is not opened; others are read, and not decoded.
        """
        order = mix(sum(map(len, parts)), rng)
        skipped = set(order[:skip])
        coming = self._arrivals(parts, skipped)
        waiting: dict[int, tuple[int, Content]] = {}
        for number in order[skip:]:
            while number not in waiting:
                arrived, position, content = next(coming)
                waiting[arrived] = position, content
            yield waiting.pop(number)

    def _arrivals(
        self, parts: Sequence[Sequence[int]], skipped: set[int]
    ) -> Iterator[tuple[int, int, Content]]:
        begin = 0
        for positions in parts:
            numbers = range(begin, begin + len(positions))
            begin += len(positions)
            if skipped.issuperset(numbers):
                continue
            samples = [self.files[position] for position in positions]
            assert isinstance(samples[0][0], Member)
            contents = read_shard(samples[0][0].shard, samples)
            for number, position, content in zip(numbers, positions, contents, strict=True):
                if number not in skipped:
                    yield number, position, content

    def _offset(self, position: int) -> int:
        first = self.files[position][0]
        assert isinstance(first, Member)
        return first.offset


class Stream:
    """The samples of a data set whose files come by URL, in batches.

    An epoch has every sample of the larger side exactly once, over all ranks. Where A and B do not belong
    together, the other side goes on beside it: each lane goes through all its shards, in an order of its own.

    Args:
        dataset: if it is to replace bad images, the next good sample of a lane takes such a one's place.
        batch_size: samples of all ranks in a batch.
        share: the rank and the world size.
        limit: use only that many samples, the first ones.
        collate_fn: makes a batch of this rank's samples.
        start_worker: is called in every process that reads.
    """

    def __init__(
        self,
        dataset: BaseDataset,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        num_threads: int,
        share: tuple[int, int],
        limit: int | None,
        collate_fn: Callable[[list[Result]], Any],
        start_worker: Callable[[int], None],
    ):
        self.dataset, self.shuffle, self.seed, self.num_threads = dataset, shuffle, seed, num_threads
        self.rank, self.world_size = share
        self.batch_size = batch_size // self.world_size
        self.collate_fn, self.start_worker = collate_fn, start_worker
        # The data set would take the next file in the order of names, which is not at hand here.
        self.replace_bad, dataset.replace_bad = dataset.replace_bad, False
        sides = dataset.sources()
        self.larger = max(range(len(sides)), key=lambda number: len(sides[number]))
        self.main = Side(sides[self.larger][:limit])
        self.other = Side(sides[1 - self.larger]) if len(sides) == 2 else None
        self.size = len(self.main)
        self.epoch, self.start = 0, 0
        if self.size < self.world_size:
            raise UserError(f"--dataroot: {self.size} samples are too few for {self.world_size} processes")

    def set_position(self, epoch: int, start: int) -> None:
        """Make the next iteration go through `epoch` from number `start` of all ranks' samples on."""
        self.epoch, self.start = epoch, start

    def shared_out(self, position: int) -> int:
        """Return how many samples the batch at `position` has if ranks share them, else 0."""
        batch_size = self.batch_size * self.world_size
        steps = -(-(self.size // self.world_size) // self.batch_size)
        count = batch_size if position // batch_size + 1 < steps else self.size - position
        return count if self.world_size > 1 else 0

    def first(self, count: int) -> list[Result]:
        """Return the first samples of the data set as an epoch 0 would have them."""
        self.set_position(0, 0)
        return list(islice(Lane(self, self.main.shards, 0, shuffle=False).samples(0), count))

    def lanes(self) -> list["Lane"]:
        """Return this rank's lanes in this epoch."""
        rng = numpy_rng("shards", self.seed, self.epoch) if self.shuffle else None
        dealt = deal(self.main.shards, self.rank, self.world_size, rng)
        return [Lane(self, parts, number, self.shuffle) for number, parts in enumerate(dealt)]

    def __iter__(self) -> Iterator[Any]:
        done = self.start // self.world_size
        turns = Turns(self.lanes(), done)
        sizes = self._batch_sizes(done, sum(turns.lengths))
        workers = min(self.num_threads, len(turns.lanes))
        loader = DataLoader(
            turns, batch_size=None, collate_fn=list, num_workers=workers, worker_init_fn=self.start_worker
        )
        found = iter(loader)
        waiting: list[Result] = []
        for _ in turns.left():
            turn = sorted(chain(*(next(found) for _ in range(max(workers, 1)))), key=lambda pair: pair[0])
            for _, sample in turn:
                if isinstance(sample, Rejected) and sample.index == STREAM_ENDED:
                    raise sample.error
                waiting.append(sample)
            while sizes and len(waiting) >= sizes[0]:
                size = sizes.popleft()
                yield self.collate_fn(waiting[:size])
                del waiting[:size]

    def _batch_sizes(self, done: int, count: int) -> deque[int]:
        """Return the sizes of the batches that are left, as many as every rank has.

        Args:
            done: samples of this rank that are left out, of `count`.
        """
        steps = -(-(self.size // self.world_size - done) // self.batch_size)
        if steps < 1:
            return deque()
        # Where this rank alone would need a further batch for its last sample, that joins the last batch.
        return deque([self.batch_size] * (steps - 1) + [count - done - self.batch_size * (steps - 1)])


class Lane:
    """Reads parts of shards one after the other.

    Args:
        parts: the positions of the samples in each.
        number: tells the lanes of a rank apart.
    """

    def __init__(self, stream: Stream, parts: Sequence[Sequence[int]], number: int, shuffle: bool):
        self.stream, self.parts, self.shuffle = stream, parts, shuffle
        self.purpose = stream.seed, stream.epoch, stream.rank, number

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def samples(self, skip: int) -> Iterator[Result]:
        """Yield the samples from number `skip` on; an error that ends the stream comes as the last one."""
        try:
            yield from self._good(skip) if self.stream.replace_bad else self._read(skip)
        except UserError as error:
            yield Rejected(STREAM_ENDED, error)

    def _good(self, skip: int) -> Iterator[Result]:
        """Yield good samples: the next one takes the place of a bad one, at the end of the lane the last."""
        bad: list[Rejected] = []
        last: Sample | None = None
        for result in self._read(skip):
            if isinstance(result, Rejected) and isinstance(result.error, BadImage):
                bad.append(result)
                continue
            if isinstance(result, Sample):
                yield from _in_place_of(bad, result)
                bad, last = [], result
            yield result
        if bad and last is None and skip:
            for result in self._read(0):
                last = result if isinstance(result, Sample) else last
        if bad and last is None:
            raise UserError(f"None of the {len(self)} images of a lane can be used. {bad[0].error}")
        if last is not None:
            yield from _in_place_of(bad, last)

    def _read(self, skip: int) -> Iterator[Result]:
        stream = self.stream
        rng = numpy_rng("stream", *self.purpose) if self.shuffle else None
        if stream.other is None:
            for position, content in stream.main.read(self.parts, rng, skip):
                yield self._sample(position, [(stream.main.files[position], content)])
            return
        pairs = zip(stream.main.read(self.parts, rng, skip), self._partners(stream.other, skip), strict=False)
        for (position, content), (partner, beside) in pairs:
            files = [(stream.main.files[position], content), (stream.other.files[partner], beside)]
            stream.dataset.together = (partner, position) if stream.larger else (position, partner)
            yield self._sample(position, files)

    def _partners(self, other: Side, skip: int) -> Iterator[tuple[int, Content]]:
        """Yield the other side's images, from number `skip` on, without end."""
        if not self.shuffle:
            skip += self.parts[0][0]
        for turn in count(skip // len(other)):
            rng = numpy_rng("partners", *self.purpose, turn) if self.shuffle else None
            (parts,) = deal(other.shards, 0, 1, None)
            if rng is not None:
                parts = [parts[number] for number in rng.permutation(len(parts))]
            yield from other.read(parts, rng, skip % len(other))
            skip = 0

    def _sample(self, position: int, files: list[tuple[tuple[str, ...], Content]]) -> Result:
        members: list[Any] = [file for names, _ in files for file in names]
        for member, content in zip(members, chain(*(content for _, content in files)), strict=True):
            member.content = content
        result = self.stream.dataset[self.stream.epoch, position]
        for member in members:
            member.content = None
        return result


def _in_place_of(bad: list[Rejected], good: Sample) -> Iterator[Sample]:
    for each in bad:
        assert isinstance(each.error, BadImage)
        yield replace(good, index=each.index, passed_over=(each.error,))


class Turns(IterableDataset[list[tuple[int, Result]]]):
    """The lanes' samples, one turn of all lanes an item; worker processes have lanes of their own.

    Args:
        start: how many samples are left out at the beginning.
    """

    def __init__(self, lanes: list[Lane], start: int):
        self.lanes = lanes
        self.lengths = [len(lane) for lane in lanes]
        self.done = advance(self.lengths, start)

    def left(self) -> range:
        """Return the turns that are left."""
        unfinished = [done for done, length in zip(self.done, self.lengths, strict=True) if done < length]
        return range(min(unfinished, default=0), max(self.lengths, default=0) if unfinished else 0)

    def __iter__(self) -> Iterator[list[tuple[int, Result]]]:
        info = get_worker_info()
        mine = range(info.id, len(self.lanes), info.num_workers) if info else range(len(self.lanes))
        readers = {lane: self.lanes[lane].samples(self.done[lane]) for lane in mine}
        for turn in self.left():
            yield [
                (lane, next(reader))
                for lane, reader in readers.items()
                if self.done[lane] <= turn < self.lengths[lane]
            ]
