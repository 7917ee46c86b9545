"""TIFF files, by tifffile."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tifffile
from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

from util.files import sync, sync_folder, temporary_path
from util.formats.base import (
    Array,
    Box,
    FormatError,
    Header,
    Source,
    Window,
    check_shape,
    crop,
    missing,
    native_type,
    sampling,
    turned,
)
from util.image_io import read_image
from util.image_limits import HEADER_BYTES, LimitError, max_image_bytes
from util.shards import file_identity

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

ALL = "all"
"""The key of all pages as channels."""

COLOUR_SPACES = {5: "CMYK", 6: "YCbCr", 8: "CIELab"}
"""Photometric interpretations that are read as RGB where they have 8 bits."""

JPEG = (6, 7, 34892, 33007)
"""Compressions that give RGB whatever the photometric interpretation."""

MAX_BANDS = 32
"""Up to this length, the last axis of an array that was written without its axes is its channels."""

NODATA = 42113
"""GDAL's tag with the value of pixels without data."""

GEOREFERENCE = (33550, 33922, 34264, 34735)
"""Tags of GeoTIFF: size of pixels, points, transform and coordinate system, of which any may be absent."""

SEGMENT_BYTES = 1 << 26
"""Up to this size of its strips or tiles, a part of an image is decoded by itself."""

OPEN_FILES = 4
"""Files with several images that stay open."""

_open_files: list[tuple[object, Source, TiffFile]] = []

logging.getLogger("tifffile").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Plane:
    """Where one sample of a file is: in a series of pages of equal size.

    Attributes:
        index: for each axis of the series a number, or all of it.
        axes: what the axes are that are left then, of Y, X, C (channels) and S (samples per pixel).
        shape: the sample's channels, height and width, before its orientation is applied.
    """

    series: TiffPageSeries
    index: tuple[int | slice, ...]
    axes: str
    shape: tuple[int, int, int]


def samples(source: Source, pages: str) -> list[str]:
    """Return the keys of the images in a file: "" if there is only one.

    Args:
        pages: ``samples`` or ``channels``.
    """
    with _opened(source, "") as tif:
        count = sum(_count(series) for series in _series(tif))
    if count > source.size / 8:
        raise FormatError(f"its header claims {count} pages, more than the file can have")
    if count == 1:
        return [""]
    return [ALL] if pages == "channels" else [str(number) for number in range(count)]


def header(source: Source, key: str) -> Header:
    """Return the header of an image; its orientation is applied."""
    with _opened(source, key) as tif:
        planes = _planes(tif, key)
        page = _first_page(planes)
        channels, (_, height, width) = sum(plane.shape[0] for plane in planes), planes[0].shape
        if _orientation(page) > 4:
            height, width = width, height
        if _is_palette(page) or _by_pillow(page, key):
            return Header(3, height, width, "uint8")
        return Header(channels, height, width, native_type(_dtype(page)).name)


def read(source: Source, key: str, window: Window | None, indices: bool = False) -> Array:
    """Return an image, (C, H, W), or a part of it; palettes, CMYK, YCbCr and CIELab of 8 bits as RGB.

    Args:
        indices: return the indices of palettes.
    """
    with _opened(source, key) as tif, ExitStack() as stack:
        planes = _planes(tif, key)
        page = _first_page(planes)
        stack.enter_context(_names_extra(source, page))
        if _by_pillow(page, key):
            return crop(np.moveaxis(np.asarray(read_image(source.path)), -1, 0), window)
        check_shape((sum(plane.shape[0] for plane in planes), *_part(planes[0], window)), _dtype(page))
        if window is not None and _orientation(page) == 1:
            image = np.concatenate([_window(source, plane, window) for plane in planes])
        else:
            image = crop(turned(_joined(source, planes), _orientation(page)), window)
        if _is_palette(page) and not indices:
            colours = np.asarray(page.colormap)
            image = (colours[:, np.minimum(image[0], colours.shape[1] - 1)] >> 8).astype(np.uint8)
        return image


def nodata(source: Source, key: str) -> float | None:
    """Return the value of pixels without data, in GDAL's tag."""
    with _opened(source, key) as tif:
        tag = _first_page(_planes(tif, key)).tags.get(NODATA)
        with suppress(ValueError):
            return None if tag is None else float(str(tag.value).strip("\0 "))
    return None


def can_window(source: Source, key: str) -> bool:
    """Return whether a part is read without decoding all."""
    with _opened(source, key) as tif:
        planes = _planes(tif, key)
        page = _first_page(planes)
        if _orientation(page) != 1 or _by_pillow(page, key):
            return False
        return all(_is_mapped(source, plane) or _segmented(plane) is not None for plane in planes)


def is_georeferenced(source: Source, key: str) -> bool:
    """Return whether a file is one image with a georeference."""
    with _opened(source, key) as tif:
        tags = tif.pages.first.tags
        has_place = any(tag in tags for tag in GEOREFERENCE)
        return not key and has_place and sum(_count(series) for series in _series(tif)) == 1


def kept(source: Source, key: str, box: Box | None, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return what tifffile is to write of a file into one that shows a box of it: no-data value, resolution.

    Args:
        shape: channels, height and width of the image that is written.
    """
    with _opened(source, key) as tif:
        planes = _planes(tif, key)
        tags = _first_page(planes).tags
        options: dict[str, Any] = {}
        if (nodata := tags.get(NODATA)) is not None:
            options["extratags"] = [(NODATA, 2, 0, str(nodata.value), True)]
        x, y, unit = (tags.get(name) for name in ("XResolution", "YResolution", "ResolutionUnit"))
        if x is None or y is None or not (all(x.value) and all(y.value)):
            return options
        (_, step_x), (_, step_y) = sampling(box, shape[1:], planes[0].shape[1:])
        options["resolution"] = (x.value[0] / x.value[1] / step_x, y.value[0] / y.value[1] / step_y)
        options["resolutionunit"] = 2 if unit is None else int(unit.value)
        imagej = tif.imagej_metadata or {}
        if "unit" in imagej and shape[0] == 1:
            # The unit of ImageJ's resolution has no tag; it writes a micro sign like this.
            name = str(imagej["unit"]).replace("\u00b5", "\\u00B5").encode("ascii", "replace").decode()
            options["description"] = f"ImageJ=1.54\nunit={name}\n"
        return options


@contextmanager
def _opened(source: Source, key: str) -> Iterator[TiffFile]:
    """Open a file; those with several images stay open, because finding one takes as long as reading it."""
    if not key or not source.on_disk:
        source.seek(0)
        with TiffFile(source) as tif:
            yield tif
        return
    # A file that is shared with another process or thread has one position.
    identity = (os.getpid(), threading.get_ident(), file_identity(source.path))
    for kept in _open_files:
        if kept[0] == identity:
            kept[1].restart(2 * kept[1].size + HEADER_BYTES)
            yield kept[2]
            return
    while len(_open_files) >= OPEN_FILES:
        _, file, _ = _open_files.pop(0)
        file.close()
    file = Source(source.path)
    tif = TiffFile(file)
    yield tif
    _open_files.append((identity, file, tif))


@contextmanager
def _names_extra(source: Source, page: TiffPage) -> Iterator[None]:
    """Turn tifffile's error that it has no decoder into one that names the package."""
    try:
        yield
    except (ImportError, ValueError) as error:
        if isinstance(error, ImportError) or "requires the 'imagecodecs' package" in str(error):
            name = getattr(page.compression, "name", page.compression)
            raise missing("imagecodecs", f"{source.path}: its compression {name}") from error
        raise


def _series(tif: TiffFile) -> list[TiffPageSeries]:
    """Return the series of a file, without smaller versions of images and without masks."""
    listed = [one for one in tif.series if one.keyframe is not None]
    full = [one for one in listed if not (one.keyframe.is_reduced or one.keyframe.is_mask)]
    if not (full or listed):
        raise FormatError("no page in it")
    return full or listed


def _sizes(series: TiffPageSeries) -> list[tuple[str, int]]:
    """Return the axes of a series with their sizes."""
    axes, shape = series.axes, tuple(map(int, series.shape))
    if series.kind == "shaped" and axes == "QYX" and shape[2] <= min(MAX_BANDS, min(shape[:2]) / 4):
        # An array (H, W, C) that tifffile wrote without being told what its axes are.
        axes = "YXC"
    if "X" not in axes or "Y" not in axes:
        raise FormatError(f"no image: its axes are {axes or 'unknown'}")
    return list(zip(axes, shape, strict=True))


def _count(series: TiffPageSeries) -> int:
    """Return how many samples a series has."""
    return prod(size for axis, size in _sizes(series) if axis not in "YXCS")


def _plane(series: TiffPageSeries, number: int) -> Plane:
    sizes = _sizes(series)
    numbers = iter(np.unravel_index(number, [size for axis, size in sizes if axis not in "YXCS"] or [1]))
    index = tuple(slice(None) if axis in "YXCS" else int(next(numbers)) for axis, _ in sizes)
    axes = "".join(axis for axis, _ in sizes if axis in "YXCS")
    by_axis = dict(sizes)
    channels = by_axis.get("C", 1) * by_axis.get("S", 1)
    return Plane(series, index, axes, (channels, by_axis["Y"], by_axis["X"]))


def _planes(tif: TiffFile, key: str) -> list[Plane]:
    """Return what makes up an image: one plane, or with `ALL` every sample's."""
    everything = _series(tif)
    if key != ALL:
        number = int(key or 0)
        for series in everything:
            if number < (count := _count(series)):
                return [_plane(series, number)]
            number -= count
        raise FormatError(f"it has no page {key}")
    planes = [_plane(series, number) for series in everything for number in range(_count(series))]
    sizes = sorted({f"{height} x {width}" for _, height, width in (plane.shape for plane in planes)})
    if len(sizes) > 1:
        raise FormatError(f"its pages are of different sizes, {', '.join(sizes)}: no channels of one image")
    return planes


def _first_page(planes: list[Plane]) -> TiffPage:
    page = planes[0].series.keyframe
    assert isinstance(page, TiffPage)
    return page


def _keyframe(page: TiffPage | TiffFrame) -> TiffPage:
    """Return the page that has the tags of a page."""
    assert page.keyframe is not None
    return page.keyframe


def _dtype(page: TiffPage | TiffFrame) -> np.dtype[Any]:
    if page.dtype is None:
        raise FormatError("a type of values that tifffile does not know")
    return page.dtype


def _orientation(page: TiffPage) -> int:
    tag = page.tags.get(274)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _is_palette(page: TiffPage) -> bool:
    return page.photometric == 3 and page.colormap is not None and page.samplesperpixel == 1


def _by_pillow(page: TiffPage, key: str) -> bool:
    """Return whether an image is the first one and in a colour space that Pillow converts to RGB."""
    if page.photometric not in COLOUR_SPACES or page.bitspersample != 8 or (key and set(key) != {"0"}):
        return False
    return page.photometric != 6 or page.compression not in JPEG


def _part(plane: Plane, window: Window | None) -> tuple[int, int]:
    """Return height and width of what is read."""
    if window is None:
        return plane.shape[1:]
    left, top, right, bottom = window
    return bottom - top, right - left


def _joined(source: Source, planes: list[Plane]) -> Array:
    if len(planes) == 1:
        return _pixels(source, planes[0])
    return np.concatenate([_pixels(source, plane) for plane in planes])


def _channels_first(array: Array, plane: Plane) -> Array:
    """Return what is left of the axes of a plane as (C, H, W)."""
    order = sorted(range(len(plane.axes)), key=lambda axis: "CSYX".index(plane.axes[axis]))
    array = array.transpose(order)
    return array.reshape(-1, *array.shape[-2:])


def _is_mapped(source: Source, plane: Plane) -> bool:
    """Return whether a series is one uncompressed block of a file on disk."""
    return plane.series.dataoffset is not None and source.on_disk


def _mapped(source: Source, plane: Plane) -> Array:
    series = plane.series
    dtype = _dtype(series.keyframe).newbyteorder(series.keyframe.parent.byteorder)
    shape = tuple(map(int, series.shape))
    mapped = np.memmap(source.path, dtype, "r", series.dataoffset or 0, shape)
    return _channels_first(mapped[plane.index], plane)


def _pixels(source: Source, plane: Plane) -> Array:
    """Decode a plane, (C, H, W)."""
    series, page = plane.series, plane.series.keyframe
    check_shape(plane.shape, _dtype(page))
    if _is_mapped(source, plane):
        return np.array(_mapped(source, plane))
    leading = len(series.shape) - page.ndim
    if prod(series.shape[:leading]) != len(series.pages) or series.shape[leading:] != page.shape:
        check_shape(series.shape, _dtype(page))
        _check_segments(page)
        return _channels_first(series.asarray(maxworkers=1)[plane.index], plane)
    numbers = np.arange(len(series.pages)).reshape(series.shape[:leading])[plane.index[:leading]]
    pages = [_page(series, int(number))[plane.index[leading:]] for number in np.ravel(numbers)]
    return _channels_first(np.stack(pages).reshape(*np.shape(numbers), *pages[0].shape), plane)


def _page(series: TiffPageSeries, number: int) -> Array:
    page = series.pages[number]
    if page is None:
        raise FormatError(f"page {number} is missing")
    _check_segments(page)
    return page.asarray(maxworkers=1)


def _check_segments(page: TiffPage | TiffFrame) -> None:
    """Raise a `LimitError` for strips or tiles that are larger than any image, encoded or decoded."""
    encoded, limit = max(page.databytecounts, default=0), max_image_bytes()
    if max(_segment_bytes(page), encoded / 2) > limit:
        raise LimitError(f"a strip or tile of it exceeds --max_image_gb {limit / 1e9:g}")


def _segment_bytes(page: TiffPage | TiffFrame) -> int:
    """Return the size of a decoded strip or tile."""
    key = _keyframe(page)
    rows = key.tilelength if key.is_tiled else min(key.rowsperstrip, key.imagelength)
    samples = key.samplesperpixel if key.planarconfig == 1 else 1
    return rows * (key.tilewidth if key.is_tiled else key.imagewidth) * samples * _dtype(key).itemsize


def _segmented(plane: Plane) -> TiffPage | TiffFrame | None:
    """Return the page of a plane if the plane is all of it, and its strips or tiles are small."""
    series, key = plane.series, plane.series.keyframe
    leading = len(series.shape) - key.ndim
    outside = [number for number in plane.index[:leading] if isinstance(number, int)]
    inside = [number for number in plane.index[leading:] if isinstance(number, int)]
    if len(outside) < leading or inside or key.imagedepth > 1:
        return None
    if prod(series.shape[:leading]) != len(series.pages) or _segment_bytes(key) > SEGMENT_BYTES:
        return None
    number = int(np.ravel_multi_index(outside, series.shape[:leading])) if leading else 0
    return series.pages[number]


def _window(source: Source, plane: Plane, window: Window) -> Array:
    """Decode a part of a plane, (C, H, W)."""
    if _is_mapped(source, plane):
        return np.array(crop(_mapped(source, plane), window))
    page = _segmented(plane)
    if page is None:
        return crop(_pixels(source, plane), window)
    key, (left, top, right, bottom) = _keyframe(page), window
    _check_segments(page)
    rows = key.tilelength if key.is_tiled else min(key.rowsperstrip, key.imagelength)
    columns = key.tilewidth if key.is_tiled else key.imagewidth
    down, across = -(-key.imagelength // rows), -(-key.imagewidth // columns)
    planar = key.planarconfig == 2 and key.samplesperpixel > 1
    image = np.zeros((plane.shape[0], bottom - top, right - left), _dtype(key))
    tables = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader} if key.compression in JPEG else {}
    for sample in range(key.samplesperpixel if planar else 1):
        for row in range(top // rows, -(-bottom // rows)):
            for column in range(left // columns, -(-right // columns)):
                number = (sample * down + row) * across + column
                source.seek(page.dataoffsets[number])
                data = source.read(page.databytecounts[number]) or None
                segment = key.decode(data, number, _fullsize=key.is_tiled, **tables)[0]
                if segment is None:  # pixels without data
                    segment = np.full((1, rows, columns, 1 if planar else len(image)), key.nodata)
                pixels = np.moveaxis(segment[0], -1, 0)
                y, x = row * rows, column * columns
                inner = pixels[:, max(top - y, 0) : bottom - y, max(left - x, 0) : right - x]
                y, x = max(y - top, 0), max(x - left, 0)
                channels = slice(sample, sample + 1) if planar else slice(None)
                image[channels, y : y + inner.shape[1], x : x + inner.shape[2]] = inner
    return image


def written(image: Array, options: dict[str, Any]) -> bytes:
    """Return the content of a TIFF file of an image, (C, H, W).

    Three channels of unsigned integers are RGB; several others are bands, each in a plane of its own.

    Args:
        options: see `kept`.
    """
    content, layout = BytesIO(), layout_of(len(image), image.dtype)
    pixels = image[0] if len(image) == 1 else image
    if layout["photometric"] == "rgb":
        pixels = np.moveaxis(image, 0, -1)
    tifffile.imwrite(content, np.ascontiguousarray(pixels), **layout, **options)
    return content.getvalue()


def layout_of(channels: int, dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return how tifffile is to store an image."""
    layout: dict[str, Any] = {"photometric": "minisblack", "metadata": None}
    if channels == 3 and dtype.kind == "u":
        return {**layout, "photometric": "rgb", "planarconfig": "contig"}
    if channels > 1:
        layout |= {"planarconfig": "separate", "extrasamples": ["unspecified"] * (channels - 1)}
    return layout


class Writer:
    """Write a TIFF file by rows, from the top; in a ``with`` block, after which the file exists."""

    def __init__(
        self, path: Path, shape: tuple[int, int, int], dtype: np.dtype[Any], options: dict[str, Any]
    ):
        channels, self._height, width = shape
        layout = layout_of(channels, dtype)
        self._planar = layout["photometric"] != "rgb"
        stored = shape if self._planar else (self._height, width, channels)
        self._path, self._temporary, self._next = path, temporary_path(path), 0
        self._row, self._dtype = width * dtype.itemsize * (1 if self._planar else channels), dtype
        layout |= {"shape": stored[1:] if channels == 1 else stored, "dtype": dtype}
        layout |= {"returnoffset": True, **options}
        # The space of the pixels, which are then written over.
        found = tifffile.imwrite(self._temporary, bigtiff=prod(shape) * dtype.itemsize > 1 << 31, **layout)
        assert found is not None
        self._offset = found[0]
        self._file = self._temporary.open("r+b")

    def write_rows(self, top: int, rows: Array) -> None:
        """Write rows, (C, rows, W), that begin at row `top`: the one after the last."""
        if top != self._next:
            raise ValueError(f"rows from {top}, but the next one is {self._next}")
        for number, plane in enumerate(rows if self._planar else [np.moveaxis(rows, 0, -1)]):
            self._file.seek(self._offset + (number * self._height + top) * self._row)
            self._file.write(np.ascontiguousarray(plane, self._dtype).tobytes())
        self._next += rows.shape[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            with self._file:
                if kind is None:
                    self._file.flush()
                    sync(self._file.fileno())
            if kind is None:
                self._temporary.replace(self._path)
                sync_folder(self._path.parent)
        finally:
            with suppress(OSError):
                self._temporary.unlink(missing_ok=True)
