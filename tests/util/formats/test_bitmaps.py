"""PNG, netpbm and what else Pillow reads, in the depth of the file."""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.environment import ODD, needs_odd
from util import formats
from util.errors import UserError
from util.formats import BadImage


def numbers(*shape: int, dtype: object = np.uint16) -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) * 6007 % 65521).astype(dtype)


def png(path: Path, pixels: np.ndarray, orientation: int = 1) -> str:
    """Write a PNG file of 16 bits, (H, W, channels), without a library."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    exif = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHxx", 274, 3, 1, orientation) + bytes(4)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, (0, 4, 2, 6)[channels - 1], 0, 0, 0)),
        *([(b"eXIf", exif)] if orientation != 1 else []),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    content = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return str(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torchvision")
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("orientation", "codecs"), [(1, True), (6, True), (1, False)])
def test_png_files_of_16_bits(
    tmp_path: Path, channels: int, orientation: int, codecs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not codecs:
        monkeypatch.setitem(sys.modules, "imagecodecs", None)
    pixels = numbers(5, 8, channels)
    path = png(tmp_path / "x.png", pixels, orientation)
    image = formats.read(path)
    expected = pixels if orientation == 1 else np.rot90(pixels, -1)
    assert image.dtype == np.uint16 and np.array_equal(image, expected.transpose(2, 0, 1))
    assert formats.header(path) == (*image.shape, "uint16")
    assert np.array_equal(formats.read(path, (1, 2, 4, 5)), image[:, 2:5, 1:4])


def test_damaged_png_files_of_16_bits_do_not_end_the_process(tmp_path: Path) -> None:
    path = Path(png(tmp_path / "x.png", numbers(40, 30, 3)))
    content = path.read_bytes()
    start, end = content.index(b"IDAT") + 4, content.index(b"IEND") - 8

    def damaged(data: bytes) -> bytes:
        chunk = b"IDAT" + data
        return (
            content[: start - 8] + struct.pack(">I", len(data)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        )

    rows = zlib.decompress(content[start:end])
    for data in (
        content[: end - 100],
        content[: end - 5] + b"??" + content[end - 3 :],
        damaged(content[start : end - 4] + b"????"),
        damaged(content[start : end - 40]),
        damaged(zlib.compress(rows[:-1])),
        damaged(zlib.compress(b"\x07" + rows[1:])),
        damaged(zlib.compress(rows + bytes(1000))),
    ):
        path.write_bytes(data)
        with pytest.raises(BadImage, match=r"x\.png"):
            formats.read(str(path))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_what_is_written_as_png_is_read_again(tmp_path: Path, channels: int, dtype: str) -> None:
    if channels > 1 and dtype == "uint16":
        pytest.importorskip("imagecodecs")
    image = numbers(channels, 6, 9, dtype=dtype)
    formats.write(tmp_path / "x.png", image)
    again = formats.read(str(tmp_path / "x.png"))
    assert again.dtype == dtype and np.array_equal(again, image)


def test_what_no_png_file_can_hold_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for image in (numbers(5, 4, 4), numbers(1, 4, 4, dtype=np.int16), numbers(1, 4, 4, dtype=np.float32)):
        with pytest.raises(UserError, match=r"x\.png: .*\.tif and \.npy hold"):
            formats.write(tmp_path / "x.png", image)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(UserError, match=r"needs the package imagecodecs.*requirements-science\.txt"):
        formats.write(tmp_path / "x.png", numbers(3, 4, 4))


@pytest.mark.parametrize(
    ("mode", "name", "channels"),
    [
        *(("RGB", "x.jpg", 3), ("L", "x.jpg", 1), ("CMYK", "x.jpg", 3), ("RGBA", "x.png", 4)),
        *(
            ("LA", "x.png", 2),
            ("P", "x.gif", 3),
            ("L", "x.bmp", 1),
            ("RGB", "x.tga", 3),
        ),
    ],
)
def test_channels_are_those_of_the_file(tmp_path: Path, mode: str, name: str, channels: int) -> None:
    image = Image.fromarray(numbers(6, 9, 3, dtype=np.uint8)).convert(mode)
    image.save(tmp_path / name)
    path = str(tmp_path / name)
    assert formats.header(path) == (channels, 6, 9, "uint8")
    with Image.open(path) as saved:
        expected = np.asarray(saved.convert("RGB") if channels == 3 else saved)
    assert np.array_equal(formats.read(path), expected.reshape(6, 9, channels).transpose(2, 0, 1))


def test_numbers_of_label_maps(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = Image.fromarray(array).convert("P")
    palette.putpalette(range(255, -1, -1))
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(formats.read_indices(str(tmp_path / "palette.png")), array)
    # Grey levels of 4 bits, which Pillow scales to 8
    content = bytearray(Path(png(tmp_path / "x.png", np.zeros((3, 4, 1)))).read_bytes())
    rows = b"".join(b"\0" + bytes([row[0] << 4 | row[1], row[2] << 4 | row[3]]) for row in array)
    start = content.index(b"IDAT") - 4
    head = content[:24] + bytes([4]) + content[25:29]
    head += struct.pack(">I", zlib.crc32(head[12:29]))
    data = zlib.compress(rows)
    chunk = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    (tmp_path / "grey.png").write_bytes(head + chunk + content[-12:])
    assert start == 33 and np.array_equal(formats.read_indices(str(tmp_path / "grey.png")), array)
    assert np.array_equal(formats.read(str(tmp_path / "grey.png"))[0], array * 17)
    Image.fromarray(array > 5).save(tmp_path / "bits.png")
    assert np.array_equal(formats.read_indices(str(tmp_path / "bits.png")), array > 5)
    Image.fromarray(numbers(3, 4, 3, dtype=np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(BadImage, match="3 channels; a map of numbers has one"):
        formats.read_indices(str(tmp_path / "rgb.png"))


def test_netpbm_files_have_their_own_values(tmp_path: Path) -> None:
    grey, rgb = numbers(3, 4), numbers(3, 4, 3)
    floats = numbers(3, 4, 3).astype(np.float32) / 7 - 100
    files = {
        "a.pgm": (b"P5 # comment\n4 3\n# another\n65535\n" + grey.astype(">u2").tobytes(), grey),
        "b.ppm": (b"P6\n4 3\n65521\n" + rgb.astype(">u2").tobytes(), rgb),
        "c.pgm": (b"P5\n4 3\n100\n" + (grey % 100).astype(np.uint8).tobytes(), (grey % 100).astype(np.uint8)),
        "d.pgm": (b"P2\n4 3\n65535\n" + " ".join(map(str, grey.flat)).encode(), grey),
        "e.pfm": (b"PF\n4 3\n-1.0\n" + floats[::-1].astype("<f4").tobytes(), floats),
        "f.pfm": (b"Pf\n4 3\n1.0\n" + floats[::-1, :, 0].astype(">f4").tobytes(), floats[..., 0]),
    }
    for name, (content, array) in files.items():
        (tmp_path / name).write_bytes(content)
        image = formats.read(str(tmp_path / name))
        expected = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        assert image.dtype == array.dtype and np.array_equal(image, expected), name
        assert formats.header(str(tmp_path / name)) == (*expected.shape, array.dtype.name)
        (tmp_path / name).write_bytes(content[:-4])
        with pytest.raises(BadImage, match=r"cut off|outside"):
            formats.read(str(tmp_path / name))


@needs_odd
@pytest.mark.parametrize("folder", ["valid", "broken", "clutter"])
def test_odd_files_load_or_are_named(folder: str) -> None:
    for file in sorted((ODD / folder).iterdir()):
        for path in formats.entries([str(file)]) if formats.is_image_file(str(file)) else []:
            try:
                image = formats.read(path)
            except BadImage as error:
                assert folder != "valid" and str(error).startswith(f"{file}") and "\n" not in str(error)
            else:
                assert formats.header(path) == (*image.shape, image.dtype.name)
                deep = ("16bit", "16_bit", "basn2c16", "basn4a16", "basn6a16", "mode_16", "16-bit")
                if any(word in file.name for word in deep) and not file.name.endswith((".jpg", "target.png")):
                    assert image.dtype == np.uint16, file
