"""Reads what is at a URL, by the package webdataset, which this file alone needs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tarfile import TarError
from typing import IO

from util.errors import UserError
from util.shards import Member

Content = tuple[bytes, ...]
"""The files of one sample."""


@contextmanager
def _opened(url: str) -> Iterator[IO[bytes]]:
    """Open a URL; whatever goes wrong while it is read is told in one line."""
    try:
        from webdataset.gopen import Pipe, gopen
    except ImportError as error:
        raise UserError(f"{url}: URLs are read by the package webdataset: pip install webdataset") from error
    try:
        stream = gopen(url)
        try:
            yield stream
        finally:
            if isinstance(stream, Pipe):
                stream.ignore_errors = True  # what has been read is whole; the rest is not waited for
                stream.proc.kill()
            stream.close()
    except (OSError, TarError, ValueError) as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())
        raise UserError(f"{url}: cannot be read to its end ({reason})") from error


def read_url(url: str) -> bytes:
    """Return what is at a URL.

    Raises:
        UserError: it cannot be read.
    """
    with _opened(url) as stream:
        content = stream.read()
    if not content:
        raise UserError(f"{url}: nothing can be read there")
    return content


def read_shard(url: str, samples: Sequence[tuple[str, ...]]) -> Iterator[Content]:
    """Yield the files of samples that lie in one shard in this order.

    Raises:
        UserError: the shard cannot be read, or is not what its index says.
    """
    wanted = {file.member: file.size for files in samples for file in files if isinstance(file, Member)}
    found: dict[str, bytes] = {}
    left = iter(samples)
    names = [file.member for file in next(left) if isinstance(file, Member)]
    with _opened(url) as stream:
        from webdataset.tariterators import tar_file_iterator

        for item in tar_file_iterator(stream):
            if item["fname"] not in wanted:
                continue
            found[item["fname"]] = item["data"]
            if all(name in found for name in names):
                content = tuple(found.pop(name) for name in names)
                if [len(each) for each in content] != [wanted[name] for name in names]:
                    break
                yield content
                following = next(left, None)
                if following is None:
                    return
                names = [file.member for file in following if isinstance(file, Member)]
    raise UserError(f"{url}: {names[0]} is not in it as its index says; make the shards and the index anew")
