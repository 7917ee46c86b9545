"""Image files in any depth, with any number of channels: reading, their parts, and writing.

Images are arrays (C, H, W) in a type of the file's: uint8, uint16, int16 or float32. A path may be a file, a
`Member` of a tar file, or an `Entry`: one of the images in a file that holds several.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from util import image_io
from util.errors import UserError
from util.files import write_in_place
from util.formats import arrays, bitmaps, tiff
from util.formats.base import Array, Box, FormatError, Header, Source, Window, native_type, to_native
from util.image_io import BadImage, bad_image
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
    "read",
    "read_indices",
    "stem",
    "write",
]

EXTENSIONS = (*image_io.EXTENSIONS, ".npy", ".npz", ".btf", ".tf8")
"""Extensions of image files, in lower case."""

_SUFFIXES = sorted(EXTENSIONS, key=len, reverse=True)
_KEY = re.compile(r"#(all|[xy]?\d+)$|(?<=\.npz):([^:/]+)$", re.IGNORECASE)

TIFF_EXTENSIONS = (".tif", ".tiff", ".btf", ".tf8")


def entries(paths: Sequence[str], tiff_pages: str = "samples", slice_axis: int = 2) -> list[str]:
    """Return the images in files, in order: of a file that holds several, one `Entry` for each.

    A file that cannot be read is one image, which fails when it is read. So is a member of a stream.

    Args:
        tiff_pages: ``samples`` or ``channels``, see ``--tiff_pages``.
        slice_axis: axis of volumes along which slices are images, see ``--slice_axis``.
    """
    images: list[str] = []
    for path in paths:
        keys = [""] if isinstance(path, Entry) else _keys(path, tiff_pages, slice_axis)
        digits = max(3, len(str(len(keys) - 1)))
        images += [
            Entry.of(path, key.zfill(digits) if key.isdecimal() else key) if key else path for key in keys
        ]
    return images


def header(path: str) -> Header:
    """Return the size, channels and type of an image, as `read` returns it, without decoding it if possible.

    Raises:
        BadImage: The file cannot be read, or decoding it would exceed the limits.
        UserError: An optional package is missing.
    """
    try:
        file, key = _file_and_key(path)
        with Source(file) as source:
            found: Header = _reader(source).header(source, key)
        if 0 in found[:3]:
            raise FormatError("no pixels in it")
        return found
    except UserError:
        raise
    except Exception as error:
        raise bad_image(path, error) from error


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
    try:
        file, key = _file_and_key(path)
        with Source(file) as source:
            return to_native(_reader(source).read(source, key, window))
    # For damaged files decoders raise SyntaxError, TypeError, ValueError, MemoryError and others.
    except UserError:
        raise
    except Exception as error:
        raise bad_image(path, error) from error


def read_indices(path: str) -> Array:
    """Return the whole numbers in an image of one channel, such as classes, (H, W): of palettes the indices.

    They are uint8, uint16 or int16, or float32 for numbers beyond those; booleans are 0 and 1.

    Raises:
        BadImage: As for `read`, or it has several channels, or numbers that are not whole.
        UserError: An optional package is missing.
    """
    try:
        file, key = _file_and_key(path)
        with Source(file) as source:
            reader = _reader(source)
            if reader is bitmaps:
                numbers = bitmaps.read_indices(source, key)
            elif reader is tiff:
                numbers = tiff.read(source, key, None, indices=True)
            else:
                numbers = reader.read(source, key, None)
        if len(numbers) > 1:
            raise FormatError(f"it has {len(numbers)} channels; a map of numbers has one")
        return _whole_numbers(numbers[0])
    except UserError:
        raise
    except Exception as error:
        raise bad_image(path, error) from error


def can_window(path: str) -> bool:
    """Return whether `read` gets a part of an image without decoding all of it."""
    try:
        file, key = _file_and_key(path)
        with Source(file) as source:
            reader = _reader(source)
            return reader is not bitmaps and reader.can_window(source, key)
    except UserError:
        raise
    except Exception as error:
        raise bad_image(path, error) from error


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
    """Return whether a file counts as an image: by its extension."""
    name = os.path.basename(path)
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def write(path: str | Path, image: Array, like: str = "", box: Box | None = None) -> None:
    """Write an image in the format of the extension of `path`: .npy, .tif, .tiff or .png.

    Args:
        image: (C, H, W); uint8, uint16, int16 or float32.
        like: the file that it is made from, whose axes (.npy) and value without data (TIFF) it gets.
        box: what it shows of the image `like`; by default all.

    Raises:
        OSError: with the name `path`: it cannot be written.
        UserError: The format cannot hold such values, or an optional package is missing.
    """
    path = Path(path)
    content = _content(path, image, like, box)
    write_in_place(path, lambda file: file.write(content))


def _content(path: Path, image: Array, like: str, box: Box | None) -> bytes:
    suffix, source = path.suffix.lower(), _file_and_key(like)
    if suffix == ".npy":
        return arrays.written(image, source)
    if suffix in TIFF_EXTENSIONS:
        return tiff.written(image)
    if suffix == ".png" and len(image) <= 4 and image.dtype in (np.uint8, np.uint16):
        return bitmaps.png8(image) if image.dtype == np.uint8 else bitmaps.png16(image)
    raise UserError(
        f"{path}: {len(image)} channels of {image.dtype} cannot be written in this format; .tif and .npy hold"
        " any number of channels and any type"
    )


def _keys(path: str, tiff_pages: str, slice_axis: int) -> list[str]:
    """Return the keys of the images in a file; "" if it is one image."""
    if not path.lower().endswith(TIFF_EXTENSIONS):
        return [""]
    try:
        with Source(path) as source:
            return tiff.samples(source, tiff_pages) if _reader(source) is tiff else [""]
    except Exception:
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


def _reader(source: Source) -> ModuleType:
    """Return the module that reads a file, by its content."""
    head = source.peek(8)[:8]
    if head.startswith(tiff.MAGIC):
        return tiff
    if head.startswith(arrays.MAGIC) or source.path.lower().endswith((".npy", ".npz")):
        return arrays
    return bitmaps


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
