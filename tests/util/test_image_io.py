"""Every kind of image is read upright in 8-bit RGB; other files raise BadImage."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.support.environment import ODD, needs_odd
from util.image_io import BadImage, read_image

VALUES = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5


def pixels(path: Path) -> np.ndarray:
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    how_stored = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
        8: lambda p: np.rot90(p, -1),
    }
    exif = Image.Exif()
    exif[274] = orientation
    stored = np.ascontiguousarray(how_stored[orientation](upright))
    Image.fromarray(stored).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "x.png"), upright)


@pytest.mark.parametrize("extension", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_by_their_full_range(tmp_path: Path, extension: str) -> None:
    levels = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)
    Image.fromarray(levels).save(tmp_path / f"x.{extension}")
    assert np.array_equal(pixels(tmp_path / f"x.{extension}")[..., 0], levels // 256)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_fewer_bits_stored_in_sixteen_are_remarked_once(
    tmp_path: Path, bits: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    highest = (1 << bits) - 1
    values = np.linspace(highest // 2, highest, 48).astype(np.uint16).reshape(4, 12)
    for name in ("a.png", "b.png", "x.tif", "x.pgm"):
        Image.fromarray(values).save(tmp_path / name)
    (tmp_path / "colour.png").write_bytes(png(4, 4, values.astype(">u2").tobytes(), depth=16))
    with (tmp_path / "named.pgm").open("wb") as file:  # its header names the range
        file.write(b"P5 12 4 %d\n" % highest + values.astype(">u2" if bits > 8 else np.uint8).tobytes())
    for names in (("a.png", "b.png", "x.tif", "x.pgm"), ("colour.png",), ("named.pgm",)):
        monkeypatch.setattr("util.remarks._shown", set())
        caplog.clear()
        for name in names:
            read_image(tmp_path / name)
        warned = bits < 16 and names != ("named.pgm",) and (bits > 8 or names[0] == "a.png")
        assert len(caplog.messages) == warned
        if warned:
            assert f"above {highest}: an image of {bits} bits?" in caplog.text and names[0] in caplog.text
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "black.png")
    caplog.clear()
    read_image(tmp_path / "black.png")
    assert not caplog.messages


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([0, 0.5, 1], [0, 128, 255]),  # fractions of white
        ([0, 1, 254.6], [0, 1, 255]),  # levels
        ([-3, 0, 3], [0, 128, 255]),  # otherwise: minimum to maximum
        ([0, 100, 1000], [0, 26, 255]),
        ([float("nan"), -1, 1], [0, 0, 255]),
        ([float("inf"), float("-inf"), 0.25], [64, 64, 64]),
        ([7e9, 7e9, 7e9], [0, 0, 0]),
    ],
)
@pytest.mark.parametrize("extension", ["tif", "pfm"])
def test_floating_point_values(
    tmp_path: Path, extension: str, values: list[float], levels: list[int]
) -> None:
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / f"x.{extension}")
    assert pixels(tmp_path / f"x.{extension}")[0, :, 0].tolist() == levels


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    colours = {"RGBA": (200, 100, 0, 0), "LA": (100, 0)}
    for mode, colour in colours.items():
        Image.new(mode, (2, 2), colour).save(tmp_path / f"{mode}.png")
        assert (pixels(tmp_path / f"{mode}.png") == 255).all()
    Image.new("RGBA", (2, 2), (0, 0, 0, 51)).save(tmp_path / "partly.png")
    assert (pixels(tmp_path / "partly.png") == 204).all()
    Image.fromarray(VALUES).save(tmp_path / "rgb.png", transparency=tuple(VALUES[0, 0].tolist()))
    expected = VALUES.astype(int)
    expected[0, 0] = 255
    assert np.array_equal(pixels(tmp_path / "rgb.png"), expected)
    grey = np.array([[0, 4096, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png", transparency=4096)
    assert pixels(tmp_path / "grey.png")[0, :, 0].tolist() == [0, 255, 255]
    palette = Image.fromarray(VALUES).quantize(16)
    palette.save(tmp_path / "palette.gif", transparency=palette.getpixel((0, 0)))
    assert pixels(tmp_path / "palette.gif")[0, 0].tolist() == [255] * 3


def test_other_modes(tmp_path: Path) -> None:
    Image.fromarray(VALUES).convert("CMYK").save(tmp_path / "x.tif")
    assert np.abs(pixels(tmp_path / "x.tif") - VALUES).max() <= 1
    Image.fromarray(np.array([[[136, 80, 67]]], np.uint8), "LAB").save(tmp_path / "lab.tif")
    assert np.abs(pixels(tmp_path / "lab.tif")[0, 0] - (255, 0, 0)).max() < 12  # L in 0..255
    first, second = (Image.new("RGB", (3, 3), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "x.webp", save_all=True, append_images=[second], lossless=True)
    assert (pixels(tmp_path / "x.webp") == (255, 0, 0)).all()


def png(width: int, height: int, pixels: bytes, depth: int = 8) -> bytes:
    """Return an RGB file with a header of this size, whatever `pixels` it has."""
    header = struct.pack(">2I5B", width, height, depth, 2, 0, 0, 0)
    size = 3 * width * depth // 8
    rows = b"".join(b"\0" + pixels[start : start + size] for start in range(0, len(pixels), size))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_a_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadImage, match="not a regular file"):
        read_image(tmp_path / "pipe.png")


def test_files_that_are_not_images_raise(tmp_path: Path) -> None:
    Image.fromarray(VALUES).resize((64, 64)).save(tmp_path / "good.jpg")
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "x" * (8 << 20), zip=True)
    Image.fromarray(VALUES).save(tmp_path / "text.png", pnginfo=info)
    contents = {
        "bomb.png": png(60_000, 60_000, bytes(1000)),
        "empty.jpg": b"",
        "noise.tif": bytes(range(256)),
        "cut.jpg": (tmp_path / "good.jpg").read_bytes()[:500],
        "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\n",
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",  # would start Ghostscript
        "text.png": (tmp_path / "text.png").read_bytes(),
        "folder.png": None,
    }
    for name, content in contents.items():
        path = tmp_path / name
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)
        with pytest.raises(BadImage) as caught:
            read_image(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: cannot be read as an image (") and "\n" not in message
        assert ("exceeds limit" in message) == (name == "bomb.png")


@needs_odd
def test_known_answers() -> None:
    hopper = pixels(ODD / "valid" / "hopper.jpg")
    for name in (*(f"hopper_orientation_{i}.jpg" for i in range(2, 9)), "hopper_orientation_6.webp"):
        assert np.abs(pixels(ODD / "valid" / name) - hopper).mean() < 5, name
    cmyk, rgb = (pixels(ODD / "valid" / f"pil_sample_{kind}.jpg") for kind in ("cmyk", "rgb"))
    assert np.abs(cmyk - rgb).mean() < 5
    sixteen, target = (pixels(ODD / "valid" / f"tiff_16bit_RGB{end}") for end in (".tiff", "_target.png"))
    assert np.array_equal(sixteen, target)
    ramp = np.unique(pixels(ODD / "valid" / "pngsuite_basn0g16.png"))
    assert (ramp.min(), ramp.max()) == (0, 255) and len(ramp) > 250


@needs_odd
@pytest.mark.parametrize("folder", ["valid", "broken", "clutter"])
def test_odd_files(folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    for path in sorted((ODD / folder).iterdir()):
        if folder == "valid":
            assert pixels(path).size
        else:
            with pytest.raises(BadImage):
                read_image(path)
    assert capfd.readouterr() == ("", "")  # no warnings of the libraries
