"""A cache of scaled images in memory, shared by the worker processes of a loader."""

import logging
import math
import mmap
import multiprocessing
import os
import struct
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from hashlib import blake2b
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor

from util.errors import UserError
from util.parts import DTYPES
from util.shards import file_identity

log = logging.getLogger(__name__)

Images = tuple[Tensor, ...]
"""One or two images made from one file, (C, H, W), of types in `TYPES`."""

Shape = tuple[int, int, int]
Shapes = list[tuple[Shape, np.dtype[Any]]]
"""The shapes and types of the images of an entry."""

TYPES = tuple(np.dtype(name) for name in DTYPES)
"""The types of images; headers have the positions in this tuple."""

STATE = struct.Struct("<16sQQ")
"""The head of the memory: magic bytes, version, and the offset of its unused part."""

HEADER = struct.Struct("<16s8IQ")
"""The head of an entry, before its pixels: key, shapes and types of two images (or zeros), checksum."""

ALIGNMENT = 4
"""Pixels begin at multiples of this, so that values of any type can be read where they are."""

FULL = "The --cache is full (%s); further images are read in every epoch"

MAGIC, VERSION = b"Atelier pictures", 2
PREPARED_BY = f"torch {torch.__version__}, Pillow {PIL.__version__}"
"""The libraries that the pixels depend on, beside the file and the transform."""


class ImageCache:
    """Keeps images while there is room; images of a file that has changed are made again.

    Entries are only appended to one block of memory, which forked processes share; each process keeps the
    offsets of the entries that it has read.

    Args:
        memory: begins with `STATE`.
        limit: maximal size of all entries in bytes.
        lock: held while an entry is added.
    """

    def __init__(self, memory: mmap.mmap, limit: int, lock: AbstractContextManager[object]):
        self._memory, self._limit, self._lock = memory, limit, lock
        self._entries: dict[bytes, tuple[int, Shapes]] = {}  # offset of the pixels, and shapes, by key
        self._read_to = STATE.size
        self._warned = mmap.mmap(-1, 1)  # whether one of the processes has logged a warning
        self._folder = os.getcwd()

    def get(self, path: str, what: str, make: Callable[[], Images]) -> Images:
        """Return the images that `make` makes from the file at `path`, cached; do not modify them.

        Args:
            what: tells apart different images made from one file.
        """
        try:
            location, size, time = file_identity(path)
        except OSError:
            return make()
        if not self._is_readable():
            return make()
        identity = repr((os.path.join(self._folder, location), what, size, time, PREPARED_BY))
        key = blake2b(identity.encode(), digest_size=16).digest()
        if key not in self._entries:
            with self._lock:
                self._read_new_entries()
        if key in self._entries and self._is_intact(key):
            return self._views(*self._entries[key])
        images = make()
        with self._lock:
            self._read_new_entries()
            if key not in self._entries:
                self._add(key, images)
        return images

    def _read_new_entries(self) -> None:
        """Read the entries that other processes have added.

        Raises:
            UserError: The memory is damaged.
        """
        end = STATE.unpack_from(self._memory)[2]
        # The memory of another run may be larger; entries beyond this one's end are ignored.
        while self._read_to < end and self._read_to + HEADER.size <= len(self._memory):
            key, *sizes, _ = HEADER.unpack_from(self._memory, self._read_to)
            shapes = _shapes(sizes)
            offset = self._read_to + HEADER.size
            after = offset + size_of(shapes)
            if not shapes or after == offset or after > end:
                raise UserError("The --cache is damaged; start again, with a new one")
            if after > len(self._memory):
                return
            self._entries[key] = offset, shapes
            self._read_to = after

    def _add(self, key: bytes, images: Images) -> None:
        arrays = [image.numpy() for image in images]
        sizes = [size for array in arrays for size in (*array.shape, TYPES.index(array.dtype))]
        sizes += [0] * (8 - len(sizes))
        pixels = b"".join(array.tobytes() for array in arrays)
        pixels += bytes(-len(pixels) % ALIGNMENT)
        entry = HEADER.pack(key, *sizes, self._checksum(key, sizes, pixels)) + pixels
        begin = STATE.unpack_from(self._memory)[2]
        end = begin + len(entry)
        if end > STATE.size + self._limit:
            self._warn_once(FULL, "--cache_limit is reached")
            return
        try:
            self._write(begin, entry)
        except OSError as error:
            self._warn_once(FULL, str(error.strerror))
            return
        # The end is written last, so that an entry exists completely or not at all if the process is killed.
        self._write(0, STATE.pack(MAGIC, VERSION, end))
        self._read_new_entries()

    def _is_readable(self) -> bool:
        """Return whether all of the memory can be read."""
        return True

    def _write(self, offset: int, content: bytes) -> None:
        self._memory[offset : offset + len(content)] = content

    def _checksum(self, key: bytes, sizes: list[int], pixels: bytes | memoryview) -> int:
        """Return the checksum of an entry; 0 in memory, where none is needed."""
        return 0

    def _is_intact(self, key: bytes) -> bool:
        """Return whether an entry matches its checksum; remove it if not."""
        return True

    def _views(self, offset: int, shapes: Shapes) -> Images:
        views = []
        for shape, dtype in shapes:
            array = np.ndarray(shape, dtype, self._memory, offset)  # in a third of torch.frombuffer's time
            views.append(torch.from_numpy(array))
            offset += array.nbytes
        return tuple(views)

    def _warn_once(self, message: str, *values: object) -> None:
        if not self._warned[0]:
            self._warned[0] = 1
            log.warning(message, *values)


class RamCache(ImageCache):
    """Keeps images for the duration of a run; memory is allocated as it fills.

    Args:
        limit: maximal size in bytes.

    Raises:
        UserError: The system cannot provide a block of this size.
    """

    def __init__(self, limit: int):
        try:
            memory = mmap.mmap(-1, limit + STATE.size)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--cache_limit {limit / 1e9:g}: {limit / 1e9:g} GB of memory are not available ({error});"
                " lower it"
            ) from error
        super().__init__(memory, limit, multiprocessing.Lock())
        self._write(0, STATE.pack(MAGIC, VERSION, STATE.size))


def _shapes(sizes: Sequence[int]) -> Shapes:
    """Return the shapes and types in a header; none if it is damaged."""
    images = [tuple(sizes[first : first + 4]) for first in range(0, len(sizes), 4)]
    used = [image for image in images if any(image)]
    if any(not all(image[:3]) or image[3] >= len(TYPES) for image in used):
        return []
    return [((channels, height, width), TYPES[dtype]) for channels, height, width, dtype in used]


def size_of(shapes: Shapes) -> int:
    """Return the number of bytes of the pixels of an entry."""
    size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes)
    return size + -size % ALIGNMENT
