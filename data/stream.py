"""Samples from tar files that are read from beginning to end: from a web server, a command or a bucket."""

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
from data.workers import Workers, in_worker, pack
from util import formats
from util.errors import UserError
from util.image_io import BadImage
from util.seeding import numpy_rng
from util.shards import Member, streamed

STREAM_ENDED = -1
"""The index of an error of the stream, not of a sample."""

Result = Sample | Rejected
Files = Sequence[tuple[str, ...]]
"""The files of every sample of one side."""


class Side:
    """One side of a data set: its samples, in the shards that hold their files."""

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
        """Yield positions and the content of their files, shuffled by `rng`, from number `skip` on.

        A shard is not opened if all its samples are skipped.

        Args:
            parts: positions in each shard.
        """
        order = mix(sum(map(len, parts)), rng)
        arrivals = self._arrivals(parts, set(order[:skip]))
        waiting: dict[int, tuple[int, Content]] = {}
        for number in order[skip:]:
            while number not in waiting:
                arrived, position, content = next(arrivals)
                waiting[arrived] = position, content
            yield waiting.pop(number)

    def _arrivals(
        self, parts: Sequence[Sequence[int]], skipped: set[int]
    ) -> Iterator[tuple[int, int, Content]]:
        """Yield the numbers, positions and contents of samples in the order of the shards."""
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
    """Reads a data set from URLs, in batches.

    An epoch has every sample of the larger side exactly once, over all ranks. If A and B are unpaired, each
    lane reads all shards of the smaller side beside them, again and again, in its own order.

    Args:
        batch_size: samples in a batch over all ranks.
        limit: use only the first `limit` samples.
        replace_bad: use the next good sample of a lane in place of one that cannot be read.
        collate_fn: makes a batch from this rank's samples.
    """

    def __init__(
        self,
        dataset: BaseDataset,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        num_threads: int,
        rank: int,
        world_size: int,
        limit: int | None,
        replace_bad: bool,
        collate_fn: Callable[[list[Result]], Any],
    ):
        self.dataset, self.shuffle, self.seed, self.num_threads = dataset, shuffle, seed, num_threads
        self.rank, self.world_size = rank, world_size
        self.batch_size = batch_size // world_size
        self.replace_bad = replace_bad
        self.collate_fn = collate_fn
        sides = dataset.sources()
        self.larger = max(range(len(sides)), key=lambda number: len(sides[number]))
        self.side = Side(sides[self.larger][:limit])
        self.partners = Side(sides[1 - self.larger]) if len(sides) == 2 else None
        self.size = len(self.side)
        self.epoch, self.start = 0, 0
        if self.size < world_size:
            raise UserError(f"--dataroot: {self.size} samples are too few for {world_size} ranks")

    def set_position(self, epoch: int, start: int) -> None:
        """Set the epoch, and the number of the sample in it, at which the next iteration starts."""
        self.epoch, self.start = epoch, start

    def global_size(self, position: int) -> int:
        """Return the size over all ranks of the batch at `position` if ranks split it, else 0."""
        batch_size = self.batch_size * self.world_size
        steps = -(-(self.size // self.world_size) // self.batch_size)
        size = batch_size if position // batch_size + 1 < steps else self.size - position
        return size if self.world_size > 1 else 0

    def first(self, count: int) -> list[Result]:
        """Return the first samples of the data set, as they are in epoch 0."""
        self.set_position(0, 0)
        return list(islice(Lane(self, self.side.shards, 0, shuffle=False).samples(0), count))

    def lanes(self) -> list["Lane"]:
        """Return this rank's lanes in this epoch."""
        rng = numpy_rng("shards", self.seed, self.epoch) if self.shuffle else None
        dealt = deal(self.side.shards, self.rank, self.world_size, rng)
        return [Lane(self, parts, number, self.shuffle) for number, parts in enumerate(dealt)]

    def __iter__(self) -> Iterator[Any]:
        done = self.start // self.world_size
        turns = Turns(self.lanes(), done)
        sizes = self._batch_sizes(done, sum(turns.lengths))
        workers = min(self.num_threads, len(turns.lanes))
        loader = DataLoader(
            turns, batch_size=None, collate_fn=pack, num_workers=workers, worker_init_fn=in_worker
        )
        parts = iter(Workers(loader))
        waiting: list[Result] = []
        for _ in turns.remaining():
            turn = sorted(chain(*(next(parts) for _ in range(max(workers, 1)))), key=lambda pair: pair[0])
            for _, sample in turn:
                if isinstance(sample, Rejected) and sample.index == STREAM_ENDED:
                    raise sample.error
                waiting.append(sample)
            while sizes and len(waiting) >= sizes[0]:
                size = sizes.popleft()
                yield self.collate_fn(waiting[:size])
                del waiting[:size]

    def _batch_sizes(self, done: int, total: int) -> deque[int]:
        """Return the sizes of this rank's remaining batches; all ranks have the same number.

        Args:
            done, total: this rank's samples that are done, and all of them.
        """
        steps = -(-(self.size // self.world_size - done) // self.batch_size)
        if steps < 1:
            return deque()
        # The last sample of a rank that has one more than others joins its last batch.
        return deque([self.batch_size] * (steps - 1) + [total - done - self.batch_size * (steps - 1)])


class Lane:
    """Reads parts of shards one after the other.

    Args:
        parts: the positions of the samples in each shard.
        number: of the lane in its rank.
    """

    def __init__(self, stream: Stream, parts: Sequence[Sequence[int]], number: int, shuffle: bool):
        self.stream, self.parts, self.shuffle = stream, parts, shuffle
        self.seeds = stream.seed, stream.epoch, stream.rank, number

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def samples(self, skip: int) -> Iterator[Result]:
        """Yield the samples from number `skip` on; an error of the stream comes last, as a `Rejected`."""
        try:
            yield from self._good(skip) if self.stream.replace_bad else self._read(skip)
        except UserError as error:
            yield Rejected(STREAM_ENDED, error)

    def _good(self, skip: int) -> Iterator[Result]:
        """Yield good samples: the next one replaces a bad one, and the last one those at the end."""
        bad: list[Rejected] = []
        last: Sample | None = None
        for result in self._read(skip):
            if isinstance(result, Rejected) and isinstance(result.error, BadImage):
                bad.append(result)
                continue
            if isinstance(result, Sample):
                yield from _replacements(bad, result)
                bad, last = [], result
            yield result
        if bad and last is None and skip:
            for result in self._read(0):
                last = result if isinstance(result, Sample) else last
        if bad and last is None:
            raise UserError(f"None of the {len(self)} images of a lane can be used. {bad[0].error}")
        if last is not None:
            yield from _replacements(bad, last)

    def _read(self, skip: int) -> Iterator[Result]:
        stream = self.stream
        side, partners = stream.side, stream.partners
        rng = numpy_rng("stream", *self.seeds) if self.shuffle else None
        samples = side.read(self.parts, rng, skip)
        if partners is None:
            for position, content in samples:
                yield self._sample(position, side.files[position], content)
            return
        for (position, content), (partner, its_content) in zip(
            samples, self._partners(partners, skip), strict=False
        ):
            files, contents = side.files[position] + partners.files[partner], content + its_content
            positions = (partner, position) if stream.larger else (position, partner)
            yield self._sample(position, files, contents, positions)

    def _partners(self, side: Side, skip: int) -> Iterator[tuple[int, Content]]:
        """Yield the images of the smaller side, from number `skip` on, again and again."""
        if not self.shuffle:
            skip += self.parts[0][0]
        for turn in count(skip // len(side)):
            rng = numpy_rng("partners", *self.seeds, turn) if self.shuffle else None
            (parts,) = deal(side.shards, 0, 1, None)
            if rng is not None:
                parts = [parts[number] for number in rng.permutation(len(parts))]
            yield from side.read(parts, rng, skip % len(side))
            skip = 0

    def _sample(
        self,
        index: int,
        files: tuple[str, ...],
        content: Content,
        positions: tuple[int, int] | None = None,
    ) -> Result:
        dataset = self.stream.dataset
        with streamed(files, content):
            if not dataset.sides.is_8bit and (error := _several_images(files)):
                return Rejected(index, error)
            return dataset.sample(self.stream.epoch, index, positions)


def _several_images(files: Sequence[str]) -> UserError | None:
    """Return the error for a file with several images, which were not known when samples were counted."""
    for file in files:
        if (count := len(formats.entries([file]))) > 1:
            return UserError(
                f"{file}: holds {count} images; a stream has one image per file: save them as files of"
                " their own, or copy the shards to a disk"
            )
    return None


def _replacements(bad: list[Rejected], good: Sample) -> Iterator[Sample]:
    for rejected in bad:
        assert isinstance(rejected.error, BadImage)
        yield replace(good, index=rejected.index, replaced=(rejected.error,))


class Turns(IterableDataset[list[tuple[int, Result]]]):
    """The samples of lanes in turn, one of each lane per item; worker processes divide the lanes.

    Args:
        start: number of samples to skip.
    """

    def __init__(self, lanes: list[Lane], start: int):
        self.lanes = lanes
        self.lengths = [len(lane) for lane in lanes]
        self.done = advance(self.lengths, start)

    def remaining(self) -> range:
        """Return the turns that are not done."""
        unfinished = [done for done, length in zip(self.done, self.lengths, strict=True) if done < length]
        return range(min(unfinished, default=0), max(self.lengths, default=0) if unfinished else 0)

    def __iter__(self) -> Iterator[list[tuple[int, Result]]]:
        info = get_worker_info()
        mine = range(info.id, len(self.lanes), info.num_workers) if info else range(len(self.lanes))
        readers = {lane: self.lanes[lane].samples(self.done[lane]) for lane in mine}
        for turn in self.remaining():
            yield [
                (lane, next(reader))
                for lane, reader in readers.items()
                if self.done[lane] <= turn < self.lengths[lane]
            ]
