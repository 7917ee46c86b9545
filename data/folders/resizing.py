"""Scale image files: antialiased, in the type of their values; results that are there already are kept."""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.folders.conversion import Pixels, read_pixels, result_extension, write_pixels, write_stack
from data.folders.pairing import list_images
from data.folders.parallel import run_jobs
from data.transforms import Size, scale_nearest
from util import formats
from util.errors import UserError
from util.files import append_text, read_text, write_atomically
from util.formats.dicom import EXTENSIONS as DICOM
from util.formats.nifti import EXTENSIONS as NIFTI
from util.image_io import upright
from util.parts import Values
from util.remarks import remark

log = logging.getLogger(__name__)

RECORD = "resize_images.jsonl"
"""The file among the results that says how each was made: what is not in it is made again."""

LABEL_FOLDER = re.compile(r"(_label|_labels|_inst|_instance)$", re.IGNORECASE)
"""Names of folders with label maps or instance maps."""


@dataclass(frozen=True)
class Target:
    """The sizes of results; all but `size` keep the aspect ratio.

    Attributes:
        size: width and height.
        width, short_side, long_side: in pixels.
        scale: a factor.
        only_shrink: keep images that would be enlarged as they are.
    """

    size: Size | None = None
    width: int | None = None
    short_side: int | None = None
    long_side: int | None = None
    scale: float | None = None
    only_shrink: bool = False

    def of(self, size: Size) -> Size:
        """Return the size of the result for an image of this size."""
        if self.size:
            result = self.size
        else:
            factor = self._factor(*size)
            result = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
        enlarged = result[0] > size[0] or result[1] > size[1]
        return size if self.only_shrink and enlarged else result

    def _factor(self, width: int, height: int) -> float:
        if self.width:
            return self.width / width
        if self.short_side:
            return self.short_side / min(width, height)
        if self.long_side:
            return self.long_side / max(width, height)
        return self.scale or 1.0


def scale(pixels: Pixels, size: Size) -> NDArray[Any]:
    """Return an image scaled to `size` by Pillow's antialiased bicubic filter, (C, H, W), in its own type.

    Pixels without data (NaN, infinite, `Pixels.nodata`) do not spread: a pixel of the result is one if more
    than half of what it is made of is. Neither do colours that are transparent.
    """
    image = pixels.values
    if image.shape[:0:-1] == size:
        return image
    if pixels.transparent:
        alpha = image[-1].astype(np.float32)
        bands = [*(_weighted(band, alpha, size) for band in image[:-1]), _resize(alpha, size)]
    elif image.dtype == np.uint8 and pixels.nodata is None:
        return np.stack([_resize(band, size) for band in image])
    else:
        bands = [_without_gaps(band.astype(np.float32), pixels.nodata, size) for band in image]
    return Values(image.dtype.name).cast(np.stack(bands))


def _resize(band: NDArray[Any], size: Size) -> NDArray[Any]:
    return np.asarray(Image.fromarray(band).resize(size, Image.Resampling.BICUBIC))


def _without_gaps(band: NDArray[np.float32], nodata: float | None, size: Size) -> NDArray[np.floating]:
    data = np.isfinite(band)
    if nodata is not None:
        data &= band != np.float32(nodata)
    if data.all():
        return _resize(band, size)
    weight = data.astype(np.float32)
    scaled = _weighted(np.where(data, band, 0), weight, size)
    return np.where(_resize(weight, size) > 0.5, scaled, np.nan if nodata is None else nodata)


def _weighted(band: NDArray[Any], weight: NDArray[np.float32], size: Size) -> NDArray[np.floating]:
    total = _resize(weight, size)
    scaled = _resize(band * weight, size)
    return np.divide(scaled, total, out=np.zeros_like(scaled), where=total > 1e-3 * weight.max())


class Job(NamedTuple):
    """An image file to scale.

    Attributes:
        name: of the result, in the folder `out`.
        nearest: take the nearest pixels.
        pairs: scale the left and the right half of the image, each to a size by itself.
    """

    path: str
    out: Path
    name: str
    target: Target
    nearest: bool
    pairs: bool

    def __str__(self) -> str:
        return self.path

    def record(self) -> dict[str, Any]:
        """Return what the record says of the result, if it is there and up to date; else another value."""
        source, result = os.stat(self.path), self.out / self.name
        return {
            "name": self.name,
            "source": [source.st_size, source.st_mtime_ns],
            "target": asdict(self.target),
            "nearest": self.nearest,
            "pairs": self.pairs,
            "bytes": result.stat().st_size if result.is_file() else None,
        }


def resize_folder(
    folder: Path, out: Path, target: Target, nearest: Sequence[Path], pairs: bool, processes: int
) -> bool:
    """Write the scaled images of a folder to another; return whether all are there.

    Args:
        nearest: folders whose images are scaled by taking the nearest pixels.
        pairs: every file holds two images side by side.
    """
    jobs = _plan(folder, out, target, nearest, pairs)
    if not jobs:
        raise UserError(f"{folder}: no images in it")
    made = _read_record(out)
    waiting = [job for job in jobs if not _is_made(job, made)]
    for parent in {(out / job.name).parent for job in waiting}:
        parent.mkdir(parents=True, exist_ok=True)
    failed = run_jobs(resize, waiting, processes).count(None)
    log.info(
        "%s: %d images scaled, %d were there, %d could not be scaled",
        *(out, len(waiting) - failed, len(jobs) - len(waiting), failed),
    )
    return not failed


def resize(job: Job) -> bool:
    """Write one scaled file, and a line in the record."""
    path = job.out / job.name
    images = formats.entries([job.path])
    if len(images) > 1 and path.suffix.lower() in DICOM:
        raise UserError(f"{job.path}: has {len(images)} frames; only DICOM files of one are scaled")
    if job.nearest and (numbers := _numbers(job)):
        kind = Image.registered_extensions()[path.suffix.lower()]
        write_atomically(path, lambda file: numbers.save(file, kind))
    elif len(images) == 1 and not path.name.lower().endswith(NIFTI):
        write_pixels(path, _scaled(images[0], job), like=images[0])
    else:
        write_stack(path, [_scaled(image, job).values for image in images], like=images[0])
    append_text(job.out / RECORD, json.dumps(job.record()) + "\n")
    return True


def _plan(folder: Path, out: Path, target: Target, nearest: Sequence[Path], pairs: bool) -> list[Job]:
    named = list_images(folder)
    results = {name: f"{formats.stem(name)}{_extension(name)}" for name in named}
    counts = Counter(results.values())
    jobs = []
    for name, path in named.items():
        result = results[name]
        if counts[result] > 1 and result != name:  # x.gif beside x.png
            result = f"{name}{_extension(name)}"
        is_nearest = any(parent in nearest for parent in Path(path).parents)
        jobs.append(Job(path, out, result, target, is_nearest, pairs))
        if not is_nearest and LABEL_FOLDER.search(str(Path(name).parent)):
            remark(
                "label maps",
                f"{path}: a label map? It is scaled like an image; --nearest keeps the numbers in it",
            )
    return jobs


def _extension(name: str) -> str:
    """Return the extension of the result of a file: also volumes and DICOM files are written."""
    extension = name[len(formats.stem(name)) :]
    return extension if extension.lower() in (*NIFTI, *DICOM) else result_extension(name)


def _scaled(image: str, job: Job) -> Pixels:
    pixels = read_pixels(image)
    scaled = [
        scale_nearest(half, job.target.of(half.shape[:-3:-1]))
        if job.nearest
        else scale(pixels._replace(values=half), job.target.of(half.shape[:-3:-1]))
        for half in _halves(pixels.values, job)
    ]
    return pixels._replace(values=np.concatenate(scaled, axis=-1))


def _numbers(job: Job) -> Image.Image | None:
    """Return the scaled image of a file with a palette or of 1 bit, which stay; None for other files."""
    with suppress(Exception), Image.open(job.path, formats=("PNG", "GIF", "BMP", "TIFF")) as image:
        if image.mode in ("1", "P") and getattr(image, "n_frames", 1) == 1:
            halves = _halves(np.asarray(upright(image)), job)
            numbers = [scale_nearest(half, job.target.of(half.shape[::-1])) for half in halves]
            scaled = Image.fromarray(np.concatenate(numbers, axis=-1))
            if image.mode == "P":
                scaled.putpalette(image.getpalette() or [])
                scaled.info = image.info
            return scaled
    return None


def _halves(image: NDArray[Any], job: Job) -> list[NDArray[Any]]:
    """Return an image, (..., H, W), or the two that it holds side by side."""
    width = image.shape[-1]
    if not job.pairs:
        return [image]
    if width < 2:
        raise UserError(f"{job.path}: is 1 pixel wide and cannot hold two images side by side")
    return [image[..., : width // 2], image[..., width - width // 2 :]]


def _read_record(out: Path) -> dict[str, str]:
    """Return the lines about results by their names."""
    path = out / RECORD
    made = {}
    for line in read_text(path).splitlines() if path.is_file() else ():
        with suppress(ValueError, KeyError, TypeError):  # the last line of a process that was killed
            made[json.loads(line)["name"]] = line
    return made


def _is_made(job: Job, made: Mapping[str, str]) -> bool:
    if job.name not in made:
        return False
    try:
        return json.dumps(job.record()) == made[job.name] and (job.out / job.name).is_file()
    except OSError:
        return False
