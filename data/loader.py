"""Batches of a data set, read in worker processes."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from data.base_dataset import BaseDataset, Rejected, Sample
from data.sampler import EpochSampler
from data.stream import Stream
from data.workers import Workers, in_worker, pack
from util import distributed
from util.batch import Batch
from util.errors import UserError
from util.image_io import BadImage
from util.remarks import Remark, show

log = logging.getLogger(__name__)


class Collated(NamedTuple):
    """The samples of one batch: a batch per image size, the samples that cannot be read, and bad images.

    Attributes:
        remarks: what the user should know about the files.
    """

    batches: list[Batch]
    rejected: list[Rejected]
    replaced: list[BadImage]
    remarks: list[Remark]


class Loader:
    """Reads a data set in batches.

    Args:
        num_threads: worker processes; 0 reads in the main process.
        pin_memory: return tensors in pinned memory.
        limit: use only the first `limit` samples.
        repeat_epoch: make every epoch equal to epoch 0: the same order, crops and flips.
        mixed_sizes: accept images of different sizes in a batch, which comes as one batch per size.
        replace_bad: use the next good image in place of one that cannot be read.
        skip_bad: skip samples whose images cannot be read.
        whole_batches: give ranks whole batches in turn, instead of a part of each.
        stream: read the files as a stream.

    Attributes:
        skipped: indices of the samples that were skipped.
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
        repeat_epoch: bool = False,
        mixed_sizes: bool = False,
        replace_bad: bool = False,
        skip_bad: bool = False,
        whole_batches: bool = False,
        stream: bool = False,
    ):
        self.dataset, self.repeat_epoch = dataset, repeat_epoch
        self.mixed_sizes, self.skip_bad = mixed_sizes, skip_bad
        self.skipped: set[int] = set()
        self._reported: set[str] = set()
        self.batch_size = batch_size
        self.sampler: EpochSampler | Stream
        self._loader: Iterable[Collated]
        rank, world_size = distributed.rank(), distributed.world_size()
        if stream:
            self._loader = self.sampler = Stream(
                dataset,
                batch_size,
                shuffle=shuffle,
                seed=seed,
                num_threads=num_threads,
                rank=rank,
                world_size=world_size,
                limit=limit,
                replace_bad=replace_bad,
                collate_fn=partial(collate, pin_memory=pin_memory),
            )
        else:
            dataset.replace_bad = replace_bad
            size = min(len(dataset), limit or len(dataset))
            self.sampler = EpochSampler(size, batch_size, shuffle, seed, rank, world_size, whole_batches)
            self._loader = Workers(
                DataLoader(
                    dataset,
                    batch_sampler=self.sampler,
                    num_workers=num_threads,
                    collate_fn=_collate_and_pack,
                    worker_init_fn=in_worker,
                    pin_memory=pin_memory,
                    persistent_workers=num_threads > 0,
                    # Only forked processes share the cache.
                    multiprocessing_context="fork" if num_threads and dataset.cache is not None else None,
                )
            )

    def __len__(self) -> int:
        """Return the number of samples in an epoch."""
        return self.sampler.size

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from sample number `start` on.

        Raises:
            UserError: A sample cannot be read, images in a batch have different sizes, or a worker process
                has failed.
            Stopped: A stop signal came while waiting for a batch.
        """
        self.sampler.set_position(0 if self.repeat_epoch else number, start)
        position = start
        for collated in self._loader:
            total = self.sampler.global_size(position)
            position += self.batch_size
            yield from (replace(batch, total=total) for batch in self._checked(collated))
        if len(self.skipped) == len(self):
            raise UserError(f"None of the {len(self)} images can be used")

    def first(self, count: int) -> list[Batch]:
        """Return the first samples of the data set, as they are in epoch 0, as batches of one."""
        if isinstance(self.sampler, Stream):
            samples = self.sampler.first(count)
        else:
            samples = [self.dataset[0, index] for index in range(min(count, len(self)))]
        return [batch for sample in samples for batch in self._checked(collate([sample]))]

    def _checked(self, collated: Collated) -> list[Batch]:
        batches, rejected, replaced, remarks = collated
        for remark in remarks:
            show(remark)
        for index, error in ((item.index, item.error) for item in rejected):
            if not (self.skip_bad and isinstance(error, BadImage)):
                raise error
            self.skipped.add(index)
            self._report(error, "skipped")
        for error in replaced:
            self._report(error, "replaced by the next good image")
        if len(batches) > 1 and not self.mixed_sizes:
            first, second = batches[:2]
            raise UserError(
                f"{first.paths_A[0]} and {second.paths_A[0]} differ in size ({_size(first)} and"
                f" {_size(second)} pixels) in one training batch; use --batch_size 1, or a --preprocess that"
                " crops"
            )
        return [replace(batch, sides=self.dataset.sides) for batch in batches]

    def _report(self, error: BadImage, consequence: str) -> None:
        """Log a bad image once, in whatever number of epochs and workers it is met."""
        if str(error) not in self._reported:
            self._reported.add(str(error))
            log.warning("%s: %s", error, consequence)


def _size(batch: Batch) -> str:
    return f"{batch.A.shape[-1]} x {batch.A.shape[-2]}"


def collate(samples: list[Sample | Rejected], pin_memory: bool = False) -> Collated:
    """Return the samples as one batch, or as one batch per size."""
    rejected = [sample for sample in samples if isinstance(sample, Rejected)]
    good = [sample for sample in samples if isinstance(sample, Sample)]
    by_shape: dict[tuple[object, ...], list[Sample]] = {}
    for sample in good:
        shapes = tuple(image.shape for image in (sample.A, sample.B) if image is not None)
        own = (sample.index,) if sample.scene else ()
        by_shape.setdefault((*shapes, *own), []).append(sample)
    replaced = [error for sample in good for error in sample.replaced]
    remarks = [remark for sample in good for remark in sample.remarks]
    batches = [_stack(same_shape) for same_shape in by_shape.values()]
    batches = [batch.pin_memory() if pin_memory else batch for batch in batches]
    return Collated(batches, rejected, replaced, remarks)


def _collate_and_pack(samples: list[Sample | Rejected]) -> Any:
    return pack(collate(samples))


def _stack(samples: list[Sample]) -> Batch:
    Bs = [sample.B for sample in samples if sample.B is not None]
    masks = [sample.mask for sample in samples if sample.mask is not None]
    labels = [sample.label for sample in samples if sample.label is not None]
    return Batch(
        A=torch.stack([sample.A for sample in samples]),
        B=torch.stack(Bs) if Bs else None,
        paths_A=[sample.path_A for sample in samples],
        paths_B=[sample.path_B for sample in samples],
        index=torch.tensor([sample.index for sample in samples]),
        label=torch.tensor(labels) if labels else None,
        mask=torch.stack(masks) if masks else None,
        boxes=[sample.box for sample in samples if sample.box is not None],
        scene=samples[0].scene,
    )
