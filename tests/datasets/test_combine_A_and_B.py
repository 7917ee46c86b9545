"""The commands that join the images of two folders side by side."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.support.commands import load_command
from tests.support.shards import dataset
from util import formats
from util.errors import UserError

combine = load_command("datasets/combine_A_and_B.py")
make_aligned = load_command("datasets/make_dataset_aligned.py")

RNG = np.random.default_rng(0)


def save(path: Path, shape: tuple[int, ...], dtype: str = "uint8", palette: bool = False) -> NDArray[Any]:
    """Write random values, (H, W) or (H, W, C), and return them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    low, high = (-1000, 3000) if dtype == "float32" else (0, np.iinfo(dtype).max)
    values = RNG.uniform(low, high, shape).astype(dtype)
    if path.suffix == ".npy":
        np.save(path, values)
    elif palette:
        Image.fromarray(values).quantize(16).save(path, transparency=3)
    elif dtype == "uint8":
        Image.fromarray(values).save(path)
    else:
        formats.write(path, values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0))
    return values


def run(folder: Path, *flags: str) -> int:
    folders = [word for side in ("A", "B") for word in (f"--fold_{side}", str(folder / side))]
    status: int = combine.main([*folders, "--fold_AB", str(folder / "out"), "--no_multiprocessing", *flags])
    return status


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("1.png", (8, 6, 3), "uint8"),
        ("1.PNG", (8, 6, 2), "uint8"),
        ("1.webp", (8, 6, 4), "uint8"),
        ("1.bmp", (8, 6), "uint8"),
        ("1.png", (8, 6), "uint16"),
        ("1.tif", (8, 6, 5), "float32"),
        ("1.tif", (8, 6, 4), "uint8"),
        ("1.tiff", (8, 6, 2), "int16"),
        ("1.npy", (8, 6), "float32"),
        ("1.npy", (8, 6, 3), "int16"),
    ],
)
def test_values_and_format_are_kept(tmp_path: Path, name: str, shape: tuple[int, ...], dtype: str) -> None:
    paths = [tmp_path / side / "train" / name for side in "AB"]
    for path in paths:
        save(path, shape, dtype)
    assert run(tmp_path) == 0
    joined = formats.read(str(tmp_path / "out" / "train" / name))
    assert joined.dtype == dtype
    assert (joined == np.concatenate([formats.read(str(path)) for path in paths], axis=2)).all()


def test_jpeg_files_stay_jpeg_and_near(tmp_path: Path) -> None:
    for side, color in (("A", (200, 30, 30)), ("B", (30, 30, 200))):
        (tmp_path / side / "val").mkdir(parents=True)
        Image.new("RGB", (16, 8), color).save(tmp_path / side / "val" / "1.jpg", quality=100)
    assert run(tmp_path) == 0
    with Image.open(tmp_path / "out" / "val" / "1.jpg") as image:
        assert image.format == "JPEG" and image.size == (32, 8)
        pixels = np.asarray(image).astype(int)
    # Also at the edge between A and B, for the colours are not stored at half the resolution.
    assert abs(pixels[:, :16] - (200, 30, 30)).max() <= 4 and abs(pixels[:, 16:] - (30, 30, 200)).max() <= 4


@pytest.mark.parametrize(("input_nc", "output_nc"), [("3", "3"), ("1", "3"), ("1", "1")])
def test_training_sees_what_it_sees_in_two_folders(tmp_path: Path, input_nc: str, output_nc: str) -> None:
    kinds = [
        ("rgb.png", (30, 28, 3), "grey.png", (30, 28)),
        ("alpha.png", (30, 28, 4), "rgb.bmp", (30, 28, 3)),
        ("both.png", (30, 28, 2), "alpha.webp", (30, 28, 4)),
        ("palette.png", (30, 28, 3), "photo.jpg", (30, 28, 3)),
        ("alpha.tif", (30, 28, 4), "alpha.tif", (30, 28, 4)),
    ]
    for number, (first, shape_A, second, shape_B) in enumerate(kinds):
        for side, like, shape in (("A", first, shape_A), ("B", second, shape_B)):
            path = tmp_path / side / "train" / f"{number}{Path(like).suffix}"
            save(path, shape, palette=like.startswith("palette"))
            folder = tmp_path / "two" / f"train{side}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / path.name).write_bytes(path.read_bytes())
    assert run(tmp_path) == 0
    flags = ("--input_nc", input_nc, "--output_nc", output_nc)
    joined, two = (dataset(tmp_path / name, "aligned", *flags) for name in ("out", "two"))
    assert len(joined) == len(two) == len(kinds)
    for index in range(len(two)):
        ours, theirs = joined[1, index], two[1, index]
        assert torch.equal(ours.A, theirs.A) and torch.equal(ours.B, theirs.B)


def test_everything_that_is_left_out_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for side in "AB":
        save(tmp_path / side / "train" / "good.png", (4, 4, 3))
        save(tmp_path / side / "train" / "size.png", (4, 4 if side == "A" else 5, 3))
        save(tmp_path / side / "train" / "type.png", (4, 4), "uint8" if side == "A" else "uint16")
        save(tmp_path / side / "train" / "bands.npy", (9, 9, 5 if side == "A" else 3), "float32")
        save(tmp_path / side / "train" / "broken.png", (4, 4, 3))
    (tmp_path / "B" / "train" / "broken.png").write_bytes(b"no image")
    alone = [
        tmp_path / name
        for name in ("A/train/a.png", "A/train/sub/a.png", "B/train/b.png", "B/val/v.png", "A/loose.png")
    ]
    for path in alone:
        save(path, (4, 4, 3))
    (tmp_path / "A" / "train" / "notes.txt").write_text("no image")
    assert run(tmp_path) == 1
    written = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert written == ["good.png"]
    for path in alone:
        assert f"{path}: " in caplog.text
    for name, reason in (
        ("size.png", "differ in size, 4 x 4 and 5 x 4"),
        ("type.png", "uint8 and uint16"),
        ("bands.npy", "5 and 3 channels"),
    ):
        A, B = (tmp_path / side / "train" / name for side in "AB")
        assert any(f"{A} and {B}: " in message and reason in message for message in caplog.messages)
    assert f"{tmp_path / 'B' / 'train' / 'broken.png'}: cannot be read" in caplog.text


def test_partners_may_have_other_extensions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    A = save(tmp_path / "A" / "train" / "1.png", (4, 4, 3))
    save(tmp_path / "B" / "train" / "1.jpg", (4, 4, 3))
    for name in ("A/train/2.png", "B/train/2.bmp", "B/train/2.webp"):
        save(tmp_path / name, (4, 4, 3))
    assert run(tmp_path) == 1
    assert caplog.text.count("its partner in") == 3  # of the three files named 2
    joined = formats.read(str(tmp_path / "out" / "train" / "1.png"))
    assert (np.moveaxis(joined, 0, -1)[:, :4] == A).all()


def test_pages_of_a_file_are_pairs_or_channels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for side, pages in (("A", 3), ("B", 3)):
        (tmp_path / side / "train").mkdir(parents=True)
        values = RNG.integers(0, 4000, (pages, 20, 24), dtype=np.uint16)
        tifffile.imwrite(tmp_path / side / "train" / "1.tif", values, photometric="minisblack")
    assert run(tmp_path) == 0
    written = sorted((tmp_path / "out" / "train").iterdir())
    assert [path.name for path in written] == ["1_000.tif", "1_001.tif", "1_002.tif"]
    B = formats.read(f"{tmp_path / 'B' / 'train' / '1.tif'}#001")
    assert (formats.read(str(written[1]))[..., 24:] == B).all()
    assert run(tmp_path, "--tiff_pages", "channels") == 0
    assert formats.read(str(tmp_path / "out" / "train" / "1.tif")).shape == (3, 20, 48)
    assert "3 other images are in it" in caplog.text  # those of the first command

    tifffile.imwrite(tmp_path / "B" / "train" / "1.tif", values[:2], photometric="minisblack")
    assert run(tmp_path) == 1
    assert "hold 3 and 2 images" in caplog.text


def test_a_converted_file_does_not_replace_another(tmp_path: Path) -> None:
    for side in "AB":
        save(tmp_path / side / "train" / "1.png", (4, 4, 3))
        save(tmp_path / side / "train" / "1.gif", (4, 4, 3))
    assert run(tmp_path) == 0
    assert sorted(path.name for path in (tmp_path / "out" / "train").iterdir()) == ["1.gif.png", "1.png"]


def test_use_AB_and_num_imgs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        for side in "AB":
            save(tmp_path / "A" / "train" / f"{number}_{side}.png", (4, 4, 3))
    assert run(tmp_path, "--use_AB", "--fold_B", str(tmp_path / "A"), "--num_imgs", "2") == 0
    assert sorted(path.name for path in (tmp_path / "out" / "train").iterdir()) == ["0.png", "1.png"]
    unmarked = tmp_path / "A" / "train" / "3.png"
    save(unmarked, (4, 4, 3))
    assert run(tmp_path, "--use_AB", "--fold_B", str(tmp_path / "A")) == 1
    assert f"{unmarked}: its name ends in neither _A nor _B" in caplog.text


def test_a_wrong_command_writes_nothing(tmp_path: Path) -> None:
    save(tmp_path / "A" / "1.png", (4, 4, 3))
    (tmp_path / "B").mkdir()
    with pytest.raises(UserError, match="no folders in it; each is a split"):
        run(tmp_path)
    with pytest.raises(UserError, match="is in --fold_A"):
        run(tmp_path, "--fold_AB", str(tmp_path / "A" / "out"))
    with pytest.raises(UserError, match="if it has both"):
        run(tmp_path, "--fold_B", str(tmp_path / "A"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A", "B"]


def align(folder: Path) -> int:
    status: int = make_aligned.main(["--dataset-path", str(folder), "--num_threads", "1"])
    return status


def test_folders_are_joined_by_position_and_numbered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    A = [save(tmp_path / "trainA" / f"{name}.png", (4, 4, 3)) for name in "ab"]
    B = [save(tmp_path / "trainB" / f"{name}.png", (4, 4, 3)) for name in "ab"]
    assert align(tmp_path) == 0 and not caplog.messages
    for number in range(2):
        joined = np.asarray(Image.open(tmp_path / "train" / f"{number:04d}.png"))
        assert (joined == np.concatenate([A[number], B[number]], 1)).all()

    # One name in each folder alone: a neighbour is no partner.
    (tmp_path / "trainB" / "a.png").rename(tmp_path / "trainB" / "c.png")
    assert align(tmp_path) == 1
    assert sum("has no partner" in message for message in caplog.messages) == 2

    (tmp_path / "trainB" / "b.png").rename(tmp_path / "trainB" / "d.png")
    assert align(tmp_path) == 0
    assert "no names are the same; files of the same position are joined" in caplog.text


def test_unequal_counts_and_sizes_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "trainA" / "1.png", (4, 4, 3))
    alone = tmp_path / "trainA" / "2.png"
    save(alone, (4, 4, 3))
    save(tmp_path / "trainB" / "1.png", (4, 4, 3))
    for side, count in (("A", 1), ("B", 2)):
        for number in range(count):
            save(tmp_path / f"val{side}" / f"{number}_{side}.png", (4, 4, 3))
    for side, width in (("A", 4), ("B", 6)):
        save(tmp_path / f"test{side}" / "1.jpg", (4, width, 3))
    assert align(tmp_path) == 1
    assert f"{alone}: has no partner" in caplog.text
    assert "has 1 images and" in caplog.text and "none of the same name" in caplog.text
    assert "differ in size, 4 x 4 and 6 x 4" in caplog.text
    joined = [path for path in tmp_path.rglob("*.*") if path.parent.name in ("train", "val", "test")]
    assert joined == [tmp_path / "train" / "0000.png"]
    with pytest.raises(UserError, match="neither trainA and trainB"):
        align(tmp_path / "trainA")
