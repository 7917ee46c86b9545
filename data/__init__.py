"""The data: `create_loader` reads the set that ``--dataset_mode`` names, by ``data/<name>_dataset.py``."""

import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader

from data.base_dataset import BaseDataset, Rejected, Sample
from data.cache import ImageCache, RamCache
from data.sampler import EpochSampler
from data.shards import is_url
from data.stream import Stream
from options.base_options import CommandOptions, DataOptions
from options.test_options import TestOptions
from util import distributed
from util.batch import Batch
from util.errors import UserError
from util.image_io import BadImage
from util.registry import Registry

log = logging.getLogger(__name__)

DATASETS: Registry[BaseDataset] = Registry("data", "dataset", "--dataset_mode", BaseDataset)  # type: ignore[type-abstract]


class Collated(NamedTuple):
    """What the samples of one batch come to: a batch for each size, and what is wrong with some."""

    batches: list[Batch]
    rejected: list[Rejected]
    passed_over: list[BadImage]


class Loader:
    """Reads a data set in batches, in processes of its own.

    Args:
        num_threads: worker processes; 0 reads in this one.
        pin_memory: hand out tensors that a GPU can fetch while it computes.
        limit: use only that many samples.
        mixed_sizes: accept samples of unequal size in a batch.
        leave_out_bad: go on without the samples whose images cannot be read.
        by_turns: several processes get whole batches in turn, instead of a share of each.
        share: the rank and the world size, if the files come as a stream.

    Attributes:
        left_out: the indices of those.
    """

    def __init__(
        self,
        dataset: BaseDataset,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        num_threads: int,
        pin_memory: bool = False,
        limit: int | None = None,
        mixed_sizes: bool = False,
        leave_out_bad: bool = False,
        by_turns: bool = False,
        share: tuple[int, int] | None = None,
    ):
        self.dataset = dataset
        self.mixed_sizes, self.leave_out_bad = mixed_sizes, leave_out_bad
        self.left_out: set[int] = set()
        self._named: set[str] = set()
        self.batch_size = batch_size
        self.sampler: EpochSampler | Stream
        self._loader: Iterable[Collated]
        if share is None:
            size = min(len(dataset), limit or len(dataset))
            process = distributed.rank(), distributed.world_size()
            self.sampler = EpochSampler(size, batch_size, shuffle, seed, process, by_turns)
            self._loader = DataLoader(
                dataset,
                batch_sampler=self.sampler,
                num_workers=num_threads,
                collate_fn=collate,
                worker_init_fn=leave_signals_to_the_parent,
                pin_memory=pin_memory,
                persistent_workers=num_threads > 0,
                # Only processes that are forked share the cache.
                multiprocessing_context="fork" if num_threads and dataset.cache is not None else None,
            )
        else:
            self._loader = self.sampler = Stream(
                dataset,
                batch_size,
                shuffle=shuffle,
                seed=seed,
                num_threads=num_threads,
                share=share,
                limit=limit,
                collate_fn=partial(collate, pin_memory=pin_memory),
                start_worker=leave_signals_to_the_parent,
            )

    def __len__(self) -> int:
        """Return the number of samples in an epoch."""
        return self.sampler.size

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from its sample number `start` on; unequal sizes come apart.

        Raises:
            UserError: what a sample's reader found wrong, or unequal sizes that are not accepted.
        """
        self.sampler.set_position(number, start)
        found, position = iter(self._loader), start
        while True:
            try:
                collated = next(found)
            except StopIteration:
                break
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise UserError(
                    f"A process that reads images has died ({error}): out of memory? Lower --num_threads;"
                    " --num_threads 0 reads in the main process"
                ) from error
            total = self.sampler.shared_out(position)
            position += self.batch_size
            yield from (replace(batch, total=total) for batch in self._checked(collated))
        if len(self.left_out) == len(self):
            raise UserError(f"None of the {len(self)} images can be used")

    def first(self, count: int) -> list[Batch]:
        """Return the first samples of the data set as an epoch 0 would have them, each alone in its batch."""
        if isinstance(self.sampler, Stream):
            samples = self.sampler.first(count)
        else:
            samples = [self.dataset[0, index] for index in range(min(count, len(self)))]
        return [batch for sample in samples for batch in self._checked(collate([sample]))]

    def _checked(self, collated: Collated) -> list[Batch]:
        batches, rejected, passed_over = collated
        for index, error in ((item.index, item.error) for item in rejected):
            if not (self.leave_out_bad and isinstance(error, BadImage)):
                raise error
            self.left_out.add(index)
            self._name_once(error, "it is left out")
        for error in passed_over:
            self._name_once(error, "the next good one takes its place")
        if len(batches) > 1 and not self.mixed_sizes:
            one, other = batches[0], batches[1]
            raise UserError(
                f"{one.paths_A[0]} and {other.paths_A[0]} differ in size ({_size(one)} and {_size(other)}"
                " pixels) in one training batch; use --batch_size 1, or a --preprocess that crops"
            )
        return batches

    def _name_once(self, error: BadImage, consequence: str) -> None:
        if str(error) not in self._named:
            self._named.add(str(error))
            log.warning("%s: %s", error, consequence)


def _size(batch: Batch) -> str:
    return f"{batch.A.shape[-1]} x {batch.A.shape[-2]}"


def leave_signals_to_the_parent(worker: int) -> None:
    """Let a worker process go on until its parent has done with it, or is gone."""
    # Ctrl-C and schedulers signal all processes at once; a worker that ended would take the run down.
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_parent_says_so, daemon=True).start()


def _end_when_the_parent_says_so() -> None:
    # SIGTERM is also how the parent ends a worker when something has gone wrong: it must not be ignored.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def collate(samples: list[Sample | Rejected], pin_memory: bool = False) -> Collated:
    """Return the samples as one batch, or as one for each size if they differ."""
    rejected = [sample for sample in samples if isinstance(sample, Rejected)]
    good = [sample for sample in samples if isinstance(sample, Sample)]
    by_shape: dict[tuple[torch.Size, ...], list[Sample]] = {}
    for sample in good:
        shapes = tuple(image.shape for image in (sample.A, sample.B) if image is not None)
        by_shape.setdefault(shapes, []).append(sample)
    passed_over = [error for sample in good for error in sample.passed_over]
    batches = [_stack(alike) for alike in by_shape.values()]
    return Collated([batch.pin_memory() if pin_memory else batch for batch in batches], rejected, passed_over)


def _stack(samples: list[Sample]) -> Batch:
    Bs = [sample.B for sample in samples if sample.B is not None]
    labels = [sample.label for sample in samples if sample.label is not None]
    return Batch(
        A=torch.stack([sample.A for sample in samples]),
        B=torch.stack(Bs) if Bs else None,
        paths_A=[sample.path_A for sample in samples],
        paths_B=[sample.path_B for sample in samples],
        index=torch.tensor([sample.index for sample in samples]),
        label=torch.tensor(labels) if labels else None,
    )


def create_cache(data: DataOptions, num_threads: int) -> ImageCache | None:
    """Return what ``--cache`` asks for."""
    limit = int(data.cache_limit * 1e9)
    if data.cache == "none":
        return None
    if num_threads and not hasattr(os, "fork"):
        raise UserError(
            f"--cache {data.cache}: on this system processes cannot share it; add --num_threads 0"
        )
    if data.cache == "ram":
        return RamCache(limit)
    try:
        from data.disk_cache import DiskCache
    except ImportError as error:
        raise UserError("--cache disk: this system has no locks for it; take --cache ram") from error
    return DiskCache(Path(data.cache_dir), limit)


def share_of_stream(options: CommandOptions) -> tuple[int, int] | None:
    """Return the rank of this process and how many there are, if ``--dataroot`` names a stream.

    Raises:
        UserError: flags that cannot be had with a stream.
    """
    if not is_url(options.run.dataroot):
        return None
    rank, world_size = distributed.rank(), distributed.world_size()
    if options.data.cache != "none":
        raise UserError(
            f"--cache {options.data.cache}: a stream is read anew in every epoch; to keep images, copy"
            " the shards to a disk and name them there as --dataroot"
        )
    if options.data.batch_size % world_size:
        raise UserError(
            f"--batch_size {options.data.batch_size}: {world_size} processes read equal parts of a batch from"
            f" a stream; take a multiple of {world_size}"
        )
    return rank, world_size


def create_loader(options: CommandOptions, device: torch.device) -> Loader:
    """Return the loader of the data set that the options describe."""
    data, testing = options.data, isinstance(options, TestOptions)
    ranks = distributed.world_size()
    if not testing and data.batch_size < ranks:
        raise UserError(
            f"--batch_size {data.batch_size} is the size of the whole batch, of which each of the"
            f" {ranks} processes needs a part: raise it to {ranks} or more"
        )
    dataset = DATASETS.get(data.dataset_mode).from_options(options)
    skip = data.bad_images == "skip"
    dataset.replace_bad = skip and not testing
    # More workers than cores would only take turns, but whoever names a number knows why.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_threads = data.num_threads if "num_threads" in options.explicit else min(data.num_threads, cores)
    dataset.cache = create_cache(data, num_threads)
    return Loader(
        dataset,
        data.batch_size,
        shuffle=not data.serial_batches,
        seed=options.run.seed,
        num_threads=num_threads,
        pin_memory=device.type == "cuda",
        limit=options.results.num_test if isinstance(options, TestOptions) else None,
        mixed_sizes=testing,
        leave_out_bad=skip and testing,
        by_turns=testing,
        share=share_of_stream(options),
    )
