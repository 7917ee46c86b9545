"""Photographs and drawings: what Pillow reads, PNG files of 16 bits, and netpbm files in their own values."""

import re
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image

from util.formats import codecs
from util.formats.base import Array, FormatError, Header, Source, Window, check_shape, crop, turned
from util.image_io import FORMATS, PNG_LEVEL, raw_mode, read_image, upright
from util.image_limits import HEADER_BYTES, check_header, check_size

TYPES = {"1": "uint8", "I": "float32", "F": "float32"}
"""Types of Pillow's modes, beside uint16 for those with 16 bits and uint8 for the others."""

COLOURS = {"P": 3, "PA": 3, "CMYK": 3, "YCbCr": 3, "LAB": 3, "HSV": 3}
"""Channels of images that are stored otherwise than they are read: as RGB."""

GREY_BITS = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies grey levels of 2 and 4 bits by."""

ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row of the passes of an interlaced PNG file, and their steps."""

NETPBM = re.compile(
    rb"(P[2356Ff])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+([-+.\deE]+)(?:#[^\n]*)?\s"
)
"""Kind, width, height and largest value (scale in PFM) of a PGM, PPM or PFM file."""


def header(source: Source, key: str) -> Header:
    """Return the header of an image; its EXIF orientation is applied."""
    if netpbm := _netpbm_header(source):
        return netpbm[0]
    with _opened(source) as image:
        channels = COLOURS.get(image.mode, len(image.getbands()))
        raw = _png16(image)
        channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[raw.split(";")[0]] if raw else channels
        width, height = image.size
        if _orientation(image) > 4:
            width, height = height, width
        kind = "uint16" if raw or image.mode.startswith("I;16") else TYPES.get(image.mode, "uint8")
        return Header(channels, height, width, kind)


def read(source: Source, key: str, window: Window | None) -> Array:
    """Return an image in its file's depth, (C, H, W); CMYK, YCbCr, CIELab and palettes as RGB."""
    return crop(_netpbm(source) if _netpbm_header(source) else _read(source, _channels), window)


def read_indices(source: Source, key: str) -> Array:
    """Return the numbers in an image, (C, H, W): of palettes the indices, of 1, 2 and 4 bits the values."""
    return _netpbm(source) if _netpbm_header(source) else _read(source, _numbers)


def png16(image: Array) -> bytes:
    """Return the content of a PNG file of a uint16 image, (1 to 4, H, W)."""
    if len(image) == 1:
        content = BytesIO()
        Image.fromarray(image[0]).save(content, "PNG", compress_level=PNG_LEVEL)
        return content.getvalue()
    return codecs.png16(image, PNG_LEVEL)


def png8(image: Array) -> bytes:
    """Return the content of a PNG file of a uint8 image, (1 to 4, H, W)."""
    content = BytesIO()
    array = image[0] if len(image) == 1 else np.ascontiguousarray(np.moveaxis(image, 0, -1))
    Image.fromarray(array).save(content, "PNG", compress_level=PNG_LEVEL)
    return content.getvalue()


def _opened(source: Source) -> Image.Image:
    source.check_size()
    source.seek(0)
    image = Image.open(source, formats=FORMATS)
    check_header(image)
    return image


def _read(source: Source, convert: Callable[[Image.Image, str], Array]) -> Array:
    with _opened(source) as image:
        raw = raw_mode(image)
        if _png16(image):
            orientation = _orientation(image)
            source.seek(0)
            return turned(codecs.decode_png(_checked_png(source.read())), orientation)
        if image.mode == "LAB":
            return np.moveaxis(np.asarray(read_image(source.path)), -1, 0)
        image.load()
        if image.format == "ICO":  # its header may claim another size
            check_size(image)
        return convert(upright(image), raw)


def _png16(image: Image.Image) -> str:
    """Return the raw mode of a PNG file of several channels with 16 bits, for Pillow keeps 8; else ""."""
    raw = raw_mode(image)
    return raw if image.format == "PNG" and raw.endswith(";16B") and image.mode != "I;16" else ""


def _checked_png(content: bytes) -> bytes:
    """Return a PNG file of 16 bits with nothing but its pixels.

    Raises:
        FormatError: It is damaged; libpng could end the process by a segmentation fault.
    """
    chunks: dict[bytes, list[bytes]] = {}
    at = 8
    while at + 12 <= len(content) and b"IEND" not in chunks:
        length, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        data, checksum = content[at + 8 : at + 8 + length], content[at + 8 + length : at + 12 + length]
        if kind in (b"IHDR", b"IDAT") and zlib.crc32(kind + data) != int.from_bytes(checksum):
            raise FormatError("damaged: a checksum is wrong")
        chunks.setdefault(kind, []).append(data)
        at += 12 + length
    header, data = chunks[b"IHDR"][0], b"".join(chunks.get(b"IDAT", []))
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    pixel = 2 * {0: 1, 2: 3, 4: 2, 6: 4}[header[9]]
    passes = ADAM7 if header[12] else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    lines = [1 + columns * pixel for columns, rows in sizes if columns > 0 for _ in range(rows)]
    inflate = zlib.decompressobj()
    filtered = inflate.decompress(data, sum(lines) + 1)
    if not inflate.eof:
        inflate.decompress(inflate.unconsumed_tail, 1)  # the checksum at its end
    starts = np.cumsum([0, *lines[:-1]])
    if len(filtered) != sum(lines) or not inflate.eof:
        raise FormatError("damaged: it does not hold as many pixels as its header says")
    if np.frombuffer(filtered, np.uint8)[starts].max() > 4:
        raise FormatError("damaged: a row is filtered in an unknown way")
    # Stored, because it would be decompressed a second time.
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered, 0)), (b"IEND", b""))
    return content[:8] + b"".join(
        len(part).to_bytes(4) + kind + part + zlib.crc32(kind + part).to_bytes(4) for kind, part in parts
    )


def _orientation(image: Image.Image) -> int:
    try:
        # Not PngImageFile's method, which decodes the image in search of EXIF data at the end.
        return int(Image.Image.getexif(image).get(0x0112, 1))
    except Exception:  # invalid EXIF data does not make an image unusable
        return 1


def _channels(image: Image.Image, raw: str) -> Array:
    if image.mode in COLOURS:
        image = image.convert("RGB")
    return _array(image)


def _numbers(image: Image.Image, raw: str) -> Array:
    numbers = _array(image)
    if image.mode == "1":
        return numbers // 255
    return numbers // GREY_BITS.get(raw, 1)


def _array(image: Image.Image) -> Array:
    array = np.asarray(image)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def _netpbm_header(source: Source) -> tuple[Header, bytes, float, int] | None:
    """Return the header, kind, largest value and length of the header of a netpbm file, or None."""
    head = source.head
    if head[:1] != b"P" or (match := NETPBM.match(head)) is None:
        return None
    kind, width, height, largest = match[1], int(match[2]), int(match[3]), float(match[4])
    channels = 3 if kind in (b"P3", b"P6", b"PF") else 1
    if kind in (b"PF", b"Pf"):
        dtype = "float32"
    elif 1 <= largest <= 65535:
        dtype = "uint8" if largest < 256 else "uint16"
    else:
        raise FormatError(f"a largest value of {largest:g}: expected 1 to 65535")
    check_shape((channels, height, width), dtype)
    return Header(channels, height, width, dtype), kind, largest, match.end()


def _netpbm(source: Source) -> Array:
    found = _netpbm_header(source)
    assert found
    head, kind, largest, start = found
    source.check_size()
    source.seek(start)
    count = head.channels * head.height * head.width
    if kind in (b"P2", b"P3"):
        text = re.sub(rb"#[^\n]*", b"", source.read(16 * count + HEADER_BYTES))
        values = np.array(text.split()[:count], dtype=np.int64)
        if len(values) == count and not 0 <= values.min() <= values.max() <= largest:
            raise FormatError(f"values outside 0 to {largest:g}")
        values = values.astype(head.dtype)
    else:
        stored = np.dtype(head.dtype).newbyteorder("<" if largest < 0 else ">")
        content = source.read(count * stored.itemsize)
        values = np.frombuffer(content[: len(content) // stored.itemsize * stored.itemsize], stored)
    if len(values) < count:
        raise FormatError(f"{len(values)} values of {count}: the file is cut off")
    image = np.moveaxis(values.reshape(head.height, head.width, head.channels), -1, 0)
    return image[:, ::-1] if kind in (b"PF", b"Pf") else image  # PFM begins at the bottom
