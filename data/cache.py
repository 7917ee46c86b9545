"""Prepared images that all processes of a loader share, in memory."""

import logging
import mmap
import multiprocessing
import os
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from hashlib import blake2b

import PIL
import torch
from torch import Tensor

from util.errors import UserError
from util.shards import file_identity

log = logging.getLogger(__name__)

Images = tuple[Tensor, ...]
"""One image or two that are made of one file: uint8, (C, H, W)."""

Shape = tuple[int, int, int]

STATE = struct.Struct("<16sQQ")
"""At the start of the memory: what this is, in which version, and where its unused part begins."""

HEADER = struct.Struct("<16s6IQ")
"""Before the pixels of an entry: its key, the shapes of its images, zeros where there is but one, and a
checksum where there is one."""

MAGIC, VERSION = b"Atelier images", 1
PREPARED_BY = f"torch {torch.__version__}, Pillow {PIL.__version__}"
"""What decides the pixels beside a file and how it is to be prepared."""


class ImageCache:
    """Keeps images as long as there is room; of a file that has changed, the images are made anew.

    Entries are only ever added at the end of one block of memory, which processes that are forked later
    share, and each process remembers where it has seen which.

    Args:
        memory: begins with a `STATE`.
        limit: how many bytes of entries may be in it.
        lock: is held by the process that adds an entry.
    """

    def __init__(self, memory: mmap.mmap, limit: int, lock: AbstractContextManager[object]):
        self._memory, self._limit, self._lock = memory, limit, lock
        self._places: dict[bytes, tuple[int, list[Shape]]] = {}
        self._seen = STATE.size
        self._told = mmap.mmap(-1, 1)  # whether one of the processes has said that nothing more fits in
        self._folder = os.getcwd()

    def get(self, path: str, what: str, make: Callable[[], Images]) -> Images:
        """Return what `make` makes of the file at `path`, or made of it before; not to be written to.

        Args:
            what: tells different images of one file apart.
        """
        try:
            place, size, time = file_identity(path)
        except OSError:
            return make()
        identified = repr((os.path.join(self._folder, place), what, size, time, PREPARED_BY))
        key = blake2b(identified.encode(), digest_size=16).digest()
        if key not in self._places:
            with self._lock:
                self._look_around()
        if key in self._places and self._is_whole(key):
            return self._views(*self._places[key])
        images = make()
        with self._lock:
            self._look_around()
            if key not in self._places:
                self._add(key, images)
        return images

    def _look_around(self) -> None:
        """Take note of what other processes have added.

        Raises:
            UserError: what is there are no entries.
        """
        end = STATE.unpack_from(self._memory)[2]
        # Another run's memory may go on where this one's ends: what lies there is not for this one.
        while self._seen < end and self._seen + HEADER.size <= len(self._memory):
            key, *sizes, _ = HEADER.unpack_from(self._memory, self._seen)
            shapes: list[Shape] = [tuple(shape) for shape in (sizes[:3], sizes[3:]) if any(shape)]
            offset = self._seen + HEADER.size
            after = offset + sum(map(_count, shapes))
            if not all(map(_count, shapes)) or after == offset or after > end:
                raise UserError("The --cache is damaged: start again, which makes it anew")
            if after > len(self._memory):
                return
            self._places[key] = offset, shapes
            self._seen = after

    def _add(self, key: bytes, images: Images) -> None:
        sizes = [size for image in images for size in image.shape]
        sizes += [0] * (6 - len(sizes))
        pixels = b"".join(image.numpy().tobytes() for image in images)
        entry = HEADER.pack(key, *sizes, self._checksum(key, sizes, pixels)) + pixels
        begin = STATE.unpack_from(self._memory)[2]
        end = begin + len(entry)
        if end > STATE.size + self._limit:
            self._tell_once("--cache_limit is reached")
            return
        try:
            self._write(begin, entry)
        except OSError as error:
            self._tell_once(str(error.strerror))
            return
        # The end comes last: if this process is killed before, the entry was never there.
        self._write(0, STATE.pack(MAGIC, VERSION, end))
        self._look_around()

    def _write(self, offset: int, content: bytes) -> None:
        self._memory[offset : offset + len(content)] = content

    def _checksum(self, key: bytes, sizes: list[int], pixels: bytes | memoryview) -> int:
        """Return what tells that an entry is not as it was written; in memory none is needed."""
        return 0

    def _is_whole(self, key: bytes) -> bool:
        """Return whether an entry is as it was written; if not, it is forgotten."""
        return True

    def _views(self, offset: int, shapes: list[Shape]) -> Images:
        views = []
        for shape in shapes:
            flat = torch.frombuffer(self._memory, dtype=torch.uint8, count=_count(shape), offset=offset)
            views.append(flat.view(shape))
            offset += _count(shape)
        return tuple(views)

    def _tell_once(self, reason: str) -> None:
        if not self._told[0]:
            self._told[0] = 1
            log.warning("The --cache is full (%s); the images beyond are read in every epoch", reason)


class RamCache(ImageCache):
    """Keeps images as long as the run lasts; the system hands out memory as it is written to.

    Args:
        limit: the most bytes that it may take.

    Raises:
        UserError: the system refuses so large a block.
    """

    def __init__(self, limit: int):
        try:
            memory = mmap.mmap(-1, limit + STATE.size)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--cache_limit {limit / 1e9:g}: so many GB of memory cannot be had ({error}); lower it"
            ) from error
        super().__init__(memory, limit, multiprocessing.Lock())
        self._write(0, STATE.pack(MAGIC, VERSION, STATE.size))


def _count(shape: Shape) -> int:
    channels, height, width = shape
    return channels * height * width
