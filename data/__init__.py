"""The data: `create_loader` reads the set that ``--dataset_mode`` names, by ``data/<name>_dataset.py``."""

import os
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from data.base_dataset import BaseDataset, Sample
from data.sampler import EpochSampler
from options.base_options import CommandOptions
from options.test_options import TestOptions
from util.batch import Batch
from util.errors import UserError
from util.registry import Registry

DATASETS: Registry[BaseDataset] = Registry("data", "dataset", "--dataset_mode", BaseDataset)  # type: ignore[type-abstract]


class Loader:
    """Reads a data set in batches, in processes of its own.

    Args:
        num_threads: worker processes; 0 reads in this one.
        pin_memory: hand out tensors that a GPU can fetch while it computes.
        limit: use only that many samples.
        mixed_sizes: accept samples of unequal size in a batch.
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
    ):
        self.dataset = dataset
        self.mixed_sizes = mixed_sizes
        size = min(len(dataset), limit or len(dataset))
        self.sampler = EpochSampler(size, batch_size, shuffle, seed)
        # More workers than cores only take turns.
        workers = min(num_threads, os.cpu_count() or 1)
        self._loader = DataLoader(
            dataset,
            batch_sampler=self.sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
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
        for batches in self._loader:
            yield from self._checked(batches)

    def first(self, count: int) -> list[Batch]:
        """Return the first samples of the data set as an epoch 0 would have them, each alone in its batch."""
        alone = (collate([self.dataset[0, index]]) for index in range(min(count, len(self))))
        return [batch for batches in alone for batch in self._checked(batches)]

    def _checked(self, batches: list[Batch] | UserError) -> list[Batch]:
        if isinstance(batches, UserError):
            raise batches
        if len(batches) > 1 and not self.mixed_sizes:
            one, other = batches[0], batches[1]
            raise UserError(
                f"{one.paths_A[0]} and {other.paths_A[0]} differ in size ({_size(one)} and {_size(other)}"
                " pixels) in one training batch; use --batch_size 1, or a --preprocess that crops"
            )
        return batches


def _size(batch: Batch) -> str:
    return f"{batch.A.shape[-1]} x {batch.A.shape[-2]}"


def collate(samples: list[Sample | UserError]) -> list[Batch] | UserError:
    """Return the samples as one batch, as one for each size if they differ, or the first error among them."""
    by_shape: dict[tuple[torch.Size, ...], list[Sample]] = {}
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
        shapes = tuple(picture.shape for picture in (sample.A, sample.B) if picture is not None)
        by_shape.setdefault(shapes, []).append(sample)
    return [_stack(alike) for alike in by_shape.values()]


def _stack(samples: list[Sample]) -> Batch:
    Bs = [sample.B for sample in samples if sample.B is not None]
    return Batch(
        A=torch.stack([sample.A for sample in samples]),
        B=torch.stack(Bs) if Bs else None,
        paths_A=[sample.path_A for sample in samples],
        paths_B=[sample.path_B for sample in samples],
        index=torch.tensor([sample.index for sample in samples]),
    )


def create_loader(options: CommandOptions, device: torch.device) -> Loader:
    """Return the loader of the data set that the options describe."""
    data = options.data
    limit = options.results.num_test if isinstance(options, TestOptions) else None
    return Loader(
        DATASETS.get(data.dataset_mode).from_options(options),
        data.batch_size,
        shuffle=not data.serial_batches,
        seed=options.run.seed,
        num_threads=data.num_threads,
        pin_memory=device.type == "cuda",
        limit=limit,
        mixed_sizes=isinstance(options, TestOptions),
    )
