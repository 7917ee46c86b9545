"""Image files in any depth, with any number of channels: reading, their parts, and writing.

Images are arrays (C, H, W) in a type of the file's: uint8, uint16, int16 or float32. A path may be a file, a
`Member` of a tar file, or an `Entry`: one of the images in a file that holds several.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from util import image_io
from util.errors import UserError
from util.files import errors_name, write_in_place
from util.formats import arrays, bitmaps, dicom, geotiff, nifti, tiff
from util.formats.base import SCIENCE, Array, Box, FormatError, Header, Source, Window, native_type, to_native
from util.image_io import BadImage, bad_image
from util.remarks import remark
from util.shards import Entry, Member

__all__ = [
    "EXTENSIONS",
    "BadImage",
    "Box",
    "Entry",
    "Header",
    "Window",
    "can_window",
    "entries",
    "header",
    "is_image_file",
    "name_of",
    "nodata",
    "open_writer",
    "read",
    "read_indices",
    "stem",
    "thumbnail",
    "write",
    "write_volume",
]

EXTENSIONS = (
    *(*image_io.EXTENSIONS, ".btf", ".tf8", ".jp2", ".npy", ".npz"),
    *(*dicom.EXTENSIONS, *nifti.EXTENSIONS),
)
"""Extensions of image files, in lower case."""

_SUFFIXES = sorted(EXTENSIONS, key=len, reverse=True)
_KEY = re.compile(r"#(all|[xy]?\d+)$|(?<=\.npz):([^:/]+)$", re.IGNORECASE)

TIFF_EXTENSIONS = (".tif", ".tiff", ".btf", ".tf8")


def entries(paths: Sequence[str], tiff_pages: str = "samples", slice_axis: int = 2) -> list[str]:
    """Return the images in files, in order: of a file that holds several, one `Entry` for each.

    DICOM files of a series are put in the order of their positions. A file that cannot be read is one image,
    which fails when it is read.

    Args:
        tiff_pages: ``samples`` or ``channels``, see ``--tiff_pages``.
        slice_axis: axis of volumes along which slices are images, see ``--slice_axis``.
    """
    images: list[str] = []
    for path in _in_order(paths):
        keys = [""] if isinstance(path, Entry) else _keys(path, tiff_pages, slice_axis)
        digits = max(3, len(str(len(keys) - 1)))
        for key in keys:
            letter = key.rstrip("0123456789")
            number = key[len(letter) :]
            images.append(Entry.of(path, letter + number.zfill(digits if number else 0)) if key else path)
    return images


def header(path: str) -> Header:
    """Return the size, channels and type of an image, as `read` returns it, without decoding it if possible.

    Raises:
        BadImage: The file cannot be read, or decoding it would exceed the limits.
        UserError: An optional package is missing.
    """
    with _opened(path) as (source, key, reader):
        found: Header = reader.header(source, key)
        if 0 in found[:3]:
            raise FormatError("no pixels in it")
        return found


def read(path: str, window: Window | None = None) -> Array:
    """Return an image, or a part of it, in its file's depth: uint8, uint16, int16 or float32, (C, H, W).

    Booleans and grey levels of less than 8 bits become levels of 8, signed bytes int16, and wider integers
    and other floating point values float32. Palettes give their colours; CMYK, YCbCr and CIELab of 8 bits
    become RGB. An EXIF orientation is applied.

    Args:
        window: left, top, right and bottom edge of the part, within the image.

    Raises:
        BadImage: The file cannot be read, or only with more memory or time than the limits.
        UserError: An optional package is missing.
    """
    with _opened(path) as (source, key, reader):
        return to_native(reader.read(source, key, window))


def read_indices(path: str) -> Array:
    """Return the whole numbers in an image of one channel, such as classes, (H, W): of palettes the indices.

    They are uint8, uint16 or int16, or float32 for numbers beyond those; booleans are 0 and 1.

    Raises:
        BadImage: As for `read`, or it has several channels, or numbers that are not whole.
        UserError: An optional package is missing.
    """
    with _opened(path) as (source, key, reader):
        if reader is bitmaps:
            numbers = bitmaps.read_indices(source, key)
        elif reader in (tiff, geotiff, dicom):
            numbers = reader.read(source, key, None, indices=True)
        else:
            numbers = reader.read(source, key, None)
        if len(numbers) > 1:
            raise FormatError(f"it has {len(numbers)} channels; a map of numbers has one")
        return _whole_numbers(numbers[0])


def nodata(path: str) -> float | None:
    """Return the value of pixels without data, which a TIFF file may name."""
    with _opened(path) as (source, key, reader):
        found: float | None = reader.nodata(source, key) if reader in (tiff, geotiff) else None
        return found


def can_window(path: str) -> bool:
    """Return whether `read` gets a part of an image without decoding all of it."""
    with _opened(path) as (source, key, reader):
        return reader is not bitmaps and bool(reader.can_window(source, key))


def thumbnail(path: str, longest: int) -> Array:
    """Return a smaller version of an image, (C, H, W), made of some of its pixels, with little memory.

    Args:
        longest: the most rows and columns that it has.

    Raises:
        BadImage, UserError: As for `read`.
    """
    found = header(path)
    step = max(1.0, max(found.height, found.width) / longest)
    height, width = max(1, int(found.height / step)), max(1, int(found.width / step))
    with _opened(path) as (source, _, reader):
        if reader is geotiff:
            return to_native(geotiff.thumbnail(source, height, width))
    rows = (np.arange(height) * found.height // height).tolist()
    columns = np.arange(width) * found.width // width
    if not can_window(path):
        return read(path)[:, rows][..., columns]
    lines = [read(path, (0, row, found.width, row + 1))[..., columns] for row in rows]
    return np.concatenate(lines, 1)


def stem(path: str) -> str:
    """Return a path without its extension, for names of results: ``a/vol_017`` for ``a/vol.nii.gz#017``."""
    key = _KEY.search(path)
    file, name = (path[: key.start()], key[1] or key[2]) if key else (path, "")
    suffix = next((end for end in _SUFFIXES if file.lower().endswith(end)), "")
    file = file[: len(file) - len(suffix)]
    return f"{file}_{name}" if name and name != tiff.ALL else file


def name_of(path: str) -> str:
    """Return the base name for results of an image: its file's, without extension, and its key."""
    return os.path.basename(stem(path))


def is_image_file(path: str) -> bool:
    """Return whether a file counts as an image: by its extension, or by its content if that is DICOM.

    DICOM files often have no extension, and names such as 1.2.840.10008.1 or IM000001.
    """
    name = os.path.basename(path)
    if name.startswith("."):
        return False
    if name.lower().endswith(EXTENSIONS):
        return True
    ending = os.path.splitext(name)[1][1:]
    if name.upper() == "DICOMDIR" or not (not ending or ending.isdecimal()) or isinstance(path, Member):
        return False
    try:
        with Source(path) as source:
            return dicom.is_dicom(source)
    except OSError:
        return False


def write(path: str | Path, image: Array, like: str = "", box: Box | None = None) -> None:
    """Write an image in the format of the extension of `path`.

    It is .npy with the axes of an array `like`; .tif, a GeoTIFF if `like` is one; .png with 8 or 16 bits;
    .dcm if `like` is a DICOM file; or .nii or .nii.gz with one slice.

    Args:
        image: (C, H, W); uint8, uint16, int16 or float32.
        like: the image that it is made from; it may be an `Entry`.
        box: what it shows of the image `like`; by default all.

    Raises:
        OSError: with the name `path`: it cannot be written.
        UserError: The format cannot hold such values, or an optional package is missing.
    """
    path = Path(path)
    content = _content(path, image, like, box)
    write_in_place(path, lambda file: file.write(content))


def write_volume(path: str | Path, slices: Sequence[Array], like: str = "", box: Box | None = None) -> None:
    """Write slices that follow each other as a NIfTI volume, .nii or .nii.gz.

    Args:
        slices: images (C, H, W) of one shape.
        like: what the first slice is made from: of a slice of a volume the axis is kept, and so is where in
            the patient the voxels are; of DICOM files, in order, the position.
        box: what the slices show of the images that they are made from; by default all.

    Raises:
        OSError: with the name `path`: it cannot be written.
        UserError: An optional package is missing.
    """
    path = Path(path)
    content = nifti.written(path, slices, _file_and_key(like), box)
    write_in_place(path, lambda file: file.write(content))


def open_writer(
    path: str | Path,
    like: str,
    channels: int,
    dtype: DTypeLike,
    height: int,
    width: int,
    box: Box | None = None,
) -> "geotiff.Writer | tiff.Writer":
    """Open a TIFF file, a GeoTIFF if `like` is one, that is written by rows.

    It is used in a ``with`` block, within which ``write_rows(top, rows)`` writes (C, rows, W), from the top
    to the bottom. The file appears when the block ends, and not at all if it ends by an exception.
    """
    path, shape, dtype = Path(path), (channels, height, width), np.dtype(dtype)
    with errors_name(path):
        if _is_scene(like):
            return geotiff.Writer(path, _file_and_key(like)[0], shape, dtype, box)
        return tiff.Writer(path, shape, dtype, _kept(like, box, shape))


def _content(path: Path, image: Array, like: str, box: Box | None) -> bytes:
    name, source = path.name.lower(), _file_and_key(like)
    if name.endswith(".npy"):
        return arrays.written(image, source)
    if name.endswith(TIFF_EXTENSIONS):
        if _is_scene(like):
            return geotiff.written(image, source[0], box)
        return tiff.written(image, _kept(like, box, image.shape))
    if name.endswith(nifti.EXTENSIONS):
        return nifti.written(path, [image], source, box)
    if name.endswith(dicom.EXTENSIONS):
        return dicom.written(path, image, source, box)
    if name.endswith(".png") and len(image) <= 4 and image.dtype in (np.uint8, np.uint16):
        return bitmaps.png8(image) if image.dtype == np.uint8 else bitmaps.png16(image)
    raise UserError(
        f"{path}: {len(image)} channels of {image.dtype} cannot be written in this format; .tif and .npy hold"
        " any number of channels and any type"
    )


def _is_scene(like: str) -> bool:
    """Return whether a file is georeferenced and rasterio reads it."""
    file, key = _file_and_key(like)
    if not file.lower().endswith((*TIFF_EXTENSIONS, ".jp2")):
        return False
    with Source(file) as source:
        return _reader(source, key) is geotiff


def _kept(like: str, box: Box | None, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return what a TIFF file gets from the one that its image is made from."""
    file, key = _file_and_key(like)
    if not file.lower().endswith(TIFF_EXTENSIONS):
        return {}
    with Source(file) as source:
        return tiff.kept(source, key, box, shape) if _reader(source, key) is tiff else {}


def _in_order(paths: Sequence[str]) -> list[str]:
    """Return files with the DICOM files among them in order."""
    others = (*image_io.EXTENSIONS, *TIFF_EXTENSIONS, *nifti.EXTENSIONS, ".jp2", ".npy", ".npz")
    places = [at for at, path in enumerate(paths) if not path.lower().endswith(others)]
    ordered = list(paths)
    # An Entry has a key after its extension; it is in order already.
    places = [at for at in places if not isinstance(paths[at], Entry)]
    for at, path in zip(places, dicom.in_order([paths[at] for at in places]), strict=True):
        ordered[at] = path
    return ordered


def _keys(path: str, tiff_pages: str, slice_axis: int) -> list[str]:
    """Return the keys of the images in a file; "" if it is one image."""
    if path.lower().endswith(tuple(set(image_io.EXTENSIONS) - set(TIFF_EXTENSIONS))):
        return [""]
    try:
        with Source(path) as source:
            reader = _reader(source, "")
            if reader is tiff:
                return tiff.samples(source, tiff_pages)
            if reader is nifti:
                return nifti.samples(source, slice_axis)
            return dicom.samples(source) if reader is dicom else [""]
    except UserError:
        raise
    except Exception:  # it is named when it is read
        return [""]


def _file_and_key(path: str) -> tuple[str, str]:
    """Return the file and the key of a path, which may be text such as ``stack.tif#003``."""
    if isinstance(path, Entry):
        return path.file, path.key
    if isinstance(path, Member) or os.path.exists(path):
        return path, ""
    file, sign, key = path.rpartition("#")
    if not sign:
        file, sign, key = path.rpartition(":")
        sign = sign if file.lower().endswith(".npz") else ""
    return (file, key) if sign and os.path.exists(file) else (path, "")


@contextmanager
def _opened(path: str) -> Iterator[tuple[Source, str, ModuleType]]:
    """Open an image for the module that reads it; errors name it."""
    file, key = _file_and_key(path)
    try:
        with Source(file) as source:
            yield source, key, _reader(source, key)
    except UserError:
        raise
    # For damaged files decoders raise SyntaxError, TypeError, ValueError, MemoryError and others.
    except Exception as error:
        raise bad_image(path, error) from error


def _reader(source: Source, key: str) -> ModuleType:
    """Return the module that reads an image of a file, by the file's content."""
    head, name = source.head, source.path.lower()
    if head.startswith(tiff.MAGIC):
        if not tiff.is_georeferenced(source, key):
            return tiff
        if geotiff.is_installed():
            return geotiff
        remark(
            "georeference",
            f"{source.path}: its georeference is lost: it is read without the package rasterio; {SCIENCE}"
            " installs it",
        )
        return tiff
    if head.startswith(geotiff.JPEG2000):
        return geotiff
    if head.startswith(arrays.MAGIC) or name.endswith((".npy", ".npz")):
        return arrays
    if name.endswith(nifti.EXTENSIONS):
        return nifti
    return dicom if dicom.is_dicom(source) else bitmaps


def _whole_numbers(numbers: Array) -> Array:
    """Return numbers in the smallest of the types that values travel in."""
    if numbers.dtype.kind == "b":
        return numbers.astype(np.uint8)
    if numbers.dtype.kind == "f":
        if not (np.isfinite(numbers) & (numbers == np.rint(numbers))).all():
            raise FormatError("it has numbers that are not whole")
    elif native_type(numbers.dtype).kind in "iu":
        return to_native(numbers)
    low, high = numbers.min(), numbers.max()
    for kind in (np.uint8, np.uint16, np.int16):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.ascontiguousarray(numbers, kind)
    return to_native(numbers)
