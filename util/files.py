"""Atomic file writes: a crash or a full disk never leaves half a file."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

DISK_FULL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers of a full disk, an exhausted quota and a limit on file size."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file so that `path` is always either the complete old file or the complete new one.

    Args:
        write: writes the content to an open binary file.
    """
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file with `write_atomically`."""

    def write(file: IO[bytes]) -> None:
        file.write(text.encode())

    write_atomically(path, write)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy where the file system has no hard links."""
    temporary = temporary_path(target)
    temporary.unlink(missing_ok=True)
    try:
        try:
            temporary.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def temporary_path(path: Path) -> Path:
    """Return the path under which a new version of `path` is written before it is renamed."""
    return path.with_name(f"{path.name}.tmp")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
