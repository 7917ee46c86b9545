"""Join the two images of a pair in one file, A on the left, without changing a value."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.folders.conversion import JPEG, KEPT, Pixels, read_pixels, result_extension, write_pixels
from data.folders.pairing import list_images
from data.folders.parallel import run_jobs
from util import formats
from util.errors import UserError
from util.remarks import remark

log = logging.getLogger(__name__)


Files = tuple[str, str, str]
"""The name of a result, without extension, and the files of A and B."""


class Pair(NamedTuple):
    """The files, or entries of files, that are joined, and the result."""

    A: str
    B: str
    out: Path

    def __str__(self) -> str:
        return f"{self.A} and {self.B}"


def join_all(
    files: Sequence[Files],
    problems: Sequence[str],
    out: Path,
    processes: int,
    *,
    tiff_pages: str = "samples",
    slice_axis: int = 2,
) -> bool:
    """Write pairs to a folder, log what is wrong, and return whether nothing is.

    Args:
        files: the pairs of files.
        problems: what is wrong with files that are left out.
        tiff_pages, slice_axis: which images are in a file, see `formats.entries`.
    """
    pairs, unequal = _plan(files, out, tiff_pages, slice_axis)
    problems = [*problems, *unequal]
    for problem in problems:
        log.warning("%s", problem)
    for folder in {pair.out.parent for pair in pairs}:
        folder.mkdir(parents=True, exist_ok=True)
    written = sum(result is not None for result in run_jobs(join, pairs, processes, "pair"))
    failed = len(pairs) - written
    log.info("%s: %d pairs; %d not joined, %d other files left out", out, written, failed, len(problems))
    results = {str(pair.out) for pair in pairs}
    others = [path for path in list_images(out).values() if path not in results]
    if others:
        log.warning(
            "%s: %d other images are in it, such as %s; remove them if they are of an earlier run",
            *(out, len(others), others[0]),
        )
    return not problems and not failed


def join(pair: Pair) -> bool:
    """Write a pair.

    Raises:
        UserError: The images differ in size, type or channels.
    """
    images = [read_pixels(pair.A), read_pixels(pair.B)]
    A, B = (image.values for image in images)
    if A.shape[1:] != B.shape[1:]:
        sizes = " and ".join(f"{values.shape[2]} x {values.shape[1]}" for values in (A, B))
        raise UserError(f"{pair}: differ in size, {sizes} pixels; not joined")
    if A.dtype != B.dtype:
        raise UserError(
            f"{pair}: have values of type {A.dtype} and {B.dtype}; not joined. Train on them in two folders,"
            " such as trainA and trainB"
        )
    if len(A) != len(B) or images[0].transparent != images[1].transparent:
        images = _with_equal_channels(pair, images)
    joined = np.concatenate([image.values for image in images], axis=2)
    # A's georeference holds for A's half.
    box = (0.0, 0.0, float(joined.shape[2]), float(joined.shape[1]))
    write_pixels(pair.out, Pixels(joined, images[0].transparent), like=pair.A, box=box)
    return True


def joint_extension(A: str, B: str) -> str:
    """Return the extension of the result of two files: A's if B has it too, else that of a lossless one."""
    first, second = result_extension(A), result_extension(B)
    if first.lower() == second.lower() or (first.lower() in JPEG and second.lower() in JPEG):
        return first
    return min(
        first, second, key=lambda each: KEPT.index(each.lower()) if each.lower() in KEPT else len(KEPT)
    )


def _plan(
    files: Sequence[Files], out: Path, tiff_pages: str, slice_axis: int
) -> tuple[list[Pair], list[str]]:
    """Return the pairs of images in pairs of files, and what is wrong with the others."""
    pairs: list[Pair] = []
    problems = []
    for name, A, B in files:
        entries_A, entries_B = (formats.entries([path], tiff_pages, slice_axis) for path in (A, B))
        if len(entries_A) != len(entries_B):
            problems.append(f"{A} and {B}: hold {len(entries_A)} and {len(entries_B)} images; left out")
        elif len(entries_A) == 1:
            pairs.append(Pair(entries_A[0], entries_B[0], out / f"{name}{joint_extension(A, B)}"))
        else:
            digits = max(3, len(str(len(entries_A) - 1)))
            pairs += [
                Pair(each_A, each_B, out / f"{name}_{number:0{digits}d}.tif")
                for number, (each_A, each_B) in enumerate(zip(entries_A, entries_B, strict=True))
            ]
    taken = Counter(pair.out for pair in pairs)
    # x.gif becomes x.png; beside another x.png it becomes x.gif.png.
    pairs = [
        pair._replace(out=pair.out.with_name(f"{os.path.basename(pair.A)}{pair.out.suffix}"))
        if taken[pair.out] > 1 and not pair.A.endswith(pair.out.suffix)
        else pair
        for pair in pairs
    ]
    taken = Counter(pair.out for pair in pairs)
    problems += [f"{pair}: others become {pair.out}, too; left out" for pair in pairs if taken[pair.out] > 1]
    return [pair for pair in pairs if taken[pair.out] == 1], problems


def _with_equal_channels(pair: Pair, images: list[Pixels]) -> list[Pixels]:
    """Return a grey and a colour image as two colour images; transparency is added where only one has it."""
    colours = [len(image.values) - image.transparent for image in images]
    if not {*colours} <= {1, 3}:
        counts = " and ".join(str(len(image.values)) for image in images)
        raise UserError(
            f"{pair}: have {counts} channels; not joined. Train on them in two folders, such as trainA and"
            " trainB"
        )
    if colours[0] != colours[1]:
        remark("grey beside colour", f"{pair}: the grey image is repeated in three channels")
    transparent = any(image.transparent for image in images)
    equal = []
    for image, count in zip(images, colours, strict=True):
        channels = [image.values[:count].repeat(max(colours) // count, axis=0)]
        if transparent:
            opaque = np.full_like(image.values[:1], np.iinfo(image.values.dtype).max)
            channels.append(image.values[count:] if image.transparent else opaque)
        equal.append(Pixels(np.concatenate(channels), transparent))
    return equal
