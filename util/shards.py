"""Files inside tar archives (shards), and images inside files."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from util.errors import UserError


class Member(str):
    """A file in a shard; as a string, the path that it would have in an unpacked folder.

    Attributes:
        shard: path or URL of the tar file.
        member: name of the file in it.
        offset, size: position and length of the content in the tar file, in bytes.
        content: the content if it was read from a stream; None if the tar file is seekable.
    """

    __slots__ = ("content", "member", "offset", "shard", "size")

    shard: str
    member: str
    offset: int
    size: int
    content: bytes | None

    @classmethod
    def of(cls, path: str, shard: str, member: str, offset: int, size: int) -> "Member":
        """Return a member whose content is read from the tar file."""
        new = cls(path)
        new.shard, new.member, new.offset, new.size, new.content = shard, member, offset, size, None
        return new

    def read(self) -> bytes:
        """Return the file's content.

        Raises:
            OSError: the tar file cannot be read, or ends before the file does.
        """
        if self.content is not None:
            return self.content
        with open(self.shard, "rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError(f"{self.shard} ends before it")
        return content


class Entry(str):
    """An image in a file that holds several; as a string, the file's path with ``#`` and its key.

    Attributes:
        file: the path of the file, which may be a `Member`.
        key: which image of the file it is: a number from 0, ``x0`` or ``y0`` for slices along the first or
            second axis of a volume, ``all`` for all pages as channels, or the name of an array.
    """

    __slots__ = ("file", "key")

    file: str
    key: str

    @classmethod
    def of(cls, file: str, key: str) -> "Entry":
        """Return an entry of a file."""
        new = cls(f"{file}{':' if file.lower().endswith('.npz') else '#'}{key}")
        new.file, new.key = file, key
        return new


@contextmanager
def streamed(files: Sequence[str], contents: Sequence[bytes]) -> Iterator[None]:
    """Within it, `files`, which are members of a streamed tar file, have these contents."""
    members = [file for file in files if isinstance(file, Member)]
    for member, content in zip(members, contents, strict=True):
        member.content = content
    try:
        yield
    finally:
        for member in members:
            member.content = None


def file_identity(path: str) -> tuple[str, int, int]:
    """Return what identifies the content of a file or member: location, size and modification time (ns).

    Raises:
        OSError: the file does not exist.
    """
    if isinstance(path, Entry):
        location, size, modified = file_identity(path.file)
        return f"{location}#{path.key}", size, modified
    if isinstance(path, Member):
        # A streamed tar file has no time of its own.
        modified = os.stat(path.shard).st_mtime_ns if path.content is None else 0
        return f"{path.shard} at {path.offset}", path.size, modified
    file = os.stat(path)
    return path, file.st_size, file.st_mtime_ns


def expand_braces(pattern: str) -> list[str]:
    """Expand the braces of a pattern, in order: ``{000..012}`` for numbers, ``{A,B}`` for words.

    Raises:
        UserError: a brace is not closed, or holds neither a range nor a list.
    """
    before, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    inner, closing, after = rest.partition("}")
    first, dots, last = inner.partition("..")
    if closing and dots and first.isdecimal() and last.isdecimal() and int(first) <= int(last):
        width = len(first) if first.startswith("0") else 0
        words = [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    elif closing and "," in inner and "{" not in inner:
        words = inner.split(",")
    else:
        raise UserError(
            f"{pattern}: braces hold a range such as {{000000..000009}} or a list such as {{A,B}}"
        )
    suffixes = expand_braces(after)
    return [before + word + suffix for word in words for suffix in suffixes]
