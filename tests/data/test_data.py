"""Which samples a data set has, in which order, and how they are prepared."""

import errno
import multiprocessing
import os
import re
import signal
import subprocess
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data import DATASETS, Loader, create_loader
from data.aligned_dataset import AlignedDataset, find_pairs
from data.base_dataset import check_channels
from data.image_folder import find_images
from data.sampler import EpochSampler
from data.shards import open_folder
from data.single_dataset import SingleDataset
from data.transforms import Transform
from data.unaligned_dataset import UnalignedDataset
from models import MODELS
from options.option import Flag, flags_of
from options.parse import parse
from options.test_options import TestOptions
from options.train_options import TrainOptions
from tests.support.flags import other_values
from tests.support.images import image
from util.batch import Batch
from util.errors import UserError
from util.image_io import BadImage


def aligned(
    pairs: list[tuple[str, str]], transform: Transform | None = None, **flags: object
) -> AlignedDataset:
    transform = transform or Transform("none", 0, 0, flip=False)
    return AlignedDataset(pairs, transform, **{"swap": False, "grey": (False, False), "seed": 0, **flags})


def test_an_epoch_is_a_permutation_of_its_own_and_can_start_anywhere() -> None:
    def indices(epoch: int, start: int = 0, seed: int = 1) -> list[list[int]]:
        sampler = EpochSampler(10, 4, shuffle=True, seed=seed)
        sampler.set_position(epoch, start)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(e == epoch for batch in batches for e, _ in batch)
        return [[index for _, index in batch] for batch in batches]

    first = indices(1)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(chain(*first)) == list(range(10))
    assert indices(1) == first
    assert indices(2) != first
    assert indices(1, seed=2) != first
    assert indices(1, start=4) == first[1:]


def test_serial_order() -> None:
    assert list(chain(*EpochSampler(5, 2, shuffle=False, seed=0))) == [(0, index) for index in range(5)]


def test_linked_folders_are_listed_once_and_loops_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train/1.png", "train/b/2.png", "other/3.png", "other/deep/4.png", "test/9.png"):
        image(tmp_path / name, 4, 4)
    links = {"train/a": "b", "train/loop": ".", "train/up": "..", "train/c": "../other", "train/d": "c"}
    links |= {"other/back": "../train", "train/one": "two", "train/two": "one", "train/gone": "nowhere"}
    for name, target in {**links, "train/l.png": "1.png"}.items():
        (tmp_path / name).symlink_to(target)
    caplog.set_level("INFO")
    names = ["1.png", "b/2.png", "c/3.png", "c/deep/4.png", "l.png"]
    assert find_images(tmp_path / "train") == [str(tmp_path / "train" / name) for name in names]
    assert "train: 3 images through symbolic links" in caplog.text
    assert sorted(Path(record.args[0]).name for record in caplog.records if "target" in record.msg) == [
        *("gone", "one", "two")
    ]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "train" / "1.png", 4, 4)
    image(tmp_path / "train" / "closed" / "2.png", 4, 4)
    for function in ("stat", "scandir"):  # without permission to search, or to list
        allowed = getattr(os, function)

        def denied(path: Any, *rest: Any, allowed: Any = allowed, **options: Any) -> Any:
            if "closed" in str(path):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return allowed(path, *rest, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, function, denied)
            with pytest.raises(UserError, match=r"closed.*: no permission to read it"):
                find_images(tmp_path / "train")
            if function == "stat":
                with pytest.raises(UserError, match=r"closed: no permission to read it"):
                    open_folder(str(tmp_path / "train" / "closed"))


def test_a_folder_without_images_does_not_hide_pairs_of_folders(tmp_path: Path) -> None:
    for side in "AB":
        image(tmp_path / f"train{side}" / "1.png", 8, 8)
    (tmp_path / "train" / "sub").mkdir(parents=True)
    (tmp_path / "train" / "notes.txt").touch()
    assert find_pairs(tmp_path, "train") == [tuple(str(tmp_path / f"train{s}" / "1.png") for s in "AB")]
    path = image(tmp_path / "train" / "sub" / "2.png", 8, 4)
    assert find_pairs(tmp_path, "train") == [(path, path)]


def test_images_are_sorted_by_their_names(tmp_path: Path) -> None:
    hidden = (".hidden.png", ".thumbs/d.png", "lost+found/f.png")
    for name in ("b.PNG", "a.jpg", "sub/c.webp", *hidden, "e.png.bin", "notes.txt"):
        image(tmp_path / name, 4, 4) if Path(name).suffix not in (".txt", ".bin") else (
            tmp_path / name
        ).touch()
    assert [Path(p).name for p in find_images(tmp_path)] == ["a.jpg", "b.PNG", "c.webp"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images in it"):
        find_images(tmp_path / "empty")
    with pytest.raises(UserError, match="no such folder"):
        find_images(tmp_path / "absent")


def test_side_by_side_halves(tmp_path: Path) -> None:
    path = image(tmp_path / "1.png", 9, 4)  # an odd width: the middle column belongs to neither half
    pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    sample = aligned([(path, path)])[1, 0]
    assert torch.equal(sample.A, pixels[:, :, :4])
    assert torch.equal(sample.B, pixels[:, :, 5:])
    swapped = aligned([(path, path)], swap=True)[1, 0]
    assert torch.equal(swapped.A, sample.B) and torch.equal(swapped.B, sample.A)


def test_pairs_of_folders(tmp_path: Path) -> None:
    for name in ("x/2.png", "1.png"):
        image(tmp_path / "trainA" / name, 8, 8, seed=1)
        image(tmp_path / "trainB" / Path(name).with_suffix(".bmp"), 8, 8, seed=2)
    pairs = find_pairs(tmp_path, "train")
    assert [(Path(a).stem, Path(b).stem) for a, b in pairs] == [("1", "1"), ("2", "2")]
    sample, swapped = aligned(pairs)[1, 0], aligned(pairs, swap=True)[1, 0]
    assert (sample.path_A, sample.path_B) == pairs[0] == (swapped.path_B, swapped.path_A)
    assert torch.equal(sample.A, swapped.B) and not torch.equal(sample.A, sample.B)

    image(tmp_path / "trainB" / "3.png", 8, 8)
    with pytest.raises(UserError, match="1 images are in only one of trainA and trainB, such as 3"):
        find_pairs(tmp_path, "train")
    image(tmp_path / "trainA" / "3.png", 8, 8)
    image(tmp_path / "trainA" / "3.jpg", 8, 8)
    with pytest.raises(UserError, match="two images of the same name"):
        find_pairs(tmp_path, "train")
    with pytest.raises(UserError, match="neither a folder val"):
        find_pairs(tmp_path, "val")
    (tmp_path / "B" / "val").mkdir(parents=True)
    with pytest.raises(UserError, match="rename A/val to valA and B/val to valB"):
        find_pairs(tmp_path, "val")


@pytest.mark.parametrize("preprocess", ["none", "crop", "scale_width", "scale_width_and_crop"])
def test_pairs_of_unequal_size_are_refused_before_the_crop(preprocess: str, tmp_path: Path) -> None:
    pair = image(tmp_path / "a.png", 16, 16), image(tmp_path / "b.png", 16, 24)
    for swap in (False, True):
        data = aligned([pair], Transform(preprocess, 16, 8, flip=False), swap=swap)
        message = r"a\.png and .*b\.png differ in size: 16 x 16 and 16 x 24 pixels"
        assert re.search(message, str(data[1, 0].error))
    resized = aligned([pair], Transform("resize_and_crop", 8, 8, flip=False))[1, 0]
    assert resized.A.shape == resized.B.shape == (3, 8, 8)


def test_a_file_that_is_one_image_instead_of_a_pair_is_remarked_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size, remarks in (((8, 4), 0), ((4, 4), 1), ((4, 6), 1)):
        monkeypatch.setattr("util.remarks._shown", set())
        paths = [image(tmp_path / f"{i}.png", *size, seed=i) for i in range(4)]
        data = aligned([(path, path) for path in paths])
        caplog.clear()
        for workers in (0, 2):
            list(Loader(data, 2, shuffle=False, seed=0, num_threads=workers).epoch(1))
        assert [text.count("half of one image?") for text in caplog.messages] == [1] * remarks


def test_grey_and_colour() -> None:
    assert (check_channels("input_nc", 1), check_channels("input_nc", 3)) == (True, False)
    with pytest.raises(UserError, match="--output_nc 2"):
        check_channels("output_nc", 2)


def test_grey_input_of_a_coloured_pair(tmp_path: Path) -> None:
    path = image(tmp_path / "1.png", 8, 4)
    sample = aligned([(path, path)], grey=(True, False), swap=True)[1, 0]
    assert (sample.A.shape, sample.B.shape) == ((1, 4, 4), (3, 4, 4))


def loader(tmp_path: Path, sizes: list[tuple[int, int]], transform: Transform, **arguments: object) -> Loader:
    paths = [image(tmp_path / f"{i}.png", 2 * w, h, seed=i) for i, (w, h) in enumerate(sizes)]
    dataset = aligned([(path, path) for path in paths], transform)
    return Loader(dataset, **{"batch_size": 2, "shuffle": True, "seed": 0, "num_threads": 0, **arguments})


def content(batches: list[Batch]) -> list[object]:
    return [(batch.index.tolist(), batch.A.tolist(), batch.B.tolist(), batch.paths_A) for batch in batches]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(tmp_path: Path, workers: int) -> None:
    transform = Transform("resize_and_crop", 12, 8, flip=True)
    plain = loader(tmp_path, [(10, 10)] * 5, transform)
    parallel = loader(tmp_path, [(10, 10)] * 5, transform, num_threads=workers)
    for epoch in (1, 2):
        assert content(list(parallel.epoch(epoch))) == content(list(plain.epoch(epoch)))
    assert content(list(parallel.epoch(2, start=2))) == content(list(plain.epoch(2)))[1:]
    assert content(list(plain.epoch(1))) != content(list(plain.epoch(2)))


def test_different_sizes_are_separate_batches_in_testing_and_refused_in_training(tmp_path: Path) -> None:
    sizes, transform = [(8, 8), (6, 8), (8, 8)], Transform("none", 0, 0, flip=False)
    testing = loader(tmp_path, sizes, transform, batch_size=3, shuffle=False, mixed_sizes=True)
    assert [batch.index.tolist() for batch in testing.epoch(0)] == [[0, 2], [1]]
    with pytest.raises(UserError, match="differ in size"):
        list(loader(tmp_path, sizes, transform, batch_size=3).epoch(1))
    assert len(list(loader(tmp_path, sizes, transform, batch_size=1).epoch(1))) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named_without_a_traceback(tmp_path: Path, workers: int) -> None:
    broken = loader(tmp_path, [(8, 8)] * 2, Transform("none", 0, 0, flip=False), num_threads=workers)
    (tmp_path / "1.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"1\.png: cannot be read as an image") as caught:
        list(broken.epoch(1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_good_image_replaces_a_bad_one(
    tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    plain, sizes = Transform("none", 0, 0, flip=False), [(8, 8)] * 5
    training = loader(tmp_path, sizes, plain, shuffle=False, num_threads=workers, replace_bad=True)
    for bad in (1, 2, 4):
        (tmp_path / f"{bad}.png").write_bytes(b"not an image")
    for epoch in (1, 2):
        batches = list(training.epoch(epoch))
        assert [len(batch) for batch in batches] == [2, 2, 1]
        assert list(chain(*(batch.index.tolist() for batch in batches))) == [0, 1, 2, 3, 4]
        names = [Path(path).name for batch in batches for path in batch.paths_A]
        assert names == ["0.png", "3.png", "3.png", "3.png", "0.png"]
    # Each bad image is named once, in however many epochs and processes it is met.
    assert sorted(Path(message.split(":")[0]).name for message in caplog.messages) == [
        "1.png",
        "2.png",
        "4.png",
    ]
    for good in (0, 3):
        (tmp_path / f"{good}.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"None of these 5 images can be used\. The first: "):
        list(training.epoch(3))


def test_bad_images_are_skipped_in_testing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    testing = loader(
        tmp_path,
        [(8, 8)] * 4,
        Transform("none", 0, 0, flip=False),
        shuffle=False,
        skip_bad=True,
        mixed_sizes=True,
    )
    for bad in (0, 1, 3):
        (tmp_path / f"{bad}.png").write_bytes(b"not an image")
    assert [batch.index.tolist() for batch in testing.epoch(0)] == [[2]]
    assert testing.skipped == {0, 1, 3}
    assert len(caplog.messages) == 3 and "0.png" in caplog.text and ": skipped" in caplog.text
    (tmp_path / "2.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match="None of the 4 images can be used"):
        list(testing.epoch(0))


def test_a_bad_image_does_not_change_its_partner(tmp_path: Path) -> None:
    dataset = unaligned(tmp_path, random_partner=False)
    dataset.replace_bad = True
    (tmp_path / "B" / "6.png").write_bytes(b"")
    (tmp_path / "A" / "0.png").write_bytes(b"")
    sample = dataset[1, 6]
    assert (Path(sample.path_A).name, Path(sample.path_B).name) == ("1.png", "0.png")
    assert [Path(str(error).split(":")[0]).parts[-2:] for error in sample.replaced] == [
        ("A", "0.png"),
        ("B", "6.png"),
    ]


def test_an_image_too_narrow_for_a_pair_is_bad(tmp_path: Path) -> None:
    path = image(tmp_path / "1.png", 1, 4)
    rejected = aligned([(path, path)])[1, 0]
    assert isinstance(rejected.error, BadImage) and "side by side" in str(rejected.error)


def test_a_worker_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = loader(tmp_path, [(8, 8)] * 2, Transform("none", 0, 0, flip=False), num_threads=1)
    monkeypatch.setattr(dying.dataset, "read", lambda index, rng: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match="A worker process that reads images died"):
        list(dying.epoch(1))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP", "SIGUSR2", "SIGXCPU"])
def test_signals_to_a_worker_change_nothing(tmp_path: Path, name: str) -> None:
    reading = loader(tmp_path, [(8, 8)] * 8, Transform("none", 0, 0, flip=False), num_threads=2)
    batches = reading.epoch(1)
    next(batches), next(batches)  # both workers have started
    for worker in multiprocessing.active_children():
        # From another process: a SIGTERM from the parent ends a worker.
        subprocess.run(["kill", "-s", name.removeprefix("SIG"), str(worker.pid)], check=True)
    assert len(list(batches)) == 2
    assert len(list(reading.epoch(2))) == 4


def test_a_limit_keeps_the_first_samples(tmp_path: Path) -> None:
    limited = loader(tmp_path, [(8, 8)] * 4, Transform("none", 0, 0, flip=False), shuffle=False, limit=3)
    assert len(limited) == 3
    assert list(chain(*(batch.index.tolist() for batch in limited.epoch(0)))) == [0, 1, 2]


def test_a_batch_on_the_device_is_in_minus_one_to_one() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    batch = Batch(levels, None, ["p"], ["p"], torch.tensor([0])).to(torch.device("cpu"))
    assert batch.A.dtype == torch.float32
    torch.testing.assert_close(batch.A, levels / 127.5 - 1, rtol=0, atol=1e-6)


def unaligned(tmp_path: Path, **flags: object) -> UnalignedDataset:
    paths = {
        side: [image(tmp_path / side / f"{i}.png", 8, 8, seed=i) for i in range(count)]
        for side, count in (("A", 3), ("B", 7))
    }
    settings = {"random_partner": True, "swap": False, "grey": (False, False), "seed": 0, **flags}
    return UnalignedDataset(paths["A"], paths["B"], Transform("none", 0, 0, flip=True), **settings)


def test_unaligned_images_of_unequal_count(tmp_path: Path) -> None:
    dataset = unaligned(tmp_path)
    assert len(dataset) == 7
    samples = [[dataset[epoch, index] for index in range(7)] for epoch in (1, 2)]
    assert [Path(s.path_A).name for s in samples[0]] == [f"{i % 3}.png" for i in range(7)]
    partners = [[Path(s.path_B).name for s in epoch] for epoch in samples]
    assert partners[0] != partners[1] and len(set(partners[0])) > 2
    assert torch.equal(dataset[1, 4].B, samples[0][4].B)

    in_step = unaligned(tmp_path, random_partner=False, swap=True)
    assert [Path(in_step[1, i].path_A).parts[-2:] for i in range(7)] == [("B", f"{i}.png") for i in range(7)]


def test_both_sides_of_unaligned_images_are_prepared_independently(tmp_path: Path) -> None:
    path = image(tmp_path / "1.png", 8, 8)
    settings = {"random_partner": True, "swap": False, "grey": (False, True), "seed": 0}
    dataset = UnalignedDataset([path], [path], Transform("none", 0, 0, flip=True), **settings)
    samples = [dataset[epoch, 0] for epoch in range(20)]
    assert samples[0].B.shape[0] == 1
    lefts = {(int(sample.A[0, 0, 0]), int(sample.B[0, 0, 0])) for sample in samples}
    assert len(lefts) == 4  # each side flips on its own


def test_a_single_folder(tmp_path: Path) -> None:
    paths = [image(tmp_path / f"{i}.png", 9, 6, seed=i) for i in range(2)]
    sample = SingleDataset(paths, Transform("none", 0, 0, flip=False), grey=True, seed=0)[0, 1]
    assert (sample.A.shape, sample.B, sample.path_A) == ((1, 6, 9), None, paths[1])


@pytest.mark.parametrize("mode", [mode for mode in DATASETS.names() if DATASETS.get(mode).trains])
def test_samples_of_a_data_set_are_as_models_expect(mode: str, data: dict[str, Path]) -> None:
    argv = ["--dataset_mode", mode, "--dataroot", str(data[mode]), "--model", "pix2pix", "--input_nc", "1"]
    argv += ["--load_size", "28", "--crop_size", "24", "--num_threads", "0", "--batch_size", "2"]
    options = parse(TrainOptions, argv, MODELS, DATASETS)
    dataset = DATASETS.get(mode).from_options(options)
    assert len(dataset) >= 3
    for index in range(len(dataset)):
        sample, again = dataset[3, index], dataset[3, index]
        assert sample.index == index
        if DATASETS.get(mode).layout:
            assert Path(sample.path_A).exists() and Path(sample.path_B).exists()
        assert sample.A.dtype == torch.uint8 and sample.A.shape[0] in (1, 3)
        assert sample.A.shape[1:] == (24, 24)
        assert torch.equal(sample.A, again.A)
        if sample.B is not None:
            assert (sample.B.dtype, sample.B.shape) == (torch.uint8, (3, 24, 24))
            assert torch.equal(sample.B, again.B)
    assert any(not torch.equal(dataset[1, i].A, dataset[2, i].A) for i in range(len(dataset)))
    limited = parse(TrainOptions, [*argv, "--max_dataset_size", "1"], MODELS, DATASETS)
    assert len(DATASETS.get(mode).from_options(limited)) == 1


@pytest.mark.parametrize(
    ("mode", "channels"),
    [
        *((mode, 1) for mode in ("aligned", "images", "single", "template", "unaligned")),
        *((mode, 3) for mode in ("colorization", "style")),  # the model computes grey from RGB
    ],
)
def test_input_nc_1_is_a_grey_input(mode: str, channels: int, data: dict[str, Path]) -> None:
    argv = ["--dataset_mode", mode, "--dataroot", str(data[mode]), "--model", "pix2pix", "--input_nc", "1"]
    options = parse(TrainOptions, argv, MODELS, DATASETS)
    assert DATASETS.get(mode).from_options(options)[1, 0].A.shape[0] == channels


@pytest.mark.parametrize("mode", DATASETS.names())
def test_every_flag_of_a_data_set_has_an_effect(mode: str, data: dict[str, Path]) -> None:
    argv = ["--dataset_mode", mode, "--dataroot", str(data[mode]), "--model", "pix2pix", "--num_threads", "0"]

    def samples(*flags: str) -> list[tuple[object, ...]]:
        options = parse(TestOptions, [*argv, "--crop_size", "32", *flags], MODELS, DATASETS)
        batches = create_loader(options, torch.device("cpu")).epoch(0)
        return [(batch.A.tolist(), batch.B is None or batch.B.tolist(), batch.label) for batch in batches]

    def has_effect(flag: Flag, value: str) -> bool:
        try:
            return str(samples(f"--{flag.name}={value}")) != str(samples())
        except UserError as error:
            return str(error).startswith(f"--{flag.name} ")

    for flag in flags_of(DATASETS.get(mode).Options).values():
        assert flag.cosmetic or any(has_effect(flag, value) for value in other_values(flag, flag.default))


@pytest.mark.parametrize("mode", DATASETS.names())
def test_what_a_data_set_declares_agrees(mode: str, tmp_path: Path) -> None:
    chosen = DATASETS.get(mode)
    chosen.make_example(tmp_path)
    assert any(tmp_path.rglob("*.png")) or not chosen.layout
    argv = ["--dataset_mode", mode, "--dataroot", str(tmp_path), "--model", "pix2pix", "--num_threads", "0"]
    if not chosen.trains:
        with pytest.raises(UserError, match=f"--dataset_mode {mode} is for test.py only"):
            create_loader(parse(TrainOptions, argv, MODELS, DATASETS), torch.device("cpu"))
    options = parse(TestOptions, argv, MODELS, DATASETS)
    assert len(next(create_loader(options, torch.device("cpu")).epoch(0)))
