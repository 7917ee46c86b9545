"""GeoTIFF and JPEG 2000 scenes, by rasterio."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from util.files import sync, sync_folder, temporary_path
from util.formats.base import (
    Array,
    Box,
    FormatError,
    Header,
    Source,
    Window,
    check_shape,
    missing,
    native_type,
    sampling,
)

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

JPEG2000 = b"\0\0\0\x0cjP  "

SETTINGS = {"GDAL_CACHEMAX": 64 << 20, "GDAL_PAM_ENABLED": False}
"""GDAL's memory for blocks of files, in bytes; no files beside images."""

TILE = 256
"""Rows and columns of the tiles of files that are written."""

logging.getLogger("rasterio").setLevel(logging.CRITICAL)


def is_installed() -> bool:
    """Return whether rasterio is."""
    return find_spec("rasterio") is not None


def header(source: Source, key: str) -> Header:
    """Return the header of a scene."""
    with _opened(source) as scene:
        if _palette(scene) is not None:
            return Header(3, scene.height, scene.width, "uint8")
        return Header(scene.count, scene.height, scene.width, native_type(_dtype(scene)).name)


def read(source: Source, key: str, window: Window | None, indices: bool = False) -> Array:
    """Return a scene, (C, H, W), or a part of it: the stored values; palettes as RGB.

    Args:
        indices: return the indices of palettes.
    """
    return _read(source, window, None, indices)


def thumbnail(source: Source, height: int, width: int) -> Array:
    """Return a whole scene in another size, (C, height, width), of its nearest pixels."""
    return _read(source, None, (height, width), False)


def nodata(source: Source, key: str) -> float | None:
    """Return the value of pixels without data."""
    with _opened(source) as scene:
        return None if scene.nodata is None else float(scene.nodata)


def can_window(source: Source, key: str) -> bool:
    """Return whether a part is read without decoding all."""
    return True


def written(image: Array, like: str, box: Box | None) -> bytes:
    """Return the content of a GeoTIFF file of an image, (C, H, W), that shows a box of a scene."""
    from rasterio.io import MemoryFile

    with ExitStack() as stack:
        scene = stack.enter_context(_opened(stack.enter_context(Source(like))))
        file = stack.enter_context(MemoryFile())
        profile = _profile(scene, image.shape, image.dtype, box)
        with file.open(**profile) as new:
            new.write(image)
            _describe(scene, new, box)
        return bytes(file.read())


class Writer:
    """Write a GeoTIFF file by rows, from the top; in a ``with`` block, after which the file exists."""

    def __init__(
        self, path: Path, like: str, shape: tuple[int, int, int], dtype: np.dtype[Any], box: Box | None
    ):
        import rasterio

        self._path, self._temporary = path, temporary_path(path)
        self._stack = ExitStack()
        scene = self._stack.enter_context(_opened(self._stack.enter_context(Source(like))))
        self._file = rasterio.open(self._temporary, "w", **_profile(scene, shape, dtype, box))
        _describe(scene, self._file, box)
        self._waiting = np.zeros((shape[0], 0, shape[2]), dtype)
        self._next, self._height = 0, shape[1]

    def write_rows(self, top: int, rows: Array) -> None:
        """Write rows, (C, rows, W), that begin at row `top`: the one after the last."""
        written = self._next + self._waiting.shape[1]
        if top != written:
            raise ValueError(f"rows from {top}, but the next one is {written}")
        waiting = np.concatenate([self._waiting, rows], 1) if self._waiting.size else rows
        # Only whole rows of tiles, which would be compressed again whenever they change.
        count = waiting.shape[1]
        whole = count if written + rows.shape[1] == self._height else count // TILE * TILE
        if whole:
            window = ((self._next, self._next + whole), (0, waiting.shape[2]))
            self._file.write(waiting[:, :whole], window=window)
        self._next += whole
        self._waiting = waiting[:, whole:].copy()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            self._file.close()
            if kind is None:
                with self._temporary.open("rb") as file:
                    sync(file.fileno())
                self._temporary.replace(self._path)
                sync_folder(self._path.parent)
        finally:
            self._stack.close()
            with suppress(OSError):
                self._temporary.unlink(missing_ok=True)


@contextmanager
def _opened(source: Source) -> "Iterator[DatasetReader]":
    try:
        import rasterio
        from rasterio.io import MemoryFile
    except ImportError:
        raise missing("rasterio", "a JPEG 2000 or GeoTIFF file") from None
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        stack.enter_context(rasterio.Env(**SETTINGS))
        # GDAL would choose among hundreds of formats by the content.
        driver = "JP2OpenJPEG" if source.head.startswith(JPEG2000) else "GTiff"
        if source.on_disk:
            yield stack.enter_context(rasterio.open(source.path, driver=driver, sharing=False))
        else:
            source.seek(0)
            content = stack.enter_context(MemoryFile(source.read()))
            yield stack.enter_context(content.open(driver=driver))


def _dtype(scene: "DatasetReader") -> np.dtype[Any]:
    return np.result_type(*(native_type(dtype) for dtype in scene.dtypes))


def _palette(scene: "DatasetReader") -> Array | None:
    """Return the colours of a palette, (256, 3), or None."""
    from rasterio.enums import ColorInterp

    if scene.count != 1 or scene.colorinterp[0] != ColorInterp.palette or scene.dtypes[0] != "uint8":
        return None
    colours = scene.colormap(1)
    return np.array([colours.get(number, (0, 0, 0, 255))[:3] for number in range(256)], np.uint8)


def _read(source: Source, window: Window | None, size: tuple[int, int] | None, indices: bool) -> Array:
    with _opened(source) as scene:
        from rasterio.errors import RasterioIOError

        dtype = _dtype(scene)
        left, top, right, bottom = window or (0, 0, scene.width, scene.height)
        shape = (scene.count, *(size or (bottom - top, right - left)))
        check_shape(shape, dtype)
        try:
            pixels = scene.read(window=((top, bottom), (left, right)), out_shape=shape, out_dtype=dtype)
        except RasterioIOError as error:
            raise FormatError(str(error.__cause__ or error)) from error
        palette = None if indices else _palette(scene)
        return pixels if palette is None else np.moveaxis(palette[pixels[0]], -1, 0)


def _profile(
    scene: "DatasetReader", shape: tuple[int, ...], dtype: np.dtype[Any], box: Box | None
) -> dict[str, Any]:
    """Return how GDAL is to write an image of this shape that shows a box of a scene."""
    from rasterio.transform import Affine

    left, top, step_x, step_y = _corner(scene, shape, box)
    moved = np.reshape(scene.transform, (3, 3)) @ [[step_x, 0, left], [0, step_y, top], [0, 0, 1]]
    profile: dict[str, Any] = {
        "driver": "GTiff",
        **dict(zip(("count", "height", "width"), shape, strict=True)),
        "dtype": dtype.name,
        "compress": "deflate",
        "zlevel": 1,
        "predictor": 3 if dtype.kind == "f" else 2,
        "interleave": "band",
        "photometric": "rgb" if shape[0] == 3 and dtype.kind == "u" else "minisblack",
        "bigtiff": "if_safer",
    }
    if min(shape[1:]) >= TILE:
        profile |= {"tiled": True, "blockxsize": TILE, "blockysize": TILE}
    if not scene.gcps[0]:
        profile |= {"crs": scene.crs, "transform": Affine(*map(float, moved[:2].ravel()))}
    nodata = scene.nodata
    if nodata is not None and (dtype.kind == "f" or _holds(dtype, nodata)):
        profile["nodata"] = nodata
    return profile


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    limits = np.iinfo(dtype)
    return limits.min <= value <= limits.max and float(value).is_integer()


def _corner(
    scene: "DatasetReader", shape: tuple[int, ...], box: Box | None
) -> tuple[float, float, float, float]:
    """Return the left and top edge of an image in its scene, and the size of its pixels in the scene's."""
    (first_x, step_x), (first_y, step_y) = sampling(box, shape[1:], (scene.height, scene.width))
    return first_x + 0.5 - step_x / 2, first_y + 0.5 - step_y / 2, step_x, step_y


def _describe(scene: "DatasetReader", new: Any, box: Box | None) -> None:
    """Copy the names of a scene's bands to an image with as many, and its ground control points."""
    if scene.count == new.count:
        new.descriptions = scene.descriptions
    points, crs = scene.gcps
    if points:
        left, top, step_x, step_y = _corner(scene, (new.count, new.height, new.width), box)
        for point in points:
            point.col, point.row = (point.col - left) / step_x, (point.row - top) / step_y
        new.gcps = (points, crs)
