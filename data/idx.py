"""The IDX format of MNIST's files."""

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from util.errors import UserError

BYTES = 8
"""The third byte of an IDX file of unsigned bytes; the fourth is the number of dimensions."""


def read_idx(file: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array of unsigned bytes in an IDX file, which may be compressed by gzip.

    Raises:
        UserError: The file cannot be read, has another type, is empty, or differs in size from its header.
    """
    try:
        content = file.read_bytes()
        # By content, not by name: decompressed files often keep their extension.
        content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: cannot be read ({error}); download it again") from None
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, BYTES, dimensions]):
        raise UserError(
            f"{file}: not an IDX file of bytes in {dimensions} dimensions, which begins with the number"
            f" {BYTES * 256 + dimensions}; this file begins with {int.from_bytes(content[:4])}"
        )
    shape = np.frombuffer(content[4:start].ljust(start - 4, b"\0"), ">u4").tolist()
    actual, expected = len(content) - start, prod(shape)
    if actual != expected or not expected:
        raise UserError(
            f"{file}: its header names {' x '.join(map(str, shape))} = {expected} bytes, and"
            f" {max(0, actual)} follow; download it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
