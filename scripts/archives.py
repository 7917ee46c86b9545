"""Unpack .zip and .tar.gz archives from the network: no member can leave the folder or fill the disk."""

import errno
import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from util.files import errors_name

MAX_MEMBERS = 1_000_000
MAX_RATIO = 10
"""Images hardly compress: an archive of them is about as large as its content."""

MIN_LIMIT = 64 << 20
"""Bytes that even the smallest archive may unpack to."""

MAX_READ = 1 << 20
"""Bytes per read, and of the longest header in a tar archive."""

DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,  # also encrypted, unknown compression, endlessly nested headers
    ValueError,
)
"""Errors of the standard library for invalid archives."""


class ArchiveError(Exception):
    """An archive is damaged or unpacks to too much; the message says what is wrong."""


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        problem: why it must not be unpacked; empty if it may be.
    """

    name: str
    size: int
    problem: str
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, top: str) -> list[str]:
    """Unpack what is below the folder `top` of an archive into `folder`.

    Members elsewhere in the archive are left out. Unsafe members are refused: links, devices, absolute paths
    and paths with ``..``.

    Returns:
        The refused members, each with the reason, in ASCII.

    Raises:
        ArchiveError: the archive is damaged, has nothing below `top`, or unpacks to more than `MAX_RATIO`
            times its size.
        OSError: a file cannot be written.
    """
    limit = max(MIN_LIMIT, MAX_RATIO * archive.stat().st_size)
    refused: list[str] = []
    size = count = unpacked = 0
    try:
        with _members(archive, limit) as members:
            for count, member in enumerate(members, 1):
                size += member.size
                if size > limit or count > MAX_MEMBERS:
                    raise ArchiveError(f"it unpacks to more than {limit:,} bytes or {MAX_MEMBERS:,} files")
                if problem := member.problem or _path_problem(member.name):
                    refused.append(f"{member.name!a} ({problem})")
                    continue
                parts = [part for part in member.name.split("/") if part not in ("", ".")]
                if parts[0] != top or len(parts) == 1:
                    continue
                path = folder.joinpath(*parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, errors_name(path), path.open("wb") as file:
                    shutil.copyfileobj(source, file, MAX_READ)
                unpacked += 1
    except (*DAMAGED, OSError) as error:
        # A directory of a zip archive that leads to a place before its beginning is an invalid argument.
        if not isinstance(error, DAMAGED) and error.errno not in (None, errno.EINVAL):
            raise
        raise ArchiveError(f"it is damaged ({error})") from error
    if not unpacked:
        raise ArchiveError(
            f"it has no files in a folder {top}" + (f"; refused: {refused[0]}" if refused else "")
        )
    return refused


def _path_problem(name: str) -> str:
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name):
        return "an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "a path out of the folder"
    if "\0" in name or not name.strip("./"):
        return "not a file name"
    return ""


@contextmanager
def _members(archive: Path, limit: int) -> Iterator[Iterator[Member]]:
    """Open an archive and iterate over its files; each must be read before the next."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            yield (
                Member(info.filename, info.file_size, _zip_problem(info), partial(opened.open, info))
                for info in opened.infolist()
                if not info.is_dir()
            )
        return
    with gzip.open(archive) as decompressed:
        stream = ForwardReader(cast(IO[bytes], decompressed), limit)
        with tarfile.open(fileobj=cast(Any, stream), mode="r:") as tar:
            yield _tar_members(tar)
        while stream.read(MAX_READ):  # up to the checksum
            pass


def _zip_problem(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    return "" if kind in (0, stat.S_IFREG) else "a link" if kind == stat.S_IFLNK else "a special file"


def _tar_members(tar: tarfile.TarFile) -> Iterator[Member]:
    for member in tar:
        if member.size < 0:
            raise ArchiveError("it is damaged (a negative size)")
        if member.isdir():
            continue
        plain = member.isreg() and not member.issparse()
        problem = "" if plain else "a link" if member.islnk() or member.issym() else "a special file"
        yield Member(member.name, member.size, problem, partial(_open_member, tar, member))


def _open_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None  # only of links and special files
    return file


class ForwardReader:
    """A stream that is read once, forward, in small pieces.

    tarfile reads headers of any size at once and follows sizes that lead backward.

    Args:
        limit: the number of bytes to read in all.
    """

    def __init__(self, stream: IO[bytes], limit: int):
        self.stream, self.limit, self.position = stream, limit, 0

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes.

        Raises:
            ArchiveError: `size` is too large, or the limit has been reached.
        """
        if not 0 <= size <= MAX_READ:
            raise ArchiveError("it is damaged (a header is too long)")
        data = self.stream.read(size)
        self.position += len(data)
        if self.position > self.limit + MAX_READ:  # headers and padding do not count
            raise ArchiveError(f"it unpacks to more than {self.limit:,} bytes")
        return data

    def seek(self, position: int) -> int:
        """Skip up to `position`."""
        if position < self.position:
            raise ArchiveError("it is damaged (a size leads backward)")
        while self.position < position and self.read(min(MAX_READ, position - self.position)):
            pass
        return self.position

    def tell(self) -> int:
        """Return the position."""
        return self.position
