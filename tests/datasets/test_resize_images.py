"""The command that scales the images of a folder."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from data.folders.conversion import Pixels
from data.folders.resizing import Target, scale
from data.transforms import scale_nearest
from tests.support.commands import load_command
from util import formats
from util.errors import UserError

resize_images = load_command("datasets/resize_images.py")

RNG = np.random.default_rng(0)


def run(folder: Path, *flags: str) -> int:
    argv = [str(folder / "in"), str(folder / "out"), "--num_threads", "1", *flags]
    status: int = resize_images.main(argv)
    return status


def photo(path: Path, width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    image.save(path)
    return image


def read(path: Path) -> np.ndarray:
    return formats.read(str(path))


def test_8_bit_images_are_scaled_as_by_pillow_and_keep_names_and_formats(tmp_path: Path) -> None:
    grey, color = photo(tmp_path / "in" / "a" / "1.png", mode="L"), photo(tmp_path / "in" / "2.webp")
    photo(tmp_path / "in" / "3.jpg")
    assert run(tmp_path, "--size", "16x12") == 0
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert written == ["2.webp", "3.jpg", "a/1.png", "resize_images.jsonl"]
    assert (
        read(tmp_path / "out" / "a" / "1.png")[0] == grey.resize((16, 12), Image.Resampling.BICUBIC)
    ).all()
    with Image.open(tmp_path / "in" / "2.webp") as stored:
        color = stored.convert("RGB")
    expected = np.asarray(color.resize((16, 12), Image.Resampling.BICUBIC))
    assert (np.moveaxis(read(tmp_path / "out" / "2.webp"), 0, -1) == expected).all()
    with Image.open(tmp_path / "out" / "3.jpg") as image:
        assert image.format == "JPEG" and image.size == (16, 12)


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("1.png", (1, 64, 64), "uint16"),
        ("1.tif", (5, 64, 64), "float32"),
        ("1.npy", (2, 64, 64), "int16"),
        ("1.tif", (4, 64, 64), "uint8"),
    ],
)
def test_depth_and_channels_are_kept_and_edges_are_antialiased(
    tmp_path: Path, name: str, shape: tuple[int, ...], dtype: str
) -> None:
    (tmp_path / "in").mkdir()
    image = np.zeros(shape, dtype)
    image[:, ::2] = 100  # stripes as narrow as they can be: their mean is left
    image[1:] += np.array(7, dtype)
    formats.write(tmp_path / "in" / name, image)
    assert run(tmp_path, "--scale", "0.25") == 0
    scaled = read(tmp_path / "out" / name)
    assert scaled.dtype == dtype and scaled.shape == (shape[0], 16, 16)
    inner = scaled[:, 3:-3, 3:-3].astype(float)
    assert abs(inner[0] - 50).max() <= 1 and abs(inner[1:] - 57).max(initial=0) <= 1


def test_values_without_data_do_not_spread() -> None:
    image = np.full((1, 32, 32), 5, np.float32)
    image[:, :, :9] = np.nan
    scaled = scale(Pixels(image), (8, 8))
    assert np.isnan(scaled[..., :2]).all() and (abs(scaled[..., 3:] - 5) < 1e-5).all()
    assert scaled.dtype == np.float32
    marked = np.where(np.isnan(image), -9999, image).astype(np.int16)
    scaled = scale(Pixels(marked, nodata=-9999), (8, 8))
    assert (scaled[..., :2] == -9999).all() and (scaled[..., 3:] == 5).all()


def test_colours_of_transparent_pixels_do_not_spread() -> None:
    image = np.zeros((4, 32, 32), np.uint16)
    image[0], image[1, :, 16:] = 60000, 40000  # the right half is opaque
    image[3, :, 16:] = 65535
    scaled = scale(Pixels(image, transparent=True), (9, 9))
    assert (scaled[1, :, 4:] == 40000).all() and (scaled[3, :, 4] < 65535).all()


def test_label_maps_keep_their_numbers_and_palettes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "in" / "train_label"
    folder.mkdir(parents=True)
    labels = RNG.choice(np.array([0, 7, 35], np.uint8), (20, 20))
    palette = Image.fromarray(labels).convert("P")
    palette.putpalette(RNG.integers(0, 256, 768, dtype=np.uint8).tobytes())
    palette.save(folder / "palette.png")
    Image.fromarray(labels > 7).save(folder / "bit.png")
    formats.write(folder / "wide.png", labels[None].astype(np.uint16) + 40000)
    photo(tmp_path / "in" / "train_img" / "1.png")
    assert run(tmp_path, "--size", "10", "--nearest", "train_label") == 0
    expected = scale_nearest(labels, (10, 10))
    out = tmp_path / "out" / "train_label"
    assert (formats.read_indices(str(out / "palette.png")) == expected).all()
    with Image.open(out / "palette.png") as image:
        assert image.mode == "P" and image.getpalette() == palette.getpalette()
    assert (formats.read_indices(str(out / "bit.png")) == (expected > 7)).all()
    assert (read(out / "wide.png") == expected[None].astype(np.uint16) + 40000).all()
    assert "a label map?" not in caplog.text
    assert run(tmp_path, "--size", "10") == 0
    assert "a label map?" in caplog.text


def test_the_images_of_a_pair_are_scaled_one_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pair = np.zeros((20, 41, 3), np.uint8)
    pair[:, 21:] = 255
    Image.fromarray(pair).save(folder / "1.png")
    Image.fromarray(pair[..., 0]).quantize(2).save(folder / "2.png")
    assert run(tmp_path, "--size", "7", "--pairs") == 0
    scaled = read(tmp_path / "out" / "1.png")
    assert scaled.shape == (3, 7, 14) and (scaled[..., :7] == 0).all() and (scaled[..., 7:] == 255).all()
    assert run(tmp_path, "--size", "5", "--pairs", "--nearest") == 0
    with Image.open(tmp_path / "out" / "2.png") as image:
        assert image.mode == "P" and image.size == (10, 5)
        assert (np.asarray(image.convert("L")) == np.repeat([0, 255], 5)).all()


def test_the_same_command_scales_only_what_has_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("1.png", "2.png", "3.png"):
        photo(tmp_path / "in" / name)
    broken = tmp_path / "in" / "4.png"
    broken.write_bytes(b"no image")
    assert run(tmp_path, "--size", "8") == 1
    assert (
        f"{broken}: cannot be read" in caplog.text and "3 images scaled, 0 were there, 1 could" in caplog.text
    )

    photo(broken)
    photo(tmp_path / "in" / "1.png")  # other content
    (tmp_path / "out" / "2.png").unlink()
    record = tmp_path / "out" / "resize_images.jsonl"
    record.write_text(record.read_text() + '{"name": "3.p')  # a process was killed here
    kept = os.stat(tmp_path / "out" / "3.png").st_mtime_ns
    assert run(tmp_path, "--size", "8") == 0
    assert "3 images scaled, 1 were there" in caplog.text
    assert os.stat(tmp_path / "out" / "3.png").st_mtime_ns == kept
    for flags in (("--size", "8", "--nearest"), ("--size", "9")):
        caplog.clear()
        assert run(tmp_path, *flags) == 0
        assert "4 images scaled, 0 were there" in caplog.text
    assert all(json.loads(line)["nearest"] is False for line in record.read_text().splitlines()[-4:])


def test_pages_of_a_file_are_scaled_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pages = RNG.integers(0, 4000, (3, 20, 24), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "in" / "stack.tif", pages, photometric="minisblack")
    assert run(tmp_path, "--long_side", "12") == 0
    scaled = [read(Path(page)) for page in formats.entries([str(tmp_path / "out" / "stack.tif")])]
    assert [page.shape for page in scaled] == [(1, 10, 12)] * 3
    assert (scaled[2] == scale(Pixels(pages[2:]), (12, 10))).all()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target(size=(5, 7)), (5, 7)),
        (Target(width=20), (20, 10)),
        (Target(short_side=10), (20, 10)),
        (Target(long_side=10), (10, 5)),
        (Target(scale=0.001), (1, 1)),
        (Target(width=80, only_shrink=True), (40, 20)),
    ],
)
def test_sizes(target: Target, expected: tuple[int, int]) -> None:
    assert target.of((40, 20)) == expected


def test_a_wrong_command_writes_nothing(tmp_path: Path) -> None:
    photo(tmp_path / "in" / "1.png")
    for flags, message in (
        (("--size", "0"), "--size 0: expected pixels"),
        (("--scale", "-1"), "--scale -1.0: expected"),
        (("--size", "8", "--nearest", "labels"), "labels: there is no such folder"),
        ((), "one of the arguments --size"),
    ):
        with pytest.raises(UserError, match=message):
            run(tmp_path, *flags)
    with pytest.raises(UserError, match="name another folder"):
        resize_images.main([str(tmp_path / "in"), str(tmp_path / "in" / "out"), "--size", "8"])
    assert [path.name for path in tmp_path.rglob("*.*")] == ["1.png"]
