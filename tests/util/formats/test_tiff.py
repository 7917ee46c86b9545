"""TIFF files as images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from util import formats
from util.formats import BadImage, Entry
from util.image_limits import MAX_IMAGE_GB, set_max_image_gb


def numbers(*shape: int, dtype: Any = np.uint16) -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) * 7 % 997).astype(dtype)


def saved(path: Path, array: np.ndarray, **options: Any) -> str:
    tifffile.imwrite(path, array, **options)
    return str(path)


BANDS = numbers(5, 40, 56, dtype=np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "separate"},
        {"planarconfig": "separate", "tile": (16, 16), "compression": "zlib", "predictor": True},
        {
            "planarconfig": "separate",
            "bigtiff": True,
            "byteorder": ">",
            "rowsperstrip": 7,
            "compression": "lzw",
        },
        {"planarconfig": "contig"},
        {"planarconfig": "contig", "tile": (32, 16)},
        {"planarconfig": "contig", "rowsperstrip": 9, "byteorder": ">"},
        {"imagej": True},
        {"ome": True, "metadata": {"axes": "CYX"}},
    ],
)
def test_bands_of_any_layout(tmp_path: Path, options: dict[str, Any]) -> None:
    contig = options.get("planarconfig") == "contig"
    array = np.moveaxis(BANDS, 0, -1) if contig else BANDS
    path = saved(tmp_path / "x.tif", array, photometric="minisblack", **options)
    assert formats.entries([path]) == [path]
    assert formats.header(path) == (5, 40, 56, "float32")
    assert np.array_equal(formats.read(path), BANDS)
    assert np.array_equal(formats.read(path, (13, 5, 40, 39)), BANDS[:, 5:39, 13:40])
    assert formats.can_window(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
def test_what_is_written_is_read_again(tmp_path: Path, dtype: str, channels: int) -> None:
    image = numbers(channels, 6, 9, dtype=dtype)
    formats.write(tmp_path / "x.tif", image)
    again = formats.read(str(tmp_path / "x.tif"))
    assert again.dtype == dtype and np.array_equal(again, image)
    with tifffile.TiffFile(tmp_path / "x.tif") as tif:
        assert len(tif.pages) == 1
        assert tif.pages.first.photometric.name == (
            "RGB" if (channels, dtype[0]) == (3, "u") else "MINISBLACK"
        )


def test_results_keep_resolution_and_the_value_without_data(tmp_path: Path) -> None:
    tags = [(42113, 2, 0, "-99", True)]
    options: dict[str, Any] = {"resolution": (400, 200), "resolutionunit": 3, "extratags": tags}
    path = saved(tmp_path / "x.tif", numbers(8, 12), **options)
    formats.write(tmp_path / "y.tif", numbers(1, 2, 4), like=path, box=(2, 4, 10, 8))
    stack = saved(
        tmp_path / "stack.tif",
        numbers(3, 8, 12),
        imagej=True,
        resolution=(5, 5),
        metadata={"axes": "ZYX", "unit": "\\u00B5m"},
    )
    formats.write(tmp_path / "z.tif", numbers(1, 8, 12), like=formats.entries([stack])[1])
    with tifffile.TiffFile(stack) as tif:
        unit = tif.imagej_metadata["unit"]
    with tifffile.TiffFile(tmp_path / "y.tif") as tif:
        page = tif.pages.first
        assert page.resolution == (200, 100) and page.resolutionunit == 3
        assert page.tags[42113].value == "-99"
    with tifffile.TiffFile(tmp_path / "z.tif") as tif:
        assert tif.pages.first.resolution == (5, 5) and tif.imagej_metadata["unit"] == unit
    assert np.array_equal(formats.read(str(tmp_path / "z.tif")), numbers(1, 8, 12))


def test_pages_are_samples_or_channels(tmp_path: Path) -> None:
    array = numbers(12, 20, 30)
    path = saved(tmp_path / "x.tif", array, photometric="minisblack", compression="zlib")
    samples = formats.entries([path])
    assert samples[3] == f"{path}#003" and len(samples) == 12 and isinstance(samples[3], Entry)
    assert [formats.name_of(sample) for sample in samples][-1] == "x_011"
    assert np.array_equal(formats.read(samples[11])[0], array[11])
    assert np.array_equal(formats.read(str(samples[11]))[0], array[11])
    (channels,) = formats.entries([path], tiff_pages="channels")
    assert formats.header(channels) == (12, 20, 30, "uint16") and formats.name_of(channels) == "x"
    assert np.array_equal(formats.read(channels), array)
    assert np.array_equal(formats.read(channels, (1, 2, 9, 8)), array[:, 2:8, 1:9])


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {"ome": True, "compression": "zlib"}])
def test_channels_of_microscopy_stay_together(tmp_path: Path, options: dict[str, Any]) -> None:
    array = numbers(4, 3, 20, 30)
    path = saved(tmp_path / "x.tif", array, metadata={"axes": "ZCYX"}, photometric="minisblack", **options)
    samples = formats.entries([path])
    assert len(samples) == 4
    for sample, expected in zip(samples, array, strict=True):
        assert formats.header(sample) == (3, 20, 30, "uint16")
        assert np.array_equal(formats.read(sample), expected)
    (channels,) = formats.entries([path], tiff_pages="channels")
    assert np.array_equal(formats.read(channels), array.reshape(12, 20, 30))


def test_pages_of_unequal_sizes(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    first, second = numbers(3, 10, 12), numbers(20, 8)
    with tifffile.TiffWriter(path) as tif:
        tif.write(first, photometric="minisblack")
        tif.write(second, photometric="minisblack")
    samples = formats.entries([str(path)])
    assert [formats.header(sample)[1:3] for sample in samples] == [(10, 12)] * 3 + [(20, 8)]
    assert np.array_equal(formats.read(samples[3])[0], second)
    with pytest.raises(BadImage, match="different sizes, 10 x 12, 20 x 8"):
        formats.read(formats.entries([str(path)], tiff_pages="channels")[0])


def test_smaller_versions_of_an_image_are_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    array = numbers(64, 64)
    with tifffile.TiffWriter(path) as tif:
        tif.write(array, tile=(16, 16))
        tif.write(array[::2, ::2], tile=(16, 16), subfiletype=1)
    assert formats.entries([str(path)]) == [str(path)]
    assert np.array_equal(formats.read(str(path))[0], array)


def test_an_array_with_channels_last_that_was_written_as_pages(tmp_path: Path) -> None:
    array = numbers(40, 30, 5)
    path = saved(tmp_path / "x.tif", array)  # tifffile makes 40 pages of 30 x 5 pixels of it
    assert formats.entries([path]) == [path]
    assert np.array_equal(formats.read(path), np.moveaxis(array, -1, 0))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_that_pillow_applies(tmp_path: Path, orientation: int) -> None:
    array = numbers(5, 8, dtype=np.uint8)
    path = saved(tmp_path / "x.tif", array, extratags=[(274, 3, 1, orientation, True)])
    image = Image.fromarray(array)
    image.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    head = formats.header(path)
    assert np.array_equal(formats.read(path)[0], expected) and head[1:3] == expected.shape
    assert np.array_equal(formats.read(path, (1, 2, 3, 4))[0], expected[2:4, 1:3])


def test_palettes_are_colours_or_indices(tmp_path: Path) -> None:
    colours = np.zeros((3, 256), np.uint16)
    colours[:, 7] = (0x1234, 0xFF00, 0x0080)
    array = np.full((4, 5), 7, np.uint8)
    path = saved(tmp_path / "x.tif", array, photometric="palette", colormap=colours)
    assert formats.header(path) == (3, 4, 5, "uint8")
    assert formats.read(path)[:, 0, 0].tolist() == [0x12, 0xFF, 0]
    assert np.array_equal(formats.read_indices(path), array)


def test_limits_are_on_what_is_decoded(tmp_path: Path) -> None:
    array = numbers(300, 400)
    path = saved(tmp_path / "x.tif", array, tile=(16, 16), compression="zlib")
    set_max_image_gb(2e-4)
    try:
        with pytest.raises(BadImage, match="exceeds --max_image_gb"):
            formats.read(path)
        assert np.array_equal(formats.read(path, (100, 50, 180, 170))[0], array[50:170, 100:180])
    finally:
        set_max_image_gb(MAX_IMAGE_GB)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = Path(saved(tmp_path / "x.tif", numbers(30, 40), compression="zlib"))
    content = path.read_bytes()
    for end in (7, 60, 300, len(content) // 2, len(content) - 50):
        path.write_bytes(content[:end])
        (one,) = formats.entries([str(path)])
        with pytest.raises(BadImage, match=r"x\.tif"):
            formats.read(one)
