"""Read URLs, by the optional package webdataset."""

import io
import os
import select
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from tarfile import BLOCKSIZE, TarError, TarInfo
from typing import IO, TYPE_CHECKING

from util.errors import UserError
from util.image_limits import max_image_bytes
from util.shards import Member

if TYPE_CHECKING:
    from webdataset.gopen import Pipe

Content = tuple[bytes, ...]
"""The files of one sample."""

SILENCE_SECONDS = 60.0
"""Time without a single byte after which a server or command is given up."""

_processes: set["subprocess.Popen[bytes]"] = set()
"""The processes that are downloading."""


class Arrivals(io.RawIOBase):
    """The output of a process.

    Reading raises a `TimeoutError` if nothing comes for `SILENCE_SECONDS`, and an `OSError` at the end if the
    process has failed.
    """

    def __init__(self, pipe: "Pipe"):
        self.pipe, self.descriptor = pipe, pipe.stream.fileno()
        self.poll = select.poll()
        self.poll.register(self.descriptor, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        if not self.poll.poll(1000 * SILENCE_SECONDS):
            raise TimeoutError(f"nothing came for {SILENCE_SECONDS:g} s")
        count = os.readv(self.descriptor, [buffer])
        if not count:
            try:
                self.pipe.proc.wait(SILENCE_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise TimeoutError(f"its command does not end for {SILENCE_SECONDS:g} s") from error
            self.pipe.wait_for_child()
        return count


def end_downloads() -> None:
    """End the processes that are downloading."""
    for process in list(_processes):
        process.kill()


OLDEST_VERSION = 1
"""Of webdataset: earlier ones pass URLs to a shell, so that a URL may hold a command."""

MAX_INDEX_BYTES = 1 << 31
"""Size of an index, of which a file takes about 100 bytes."""

PIECE = 1 << 20
"""Bytes that are read at a time where they are not kept."""


@contextmanager
def _opened(url: str) -> Iterator[IO[bytes]]:
    """Open a URL; raise a `UserError` for any error while it is read."""
    try:
        from webdataset.gopen import Pipe, gopen
    except ImportError as error:
        raise UserError(
            f"{url}: reading URLs needs the package webdataset: pip install webdataset"
        ) from error
    check_version(version("webdataset"))
    try:
        stream = gopen(url)
        if not isinstance(stream, Pipe):
            with stream:
                yield stream
            return
        _processes.add(stream.proc)
        try:
            yield io.BufferedReader(Arrivals(stream), 1 << 16)
        finally:
            stream.ignore_errors = True  # what has been read is complete; do not wait for the rest
            stream.proc.kill()
            stream.close()
            _processes.discard(stream.proc)
    except (OSError, TarError, ValueError) as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())
        raise UserError(f"{url}: cannot be read to the end ({reason})") from error


def check_version(installed: str) -> None:
    """Raise a `UserError` if this version of webdataset is too old."""
    if not installed.partition(".")[0].isdecimal() or int(installed.partition(".")[0]) < OLDEST_VERSION:
        raise UserError(
            f"webdataset {installed} passes URLs to a shell, which would run commands in them: pip install"
            f" 'webdataset>={OLDEST_VERSION}'"
        )


def read_url(url: str) -> bytes:
    """Return the content of a URL.

    Raises:
        UserError: It cannot be read, or is larger than an index may be.
    """
    with _opened(url) as stream:
        content = stream.read(MAX_INDEX_BYTES + 1)
    if not content:
        raise UserError(f"{url}: cannot be read")
    if len(content) > MAX_INDEX_BYTES:
        raise UserError(f"{url}: larger than {MAX_INDEX_BYTES >> 30} GiB, which no index is")
    return content


def read_shard(url: str, samples: Sequence[tuple[str, ...]]) -> Iterator[Content]:
    """Yield the files of samples that are in one shard, in this order.

    Nothing else of the shard is kept in memory, nor a file too large to be decoded, which is yielded empty.

    Raises:
        UserError: The shard cannot be read, or differs from its index.
    """
    members = {file.offset: file for files in samples for file in files if isinstance(file, Member)}
    waiting = [[file.offset for file in files if isinstance(file, Member)] for files in samples]
    contents: dict[int, bytes] = {}
    position, number = 0, 0
    with _opened(url) as stream:
        for offset, file in sorted(members.items()):
            _skip(stream, offset - BLOCKSIZE - position, file)
            _check_header(_take(stream, BLOCKSIZE, file), file)
            if file.size > 2 * max_image_bytes():
                _skip(stream, file.size, file)
                contents[offset] = b""
            else:
                contents[offset] = _take(stream, file.size, file)
            position = offset + file.size
            while number < len(waiting) and contents.keys() >= set(waiting[number]):
                yield tuple(contents.pop(each) for each in waiting[number])
                number += 1


def _check_header(header: bytes, file: Member) -> None:
    """Raise a `UserError` unless a header in the tar file, found in front of a file, is that of `file`."""
    try:
        found = TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except TarError:
        found = TarInfo()
    if (found.name, found.size) != (file.member, file.size):
        raise _differs(file)


def _take(stream: IO[bytes], size: int, file: Member) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise OSError(f"it ends before {file.member} does")
    return content


def _skip(stream: IO[bytes], size: int, file: Member) -> None:
    if size < 0:
        raise _differs(file)
    while size:
        size -= len(_take(stream, min(size, PIECE), file))


def _differs(file: Member) -> UserError:
    return UserError(
        f"{file.shard}: {file.member} differs from the index; make the shards and the index again"
    )
