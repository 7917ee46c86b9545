"""Read URLs, by the optional package webdataset."""

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
    """Open a URL; raise a `UserError` for any error while it is read."""
    try:
        from webdataset.gopen import Pipe, gopen
    except ImportError as error:
        raise UserError(
            f"{url}: reading URLs needs the package webdataset: pip install webdataset"
        ) from error
    try:
        stream = gopen(url)
        try:
            yield stream
        finally:
            if isinstance(stream, Pipe):
                stream.ignore_errors = True  # what has been read is complete; do not wait for the rest
                stream.proc.kill()
            stream.close()
    except (OSError, TarError, ValueError) as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())
        raise UserError(f"{url}: cannot be read to the end ({reason})") from error


def read_url(url: str) -> bytes:
    """Return the content of a URL.

    Raises:
        UserError: It cannot be read.
    """
    with _opened(url) as stream:
        content = stream.read()
    if not content:
        raise UserError(f"{url}: cannot be read")
    return content


def read_shard(url: str, samples: Sequence[tuple[str, ...]]) -> Iterator[Content]:
    """Yield the files of samples that are in one shard, in this order.

    Raises:
        UserError: The shard cannot be read, or differs from its index.
    """
    sizes = {file.member: file.size for files in samples for file in files if isinstance(file, Member)}
    contents: dict[str, bytes] = {}
    remaining = iter(samples)
    names = [file.member for file in next(remaining) if isinstance(file, Member)]
    with _opened(url) as stream:
        from webdataset.tariterators import tar_file_iterator

        for item in tar_file_iterator(stream):
            if item["fname"] not in sizes:
                continue
            contents[item["fname"]] = item["data"]
            if all(name in contents for name in names):
                content = tuple(contents.pop(name) for name in names)
                if [len(file) for file in content] != [sizes[name] for name in names]:
                    break
                yield content
                following = next(remaining, None)
                if following is None:
                    return
                names = [file.member for file in following if isinstance(file, Member)]
    raise UserError(f"{url}: {names[0]} differs from the index; make the shards and the index again")
