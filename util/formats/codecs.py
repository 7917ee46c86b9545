"""What imagecodecs does beside TIFF: PNG files of 16 bits, and lossless JPEG in DICOM files."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from util.formats.base import Array, missing

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

LOSSLESS_JPEG = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")

DECODER_DEPENDENCIES = dict.fromkeys((*LOSSLESS_JPEG, *JPEG_LS), ("numpy", "imagecodecs"))
"""Of each transfer syntax that `decode` can read, as pydicom expects it of a plugin."""


def is_available(uid: str) -> bool:
    """Return whether `decode` works, as pydicom expects it of a plugin."""
    return uid in DECODER_DEPENDENCIES and find_spec("imagecodecs") is not None


def decode(content: bytes, runner: "DecodeRunner") -> bytearray:
    """Decode a frame of a DICOM file, as pydicom expects it of a plugin."""
    import imagecodecs

    if runner.transfer_syntax in JPEG_LS:
        pixels = imagecodecs.jpegls_decode(content)
    else:
        pixels = imagecodecs.ljpeg_decode(content)
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    if pixels.ndim == 3:
        runner.set_option("planar_configuration", 0)
    return bytearray(np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).tobytes())


def decode_png(content: bytes) -> Array:
    """Decode a PNG file of 16 bits that is not damaged, (C, H, W)."""
    try:
        import imagecodecs
    except ImportError:
        import torch
        from torchvision.io import ImageReadMode, decode_image

        # It expects writable memory.
        encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return np.asarray(decode_image(encoded, ImageReadMode.UNCHANGED).numpy())
    pixels = imagecodecs.png_decode(content)
    return np.moveaxis(pixels.reshape(*pixels.shape[:2], -1), -1, 0)


def png16(image: Array, level: int) -> bytes:
    """Return the content of a PNG file of a uint16 image, (2 to 4, H, W)."""
    try:
        import imagecodecs
    except ImportError:
        raise missing("imagecodecs", "a PNG file of more than one channel with 16 bits") from None
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(np.moveaxis(image, 0, -1)), level=level))
