"""Prepared images in a file, for the processes of several runs on one machine and for later runs."""

import fcntl
import logging
import mmap
import os
import struct
from pathlib import Path
from types import TracebackType
from zlib import crc32

from data.cache import HEADER, MAGIC, STATE, VERSION, ImageCache
from util.errors import UserError

log = logging.getLogger(__name__)

FILE_NAME = "pictures.cache"


class FileLock:
    """Lets one process at a time go on; the system ends it with the process."""

    # The locks of fcntl belong to a process, those of flock to a file that was opened: forked ones share it.
    def __init__(self, file: int):
        self.file = file

    def __enter__(self) -> None:
        fcntl.lockf(self.file, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.lockf(self.file, fcntl.LOCK_UN)


class DiskCache(ImageCache):
    """Keeps images in ``<folder>/pictures.cache``, a file that takes room on the disk as it fills.

    An entry has a checksum, which each process compares before it uses the entry for the first time: after a
    power failure the end of the file may be there without the pixels before it. A file of another version,
    or whose entries cannot be followed, is replaced by a new one; runs that use the old one keep it.

    Args:
        limit: the most bytes that the images may take.

    Raises:
        UserError: the file cannot be written, or is something else.
    """

    def __init__(self, folder: Path, limit: int):
        self._whole: set[bytes] = set()
        path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            while not self._open(path, limit):
                pass
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--cache_dir {folder}: images cannot be kept there ({error}); name a folder on a disk"
                f" that can be written and holds files of {limit / 1e9:g} GB (--cache_limit)"
            ) from error

    def _open(self, path: Path, limit: int) -> bool:
        """Take the file, or make it; return whether it is good and still has its name."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with (lock := FileLock(self._file)):
            reason = self._find_fault(path)
            if not reason:
                size = max(os.fstat(self._file).st_size, limit + STATE.size)
                os.truncate(self._file, size)
                super().__init__(mmap.mmap(self._file, size), limit, lock)
                try:
                    self._look_around()
                    return True
                except UserError:
                    reason = "is damaged"
            # Whoever has the file open keeps it; a file without a name was replaced while this one waited.
            if os.fstat(self._file).st_nlink:
                log.warning("%s %s: it is made anew", path, reason)
                path.unlink()
        os.close(self._file)
        return False

    def _find_fault(self, path: Path) -> str:
        """Return what is wrong with the file's beginning and size; a file that is empty gets a beginning.

        Raises:
            UserError: it is no cache.
        """
        file = os.fstat(self._file)
        beginning = os.pread(self._file, STATE.size, 0)
        if not file.st_nlink:
            return "is gone"
        if not any(beginning):  # a process that was killed may have gone no further
            self._write(0, STATE.pack(MAGIC, VERSION, STATE.size))
            return ""
        if not beginning.startswith(MAGIC):
            raise UserError(
                f"{path} is no cache of images and stays as it is; name another folder by --cache_dir"
            )
        if len(beginning) < STATE.size:
            return "is damaged"
        _, version, end = STATE.unpack(beginning)
        if version != VERSION:
            return f"has version {version}, not {VERSION}"
        return "" if STATE.size <= end <= file.st_size else "is damaged"

    def _write(self, offset: int, content: bytes) -> None:
        # Not into the mapped memory: there a full disk would end the process by a signal.
        while content:
            written = os.pwrite(self._file, content, offset)
            offset, content = offset + written, content[written:]

    def _checksum(self, key: bytes, sizes: list[int], pixels: bytes | memoryview) -> int:
        return crc32(pixels, crc32(struct.pack("<6I", *sizes), crc32(key)))

    def _is_whole(self, key: bytes) -> bool:
        if key not in self._whole:
            offset, shapes = self._places[key]
            *_, expected = header = HEADER.unpack_from(self._memory, offset - HEADER.size)
            pixels = memoryview(self._memory)[offset : offset + sum(c * h * w for c, h, w in shapes)]
            if header[0] != key or self._checksum(key, list(header[1:7]), pixels) != expected:
                del self._places[key]
                return False
            self._whole.add(key)
        return True
