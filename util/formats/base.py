"""What the readers of all formats share."""

import os
import stat
from io import BytesIO, FileIO
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from util.errors import UserError
from util.image_limits import HEADER_BYTES, LimitedFile, LimitError, max_image_bytes
from util.shards import Member

Array = NDArray[Any]
Window = tuple[int, int, int, int]
"""Left, top, right and bottom edge of a part of an image, in pixels."""
Box = tuple[float, float, float, float]
"""What an image shows of the image in its source file: left, top, right, bottom, in the source's pixels."""

HEAD_BYTES = 1024

SCIENCE = "pip install -r requirements-science.txt"


class FormatError(Exception):
    """A file's content is no image that can be read, or not one image."""


class Header(NamedTuple):
    """What is known of an image before it is decoded.

    Attributes:
        dtype: uint8, uint16, int16 or float32, as `read` returns it.
    """

    channels: int
    height: int
    width: int
    dtype: str


class Source(LimitedFile):
    """An open image file, with limits on the bytes and the CPU time of reading it.

    Attributes:
        path: its path, or the member of a tar file that it is.
        size: its bytes.
        head: the first of them, at least 132.
    """

    def __init__(self, path: str):
        self.path = path
        if isinstance(path, Member):
            raw: FileIO | BytesIO = BytesIO(path.read())
            raw.name = path  # pydicom asks for it
            self.size = path.size
        else:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                raise OSError("not a regular file")  # opening a named pipe would wait for a writer
            raw, self.size = FileIO(path), status.st_size
        super().__init__(raw, 2 * self.size + HEADER_BYTES)
        self.head = self.peek(HEAD_BYTES)

    @property
    def on_disk(self) -> bool:
        """Whether `path` can be opened by name."""
        return not isinstance(self.path, Member)

    def check_size(self) -> None:
        """Raise a `LimitError` for a file that is itself larger than any image that may be decoded."""
        limit = max_image_bytes()
        if self.size > 2 * limit:
            raise LimitError(
                f"a file of {self.size / 1e9:.2f} GB, more than twice --max_image_gb {limit / 1e9:g}"
            )


def check_shape(shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Raise a `LimitError` if an array and one copy of it would exceed ``--max_image_gb``."""
    dtype = np.dtype(dtype)
    size, limit = prod(map(int, shape)) * (dtype.itemsize + native_type(dtype).itemsize), max_image_bytes()
    if size > limit:
        sizes = " x ".join(map(str, shape))
        raise LimitError(
            f"{sizes} values take {size / 1e9:.2f} GB, which exceeds --max_image_gb {limit / 1e9:g}"
        )
    if 0 in shape:
        raise FormatError(f"no pixels: its shape is {shape}")


def native_type(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the type in which values of a type are read: uint8, uint16, int16 or float32.

    Raises:
        FormatError: They are no real numbers.
    """
    dtype = np.dtype(dtype)
    if dtype.kind not in "buif":
        kind = "complex numbers" if dtype.kind == "c" else f"values of type {dtype}"
        raise FormatError(f"{kind} are no image")
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind == "u" and dtype.itemsize <= 2:
        return dtype.newbyteorder("=")
    return np.dtype(np.int16 if dtype.kind == "i" and dtype.itemsize <= 2 else np.float32)


def to_native(array: Array) -> Array:
    """Return values in their `native_type`, contiguous and writable; False and True become 0 and 255."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * 255
    with np.errstate(over="ignore", invalid="ignore"):
        native = np.ascontiguousarray(array, native_type(array.dtype))
    return native if native.flags.writeable else native.copy()


def rescaled_type(stored: tuple[int, int], slope: float, intercept: float) -> np.dtype[Any]:
    """Return the type of integers from `stored`, an interval, times a slope plus an intercept.

    It is int16 or uint16 if both are whole numbers and all values fit, else float32.
    """
    ends = sorted(value * slope + intercept for value in stored)
    if float(slope).is_integer() and float(intercept).is_integer():
        for kind in (np.uint16, np.int16):
            if np.iinfo(kind).min <= ends[0] and ends[1] <= np.iinfo(kind).max:
                return np.dtype(kind)
    return np.dtype(np.float32)


def crop(image: Array, window: Window | None) -> Array:
    """Return the part of an image, (..., H, W)."""
    if window is None:
        return image
    left, top, right, bottom = window
    return image[..., top:bottom, left:right]


def missing(package: str, what: str) -> UserError:
    """Return the error that an optional package is not installed."""
    return UserError(f"{what} needs the package {package}, which is not installed; {SCIENCE} installs it")


def turned(image: Array, orientation: int) -> Array:
    """Return an image, (C, H, W), rotated and flipped as an EXIF or TIFF orientation from 1 to 8 says."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(-1, -2)
    if orientation in (3, 4, 7, 8):
        image = image[..., ::-1, :]
    if orientation in (2, 3, 6, 7):
        image = image[..., ::-1]
    return image


def sampling(
    box: Box | None, size: tuple[int, ...], whole: tuple[int, int]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return where the first pixel of an image is in its source, and the step between pixels, for x and y.

    Positions are in the source's pixels, with 0 in the middle of the first one.

    Args:
        box: what the image shows of its source; None: all.
        size: the image's height and width.
        whole: the source's height and width.
    """
    left, top, right, bottom = box or (0, 0, whole[1], whole[0])
    across, down = (right - left) / size[1], (bottom - top) / size[0]
    return (left + across / 2 - 0.5, across), (top + down / 2 - 0.5, down)
