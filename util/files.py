"""Files as every file system allows them: whole or not at all, and never written through links.

A folder may be writable for others, who could plant links there to have files elsewhere overwritten. So new
files have unpredictable names until they are complete. A link at the place of a file that is written whole
is replaced; one at the place of a file that is appended to, or of a folder, is an error.
"""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from util.text import decode, escape

DISK_FULL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers of a full disk, an exhausted quota and a limit on file size."""

NO_SYNC = {
    *(errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS),
    *(errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR),
}
"""Error numbers of `os.fsync`, or of opening a folder for it, where it does not exist."""

FICLONE = 0x40049409
"""The request of Linux that clones a file (reflink), for Btrfs, XFS and others."""

NAME_MAX = 255
"""Bytes of a file name that all common file systems allow."""

TEMPORARY_SUFFIX = ".tmp"

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_IN_PLACE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that `path` is always either the complete old file or the complete new one.

    A link at `path` is replaced.

    Args:
        write: writes the content to an open binary file.

    Raises:
        OSError: with the name `path`.
    """
    temporary = temporary_path(path)
    with errors_name(path):
        try:
            with os.fdopen(os.open(temporary, _NEW, 0o666), "wb") as file:
                write(file)
                file.flush()
                sync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 with `write_atomically`; surrogates are written as escapes."""
    write_atomically(path, lambda file: file.write(_encoded(text)))


def read_text(path: Path) -> str:
    """Return the text of a file in any encoding, see `util.text.decode`."""
    return decode(path.read_bytes())


def start_file(path: Path, text: str = "") -> None:
    """Write a file in place, to be appended to by `append_text`.

    Raises:
        OSError: `path` cannot be written, or is a link or not a file; with its name.
    """
    _write_in_place(path, os.O_TRUNC, _encoded(text))


def append_text(path: Path, text: str) -> None:
    """Append to a text file in UTF-8; what several processes append at the same time is not mixed.

    Raises:
        OSError: as in `start_file`.
    """
    _write_in_place(path, os.O_APPEND, _encoded(text))


def write_in_place(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a whole file, such as an image, which is removed if that fails; a link at `path` is replaced.

    Raises:
        OSError: with the name `path`.
    """
    with errors_name(path):
        if path.is_symlink():
            path.unlink()
        with open_in_place(path, os.O_TRUNC) as file:
            try:
                write(file)
                file.flush()
            except BaseException:
                path.unlink(missing_ok=True)
                raise


def open_in_place(path: Path, flags: int = 0) -> IO[bytes]:
    """Open a file for writing, and create it if there is none.

    Args:
        flags: `os.O_APPEND`, `os.O_TRUNC` or 0.

    Raises:
        OSError: as in `start_file`.
    """
    try:
        descriptor = os.open(path, _IN_PLACE | flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) and path.is_symlink():
            raise _is_link(path) from None
        if error.errno == errno.ENXIO:  # a named pipe that nobody reads
            raise OSError(errno.EINVAL, "not a regular file; remove it", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file; remove it", str(path))
    return os.fdopen(descriptor, "ab" if flags & os.O_APPEND else "wb")


def create_exclusively(path: Path, content: bytes) -> bool:
    """Create a file with its content in one step; return False if `path` exists.

    Where the file system has no hard links, a reader may see the file before its content.
    """
    temporary = temporary_path(path)
    with errors_name(path):
        try:
            _create(temporary, content)
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:
            # File systems without hard links say so by EPERM, EOPNOTSUPP, ENOSYS, EACCES, EPROTO and others.
            if not temporary.exists():
                raise
        else:
            return True
        finally:
            temporary.unlink(missing_ok=True)
        try:
            _create(path, content)
        except FileExistsError:
            return False
    return True


def make_folder(path: Path) -> None:
    """Create a folder for files that programs write, with its parents; `path` itself must not be a link.

    Raises:
        OSError: it cannot be created, or is a link.
    """
    path.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise _is_link(path)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy where the file system has no hard links."""
    temporary = temporary_path(target)
    with errors_name(target):
        try:
            os.link(source, temporary)
            temporary.replace(target)
        except OSError:
            copy_file(source, target)
        finally:
            temporary.unlink(missing_ok=True)  # it is still there if `target` was a link to the same file
        sync_folder(target.parent)


def copy_file(source: Path, target: Path) -> None:
    """Write a copy of a file with `write_atomically`; where the file system can clone files, it does.

    Other than with a hard link, neither changes when a program writes into the other.
    """

    def write(file: IO[bytes]) -> None:
        with source.open("rb") as original:
            if not _clone(original, file):
                shutil.copyfileobj(original, file, 1 << 20)

    write_atomically(target, write)


def _clone(source: IO[bytes], target: IO[bytes]) -> bool:
    """Let an empty open file share the data of another; return False where that is not possible."""
    try:
        import fcntl

        fcntl.ioctl(target.fileno(), FICLONE, source.fileno())
    except (ImportError, OSError):
        return False
    return True


def temporary_path(path: Path) -> Path:
    """Return an unpredictable path for a new version of `path` until it is renamed."""
    suffix = f".{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    return path.with_name(cut_name(path.name, NAME_MAX - len(suffix)) + suffix)


def remove_temporary(folder: Path, suffix: str) -> None:
    """Remove what killed processes have left of files with the suffix; nobody may be writing such files.

    Args:
        suffix: that of the files, such as ``.pth``.
    """
    for path in folder.glob(f"*{suffix}.{'[0-9a-f]' * 16}{TEMPORARY_SUFFIX}"):
        with suppress(OSError):
            path.unlink()


def cut_name(name: str, limit: int) -> str:
    """Return the longest beginning of a file name that has at most `limit` bytes and no half character."""
    data = os.fsencode(name)
    if len(data) <= limit:
        return name
    cut = limit
    while cut > 0 and cut > limit - 4 and data[cut] & 0xC0 == 0x80:
        cut -= 1
    return os.fsdecode(data[:cut])


def native_name(name: str) -> str:
    """Return a name that another process recorded as this process names the file, whatever its locale."""
    with suppress(UnicodeEncodeError):
        os.fsencode(name)
        return name
    try:
        return os.fsdecode(name.encode("utf-8", errors="surrogateescape"))
    except UnicodeEncodeError:  # surrogates that stand for no byte: there is no such file
        return escape(name)


def is_case_insensitive(folder: Path) -> bool:
    """Return whether names that differ in case alone are one file; the folder's name must have letters."""
    other = folder.with_name(folder.name.swapcase())
    return other.exists() and other.samefile(folder)


def sync(descriptor: int) -> None:
    """Flush an open file to disk, where the file system can."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
        return
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Within it an `OSError` that names no file, or a temporary one, gets the name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(TEMPORARY_SUFFIX):
            error.filename, error.filename2 = str(path), None
        raise


def _create(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, _NEW, 0o666), "wb") as file:
        file.write(content)


def _write_in_place(path: Path, flags: int, data: bytes) -> None:
    with errors_name(path), open_in_place(path, flags) as file:
        file.write(data)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="backslashreplace")


def _is_link(path: Path) -> OSError:
    return OSError(
        errno.ELOOP, "a symbolic link, and files are not written through links; remove it", str(path)
    )
