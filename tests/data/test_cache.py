"""Images cached for later epochs: the same bits, up to a limit, shared by all processes."""

import os
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data import DATASETS, Loader, create_loader
from data.aligned_dataset import AlignedDataset
from data.cache import HEADER, ImageCache, RamCache
from data.disk_cache import DiskCache
from data.single_dataset import SingleDataset
from data.transforms import Transform
from models import MODELS
from options.parse import parse
from options.train_options import TrainOptions
from tests.support.environment import Command
from util.batch import Batch
from util.errors import UserError
from util.parts import Sides
from util.seeding import numpy_rng

SCALED = Transform("resize_and_crop", 12, 8, flip=True)
SIZE = 3 * 12 * 12 + HEADER.size
"""Bytes of an image scaled by `SCALED`."""


def image(path: Path, seed: int, width: int = 20, height: int = 14) -> str:
    pixels = numpy_rng("cached", seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def folder_of(tmp_path: Path, count: int, limit: int | None, transform: Transform = SCALED) -> SingleDataset:
    paths = [image(tmp_path / f"{i}.bmp", i) for i in range(count)]
    dataset = SingleDataset(paths, transform, grey=False, seed=0)
    dataset.cache = None if limit is None else RamCache(limit)
    return dataset


@pytest.fixture(params=["ram", "disk"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> ImageCache:
    """A cache of each kind with room for ten images scaled by `SCALED`."""
    return RamCache(10 * SIZE) if request.param == "ram" else DiskCache(tmp_path / "cache", 10 * SIZE)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from data import base_dataset

    read, paths = base_dataset.read_image, []

    def counting(path: str) -> Image.Image:
        paths.append(Path(path).name)
        return read(path)

    monkeypatch.setattr(base_dataset, "read_image", counting)
    return paths


def test_an_image_is_read_once(tmp_path: Path, cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    plain, cached = folder_of(tmp_path, 3, None), folder_of(tmp_path, 3, None)
    cached.cache = cache
    expected = [[plain[epoch, i].A for i in range(3)] for epoch in range(4)]
    reads.clear()
    images = [[cached[epoch, i].A for i in range(3)] for epoch in range(4)]
    assert reads == ["0.bmp", "1.bmp", "2.bmp"]
    assert all(map(torch.equal, chain(*expected), chain(*images)))
    assert any(not torch.equal(images[1][i], images[2][i]) for i in range(3))  # crops and flips still differ


def test_a_sample_does_not_share_memory_with_the_cache(tmp_path: Path) -> None:
    dataset = folder_of(tmp_path, 1, 10 * SIZE, Transform("none", 0, 0, flip=False))
    for _ in range(2):
        dataset[1, 0]
    before = dataset[1, 0].A.clone()
    dataset[1, 0].A.zero_()
    assert torch.equal(dataset[1, 0].A, before)


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_changed_file_is_read_again(
    tmp_path: Path, cache: ImageCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = count_reads(monkeypatch)
    dataset = folder_of(tmp_path, 1, None)
    dataset.cache = cache
    path = tmp_path / "0.bmp"
    before, state = dataset[1, 0].A, path.stat()
    image(path, seed=7, width=30 if change == "size" else 20)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + (change == "time")))
    assert not torch.equal(dataset[1, 0].A, before)
    assert len(reads) == 2
    path.unlink()
    assert "cannot be read" in str(dataset[1, 0].error)  # the cache does not outlive the file


def test_images_beyond_the_limit_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reads = count_reads(monkeypatch)
    plain, dataset = folder_of(tmp_path, 4, None), folder_of(tmp_path, 4, 2 * SIZE)
    for epoch in (1, 2):
        for i in range(4):
            assert torch.equal(dataset[epoch, i].A, plain[epoch, i].A)
    assert [reads.count(f"{i}.bmp") for i in range(4)] == [3, 3, 4, 4]  # including 2 without the cache
    assert len(caplog.messages) == 1 and "--cache_limit" in caplog.text


def test_a_limit_that_the_machine_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match="--cache_limit 1e\\+10"):
        RamCache(10**19)


def test_the_same_file_prepared_differently_is_another_image(tmp_path: Path) -> None:
    path = image(tmp_path / "0.bmp", 0)
    dataset = AlignedDataset([(path, path)], SCALED, swap=False, grey=(True, False), seed=0)
    plain = dataset[1, 0]
    dataset.cache = RamCache(20 * SIZE)
    for _ in range(2):
        assert torch.equal(dataset[1, 0].A, plain.A) and torch.equal(dataset[1, 0].B, plain.B)
    dataset.sides, dataset.swap = Sides.of_grey(False, True), True
    swapped = dataset[1, 0]
    assert (swapped.A.shape[0], swapped.B.shape[0]) == (3, 1)
    assert torch.equal(swapped.A, plain.B) and torch.equal(swapped.B, plain.A)
    assert dataset.scaled(path, False).shape == dataset.scaled(path, False).shape == (3, 12, 12)
    assert dataset.scaled(path, True).shape == (1, 12, 12)
    dataset.transform = Transform("resize_and_crop", 16, 8, flip=False)
    assert dataset.scaled(path, False).shape == (3, 16, 16)


def content(batches: list[Batch]) -> list[Any]:
    return [(batch.index.tolist(), batch.A.tolist(), batch.paths_A) for batch in batches]


def test_workers_share_the_images_that_each_has_read(tmp_path: Path, cache: ImageCache) -> None:
    common: dict[str, Any] = {"batch_size": 2, "shuffle": True, "seed": 0}
    plain = Loader(folder_of(tmp_path, 8, None), num_threads=0, **common)
    dataset = folder_of(tmp_path, 8, None)
    dataset.cache = cache
    parallel = Loader(dataset, num_threads=2, **common)
    assert content(list(parallel.epoch(1))) == content(list(plain.epoch(1)))
    # All images are in shared memory now: this process, which has read none, does not make them again.
    made: list[int] = []

    def make() -> tuple[Tensor, ...]:
        made.append(1)
        return (torch.zeros(3, 12, 12, dtype=torch.uint8),)

    for path in dataset.paths:
        dataset.cached(path, "grey=False", make)
    assert not made
    for epoch in (2, 3):
        assert content(list(parallel.epoch(epoch))) == content(list(plain.epoch(epoch)))


@pytest.mark.parametrize("mode", [mode for mode in DATASETS.names() if DATASETS.get(mode).layout])
def test_a_data_set_is_the_same_with_a_cache(mode: str, data: dict[str, Path], tmp_path: Path) -> None:
    argv = ["--dataset_mode", mode, "--dataroot", str(data[mode]), "--model", "pix2pix", "--gpu_ids", "-1"]
    argv += ["--load_size", "28", "--crop_size", "24", "--num_threads", "0", "--batch_size", "2"]
    datasets = []
    on_disk = ["--cache", "disk", "--cache_dir", str(tmp_path / "new" / "cache"), "--cache_limit", "0.01"]
    for flags in ([], ["--cache", "ram", "--cache_limit", "0.01"], on_disk, on_disk):
        options = parse(TrainOptions, [*argv, *flags], MODELS, DATASETS)
        datasets.append(create_loader(options, torch.device("cpu")).dataset)
    plain, *all_cached = datasets
    assert plain.cache is None
    for epoch in (1, 2):
        for index in range(len(plain)):
            expected = plain[epoch, index]
            for cached in all_cached:
                sample = cached[epoch, index]
                assert torch.equal(expected.A, sample.A) and (
                    expected.B is None or torch.equal(expected.B, sample.B)
                )
                assert (expected.path_A, expected.path_B) == (sample.path_A, sample.path_B)
    assert all(len(cached.cache._entries) >= 3 for cached in all_cached)


def test_training_is_the_same_with_a_cache(command: Command, pairs: Path, tmp_path: Path) -> None:
    common = ["--dataroot", pairs, "--model", "pix2pix", "--gpu_ids", "-1", "--netG", "unet_32", "--ngf", 4]
    common += ["--ndf", 4, "--load_size", 36, "--crop_size", 32, "--n_epochs", 2, "--n_epochs_decay", 0]
    weights = []
    on_disk = ["--cache", "disk", "--num_threads", 2]
    for name, flags in (("plain", []), ("new", on_disk), ("old", on_disk)):
        command("train.py", *common, "--name", name, *flags)
        weights.append(torch.load(tmp_path / "checkpoints" / name / "latest_net_G.pth"))
    assert (tmp_path / "cache" / "pictures.cache").stat().st_size > 4e9  # sparse: --cache_limit
    assert (tmp_path / "cache" / "pictures.cache").stat().st_blocks * 512 < 1e6
    for others in weights[1:]:
        assert all(torch.equal(weights[0][key], others[key]) for key in weights[0])
