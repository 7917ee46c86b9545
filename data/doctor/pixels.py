"""Small versions of images of any type and number of channels."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_CHANNELS = 8
"""Channels that comparisons of images look at."""


def shrink(image: NDArray[np.generic], height: int, width: int) -> NDArray[np.float32]:
    """Return an image, (C, H, W), scaled to another size by means over areas, in float32.

    Only the first `MAX_CHANNELS` channels are kept. NaN and infinite values become 0.
    """
    # Means over parts of a large image are good enough, and take the memory of the parts.
    steps = [max(1, have // (8 * want)) for have, want in zip(image.shape[1:], (height, width), strict=True)]
    thinned = image[:MAX_CHANNELS, :: steps[0], :: steps[1]]
    if thinned.dtype == np.uint8:
        bands = [Image.fromarray(np.ascontiguousarray(band)) for band in thinned]
    else:
        finite = np.nan_to_num(thinned.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        bands = [Image.fromarray(band) for band in finite]
    scaled = [np.asarray(band.resize((width, height), Image.Resampling.BOX)) for band in bands]
    return np.stack(scaled).astype(np.float32)


def grey(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of an image's channels, (C, H, W); the luminance of three."""
    if len(image) == 3:
        return np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), image, 1)
    return image.mean(0)


def to_levels(image: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """Return values as levels, 0 to 255, given those of black and white."""
    levels = ((image - low) * (255 / ((high - low) or 1.0))).clip(0, 255)
    return np.nan_to_num(levels).round().astype(np.uint8)


def box_mean(image: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """Return the mean of the square around every pixel of an image, (H, W), its border repeated."""
    size = 2 * radius + 1
    for axis in (0, 1):
        padding = [(radius + 1, radius) if k == axis else (0, 0) for k in (0, 1)]
        sums = np.pad(image, padding, mode="edge").cumsum(axis, dtype=np.float64)
        count = image.shape[axis]
        ends = np.take(sums, range(size, size + count), axis) - np.take(sums, range(count), axis)
        image = (ends / size).astype(np.float32)
    return image
