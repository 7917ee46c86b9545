"""Prepared pictures in memory that all processes of a loader share."""

import logging
import mmap
import multiprocessing
import os
import struct
from collections.abc import Callable
from hashlib import blake2b

import torch
from torch import Tensor

from util.errors import UserError

log = logging.getLogger(__name__)

Pictures = tuple[Tensor, ...]
"""One picture or two that are made of one file: uint8, (C, H, W)."""

STATE = struct.Struct("<Q?")
"""At the start of the memory: where its unused part begins, and whether something did not fit in."""

HEADER = struct.Struct("<16s6I")
"""Before the pixels of an entry: its key, and the shapes of its pictures, zeros where there is but one."""


class PictureCache:
    """Keeps pictures as long as there is room; of a file that has changed, the pictures are made anew.

    The memory is one block, which processes that are forked later share. Entries are only ever added at its
    end, and each process remembers where it has seen which. The system hands out what is written to alone.

    Args:
        limit: the block's size in bytes.

    Raises:
        UserError: the system refuses so large a block.
    """

    def __init__(self, limit: int):
        try:
            self._memory = mmap.mmap(-1, limit + STATE.size)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--cache_limit {limit / 1e9:g}: so many GB of memory cannot be had ({error}); lower it"
            ) from error
        self._lock = multiprocessing.Lock()
        self._places: dict[bytes, tuple[int, list[tuple[int, ...]]]] = {}
        self._seen = STATE.size
        STATE.pack_into(self._memory, 0, self._seen, False)

    def get(self, path: str, what: str, make: Callable[[], Pictures]) -> Pictures:
        """Return what `make` makes of the file at `path`, or made of it before; not to be written to.

        Args:
            what: tells different pictures of one file apart.
        """
        try:
            file = os.stat(path)
        except OSError:
            return make()
        identity = repr((path, what, file.st_size, file.st_mtime_ns))
        key = blake2b(identity.encode(), digest_size=16).digest()
        if key not in self._places:
            with self._lock:
                self._look_around()
        if key in self._places:
            offset, shapes = self._places[key]
            return self._views(offset, shapes)
        pictures = make()
        with self._lock:
            self._look_around()
            if key not in self._places:
                self._add(key, pictures)
        return pictures

    def _look_around(self) -> None:
        """Take note of what other processes have added."""
        end, _ = STATE.unpack_from(self._memory)
        while self._seen < end:
            key, *sizes = HEADER.unpack_from(self._memory, self._seen)
            shapes = [tuple(shape) for shape in (sizes[:3], sizes[3:]) if any(shape)]
            offset = self._seen + HEADER.size
            self._places[key] = offset, shapes
            self._seen = offset + sum(map(_count, shapes))

    def _add(self, key: bytes, pictures: Pictures) -> None:
        shapes = [tuple(picture.shape) for picture in pictures]
        offset = self._seen + HEADER.size
        end = offset + sum(map(_count, shapes))
        if end > len(self._memory):
            self._tell_that_it_is_full()
            return
        sizes = [size for shape in shapes for size in shape]
        HEADER.pack_into(self._memory, self._seen, key, *sizes, *[0] * (6 - len(sizes)))
        for view, picture in zip(self._views(offset, shapes), pictures, strict=True):
            view.copy_(picture)
        # The end comes last: if this process is killed before, the entry was never there.
        STATE.pack_into(self._memory, 0, end, STATE.unpack_from(self._memory)[1])
        self._look_around()

    def _views(self, offset: int, shapes: list[tuple[int, ...]]) -> Pictures:
        views = []
        for shape in shapes:
            flat = torch.frombuffer(self._memory, dtype=torch.uint8, count=_count(shape), offset=offset)
            views.append(flat.view(shape))
            offset += _count(shape)
        return tuple(views)

    def _tell_that_it_is_full(self) -> None:
        end, told = STATE.unpack_from(self._memory)
        if not told:
            log.warning("The --cache is full; the pictures beyond --cache_limit are read in every epoch")
            STATE.pack_into(self._memory, 0, end, True)


def _count(shape: tuple[int, ...]) -> int:
    channels, height, width = shape
    return channels * height * width
