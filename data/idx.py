"""IDX, the format of MNIST's files."""

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from util.errors import UserError

BYTES = 8
"""The third byte of a file of unsigned bytes; the fourth is the number of dimensions."""


def read_idx(file: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array of unsigned bytes in an IDX file, which may be packed by gzip.

    Raises:
        UserError: it cannot be read, is of another kind, is empty or does not have the size that its header
            names.
    """
    try:
        content = file.read_bytes()
        # The content decides, not the name: unpacked files often keep their ending.
        content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: cannot be read ({error}); get the file again") from None
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, BYTES, dimensions]):
        raise UserError(
            f"{file}: not an IDX file of bytes in {dimensions} dimensions, which begins with the number"
            f" {BYTES * 256 + dimensions}; this one begins with {int.from_bytes(content[:4])}"
        )
    shape = np.frombuffer(content[4:start].ljust(start - 4, b"\0"), ">u4").tolist()
    found, named = len(content) - start, prod(shape)
    if found != named or not named:
        raise UserError(
            f"{file}: its header names {' x '.join(map(str, shape))} = {named} bytes, and {max(0, found)}"
            " follow; get the file again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
