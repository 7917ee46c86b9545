"""Image files in and out."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from util.errors import UserError
from util.shards import Member

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".tga", ".ico", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
)
"""How the names of images end, in lower case."""

Image.init()
FORMATS = tuple(
    {"JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "TGA", "ICO", "PPM"} & Image.OPEN.keys()
)
"""The decoders that may run, whatever a file's name says: bitmaps only."""

MAX_PIXELS = 178_956_970
"""Images with more are refused by their header, before memory is taken for them."""

PNG_LEVEL = 1
"""How hard PNG files are compressed: the first of zlib's levels, 1 to 9, that compresses at all."""

LOSSY_QUALITY = 95
"""Quality of JPEG and WebP files, of 100."""

# What Pillow has to say of a file, beyond errors, is not worth a line in a training log.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # it refuses twice as many, and warns in between


class BadImage(UserError):
    """A file that is named like an image and cannot be used as one."""


def read_image(path: str | Path) -> Image.Image:
    """Return the image at `path` in RGB, 8 bits a channel, upright by its EXIF data.

    Of an animation it is the first frame; what is transparent is shown over white. 16 bits scale by their
    full range. Floating point values and 32-bit integers are fractions of white if all are in 0..1, levels if
    all are in 0..255, and otherwise stretch from the image's lowest to its highest; NaN is the lowest.

    Raises:
        BadImage: the file cannot be read or decoded, or has more than `MAX_PIXELS`.
    """
    try:
        file = BytesIO(path.read()) if isinstance(path, Member) else path
        with Image.open(file, formats=FORMATS) as image:
            with _without_libtiffs_remarks(image.format):
                image.load()
            return _in_rgb(_upright(image), image.format)
    # On damaged files Pillow's decoders raise SyntaxError, TypeError, ValueError, MemoryError and others.
    except Exception as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "of no known format" if unknown else " ".join(str(error).split()) or type(error).__name__
        place = f" (in {path.shard})" if isinstance(path, Member) else ""
        raise BadImage(f"{path}{place}: cannot be read as an image ({reason})") from error


def save_image(image: NDArray[np.uint8], path: Path, png_level: int = PNG_LEVEL) -> None:
    """Write `image`, (H, W, 3) or (H, W), in the format that the ending of `path` names."""
    Image.fromarray(image).save(path, compress_level=png_level, quality=LOSSY_QUALITY)


def to_levels(images: Tensor) -> Tensor:
    """Return images (..., 1 or 3, H, W) in [-1, 1] as they are saved: uint8, (..., 3, H, W), rounded."""
    levels = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.expand(*levels.shape[:-3], 3, -1, -1)


def to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """Return an image (1 or 3, H, W) in [-1, 1] as (H, W, 3) in 0..255, rounded to the nearest level."""
    return to_levels(image).permute(1, 2, 0).cpu().numpy()


def _upright(image: Image.Image) -> Image.Image:
    # Pixels may be good although the EXIF data is not: then the image stays as it lies.
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _in_rgb(image: Image.Image, file_format: str | None) -> Image.Image:
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
        return ImageCms.applyTransform(image, transform) or image
    if image.mode[0] in "IF":
        return _levels(image, file_format).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    colour = image.info.get("transparency")
    if isinstance(colour, tuple) and max(colour) > 255:  # of 16 bits, while Pillow has made the pixels 8
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _levels(image: Image.Image, file_format: str | None) -> Image.Image:
    """Return an image of 16-bit or 32-bit integers or of floating point values in 8 bits."""
    values = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PPM", "PNG")):
        levels = (values >> 8).astype(np.uint8)
        transparent = image.info.get("transparency")
        if transparent is not None:
            levels[values == transparent] = 255
        return Image.fromarray(levels)

    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    values = np.clip(np.nan_to_num(values, nan=low, posinf=high, neginf=low), low, high)
    if low >= 0 and high <= 1:
        values = values * 255
    elif low < 0 or high > 255:
        values = (values - low) * (255 / ((high - low) or 1.0))
    return Image.fromarray(values.round().astype(np.uint8))


@contextmanager
def _without_libtiffs_remarks(file_format: str | None) -> Iterator[None]:
    """libtiff writes what it finds unusual straight to the standard error, a line for every unknown tag."""
    if file_format != "TIFF":
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
