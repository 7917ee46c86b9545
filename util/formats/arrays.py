"""Arrays of NumPy: .npy and .npz files."""

import os
from collections.abc import Callable
from io import BytesIO
from typing import IO, Any, Literal, TypeVar
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy

from util.formats.base import (
    Array,
    FormatError,
    Header,
    Source,
    Window,
    check_shape,
    crop,
    native_type,
)

MAGIC = npy.MAGIC_PREFIX

T = TypeVar("T")


def header(source: Source, key: str) -> Header:
    """Return the header of an array."""
    shape, _, dtype = _header(source) if not _is_zip(source) else _in_zip(source, key, _header)
    axis = channel_axis(shape)
    rest = [size for at, size in enumerate(shape) if at != axis]
    return Header(1 if axis is None else shape[axis], rest[0], rest[1], native_type(dtype).name)


def read(source: Source, key: str, window: Window | None) -> Array:
    """Return an array as an image, (C, H, W), or a part of it."""
    if _is_zip(source):
        return crop(_channels_first(_in_zip(source, key, _whole)), window)
    if window is None or not can_window(source, key):
        return crop(_channels_first(_whole(source)), window)
    shape, fortran, dtype = _header(source)
    order: Literal["C", "F"] = "F" if fortran else "C"
    mapped = np.memmap(source.path, dtype, "r", source.tell(), shape, order)
    part = crop(_channels_first(mapped), window)
    check_shape(part.shape, dtype)
    return np.array(part)


def can_window(source: Source, key: str) -> bool:
    """Return whether a part is read without reading all."""
    return source.on_disk and not _is_zip(source)


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return which axis of an array has the channels, or None if it has two axes.

    Of three axes it is the shortest, which must be the first or the last.

    Raises:
        FormatError: There are not two or three axes, or it is not clear which has the channels.
    """
    if len(shape) == 2:
        return None
    if len(shape) != 3:
        raise FormatError(f"an array of shape {shape}: expected (H, W), (C, H, W) or (H, W, C)")
    shortest = min(shape)
    ends = [axis for axis in (0, 2) if shape[axis] == shortest]
    if len(ends) != 1 and shape != (1, 1, 1):
        raise FormatError(
            f"an array of shape {shape}: which axis has the channels? Expected (H, W), or (C, H, W) or"
            " (H, W, C) with fewer channels than rows and columns"
        )
    return ends[0]


def written(image: Array, like: tuple[str, str]) -> bytes:
    """Return the content of a .npy file: (H, W) for one channel, else (C, H, W), or with the axes of `like`.

    Args:
        like: path and key of the source; its axes count if it is an array too.
    """
    axis = None if len(image) == 1 else 0
    if like[0].lower().endswith((".npy", ".npz")):
        with Source(like[0]) as source:
            shape, _, _ = _header(source) if not _is_zip(source) else _in_zip(source, like[1], _header)
        axis = channel_axis(shape) if len(shape) == 3 else axis
    array = image[0] if axis is None else np.moveaxis(image, 0, axis)
    content = BytesIO()
    np.save(content, np.ascontiguousarray(array), allow_pickle=False)
    return content.getvalue()


def _channels_first(array: Array) -> Array:
    axis = channel_axis(array.shape)
    return array[None] if axis is None else np.moveaxis(array, axis, 0)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether the first axis varies fastest, and type; the file is then at the first value."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise FormatError(f"version {version} of the format, which only structured arrays have")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    native_type(dtype)  # refuses what is no image
    return shape, fortran, dtype


def _whole(file: IO[bytes]) -> Array:
    shape, fortran, dtype = _header(file)
    channel_axis(shape)
    check_shape(shape, dtype)
    # Not npy.read_array: it would unpickle, or read what follows.
    values = bytearray(dtype.itemsize * int(np.prod(shape)))
    view, done = memoryview(values), 0
    while done < len(values):
        part = file.read(min(1 << 24, len(values) - done))
        if not part:
            raise FormatError(f"{done} bytes of values, of {len(values)}: the file is cut off")
        view[done : done + len(part)] = part
        done += len(part)
    array = np.frombuffer(values, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _is_zip(source: Source) -> bool:
    return source.head.startswith(b"PK")


def _in_zip(source: Source, key: str, read: Callable[[IO[bytes]], T]) -> T:
    source.check_size()
    with ZipFile(source) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if not key and len(names) == 1:
            key = names[0]
        if key not in names:
            wanted = f"no array {key} in it, but" if key else f"{len(names)} arrays in it:"
            example = f"{os.path.basename(source.path)}:{(names or ['NAME'])[0]}"
            raise FormatError(f"{wanted} {', '.join(names) or 'none'}; {example} names one")
        with archive.open(f"{key}.npy") as array:
            return read(array)
