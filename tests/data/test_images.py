"""Images with and without classes: folders, IDX files, damaged files."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import DATASETS, create_loader
from data.base_dataset import Sample
from data.images_dataset import ImagesDataset, find_image_set
from data.latent_dataset import LatentDataset
from data.loader import collate
from models import MODELS
from options.parse import parse
from options.test_options import TestOptions
from options.train_options import TrainOptions
from tests.support.environment import ROOT
from util.errors import UserError

MNIST = ROOT.parent / "shared" / "data" / "mnist"
PIXELS = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([2, 0, 1], np.uint8)


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return header + values.tobytes()


def write_idx(folder: Path, prefix: str = "train", *, packed: bool = True, shift: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in (("images-idx3", PIXELS + np.uint8(shift)), ("labels-idx1", LABELS)):
        path = folder / f"{prefix}-{name}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))


def dataset(root: Path, *flags: str) -> ImagesDataset:
    argv = ["--dataroot", str(root), "--model", "dcgan", "--preprocess", "none", *flags]
    result = DATASETS.get("images").from_options(parse(TrainOptions, argv, MODELS, DATASETS))
    assert isinstance(result, ImagesDataset)
    return result


def sample(data: ImagesDataset, index: int) -> Sample:
    result = data[1, index]
    assert isinstance(result, Sample), result
    return result


def image(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5, 3), level, np.uint8)).save(path)


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_read_as_they_are(packed: bool, tmp_path: Path) -> None:
    write_idx(tmp_path, packed=packed)
    data = dataset(tmp_path, "--input_nc", "1", "--num_classes", "3")
    assert len(data) == 3
    for index in range(3):
        result = sample(data, index)
        assert torch.equal(result.A, torch.from_numpy(PIXELS[index])[None])
        assert (result.B, result.label) == (None, LABELS[index])
    assert sample(data, 2).path_A.endswith("/00002")
    assert sample(dataset(tmp_path), 1).A.shape == (3, 4, 5)


def test_the_idx_file_of_the_phase_is_preferred(tmp_path: Path) -> None:
    write_idx(tmp_path, "t10k", shift=100)
    assert sample(dataset(tmp_path), 0).A[0, 0, 0] == 100  # the only file
    write_idx(tmp_path, "train")
    assert sample(dataset(tmp_path), 0).A[0, 0, 0] == 0
    assert sample(dataset(tmp_path, "--phase", "test"), 0).A[0, 0, 0] == 100
    write_idx(tmp_path / "train", shift=50)
    assert sample(dataset(tmp_path), 0).A[0, 0, 0] == 50


def test_a_folder_for_every_class(tmp_path: Path) -> None:
    for name, level in (("b/2.png", 20), ("b/sub/3.png", 30), ("a/9.png", 90), (".c/1.png", 10)):
        image(tmp_path / "train" / name, level)
    data = dataset(tmp_path, "--num_classes", "2")
    assert [(int(s.A[0, 0, 0]), s.label) for s in (sample(data, i) for i in range(3))] == [
        (90, 0),
        (20, 1),
        (30, 1),
    ]
    with pytest.raises(UserError, match=r"--num_classes 3: the images in .* have 2 classes"):
        dataset(tmp_path, "--num_classes", "3")
    assert len(dataset(tmp_path, "--max_dataset_size", "1")) == 1


def test_one_folder_has_no_classes(tmp_path: Path) -> None:
    image(tmp_path / "1.png", 10)
    assert sample(dataset(tmp_path), 0).label is None
    with pytest.raises(UserError, match=r"--num_classes 1: the images in .* have 0 classes"):
        dataset(tmp_path, "--num_classes", "1")
    with pytest.raises(UserError, match="--direction BtoA: --dataset_mode images supports only"):
        dataset(tmp_path, "--direction", "BtoA")
    with pytest.raises(UserError, match="absent: there is no such folder"):
        dataset(tmp_path / "absent")


def test_a_replaced_image_has_its_own_label(tmp_path: Path) -> None:
    for name, level in (("a/1.png", 10), ("b/1.png", 20)):
        image(tmp_path / name, level)
    (tmp_path / "a" / "1.png").write_bytes(b"nothing")
    data = dataset(tmp_path)
    data.replace_bad = True
    assert (int(sample(data, 0).A[0, 0, 0]), sample(data, 0).label) == (20, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x00\x08\x01" + bytes(12), "begins with the number 2051; this file begins with 2049"),
        (b"\x00\x00\x0d\x03" + bytes(12), "begins with 3331"),
        (b"", "begins with 0"),
        (idx(PIXELS)[:-1], "its header names 3 x 4 x 5 = 60 bytes, and 59 follow"),
        (idx(PIXELS) + b"x", "60 bytes, and 61 follow"),
        (idx(PIXELS)[:10], "and 0 follow"),
        (idx(PIXELS[:0]), "= 0 bytes"),
        (gzip.compress(idx(PIXELS), mtime=0)[:-12], "cannot be read"),
        (gzip.compress(idx(PIXELS), mtime=0)[:-8] + bytes(8), "cannot be read"),
        (b"\x1f\x8bnonsense", "cannot be read"),
    ],
)
def test_damaged_idx_files_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    write_idx(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        dataset(tmp_path)
    assert str(caught.value).startswith(f"{file}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_idx_files_are_read_within_limits(tmp_path: Path) -> None:
    write_idx(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    zeros = gzip.compress(bytes(1 << 20))
    file.write_bytes(gzip.compress(idx(PIXELS)) + zeros * 1000)  # one GB more than its header names
    with pytest.raises(UserError, match="= 60 bytes, and 61 follow"):
        dataset(tmp_path)
    header = bytes([0, 0, 8, 3]) + np.array([3_700_000, 28, 28], ">u4").tobytes()
    file.write_bytes(gzip.compress(header) + zeros * 2800)
    with pytest.raises(UserError, match=r"2\.90 GB of pixels, which exceeds --max_image_gb 0\.9"):
        dataset(tmp_path)


def test_labels_must_be_as_many_as_images(tmp_path: Path) -> None:
    write_idx(tmp_path, packed=False)
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(LABELS[:2]))
    with pytest.raises(UserError, match="train-labels-idx1-ubyte: 2 labels for the 3 images"):
        dataset(tmp_path)
    labels.unlink()
    assert sample(dataset(tmp_path), 0).label is None


@pytest.mark.skipif(not MNIST.exists(), reason="no MNIST at hand")
def test_mnist() -> None:
    result = find_image_set(MNIST, "train")
    assert (len(result.paths), result.classes) == (10000, 10)
    assert result.pixels is not None and result.pixels.shape == (10000, 28, 28)
    assert result.labels is not None and list(result.labels[:5]) == [7, 2, 1, 0, 4]


def test_batches_have_labels() -> None:
    A = torch.zeros(1, 2, 2, dtype=torch.uint8)
    [batch] = collate([Sample(i, A, None, "p", "p", label=3 - i) for i in range(2)]).batches
    assert batch.label is not None and batch.to(torch.device("cpu")).label is not None
    assert batch.to(torch.device("cpu")).label.tolist() == [3, 2]  # type: ignore[union-attr]
    assert collate([Sample(0, A, None, "p", "p")]).batches[0].label is None


def test_samples_of_generated_images_need_no_files() -> None:
    argv = ["--model", "dcgan", "--num_samples", "5", "--num_classes", "2", "--num_threads", "0"]
    options = parse(TestOptions, [*argv, "--batch_size", "3"], MODELS, DATASETS)
    assert options.run.dataroot == ""
    batches = list(create_loader(options, torch.device("cpu")).epoch(0))
    assert [name for batch in batches for name in batch.paths_A] == [f"sample_000{i}" for i in range(1, 6)]
    assert [batch.label.tolist() for batch in batches if batch.label is not None] == [[0, 1, 0], [1, 0]]
    assert len(LatentDataset(64, 0, seed=0)) == 64
