"""Whether the two images of a pair show the same thing at the same place.

The images may be of different kinds (a photo and its labels, CT and MR), so their edges are compared: the
gradients along both axes, divided by their local mean. Where a pair is aligned, the cross-correlation of
these is largest without a shift.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.doctor.pixels import box_mean, shrink

Floats = NDArray[np.float32]

SIDE = 128
"""Height and width at which images are compared."""

REACH = 24
"""The largest shift that is looked for, in pixels of these."""

BORDER = 2
BLOCK = 16

SCALES = (0.8, 0.85, 0.9, 0.95, 1.05, 1.1, 1.15, 1.25)
NEAR_SCALES = ("scaled by 0.95", "scaled by 1.05")

TURNS: dict[str, Callable[[Floats], Floats]] = {
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "turned by 180 degrees": lambda image: image[::-1, ::-1],
    "turned by 90 degrees": lambda image: np.rot90(image),
    "turned by 270 degrees": lambda image: np.rot90(image, 3),
}


@dataclass(frozen=True)
class Alignment:
    """How well B matches A, and how it matches better.

    Attributes:
        correlation: of the edges of A and B as they are, -1 to 1.
        shift: (right, down) by which B is shifted against A, as fractions of width and height; (0, 0) if
            that is not certain.
        change: what else was done to B: "mirrored", "scaled by 1.1"; "" if nothing or not certain.
    """

    correlation: float
    shift: tuple[float, float] = (0.0, 0.0)
    change: str = ""


def align(A: NDArray[np.generic], B: NDArray[np.generic]) -> Alignment | None:
    """Compare two images, (C, H, W) of any types; None if one of them has hardly any edges."""
    small_A, small_B = (shrink(image, SIDE, SIDE).transpose(1, 2, 0) for image in (A, B))
    edges_A, edges_B = _edges(small_A), _edges(small_B)
    if edges_A is None or edges_B is None:
        return None
    surface = _correlations(edges_A, edges_B, REACH)
    middle = surface[REACH - 1 : REACH + 2, REACH - 1 : REACH + 2]
    unshifted, noise = float(middle.max()), float(np.sqrt(((surface - np.median(surface)) ** 2).mean()))
    near = _argmax(middle, 1)
    best = _argmax(surface, REACH)
    # Found by measurement on 606 façades: correct pairs with periodic windows stay below one of these.
    if unshifted > 7 * noise:
        return Alignment(unshifted)
    if change := _change(edges_A, edges_B, small_B, surface, noise):
        return Alignment(unshifted, change=change)
    if max(map(abs, best)) >= 2 and surface.max() - unshifted > 0.6 * noise and surface.max() > 0.08:
        gain = _products(edges_A, edges_B, best) - _products(edges_A, edges_B, near)
        if _certainty(gain) > 2.3:
            return Alignment(unshifted, (best[0] / SIDE, best[1] / SIDE))
    return Alignment(unshifted)


def _change(A: Floats, edges_B: Floats, small_B: Floats, surface: Floats, noise: float) -> str:
    """Return what was done to B if undoing it makes it match A clearly better than any shift does."""
    candidates = {name: turn(small_B) for name, turn in TURNS.items()}
    candidates |= {f"scaled by {scale:g}": _zoom(small_B, 1 / scale) for scale in SCALES}
    found, largest = "", float(surface.max())
    near = _argmax(surface, REACH)
    for name, candidate in candidates.items():
        edges = _edges(candidate)
        if edges is None:
            continue
        correlations = _correlations(A, edges, 6)
        value = float(correlations.max())
        # Measured as above: correct pairs have the largest gains at scales near 1.
        margin, certainty = (2.2, 3.0) if name in NEAR_SCALES else (0.8, 2.0) if name in TURNS else (1.3, 2.0)
        if value > max(largest, surface.max() + margin * noise, 0.1):
            shift = _argmax(correlations, 6)
            if _certainty(_products(A, edges, shift) - _products(A, edges_B, near)) > certainty:
                found, largest = name, value
    return found


def _edges(image: Floats) -> Floats | None:
    """Return the gradients, (2, H, W), of an image, (H, W, C), divided by their local mean.

    None if there are hardly any.
    """
    edges = np.zeros((2, *image.shape[:2]), np.float32)
    edges[0, :, 1:-1] = np.abs(image[:, 2:] - image[:, :-2]).max(-1)
    edges[1, 1:-1] = np.abs(image[2:] - image[:-2]).max(-1)
    if not (edges > 1e-3 * (float(np.ptp(image)) or 1.0)).mean() > 0.01:
        return None
    for k in range(2):
        edges[k] = np.minimum(edges[k] / (box_mean(edges[k], 8) + 0.3 * edges[k].mean() + 1e-12), 6)
    inner = (slice(None), slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    inside = edges[inner] - edges[inner].mean((1, 2), keepdims=True)
    edges[:] = 0  # the image's own border is no edge
    edges[inner] = inside
    return edges


def _correlations(A: Floats, B: Floats, reach: int) -> Floats:
    """Return the correlation of A with B shifted by -reach..reach pixels, (2 reach + 1, 2 reach + 1)."""
    size = SIDE + 32
    product = np.conj(np.fft.rfft2(A, (size, size))) * np.fft.rfft2(B, (size, size))
    surface = np.fft.irfft2(product.sum(0), (size, size))
    surface = np.roll(surface, (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    overlap = 1 - np.abs(np.arange(-reach, reach + 1)) / SIDE
    scale = float(np.sqrt((A**2).sum() * (B**2).sum()))
    return (surface / (overlap[:, None] * overlap) / scale).astype(np.float32)


def _argmax(surface: Floats, middle: int) -> tuple[int, int]:
    """Return the (right, down) shift with the largest correlation."""
    down, right = np.unravel_index(int(surface.argmax()), surface.shape)
    return int(right) - middle, int(down) - middle


def _products(A: Floats, B: Floats, shift: tuple[int, int]) -> Floats:
    """Return the product of A and shifted B by pixel, NaN where one of them ends."""
    right, down = shift
    products = (A * np.roll(B, (-down, -right), (1, 2))).sum(0)
    products[slice(-down, None) if down > 0 else slice(0, -down)] = np.nan
    products[:, slice(-right, None) if right > 0 else slice(0, -right)] = np.nan
    return products


def _certainty(gain: Floats) -> float:
    """Return the mean gain over blocks of the image, in standard errors: a true shift gains everywhere."""
    count = SIDE // BLOCK
    blocks = gain.reshape(count, BLOCK, count, BLOCK).swapaxes(1, 2).reshape(count * count, -1)
    complete = blocks[np.isfinite(blocks).any(1)]
    means = np.nanmean(complete, 1)
    return float(means.mean() / (means.std() / np.sqrt(len(means)) + 1e-12))


def _zoom(image: Floats, scale: float) -> Floats:
    """Return an image, (H, W, C), scaled about its centre, its border repeated."""
    positions = (np.arange(SIDE) - (SIDE - 1) / 2) / scale + (SIDE - 1) / 2
    positions = positions.clip(0, SIDE - 1)
    low = np.minimum(positions.astype(int), SIDE - 2)
    part = (positions - low).astype(np.float32)
    rows = image[low] * (1 - part)[:, None, None] + image[low + 1] * part[:, None, None]
    return rows[:, low] * (1 - part)[:, None] + rows[:, low + 1] * part[:, None]
