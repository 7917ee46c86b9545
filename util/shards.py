"""Files that lie in tar files."""

import os

from util.errors import UserError


class Member(str):
    """The path that a file would have in a folder, while its content is a part of a tar file, the shard.

    Attributes:
        shard: the path of the tar file, or its URL.
        member: the file's name in it.
        offset, size: where its content is in the tar file, in bytes.
        content: what a stream has brought; None where the tar file can be read anywhere.
    """

    __slots__ = ("content", "member", "offset", "shard", "size")

    shard: str
    member: str
    offset: int
    size: int
    content: bytes | None

    @classmethod
    def of(cls, path: str, shard: str, member: str, offset: int, size: int) -> "Member":
        """Return a member without its content."""
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


def file_identity(path: str) -> tuple[str, int, int]:
    """Return what tells a file's content from all others: its place, its size and when it was written (ns).

    Raises:
        OSError: there is no such file.
    """
    if isinstance(path, Member):
        return f"{path.shard} at {path.offset}", path.size, os.stat(path.shard).st_mtime_ns
    file = os.stat(path)
    return path, file.st_size, file.st_mtime_ns


def expand_braces(pattern: str) -> list[str]:
    """Return the names that braces stand for, in order: ``{000..012}`` for numbers, ``{A,B}`` for words.

    Raises:
        UserError: a brace without its partner, or without a list or range in it.
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
    endings = expand_braces(after)
    return [before + word + ending for word in words for ending in endings]
