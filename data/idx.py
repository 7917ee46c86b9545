"""The IDX format of MNIST's files."""

import gzip
import zlib
from io import BufferedReader
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from util.errors import UserError
from util.image_limits import max_image_bytes

BYTES = 8
"""The third byte of an IDX file of unsigned bytes; the fourth is the number of dimensions."""


def read_idx(file: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array of unsigned bytes in an IDX file, which may be compressed by gzip.

    Raises:
        UserError: The file cannot be read, has another type, is empty, or differs in size from its header.
    """
    start = 4 + 4 * dimensions
    try:
        with file.open("rb") as opened:
            # By content, not by name: decompressed files often keep their extension.
            packed = opened.peek(2).startswith(b"\x1f\x8b")
            source: BufferedReader | gzip.GzipFile = gzip.GzipFile(fileobj=opened) if packed else opened
            content = source.read(start)
            if content[:4] == bytes([0, 0, BYTES, dimensions]):
                content += source.read(_expected(content, file) + 1)  # one more, to find files that go on
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: cannot be read ({error}); download it again") from None
    if content[:4] != bytes([0, 0, BYTES, dimensions]):
        raise UserError(
            f"{file}: not an IDX file of bytes in {dimensions} dimensions, which begins with the number"
            f" {BYTES * 256 + dimensions}; this file begins with {int.from_bytes(content[:4])}"
        )
    shape = _shape(content, dimensions)
    actual, expected = len(content) - start, prod(shape)
    if actual != expected or not expected:
        raise UserError(
            f"{file}: its header names {' x '.join(map(str, shape))} = {expected} bytes, and"
            f" {max(0, actual)} follow; download it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _shape(content: bytes, dimensions: int) -> list[int]:
    end = 4 + 4 * dimensions
    return list(np.frombuffer(content[4:end].ljust(end - 4, b"\0"), ">u4").tolist())


def _expected(header: bytes, file: Path) -> int:
    """Return the number of bytes that follow a header.

    Raises:
        UserError: They are more than the limit on memory.
    """
    expected = prod(_shape(header, header[3]))
    if expected > max_image_bytes():
        raise UserError(
            f"{file}: its header names {expected / 1e9:.2f} GB of pixels, which exceeds --max_image_gb"
            f" {max_image_bytes() / 1e9:g}"
        )
    return expected
