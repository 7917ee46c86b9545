"""GeoTIFF files, made and checked by rasterio."""

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from util import formats, remarks
from util.formats import geotiff
from util.image_limits import MAX_IMAGE_GB, set_max_image_gb
from util.shards import Member

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import Affine  # noqa: E402

TRANSFORM = Affine(10, 0, 500000, 0, -10, 4500000)


def numbers(*shape: int, dtype: Any = np.uint16) -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) * 7 % 1009).astype(dtype)


def saved(path: Path, array: np.ndarray, **options: Any) -> str:
    count, height, width = array.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": array.dtype}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=TRANSFORM, **profile, **options) as file:
        file.write(array)
        file.descriptions = [f"band {number}" for number in range(count)]
    return str(path)


@pytest.mark.parametrize(
    "options", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "lzw"}]
)
def test_scenes_and_their_parts(tmp_path: Path, options: dict[str, Any]) -> None:
    array = numbers(5, 40, 60, dtype=np.int16)
    path = saved(tmp_path / "x.tif", array, **options)
    assert formats.entries([path]) == [path] and formats.can_window(path)
    assert formats.header(path) == (5, 40, 60, "int16")
    assert np.array_equal(formats.read(path), array)
    assert np.array_equal(formats.read(path, (7, 3, 50, 31)), array[:, 3:31, 7:50])
    content = Path(path).read_bytes()
    (tmp_path / "x.tar").write_bytes(content)
    member = Member.of("elsewhere/x.tif", str(tmp_path / "x.tar"), "x.tif", 0, len(content))
    assert np.array_equal(formats.read(member), array)
    assert formats.thumbnail(path, 20).shape == (5, 13, 20)


def check_place(new: Any, step: float, left: float, top: float) -> None:
    assert new.crs.to_epsg() == 32633
    assert new.transform.almost_equals(
        Affine(10 * step, 0, 500000 + 10 * left, 0, -10 * step, 4500000 - 10 * top)
    )


def test_a_place_without_a_coordinate_system_is_kept(tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "count": 1, "height": 8, "width": 6, "dtype": "uint8"}
    with rasterio.open(tmp_path / "x.tif", "w", transform=TRANSFORM, **profile) as file:
        file.write(numbers(1, 8, 6, dtype=np.uint8))
    formats.write(tmp_path / "y.tif", np.zeros((1, 4, 4), np.uint8), str(tmp_path / "x.tif"), (2, 3, 6, 7))
    with rasterio.open(tmp_path / "y.tif") as new:
        assert new.crs is None and new.transform == Affine(10, 0, 500020, 0, -10, 4499970)


def test_results_keep_the_place(tmp_path: Path) -> None:
    source = saved(tmp_path / "x.tif", numbers(3, 40, 60), nodata=7)
    image = formats.read(source)
    formats.write(tmp_path / "same.tif", image, like=source)
    with rasterio.open(tmp_path / "same.tif") as new:
        check_place(new, 1, 0, 0)
        assert np.array_equal(new.read(), image) and new.nodata == 7 and new.descriptions[0] == "band 0"
    small = image[:, 10:30, 20:50][:, ::2, ::2].astype(np.float32)[:1]
    formats.write(tmp_path / "part.tif", small, like=source, box=(20, 10, 50, 30))
    with rasterio.open(tmp_path / "part.tif") as new:
        check_place(new, 2, 20, 10)
        assert np.array_equal(new.read(), small) and new.dtypes == ("float32",)
    with tifffile.TiffFile(tmp_path / "same.tif") as tif:
        assert tif.pages.first.photometric.name == "RGB"


@pytest.mark.parametrize("georeferenced", [True, False])
@pytest.mark.parametrize(("channels", "dtype"), [(1, "float32"), (3, "uint16"), (5, "int16")])
def test_results_written_by_rows(tmp_path: Path, georeferenced: bool, channels: int, dtype: str) -> None:
    image = numbers(channels, 600, 530, dtype=dtype)
    source = tmp_path / "x.tif"
    if georeferenced:
        saved(source, image)
    else:
        formats.write(source, image)
    path = tmp_path / "y.tif"
    with formats.open_writer(path, str(source), channels, dtype, 600, 530) as writer:
        assert not path.exists()
        for top in range(0, 600, 170):
            writer.write_rows(top, image[:, top : top + 170])
    assert np.array_equal(formats.read(str(path)), image) and formats.can_window(str(path))
    if georeferenced:
        with rasterio.open(path) as new:
            check_place(new, 1, 0, 0)
            assert new.profile["tiled"]
    with (
        pytest.raises(RuntimeError),
        formats.open_writer(tmp_path / "z.tif", str(source), channels, dtype, 600, 530) as writer,
    ):
        writer.write_rows(0, image[:, :90])
        raise RuntimeError
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.tif", "y.tif"]


def test_a_part_of_a_scene_larger_than_the_limit(tmp_path: Path) -> None:
    array = numbers(2, 300, 400)
    path = saved(tmp_path / "x.tif", array)
    set_max_image_gb(1e-4)
    try:
        with pytest.raises(formats.BadImage, match="exceeds --max_image_gb"):
            formats.read(path)
        assert np.array_equal(formats.read(path, (50, 60, 90, 80)), array[:, 60:80, 50:90])
        assert formats.thumbnail(path, 40).shape == (2, 30, 40)
    finally:
        set_max_image_gb(MAX_IMAGE_GB)


def test_land_cover_is_colours_or_indices(tmp_path: Path) -> None:
    array = numbers(1, 20, 30, dtype=np.uint8) % 3
    path = saved(tmp_path / "x.tif", array, photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (1, 2, 3, 255), 1: (40, 50, 60, 255), 2: (9, 9, 9, 255)})
    assert formats.header(path).channels == 3
    assert formats.read(path)[:, 0, 0].tolist() == [[1, 2, 3], [40, 50, 60], [9, 9, 9]][array[0, 0, 0]]
    assert np.array_equal(formats.read_indices(path), array[0])


def test_without_rasterio_the_values_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    array = numbers(2, 20, 30)
    path = saved(tmp_path / "x.tif", array)
    monkeypatch.setattr(geotiff, "is_installed", lambda: False)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    monkeypatch.setattr(remarks, "_shown", set())
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(formats.read(path), array)
        formats.write(tmp_path / "y.tif", array, like=path)
    assert len(caplog.records) == 1 and "requirements-science.txt" in caplog.text
    assert np.array_equal(formats.read(str(tmp_path / "y.tif")), array)
