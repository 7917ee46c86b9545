"""What is in the files of one sample: read once, in a process of its own, and reduced to a few kilobytes."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from io import IOBase
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.doctor.alignment import Alignment, align
from data.doctor.layout import Kind, Sample
from data.doctor.pixels import grey, shrink, to_levels
from util.errors import UserError
from util.formats import read, read_indices
from util.image_limits import open_limited
from util.parts import full_range
from util.perceptual_hash import SIDE
from util.shards import Member

MAX_VALUES = 1 << 16
"""Values of an image of which quantiles are taken."""

MAX_COLOURS = 64
"""Different colours up to which an image may be a map of labels."""

MAX_CLASSES = 1 << 12

QUANTILES = np.linspace(0, 1, 65)

Found = tuple[int, tuple[int, int]]
"""The number of pixels of a value, and the position (x, y) of the first."""


class Job(NamedTuple):
    """A sample, and what the files of its parts hold."""

    sample: Sample
    kinds: Mapping[str, Kind]
    by_index: bool = True


@dataclass
class Facts:
    """What is known of one image; where `error` says that it cannot be read, nothing else.

    Attributes:
        part: ``A``, ``B``, ``M``, ...: the halves of a file with both are ``A`` and ``B``.
        error: why it cannot be read.
        format: Pillow's name of the format, such as ``JPEG``; "" for others.
        channels: without alpha.
        alpha: whether the file has an alpha channel; `transparent` is the share of pixels that it hides.
        low, high: the extremes of the finite values; `spread` is their distance in the channel where it is
            greatest.
        quantiles: of the finite values.
        not_finite: the number of values that are NaN or infinite.
        colourless: whether the three channels are equal.
        values: the class numbers of a label map, the levels of a mask, or the colours, each packed in an
            integer, of an image of few colours.
        flat: the share of pixels that hardly differ from their right neighbours.
        uniform: the share of these that have one of the 12 most frequent colours.
        features: what tells images of A from those of B.
        thumb: (32, 32) levels of grey.
    """

    path: str
    part: str
    phase: str
    name: str
    kind: Kind
    error: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    channels: int = 0
    dtype: str = ""
    alpha: bool = False
    transparent: float = 0.0
    low: float = 0.0
    high: float = 0.0
    spread: float = 0.0
    quantiles: NDArray[np.float32] = field(default_factory=lambda: np.zeros(65, np.float32))
    not_finite: int = 0
    colourless: bool = False
    values: dict[int, Found] | None = None
    flat: float = 0.0
    uniform: float = 0.0
    features: tuple[float, ...] = ()
    thumb: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((SIDE, SIDE), np.uint8))

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    @property
    def is_constant(self) -> bool:
        return self.spread <= (2 if self.dtype == "uint8" and self.format == "JPEG" else 0)


class Probe(NamedTuple):
    """What is known of a sample; `alignment` is that of the first A and the first B."""

    sample: Sample
    facts: list[Facts]
    alignment: Alignment | None


def probe(job: Job) -> Probe:
    """Read the files of a sample."""
    sample = job.sample
    facts: list[Facts] = []
    images: dict[str, NDArray[Any]] = {}
    for part, path in sample.paths.items():
        kind = job.kinds[part]
        new, pixels = _read(path, part, sample, kind, job.by_index)
        facts += new
        images |= pixels
    sides = [next((images[part] for part in images if part.startswith(side)), None) for side in ("A", "B")]
    if "label" in images and "img" in images:
        sides = [images["label"], images["img"]]
    A, B = sides
    if A is None or B is None or A.shape[1:] != B.shape[1:]:
        return Probe(sample, facts, None)
    return Probe(sample, facts, align(A, B))


def is_side_by_side(path: str) -> tuple[float, float] | None:
    """Return the ratio of width to height, and that of the step in the middle column to other steps.

    None for a file that cannot be read.
    """
    try:
        image = read(path)
    except UserError:
        return None
    height, width = image.shape[1:]
    if width < 8:
        return width / height, 0.0
    rows = image[:3, :: max(1, height // 256)].astype(np.float32)
    differences = np.abs(np.diff(rows, axis=2)).mean((0, 1))
    middle = differences[width // 2 - 1]
    return width / height, float(middle / (np.median(differences) + 1e-3 * np.ptp(rows) + 1e-12))


def _read(
    path: str, part: str, sample: Sample, kind: Kind, by_index: bool
) -> tuple[list[Facts], dict[str, NDArray[Any]]]:
    """Return what is known of a file, or of the two images in it, and the pixels by part."""
    names = ("A", "B") if kind == "both" else (part,)
    kind = "image" if kind == "both" else kind
    base = [Facts(path, name, sample.phase, sample.name, kind) for name in names]
    try:
        format_, alpha = _header(path)
        indices = kind == "instances" or (kind == "labels" and by_index)
        image = read_indices(path)[None] if indices else read(path)
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
        for facts in base:
            facts.error = _content(path) or reason
        return base, {}
    if len(base) == 2:
        half = image.shape[2] // 2
        if half == 0:
            base[0].error = "is 1 pixel wide and cannot hold two images side by side"
            return base[:1], {}
        halves = [image[..., :half], image[..., image.shape[2] - half :]]
    else:
        halves = [image]
    pixels = {}
    for facts, half_image in zip(base, halves, strict=True):
        facts.format, facts.alpha = format_, alpha and len(image) in (2, 4)
        pixels[facts.part] = _describe(facts, half_image)
    return base, pixels


def _header(path: str) -> tuple[str, bool]:
    """Return the format and whether there is an alpha channel, for files that Pillow reads."""
    with suppress(Exception):
        file = open_limited(getattr(path, "file", path))
        with Image.open(file) as image:
            alpha = image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info
            format_ = image.format or ""
        if isinstance(file, IOBase):
            file.close()
        return format_, alpha
    return "", False


def _content(path: str) -> str:
    """Return what a file that is no image is instead, if that is known."""
    with suppress(OSError):
        if isinstance(path, Member):
            start = path.read()[:200]
        elif os.path.islink(path) and not os.path.exists(path):
            return "a link to a file that does not exist"
        else:
            with open(getattr(path, "file", path), "rb") as file:
                start = file.read(200)
        if not start:
            return "empty (0 bytes)"
        if start.startswith(b"version https://git-lfs"):
            return "a pointer of Git LFS: run git lfs pull to get the image"
        if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            return "a web page: the download has failed"
    return ""


def _describe(facts: Facts, image: NDArray[Any]) -> NDArray[Any]:
    """Fill in what is known of an image, (C, H, W); return it without its alpha channel."""
    if facts.alpha:
        limit = full_range(image.dtype)[1]
        facts.transparent = float((image[-1] < limit).mean())
        image = image[:-1]
    facts.channels, facts.height, facts.width = image.shape
    facts.dtype = image.dtype.name
    _describe_values(facts, image)
    if facts.kind in ("labels", "mask") and len(image) == 1:
        facts.values = _values(image[0], MAX_CLASSES)
    elif facts.kind == "labels" and len(image) == 3 and image.dtype == np.uint8:
        facts.values = _values(_packed(image), MAX_CLASSES)
    elif facts.kind == "image" and image.dtype == np.uint8:
        facts.values = _few_colours(image)
    if facts.kind != "instances":
        _describe_looks(facts, image)
    return image


def _describe_values(facts: Facts, image: NDArray[Any]) -> None:
    values = image.reshape(-1)
    if image.dtype.kind == "f":
        finite = np.isfinite(values)
        facts.not_finite = int(values.size - np.count_nonzero(finite))
        values = values[finite] if facts.not_finite else values
    if not values.size:
        return
    channels = values.reshape(1 if facts.not_finite else len(image), -1)
    low, high = channels.min(1).astype(np.float64), channels.max(1).astype(np.float64)
    facts.low, facts.high, facts.spread = float(low.min()), float(high.max()), float((high - low).max())
    # A step that is a multiple of no width: every part of the image is in the sample.
    step = max(1, values.size // MAX_VALUES) | 1
    facts.quantiles = np.quantile(values[::step], QUANTILES).astype(np.float32)


def _describe_looks(facts: Facts, image: NDArray[Any]) -> None:
    """Fill in what an image looks like."""
    small = shrink(image, SIDE * 2, SIDE * 2)
    low, high = (0.0, 255.0) if facts.dtype == "uint8" else _ends(facts)
    levels = to_levels(small, low, high)
    fine = levels.astype(np.float32)
    thumb = grey(fine).reshape(SIDE, 2, SIDE, 2).mean((1, 3))
    facts.thumb = thumb.round().astype(np.uint8)
    if len(image) == 3:
        facts.colourless = bool((image[0] == image[1]).all() and (image[1] == image[2]).all())
    rows = to_levels(image[:3, :: max(1, image.shape[1] // 128)].astype(np.float32), low, high)
    steps = np.abs(np.diff(rows.astype(np.int16), axis=2)).max(0)
    facts.flat = float((steps <= 4).mean()) if steps.size else 1.0
    facts.uniform = _share_of_colours(rows[:, :, 1:][:, steps <= 4])
    colour = fine[:3] if len(fine) >= 3 else np.repeat(fine[:1], 3, 0)
    edges = np.abs(np.diff(fine, axis=2)).mean(), np.abs(np.diff(fine, axis=1)).mean()
    saturation = (colour.max(0) - colour.min(0)).mean()
    facts.features = tuple(
        float(value) for value in (*colour.mean((1, 2)), colour.std(), *edges, saturation, 255 * facts.flat)
    )


def _share_of_colours(pixels: NDArray[np.uint8]) -> float:
    """Return the share of pixels, (C, N), that have one of the 12 most frequent colours."""
    # Coarser levels for colour, as JPEG changes them: 128 for grey, 16 for each of three.
    levels = pixels.astype(np.int32) >> (1 if len(pixels) == 1 else 4)
    counts = np.sort(np.bincount((levels << 7 * np.arange(len(pixels))[:, None]).sum(0)))[::-1]
    return float(counts[:12].sum() / max(1, counts.sum()))


def _ends(facts: Facts) -> tuple[float, float]:
    return float(facts.quantiles[1]), float(facts.quantiles[-2])


def _values(values: NDArray[Any], limit: int) -> dict[int, Found] | None:
    """Return how often every value of a map, (H, W), occurs and where first; None if there are too many."""
    if values.dtype.kind == "f":
        if not (values == np.rint(values)).all():
            return None
        values = values.astype(np.int64)
    found, first, counts = np.unique(values, return_index=True, return_counts=True)
    if len(found) > limit:
        return None
    width = values.shape[1]
    return {
        int(value): (int(count), (int(index % width), int(index // width)))
        for value, index, count in zip(found, first, counts, strict=True)
    }


def _few_colours(image: NDArray[np.uint8]) -> dict[int, Found] | None:
    if len(image) not in (1, 3):
        return None
    packed = _packed(image[:, ::4, ::4])
    if len(np.unique(packed)) > MAX_COLOURS:
        return None
    return _values(_packed(image), MAX_COLOURS)


def _packed(image: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the colour of every pixel as one number, 0xRRGGBB; a grey level as itself."""
    if len(image) == 1:
        return image[0].astype(np.int32)
    red, green, blue = image.astype(np.int32)
    return red << 16 | green << 8 | blue
