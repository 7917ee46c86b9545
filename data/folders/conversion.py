"""Read and write image files so that depth, channels, transparency and format stay as they are."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from util import formats
from util.errors import UserError
from util.formats.nifti import EXTENSIONS as NIFTI
from util.formats.tiff import layout_of
from util.image_io import FORMATS, LOSSY_QUALITY

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
TIFF = (".tif", ".tiff")
KEPT = (*TIFF, ".npy", ".png", ".webp", ".tga", ".bmp")
"""Extensions of files that are written without loss, in their own format."""

EIGHT_BITS = (".gif", ".apng", ".ico", ".dib", ".avif", ".mpo", ".pbm")
"""Extensions of other files that have 8 bits: results are PNG files, those of the rest TIFF files."""

MAX_TIFF = 4_000_000_000
"""Bytes that a TIFF file can hold unless it is a BigTIFF."""

PILLOW: Mapping[str, Mapping[str, Any]] = {
    **{extension: {"quality": LOSSY_QUALITY, "subsampling": 0} for extension in JPEG},
    ".webp": {"lossless": True, "exact": True},
    ".tga": {},
    ".bmp": {},
}
"""How Pillow writes the formats that hold only 8 bits, by extension."""


class Pixels(NamedTuple):
    """An image.

    Attributes:
        values: (C, H, W); uint8, uint16, int16 or float32.
        transparent: whether the last channel is transparency.
        nodata: the value of pixels without data (of a TIFF file); None without such pixels.
    """

    values: NDArray[Any]
    transparent: bool = False
    nodata: float | None = None


def result_extension(name: str) -> str:
    """Return the extension of what is made of a file: its own, if the format can be written."""
    extension = name[len(formats.stem(name)) :]
    if extension.lower() in (*JPEG, *KEPT):
        return extension
    if extension.lower() == ".npz":
        return ".npy"
    return ".png" if extension.lower() in EIGHT_BITS else ".tif"


def read_pixels(path: str) -> Pixels:
    """Return an image, upright; a palette gives colours.

    Raises:
        BadImage: The file cannot be read.
    """
    values = formats.read(path)
    with suppress(Exception), Image.open(path, formats=FORMATS) as image:  # others have no transparency
        if len(values) in (2, 4) and image.mode in ("LA", "RGBA", "PA"):
            return Pixels(values, True)
        # The transparent colour, or how opaque each colour of a palette is
        color = image.info.get("transparency")
        if color is not None and values.dtype == np.uint8:
            return Pixels(np.moveaxis(np.asarray(image.convert("RGBA")), -1, 0), True)
        if color is not None:
            transparent = (values == np.reshape(color, (-1, 1, 1))).all(0, keepdims=True)
            alpha = np.where(transparent, 0, 65535).astype(values.dtype)
            return Pixels(np.concatenate([values, alpha]), True)
    return Pixels(values, nodata=formats.nodata(path))


def write_pixels(path: Path, pixels: Pixels, like: str = "", box: formats.Box | None = None) -> None:
    """Write an image in the format of the extension of `path`, whole or not at all.

    Args:
        like: the file that it is made from, whose colour channels (TIFF) and georeference it keeps.
        box: what it shows of the image `like`; by default all.

    Raises:
        UserError: The format does not hold such an image.
        OSError: The file cannot be written.
    """
    values, extension = pixels.values, path.suffix.lower()
    pillow, layout = PILLOW.get(extension), _tiff_layout(pixels, like) if extension in TIFF else None
    if extension in (*JPEG, ".bmp") and (pixels.transparent or len(values) not in (1, 3)):
        raise UserError(f"{path}: {extension} files do not hold transparency; convert the image to PNG")
    with _complete(path) as temporary:
        if pillow is not None:
            Image.fromarray(_channels_last(values)).save(temporary, **pillow)
        elif layout is not None:
            tifffile.imwrite(temporary, _channels_last(values), metadata=None, **layout)
        else:
            formats.write(temporary, values, like, box)


def write_stack(path: Path, images: Sequence[NDArray[Any]], like: str) -> None:
    """Write the images that a file holds, each (C, H, W): as pages of a TIFF file, or slices of a volume.

    Args:
        like: what the first is made from.
    """
    if path.name.lower().endswith(NIFTI):
        with _complete(path) as temporary:
            formats.write_volume(temporary, images, like)
        return
    large = sum(values.nbytes for values in images) > MAX_TIFF
    with _complete(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=large) as tif:
        for values in images:
            layout = _tiff_layout(Pixels(values), like) or layout_of(len(values), values.dtype)
            pixels = values if layout.get("planarconfig") == "separate" else _channels_last(values)
            tif.write(pixels, contiguous=False, **{"metadata": None, **layout})


@contextmanager
def _complete(path: Path) -> Iterator[Path]:
    """Within it a hidden file with the extension of `path` is written, which becomes `path` at the end."""
    extension = path.name[len(formats.stem(path.name)) :]
    temporary = path.with_name(f".{secrets.token_hex(8)}{extension}")
    try:
        yield temporary
        temporary.replace(path)
    except UserError as error:
        raise UserError(str(error).replace(str(temporary), str(path))) from error
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _channels_last(values: NDArray[Any]) -> NDArray[Any]:
    return values[0] if len(values) == 1 else np.ascontiguousarray(np.moveaxis(values, 0, -1))


def _tiff_layout(pixels: Pixels, like: str) -> Mapping[str, Any] | None:
    """Return how to store unsigned integers with colours and further channels, as Pillow reads them."""
    values = pixels.values
    if values.dtype.kind != "u" or len(values) in (1, 3):
        return None
    if pixels.transparent:
        photometric = "rgb" if len(values) == 4 else "minisblack"
        return {"photometric": photometric, "planarconfig": "contig", "extrasamples": ["unassalpha"]}
    with suppress(Exception), tifffile.TiffFile(getattr(like, "file", like)) as tif:
        page = tif.pages.first
        colours = page.photometric == tifffile.PHOTOMETRIC.RGB and page.samplesperpixel == len(values)
        if colours and not page.is_geotiff:
            return {"photometric": "rgb", "planarconfig": "contig", "extrasamples": page.extrasamples}
    return None
