"""Limits on the memory and time that decoding one image file takes, whatever its header claims."""

import os
import re
import stat
import time
from io import BufferedReader, BytesIO, FileIO
from math import inf
from pathlib import Path

from PIL import Image

from util.errors import UserError
from util.shards import Member

MAX_IMAGE_GB = 0.9
"""Default of ``--max_image_gb``: 180 million pixels of RGB or grey."""

MAX_SECONDS = 20.0
"""CPU time for one image. Not wall-clock time, so that a slow disk or a stopped process rejects none."""

MAX_SCANNED_PIXELS = 1.5e9
"""Pixels times scans of a JPEG file, which has about ten scans if it is progressive."""

MAX_PPM_VALUES = 50_000_000
"""Values of a PGM or PPM file of neither 8 nor 16 bits, of which Pillow scales two million per second."""

HEADER_BYTES = 1 << 24
"""What reading a header may read beyond twice the file's size."""

SMALL_FILE = 1 << 16
"""Files of this size are read without limits on time: one pass over their pixels is all they can cause."""

FULL_READ = 1 << 12
"""Reads of this size are timed, of smaller ones every 256th."""

BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes per pixel of Pillow's modes that have fewer than 4."""

WHOLE_FRAMES = {"WEBP": 12, "AVIF": 8}
"""Bytes per pixel of the frames that decoders keep beside the image."""

_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
"""A marker of a JPEG file that begins a segment or ends the image, not one within the data of a scan."""

_max_bytes = 0


class LimitError(Exception):
    """Decoding an image would exceed a limit."""


def set_max_image_gb(gigabytes: float) -> None:
    """Set the limit on the bytes of one image after decoding, with the copies that its conversion makes.

    Raises:
        UserError: it is not above 0, or beyond the memory of any machine.
    """
    if not 0 < gigabytes < 1e6:
        raise UserError(f"--max_image_gb {gigabytes:g}: expected a number above 0 and below a million")
    global _max_bytes
    _max_bytes = int(gigabytes * 1e9)
    Image.MAX_IMAGE_PIXELS = _max_bytes // 10  # Pillow warns above this and raises above twice as many


def max_image_bytes() -> int:
    """Return the limit on the bytes of one image after decoding."""
    return _max_bytes


set_max_image_gb(MAX_IMAGE_GB)


class LimitedFile(BufferedReader):
    """A file, or its content, that is read with limits on the bytes and on the CPU time of the thread.

    Attributes:
        budget: bytes that may still be read.
    """

    def __init__(self, source: FileIO | BytesIO, budget: float):
        super().__init__(source)
        self.budget = budget
        self._deadline, self._reads = time.thread_time() + MAX_SECONDS, 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes.

        Raises:
            LimitError: A limit is exceeded.
        """
        content = super().read(size)
        self._reads += 1
        self.budget -= len(content)
        if self.budget < 0:
            raise LimitError("its header refers to more data than the file has")
        timed = len(content) >= FULL_READ or self._reads % 256 == 0
        if timed and time.thread_time() > self._deadline:
            raise LimitError(f"decoding it takes more than {MAX_SECONDS:g} s")
        return content

    def restart(self, budget: float) -> None:
        """Begin with new limits."""
        self.budget, self._deadline = budget, time.thread_time() + MAX_SECONDS

    def untimed(self) -> None:
        """Read without limits from now on, several times as fast."""
        self.read = super().read  # type: ignore[method-assign]


def open_limited(path: str | Path) -> str | Path | LimitedFile:
    """Return an image file for Pillow to read, within limits unless the file is small.

    Raises:
        LimitError: The file itself is larger than any image that may be decoded.
        OSError: It cannot be read, or is not a regular file.
    """
    if isinstance(path, Member):
        size = path.size
    else:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")  # opening a named pipe would wait for a writer
        size = status.st_size
    if size > 2 * _max_bytes:
        raise LimitError(
            f"a file of {size / 1e9:.2f} GB, more than twice --max_image_gb {_max_bytes / 1e9:g}"
        )
    if size <= SMALL_FILE and not isinstance(path, Member):
        return path
    source = BytesIO(path.read()) if isinstance(path, Member) else FileIO(path)
    return LimitedFile(source, 2 * size + HEADER_BYTES)


def check_header(image: Image.Image) -> None:
    """Raise a `LimitError` if decoding an image, opened by Pillow, would exceed the limits."""
    check_size(image)
    if image.format in ("JPEG", "MPO"):
        _check_scans(image)
    file, tiles = getattr(image, "fp", None), getattr(image, "tile", [])
    one_by_one = bool(tiles) and tiles[0][0] == "ppm"
    values = image.width * image.height * len(image.getbands())
    if one_by_one and values > MAX_PPM_VALUES:
        raise LimitError(f"scaling {values} values of a PPM file takes too long; save it with 8 or 16 bits")
    if isinstance(file, LimitedFile):
        file.budget = inf  # the pixels are limited by their number
        if one_by_one:
            file.untimed()


def check_size(image: Image.Image) -> None:
    """Raise a `LimitError` if an image and its copies in memory are larger than the limit.

    They are the image as Pillow stores it, RGB in 4 bytes per pixel, another 4 bytes per pixel for the
    conversion to RGB of all other modes, and what the decoder keeps beside it.
    """
    pixels = image.width * image.height
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        pixels = max(pixels, tags.get(322, 0) * tags.get(323, 0))  # width and height of a tile
    plain = image.mode == "RGB" and "transparency" not in image.info
    size = BYTES.get(image.mode, 4) + (0 if plain else 4) + WHOLE_FRAMES.get(image.format or "", 0)
    if image.info.get("progressive"):
        size += _coefficients(image)
    if pixels * size > _max_bytes:
        raise LimitError(
            f"{image.width} x {image.height} pixels take {pixels * size / 1e9:.2f} GB, which exceeds"
            f" --max_image_gb {_max_bytes / 1e9:g}"
        )


def count_scans(content: bytes) -> int:
    """Return the number of scans of a JPEG image, without those of previews in it and images after it."""
    scans, position = 0, 2
    while match := _MARKER.search(content, position):
        marker, position = match[1], match.end()
        if marker == b"\xd9":  # end of image
            break
        scans += marker == b"\xda"
        position += int.from_bytes(content[position : position + 2])  # the length of the marker's segment
    return scans


def _coefficients(image: Image.Image) -> int:
    """Return the bytes per pixel of the coefficients of a JPEG image that is decoded from several scans."""
    sampling = [(layer[1], layer[2]) for layer in getattr(image, "layer", [])]
    largest = max((h * v for h, v in sampling), default=1)
    return -(-2 * sum(h * v for h, v in sampling) // max(largest, 1))


def _check_scans(image: Image.Image) -> None:
    """Raise a `LimitError` for a JPEG file of so many scans that decoding takes long.

    Every scan goes over the whole image; one without information takes ten bytes.
    """
    file, layers = getattr(image, "fp", None), getattr(image, "layers", 0)
    assert file is not None
    if image.format == "JPEG" and not image.info.get("progressive"):
        # Pillow has just read the header of the first scan. With all layers in it, it is the only one.
        file.seek(-(4 + 2 * layers), os.SEEK_CUR)
        if file.read(1) == bytes([layers]):
            return
    pixels = image.width * image.height
    size = file.seek(0, os.SEEK_END)
    if pixels * size / 10 > MAX_SCANNED_PIXELS:
        file.seek(0)
        content = file.read()
        scans = content.count(b"\xff\xda")  # a fast upper bound, which is nearly always enough
        scans = count_scans(content) if pixels * scans > MAX_SCANNED_PIXELS else scans
        if pixels * scans > MAX_SCANNED_PIXELS:
            raise LimitError(
                f"decoding {image.width} x {image.height} pixels in {scans} scans takes too long"
            )
