"""Files that would take much memory or time to decode are bad images, by their headers where possible."""

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.environment import ONE_THREAD, ROOT
from util import image_io, image_limits
from util.errors import UserError
from util.image_io import BadImage, read_image
from util.image_limits import MAX_IMAGE_GB, set_max_image_gb
from util.shards import Member

SIDE = 300
"""Side of images at the limit: of RGB images it is exactly large enough."""


@pytest.fixture(autouse=True)
def _limits() -> Iterator[None]:
    set_max_image_gb(5 * SIDE * SIDE / 1e9)
    yield
    set_max_image_gb(MAX_IMAGE_GB)


@pytest.mark.parametrize("gigabytes", [float("nan"), float("inf"), 1e300, 0.0, -1.0])
def test_a_limit_is_a_size_that_memory_can_have(gigabytes: float) -> None:
    with pytest.raises(UserError, match=r"--max_image_gb .*expected a number above 0"):
        set_max_image_gb(gigabytes)


def saved(path: Path, mode: str, size: tuple[int, int] = (SIDE, SIDE), **options: object) -> Path:
    Image.new(mode, size).save(path, **options)
    return path


def refusal(path: str | Path) -> str:
    with pytest.raises(BadImage) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}") and "\n" not in str(caught.value)
    return str(caught.value)


def test_the_limit_is_on_bytes_after_decoding_with_copies(tmp_path: Path) -> None:
    for name, mode in (("rgb.png", "RGB"), ("grey.png", "L"), ("palette.gif", "P"), ("rgb.jpg", "RGB")):
        assert read_image(saved(tmp_path / name, mode)).size == (SIDE, SIDE)
    large = {
        **{"rgba.png": "RGBA", "grey_alpha.png": "LA", "sixteen.png": "I;16", "float.tif": "F"},
        **{"integers.tif": "I", "cmyk.tif": "CMYK", "frames.webp": "RGB", "frames.avif": "RGB"},
    }
    for name, mode in large.items():
        path = saved(tmp_path / name, mode)
        assert "GB, which exceeds --max_image_gb 0.00045" in refusal(path)
        member = Member.of(str(path), str(path), name, 0, path.stat().st_size)
        assert "GB, which exceeds --max_image_gb" in refusal(member)
    progressive = saved(tmp_path / "progressive.jpg", "RGB", progressive=True)
    assert "which exceeds --max_image_gb" in refusal(progressive)
    assert "exceeds limit" in refusal(saved(tmp_path / "pixels.png", "L", (SIDE + 20, SIDE)))
    set_max_image_gb(30 * SIDE * SIDE / 1e9)
    for path in [*(tmp_path / name for name in large), progressive]:
        assert read_image(path).size == (SIDE, SIDE)


def test_an_icon_that_is_larger_than_its_header_claims(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGBA", (SIDE, SIDE)).save(content, "PNG")
    entry = struct.pack("<4B2H2I", 16, 16, 0, 0, 1, 32, len(content.getvalue()), 22)
    path = tmp_path / "x.ico"
    path.write_bytes(struct.pack("<3H", 0, 1, 1) + entry + content.getvalue())
    assert f"{SIDE} x {SIDE} pixels take" in refusal(path)


def test_a_tile_that_is_larger_than_the_image(tmp_path: Path) -> None:
    tags = [(256, 8), (257, 8), (258, 8), (259, 8), (262, 1), (277, 1), (322, 4096), (323, 4096)]
    tags += [(324, 8), (325, 8)]  # one tile, at byte 8, of 8 bytes
    entries = b"".join(struct.pack("<2H2I", tag, 4, 1, value) for tag, value in tags)
    path = tmp_path / "x.tif"
    path.write_bytes(struct.pack("<2sHI8xH", b"II", 42, 16, len(tags)) + entries + bytes(4))
    assert "exceeds --max_image_gb" in refusal(path)


def test_a_file_of_bytes_that_no_image_may_have(tmp_path: Path) -> None:
    with (tmp_path / "x.webp").open("wb") as file:
        file.write(b"RIFF\xff\xff\xff\x7fWEBPVP8L")
        file.truncate(1 << 33)  # sparse: Pillow would read all of it
    assert "a file of 8.59 GB" in refusal(tmp_path / "x.webp")


def with_scans(path: Path, count: int, progressive: bool) -> Path:
    """Write a JPEG image whose second scan, or first without `progressive`, is repeated."""
    content = io.BytesIO()
    Image.new("RGB" if progressive else "L", (64, 64)).save(content, "JPEG", progressive=progressive)
    data = content.getvalue()
    end = data.rindex(b"\xff\xd9")
    starts = [at for at in range(end) if data[at : at + 2] == b"\xff\xda"]
    if progressive:
        repeated = data[starts[1] : starts[2]]
        path.write_bytes(data[:end] + repeated * count + data[end:])
        return path
    frame = data.index(b"\xff\xc0")  # three layers, of which each scan has one
    layers = struct.pack(">2sHBHHB", b"\xff\xc0", 17, 8, 64, 64, 3) + bytes((1, 17, 0, 2, 17, 0, 3, 17, 0))
    scan = data[starts[0] : end]
    scans = [scan[:5] + bytes([layer]) + scan[6:] for layer in (*[1] * count, 2, 3)]
    path.write_bytes(data[:frame] + layers + data[frame + 13 : starts[0]] + b"".join(scans) + data[end:])
    return path


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_of_too_many_scans(tmp_path: Path, progressive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_limits, "MAX_SCANNED_PIXELS", 64 * 64 * 30)
    assert read_image(with_scans(tmp_path / "few.jpg", 2, progressive)).size == (64, 64)
    path = tmp_path / "preview.jpg"  # scans in a segment and after the image do not count
    few = (tmp_path / "few.jpg").read_bytes()
    preview = b"\xff\xe5" + struct.pack(">H", 2 + 8 * 90) + b"\xff\xda\x00\x08\x01\x01\x00\x00" * 90
    path.write_bytes(few[:2] + preview + few[2:] + preview[4:])
    assert read_image(path).size == (64, 64)
    assert image_limits.count_scans(path.read_bytes()) == image_limits.count_scans(few) <= 12
    path = with_scans(tmp_path / "many.jpg", 40, progressive)
    assert " scans takes too long" in refusal(path)
    assert " scans takes too long" in refusal(Member.of(str(path), str(path), "x", 0, path.stat().st_size))


def test_time_is_limited_in_any_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").size == (200, 200)
    monkeypatch.setattr(image_limits, "MAX_SECONDS", -1.0)
    assert "takes more than" in refusal(tmp_path / "x.png")
    saved(tmp_path / "small.png", "RGB")  # one pass over limited pixels
    assert read_image(tmp_path / "small.png").size == (SIDE, SIDE)


def test_a_header_that_refers_to_the_same_data_many_times(tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    file = image_limits.LimitedFile(io.BytesIO(content), 2 * len(content))
    for _ in range(2):
        file.seek(0)
        file.read()
    file.seek(0)
    with pytest.raises(image_limits.LimitError, match="refers to more data than the file has"):
        file.read()


def test_a_range_that_is_scaled_value_by_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.pgm").write_bytes(b"P5 200 200 4095\n" + bytes(2 * 200 * 200))
    assert read_image(tmp_path / "x.pgm").size == (200, 200)
    monkeypatch.setattr(image_limits, "MAX_PPM_VALUES", 200 * 199)
    assert "scaling 40000 values of a PPM file takes too long" in refusal(tmp_path / "x.pgm")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "F", "I", "P"])
def test_large_images_are_converted_in_bands_with_the_same_result(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_max_image_gb(MAX_IMAGE_GB)
    values = np.random.default_rng(0).integers(0, 60_000, (50, 40, 4))
    if mode == "F":
        values[0, 0, 0] = -5
    kind = {"I;16": np.uint16, "F": np.float32, "I": np.int32}.get(mode, np.uint8)
    pixels = values.astype(kind)[..., {"RGBA": slice(4), "LA": slice(2)}.get(mode, 0)]
    image = Image.fromarray(pixels) if mode != "P" else Image.fromarray(pixels, "L").convert("P")
    path = tmp_path / ("x.png" if mode in ("RGBA", "LA", "I;16") else "x.tif")
    image.save(path, **({"transparency": 3} if mode == "P" else {}))
    whole = np.asarray(read_image(path))
    monkeypatch.setattr(image_io, "BAND_PIXELS", 150)
    assert np.array_equal(np.asarray(read_image(path)), whole)


def bomb(width: int, height: int, colour: int, channels: int) -> bytes:
    """Return a PNG file of zeros."""
    pixels = zlib.compressobj(9)
    data = b"".join(pixels.compress(bytes(1 + width * channels)) for _ in range(height)) + pixels.flush()
    header = struct.pack(">2I5B", width, height, 8, colour, 0, 0, 0)
    packed = (
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))
        for k, d in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.slow
def test_a_bomb_takes_no_memory_and_the_largest_image_little_more_than_itself(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb(13_000, 13_000, 6, 4))
    (tmp_path / "large.png").write_bytes(bomb(10_000, 10_000, 6, 4))
    program = (
        "import resource, sys; from util.image_io import read_image\n"
        "from data.transforms import Transform\n"
        "try: Transform('resize_and_crop', 9, 9, False).scale(read_image(sys.argv[1]), False)\n"
        "except Exception as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)\n"
    )
    peaks, outputs = {}, {}
    for name in ("bomb", "large"):
        argv = [sys.executable, "-c", program, str(tmp_path / f"{name}.png")]
        environment = {**ONE_THREAD, "PYTHONPATH": str(ROOT)}
        outputs[name] = subprocess.check_output(argv, env=environment, text=True, cwd=ROOT).splitlines()
        peaks[name] = int(outputs[name][-1])
    assert "exceeds --max_image_gb" in outputs["bomb"][0]
    assert peaks["large"] - peaks["bomb"] < 1000
