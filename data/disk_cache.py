"""A cache of scaled images in a file, shared by all runs on a machine and kept for later ones."""

import errno
import fcntl
import logging
import mmap
import os
import stat
import struct
from pathlib import Path
from types import TracebackType
from zlib import crc32

from data.cache import HEADER, MAGIC, STATE, VERSION, ImageCache, size_of
from util.errors import UserError

log = logging.getLogger(__name__)

FILE_NAME = "pictures.cache"


class FileLock:
    """A lock between processes; the system releases it when its process ends."""

    # fcntl locks belong to a process; flock locks belong to an open file, which forked processes share.
    def __init__(self, file: int):
        self.file = file

    def __enter__(self) -> None:
        fcntl.lockf(self.file, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.lockf(self.file, fcntl.LOCK_UN)


class DiskCache(ImageCache):
    """Keeps images in ``<folder>/pictures.cache``, a sparse file that takes disk space as it fills.

    Each process compares the checksum of an entry before its first use: after a power failure, a file may
    have been extended without the pixels in it. A file of another version, or with damaged entries, is
    replaced by a new one; runs that use the old one keep it.

    Args:
        limit: maximal size of the images in bytes.

    Raises:
        UserError: The file cannot be written, or is not a cache.
    """

    def __init__(self, folder: Path, limit: int):
        self._intact: set[bytes] = set()
        path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            while not self._open(path, limit):
                pass
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--cache_dir {folder}: cannot store images ({error}); use a writable folder on a disk that"
                f" holds files of {limit / 1e9:g} GB (--cache_limit)"
            ) from error

    def _open(self, path: Path, limit: int) -> bool:
        """Open or create the file; return whether it is valid and still has its name."""
        self._path = path
        self._file = self._open_own(path)
        with (lock := FileLock(self._file)):
            reason = self._find_fault(path)
            if not reason:
                size = max(os.fstat(self._file).st_size, limit + STATE.size)
                os.truncate(self._file, size)
                super().__init__(mmap.mmap(self._file, size), limit, lock)
                try:
                    self._read_new_entries()
                    return True
                except UserError:
                    reason = "is damaged"
            # Processes that have the file open keep it. It has no name if another process has replaced it.
            if os.fstat(self._file).st_nlink:
                log.warning("%s %s: replaced by a new file", path, reason)
                path.unlink()
        os.close(self._file)
        return False

    @staticmethod
    def _open_own(path: Path) -> int:
        """Open or create the file, which must be this user's: truncating it would crash this process.

        Raises:
            UserError: There is something else at its place.
        """
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UserError(
                    f"{path} is a symbolic link, which is not followed: remove it, or name another folder by"
                    " --cache_dir"
                ) from None
            raise
        status = os.fstat(file)
        ours = status.st_uid in (os.geteuid(), 0)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or not ours:
            os.close(file)
            reason = "has several names (hard links)" if ours else "belongs to another user"
            if not stat.S_ISREG(status.st_mode):
                reason = "is not a regular file"
            raise UserError(f"{path} {reason}: remove it, or name another folder by --cache_dir")
        return file

    def _is_readable(self) -> bool:
        # Reading a mapping beyond the end of its file ends the process by a signal.
        if os.fstat(self._file).st_size >= len(self._memory):
            return True
        self._warn_once("%s was cut while in use; further images are read in every epoch", self._path)
        return False

    def _find_fault(self, path: Path) -> str:
        """Return what is wrong with the file's head and size, or ""; an empty file gets a head.

        Raises:
            UserError: The file is not a cache.
        """
        file = os.fstat(self._file)
        head = os.pread(self._file, STATE.size, 0)
        if not file.st_nlink:
            return "is gone"
        if not any(head):  # new, or created by a process that was killed then
            self._write(0, STATE.pack(MAGIC, VERSION, STATE.size))
            return ""
        if not head.startswith(MAGIC):
            raise UserError(f"{path} is not a cache of images; name another folder by --cache_dir")
        if len(head) < STATE.size:
            return "is damaged"
        _, version, end = STATE.unpack(head)
        if version != VERSION:
            return f"has version {version}, not {VERSION}"
        return "" if STATE.size <= end <= file.st_size else "is damaged"

    def _write(self, offset: int, content: bytes) -> None:
        # Not through the mapping, where a full disk would kill the process by a signal.
        while content:
            written = os.pwrite(self._file, content, offset)
            offset, content = offset + written, content[written:]

    def _checksum(self, key: bytes, sizes: list[int], pixels: bytes | memoryview) -> int:
        return crc32(pixels, crc32(struct.pack("<8I", *sizes), crc32(key)))

    def _is_intact(self, key: bytes) -> bool:
        if key not in self._intact:
            offset, shapes = self._entries[key]
            *_, expected = header = HEADER.unpack_from(self._memory, offset - HEADER.size)
            pixels = memoryview(self._memory)[offset : offset + size_of(shapes)]
            if header[0] != key or self._checksum(key, list(header[1:9]), pixels) != expected:
                del self._entries[key]
                return False
            self._intact.add(key)
        return True
