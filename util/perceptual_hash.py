"""Near-duplicates of images: the same image in another size, format or quality, or mirrored."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

SIDE = 32
"""Height and width of the grey images that are hashed."""

FREQUENCIES = 8
MAX_BITS = 16
"""Different bits of 63 up to which two images are compared themselves."""

MIN_CORRELATION = 0.975
MAX_SHIFT = 2
"""Pixels of these by which a near-duplicate may be shifted."""

MIN_DETAIL = 6.0
"""Standard deviation, in levels, below which an image is too uniform to tell from others."""

ROWS = 256

_COSINES = np.cos(np.pi * np.outer(np.arange(FREQUENCIES), np.arange(SIDE) + 0.5) / SIDE)
_BITS = np.uint64(1) << np.arange(FREQUENCIES**2, dtype=np.uint64)


def perceptual_hash(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a number for each of (N, 32, 32) grey images, in which few bits differ for similar images.

    A bit says whether a coefficient of the 8 x 8 lowest frequencies is above their median; the mean is left
    out. Source: Zauner 2010, section 3.2.1 (pHash).
    """
    spectra = _COSINES @ images.astype(np.float32) @ _COSINES.T
    flat = spectra.reshape(len(images), FREQUENCIES**2)
    above = flat > np.median(flat[:, 1:], 1, keepdims=True)
    above[:, 0] = False
    return (above * _BITS).sum(1, dtype=np.uint64)


def near_duplicates(images: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yield the positions of each two of (N, 32, 32) grey images that show the same, or the same mirrored.

    Of a group of equal hashes each image is compared with the first alone, so that many copies of one image
    take no time. Images of one colour are never duplicates.
    """
    detailed = np.flatnonzero(images.std((1, 2)) >= MIN_DETAIL)
    hashes = perceptual_hash(images[detailed])
    mirrored = perceptual_hash(images[detailed, :, ::-1])
    groups: dict[int, list[int]] = defaultdict(list)
    for position, value in zip(detailed.tolist(), hashes.tolist(), strict=True):
        groups[value].append(position)
    for members in groups.values():
        yield from ((members[0], other) for other in members[1:] if _alike(images, members[0], other))
    firsts = np.array([members[0] for members in groups.values()], np.int64)
    values = np.array(list(groups), np.uint64)
    flipped = mirrored[np.searchsorted(detailed, firsts)]
    for start in range(0, len(firsts), ROWS):
        for part in (values, flipped):
            differing = np.bitwise_count(part[start : start + ROWS, None] ^ values[None, start:])
            for row, column in np.argwhere(differing <= MAX_BITS).tolist():
                if column > row and _alike(images, firsts[start + row], firsts[start + column]):
                    yield int(firsts[start + row]), int(firsts[start + column])


def connected(count: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """Return the number of the group of each of `count` things: the smallest of those connected with it."""
    parents = list(range(count))

    def root(one: int) -> int:
        while parents[one] != one:
            parents[one] = one = parents[parents[one]]
        return one

    for a, b in edges:
        low, high = sorted((root(a), root(b)))
        parents[high] = low
    return [root(one) for one in range(count)]


def _alike(images: NDArray[np.uint8], one: int, other: int) -> bool:
    a, b = (_blurred(images[position].astype(np.float32)) for position in (one, other))
    return any(_matches(a, turned) for turned in (b, b[:, ::-1]))


def _matches(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Return whether two images are correlated, one of them perhaps shifted or cropped by a few percent."""
    if _correlation(a, b) < MIN_CORRELATION - 0.3:
        return False
    reach = range(-MAX_SHIFT, MAX_SHIFT + 1)
    inner = slice(MAX_SHIFT, SIDE - MAX_SHIFT)
    return any(
        _correlation(a[inner, inner], np.roll(b, (down, right), (0, 1))[inner, inner]) >= MIN_CORRELATION
        for down in reach
        for right in reach
    )


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (np.sqrt((a**2).sum() * (b**2).sum()) or 1.0))


def _blurred(image: NDArray[np.float32]) -> NDArray[np.float32]:
    padded = np.pad(image, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9
