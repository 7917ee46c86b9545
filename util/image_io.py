"""Reading and writing of image files."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from io import IOBase
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from util.errors import UserError
from util.files import write_in_place
from util.image_limits import check_header, check_size, open_limited
from util.remarks import remark
from util.shards import Member

Visuals = dict[str, NDArray[np.uint8]]
"""Images of one sample by name, (H, W, 3) or (H, W)."""

if TYPE_CHECKING:
    from torch import Tensor

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".tga", ".ico", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
)
"""Extensions of image files, in lower case."""

Image.init()
FORMATS = tuple(
    {"JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "TGA", "ICO", "PPM"} & Image.OPEN.keys()
)
"""Pillow's decoders that may run, whatever the extension: bitmaps only."""

BAND_PIXELS = 1 << 20
"""Pixels of the bands in which large images are converted."""

DEPTHS = (8, 10, 12, 14)
"""Bits of cameras and scanners whose images are stored in 16 bits, often without scaling."""

PNG_LEVEL = 1
"""zlib level of PNG files, 1 to 9: the fastest that compresses."""

LOSSY_QUALITY = 95
"""Quality of JPEG and WebP files, up to 100."""

# Keep Pillow's warnings about files out of the training log; errors are raised.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class BadImage(UserError):
    """A file with the extension of an image cannot be read as one."""


def read_image(path: str | Path) -> Image.Image:
    """Return the image at `path` in RGB with 8 bits per channel, rotated by its EXIF orientation.

    Animations give their first frame; transparent pixels are blended over white. 16-bit values are scaled by
    their full range. Floating point values and 32-bit integers are scaled by 255 if all are in 0..1, kept if
    all are in 0..255, and otherwise scaled from the image's minimum and maximum to 0..255; NaN becomes the
    minimum.

    Raises:
        BadImage: the file cannot be read or decoded, or only with more memory or time than the limits.
    """
    try:
        file = open_limited(path)
        with file if isinstance(file, IOBase) else nullcontext(), Image.open(file, formats=FORMATS) as image:
            check_header(image)
            raw = raw_mode(image)
            with silence_libtiff(image.format):
                image.load()
            if image.format == "ICO":  # its header may claim another size
                check_size(image)
            if "16" in raw:
                _remark_on_range(image, path)
            return _in_rgb(upright(image), image.format)
    # For damaged files Pillow's decoders raise SyntaxError, TypeError, ValueError, MemoryError and others.
    except Exception as error:
        raise bad_image(path, error) from error


def bad_image(path: str | Path, error: Exception) -> BadImage:
    """Return the error that names the file and says why it cannot be read."""
    unknown = isinstance(error, UnidentifiedImageError)
    reason = "unknown format" if unknown else " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        reason += " See --max_image_gb"
    place = f" (in {path.shard})" if isinstance(path, Member) else ""
    return BadImage(f"{path}{place}: cannot be read as an image ({reason})")


def save_image(image: NDArray[np.uint8], path: Path, png_level: int = PNG_LEVEL) -> None:
    """Write `image`, (H, W, 3) or (H, W), in the format of the extension of `path`.

    Raises:
        OSError: with the name `path`: it cannot be written, or is a link.
    """
    file_format = Image.EXTENSION[path.suffix.lower()]
    options = {"compress_level": png_level, "quality": LOSSY_QUALITY}
    write_in_place(path, lambda file: Image.fromarray(image).save(file, file_format, **options))


def quantised(images: "Tensor") -> "Tensor":
    """Return images in [-1, 1] as uint8, rounded."""
    return ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).byte()


def to_levels(images: "Tensor") -> "Tensor":
    """Quantise images (..., 1 or 3, H, W) in [-1, 1] as they are saved: uint8, (..., 3, H, W), rounded."""
    levels = quantised(images)
    return levels.expand(*levels.shape[:-3], 3, -1, -1)


def to_uint8(image: "Tensor") -> NDArray[np.uint8]:
    """Quantise an image (1 or 3, H, W) in [-1, 1] to an array (H, W, 3) as it is saved."""
    return to_levels(image).permute(1, 2, 0).cpu().numpy()


def raw_mode(image: Image.Image) -> str:
    """Return how a file stores pixels that are copied as they are, such as ``RGB;16B``; else ""."""
    for decoder, _, _, args in getattr(image, "tile", [])[:1]:
        if not decoder.startswith("ppm"):  # which scales by the range that the header names
            parts = args if isinstance(args, tuple) else (args,)
            return next((part for part in parts if isinstance(part, str)), "")
    return ""


def _remark_on_range(image: Image.Image, path: str | Path) -> None:
    """Remark on a 16-bit file whose values end where 8, 10, 12 or 14 bits do."""
    if image.mode.startswith("I"):
        highest = max(int(np.asarray(band).max()) for _, band in _bands(image))
    else:  # Pillow keeps the high byte of colours
        highest = int(max(np.ravel(image.getextrema())[: -2 if "A" in image.mode else None]))
        highest = highest * 256 + 255 if highest else 0
    bits = next((bits for bits in DEPTHS if 0 < highest < 1 << bits), 0)
    if bits:
        remark(
            "range of 16 bits",
            f"{path}: no 16-bit value in it is above {highest}: an image of {bits} bits? 65535 is read as"
            f" white, so that it is nearly black, at most level {highest >> 8} of 255. If so, read such"
            f" files by --input_range 0,{(1 << bits) - 1} (or --output_range)",
        )


def upright(image: Image.Image) -> Image.Image:
    """Return an image rotated and flipped as its EXIF orientation says."""
    # Invalid EXIF data does not make an image unusable.
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _in_rgb(image: Image.Image, file_format: str | None) -> Image.Image:
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
        return ImageCms.applyTransform(image, transform) or image
    if image.mode[0] in "IF":
        return _levels(image, file_format)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    colour = image.info.get("transparency")
    if isinstance(colour, tuple) and max(colour) > 255:  # 16-bit, though Pillow converted the pixels to 8
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    return _by_bands(image, _over_white)


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _levels(image: Image.Image, file_format: str | None) -> Image.Image:
    """Convert an image of 16-bit or 32-bit integers or floating point values to RGB."""
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PPM", "PNG")):
        transparent = image.info.get("transparency")
        return _by_bands(image, lambda band: _high_bytes(np.asarray(band), transparent))

    extremes = [_finite_extremes(np.asarray(band)) for _, band in _bands(image)]
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    if low > high:  # no finite value
        low, high = 0.0, 1.0
    return _by_bands(image, lambda band: _stretched(np.asarray(band), low, high))


def _high_bytes(values: NDArray[Any], transparent: object) -> Image.Image:
    levels = (values >> 8).astype(np.uint8)
    if transparent is not None:
        levels[values == transparent] = 255
    return Image.fromarray(levels).convert("RGB")


def _finite_extremes(values: NDArray[Any]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (inf, -inf)


def _stretched(values: NDArray[Any], low: float, high: float) -> Image.Image:
    """Return values as levels, given the finite extremes of the whole image."""
    values = values.astype(np.float64)
    values = np.clip(np.nan_to_num(values, nan=low, posinf=high, neginf=low), low, high)
    if low >= 0 and high <= 1:
        values = values * 255
    elif low < 0 or high > 255:
        values = (values - low) * (255 / ((high - low) or 1.0))
    return Image.fromarray(values.round().astype(np.uint8)).convert("RGB")


def _by_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert an image to RGB in bands, so that intermediate copies are never as large as the image."""
    if image.width * image.height <= BAND_PIXELS:
        return convert(image)
    result = Image.new("RGB", image.size)
    for top, band in _bands(image):
        result.paste(convert(band), (0, top))
    return result


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield the first row and the content of bands that make up an image."""
    height = max(1, BAND_PIXELS // image.width)
    if image.height <= height:
        yield 0, image
        return
    for top in range(0, image.height, height):
        yield top, image.crop((0, top, image.width, min(image.height, top + height)))


@contextmanager
def silence_libtiff(file_format: str | None) -> Iterator[None]:
    """Discard libtiff's warnings, which it writes to file descriptor 2 directly."""
    if file_format != "TIFF":
        yield
        return
    stderr, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(devnull)
