"""Data sets: `create_loader` reads the one that ``--dataset_mode`` names, in ``data/<name>_dataset.py``."""

import os
from pathlib import Path

import torch

from data.augmentation import check as check_augment
from data.base_dataset import BaseDataset
from data.cache import ImageCache, RamCache
from data.loader import Loader
from data.shards import is_command, is_url
from options.base_options import CommandOptions, DataOptions
from options.file_options import FileOptions
from options.test_options import TestOptions
from util import distributed
from util.device import cores
from util.errors import UserError
from util.image_limits import set_max_image_gb
from util.registry import Registry

DATASETS: Registry[BaseDataset] = Registry("data", "dataset", "--dataset_mode", BaseDataset)  # type: ignore[type-abstract]

CROPS = 4
"""Images larger than this many crops are not read whole for one."""

SCENE_PIXELS = 1 << 25
"""Pixels above which test.py reads and writes an image in parts, with ``--tile``."""


def create_loader(options: CommandOptions, device: torch.device) -> Loader:
    """Return the loader of the data set that the options describe.

    Raises:
        UserError: The data set cannot be used by this command, or with these flags.
    """
    data, testing, ranks = options.data, isinstance(options, TestOptions), distributed.world_size()
    chosen = DATASETS.get(data.dataset_mode)
    if not testing and not chosen.trains:
        raise UserError(
            f"--dataset_mode {data.dataset_mode} is for test.py only; train with another data set"
        )
    if not testing and data.batch_size < ranks:
        raise UserError(
            f"--batch_size {data.batch_size} is the size of the whole batch, of which each of {ranks} ranks"
            f" needs a part: raise it to {ranks} or more"
        )
    check_file_flags(options.files, chosen, data.dataset_mode)
    set_max_image_gb(data.max_image_gb)
    if is_command(options.run.dataroot) and "dataroot" not in options.explicit:
        raise UserError(
            f"--dataroot {options.run.dataroot}: a command is taken from the command line alone, never from a"
            " file such as that of --config: give --dataroot there"
        )
    stream = is_url(options.run.dataroot)
    if stream:
        check_stream_flags(data)
    dataset = chosen.from_options(options)
    if dataset.transform.augment:
        check_augment(dataset.transform.augment, dataset.sides, learns_input=dataset.learns_input)
    # More workers than cores gain nothing, but an explicit number is kept.
    num_threads = data.num_threads if "num_threads" in options.explicit else min(data.num_threads, cores())
    dataset.max_image_gb = data.max_image_gb
    dataset.cache = create_cache(data, num_threads)
    dataset.unread_pixels = unread_pixels(options, dataset)
    dataset.find_boxes = testing and not dataset.sides.is_8bit
    skip = data.bad_images == "skip"
    return Loader(
        dataset,
        data.batch_size,
        shuffle=not data.serial_batches,
        seed=options.run.seed,
        num_threads=num_threads,
        pin_memory=device.type == "cuda",
        limit=options.results.num_test if isinstance(options, TestOptions) else data.overfit or None,
        repeat_epoch=data.overfit > 0,
        mixed_sizes=testing,
        replace_bad=skip and not testing,
        skip_bad=skip and testing,
        whole_batches=testing,
        stream=stream,
    )


def unread_pixels(options: CommandOptions, dataset: BaseDataset) -> int:
    """Return the pixels of an image above which only parts of it are read; 0 if all are read whole."""
    data = options.data
    if data.preprocess == "crop" and dataset.cache is None:
        return CROPS * data.crop_size**2
    if data.preprocess == "none" and dataset.reads_scenes and isinstance(options, TestOptions):
        return SCENE_PIXELS if options.results.tile else 0
    return 0


def check_file_flags(files: FileOptions, dataset: type[BaseDataset], mode: str) -> None:
    """Raise a `UserError` for flags of what files hold that a data set does not follow."""
    if files.mask and not dataset.reads_masks:
        raise UserError(f"--mask: --dataset_mode {mode} has no masks; --dataset_mode aligned has")
    if dataset.reads_values:
        return
    for flag in ("input_range", "output_range", "inputs", "outputs", "label_nc"):
        if (value := getattr(files, flag)) not in ("8bit", "", 0):
            raise UserError(
                f"--{flag} {value}: --dataset_mode {mode} reads RGB or grey images with 8 bits; use another"
                " data set, such as aligned or unaligned"
            )


def check_stream_flags(data: DataOptions) -> None:
    """Raise a `UserError` for flags that do not work with a stream."""
    ranks = distributed.world_size()
    if data.cache != "none":
        raise UserError(
            f"--cache {data.cache}: a stream is read again in every epoch; to keep images, copy the shards to"
            " a disk and name them there as --dataroot"
        )
    if data.batch_size % ranks:
        raise UserError(
            f"--batch_size {data.batch_size}: {ranks} ranks read equal parts of a batch from a stream; use a"
            f" multiple of {ranks}"
        )


def create_cache(data: DataOptions, num_threads: int) -> ImageCache | None:
    """Return the cache that ``--cache`` names; None without one."""
    limit = int(data.cache_limit * 1e9)
    if data.cache == "none":
        return None
    if num_threads and not hasattr(os, "fork"):
        raise UserError(
            f"--cache {data.cache}: processes cannot share it on this system; add --num_threads 0"
        )
    if data.cache == "ram":
        return RamCache(limit)
    try:
        from data.disk_cache import DiskCache
    except ImportError as error:
        raise UserError("--cache disk: this system has no file locks for it; use --cache ram") from error
    return DiskCache(Path(data.cache_dir), limit)
