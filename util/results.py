"""Generated images in the type and the units of their targets."""

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from util import formats
from util.batch import Batch
from util.display import classes_of, parts_of
from util.errors import UserError
from util.files import make_folder, remove_temporary
from util.formats import dicom, nifti
from util.formats.base import missing
from util.image_io import quantised
from util.pages.native import FOLDER, Native, Volume
from util.parts import EIGHT_BITS, Part, Side, Values
from util.shards import Entry, Member

OTHERS = tuple({*formats.EXTENSIONS} - {*dicom.EXTENSIONS, *nifti.EXTENSIONS})
"""Extensions of images that are neither DICOM nor volumes."""

DICOM_CHANNELS = (1, 3)
UINT16 = Values("uint16", 0, 65535)

PREVIEW_SIDE = 2048
"""The longer side of a preview of an image too large for memory, in pixels, at most."""

ROWS_VALUES = 1 << 22
"""Values that are converted at a time."""

Array = NDArray[Any]


@dataclass(frozen=True)
class NativeFormat:
    """How generated images are written.

    Args:
        kind: a key of `KINDS`, or ``auto``: as the target's files are if they are volumes or DICOM, otherwise
            TIFF, and nothing for images with 8 bits.
        tiff_pages, slice_axis: the flags by which files are read.
    """

    kind: str = "auto"
    tiff_pages: str = "samples"
    slice_axis: int = 2

    def natives(
        self, images: Mapping[str, Tensor], batch: Batch, row: int, paired: bool
    ) -> dict[str, Native]:
        """Return the generated images of a sample by label, see `util.display.parts_of`.

        Args:
            images: those that a model returns, (C, H, W), by label; fake_... are generated.
            row: the sample's place in the batch.
            paired: whether B shows what A shows.

        Raises:
            UserError: the format cannot hold such images.
        """
        natives: dict[str, Native] = {}
        for given, image in images.items():
            side = batch.sides.of(given)
            # Pages have 8-bit images whole, unless they are too large for memory.
            on_page = self.kind == "auto" and side.is_8bit and batch.scene is None
            if on_page or not given.startswith("fake"):
                continue
            source = _source(batch, row, paired, of_A=side is batch.sides.A)
            for label, part, image_of_part in parts_of({given: image}, batch.sides):
                natives[label] = self._native(part, image_of_part, source)
        return natives

    def check_packages(self) -> None:
        """Raise a `UserError` if the package of the format is missing."""
        package = {"nii": "nibabel", "dcm": "pydicom"}.get(self.kind)
        if package and find_spec(package) is None:
            raise missing(package, f"--format {self.kind}")

    def _native(self, part: Part, image: Tensor, source: "Source") -> Native:
        kind = self.kind
        if kind == "auto":
            kind = kind_of(source.path) or "tif"
            kind = "tif" if kind == "dcm" and part.stored not in DICOM_CHANNELS else kind
        _check(kind, part, source.path)
        values = _in_16_bits(part, image) if kind == "png16" else in_file_type(part, image)
        like = source.path if source.has_place or kind == "dcm" else ""
        fill = float(part.values.cast(np.array(part.values.low if part.is_image else part.ignore or 0)))
        volume = self._volume(source.path, fill) if kind == "nii" and not is_streamed(source.path) else None
        return Native(values, kind, like, source.box, volume)

    def _volume(self, path: str, fill: float) -> Volume:
        file = path.file if isinstance(path, Entry) else path
        positions = _positions(file, self.tiff_pages, self.slice_axis)
        return Volume(file, next(iter(positions)), positions[path], len(positions), fill)


class Bands:
    """Writes the images of a sample too large for memory, which come in bands of rows, and scales them down.

    Used in a ``with`` block, at whose end the files are complete.

    Args:
        native: how generated images are written; None: they are not.
        folder: that of the gallery.
        batch: the sample alone.
        paired: whether B shows what A shows.

    Attributes:
        step: how many times smaller previews are.
    """

    def __init__(self, native: NativeFormat | None, folder: Path, batch: Batch, paired: bool):
        assert batch.scene is not None
        self.native, self.folder, self.batch, self.paired = native, folder, batch, paired
        self.height, self.width = batch.scene.height, batch.scene.width
        self.step = -(-max(self.height, self.width) // PREVIEW_SIDE)
        self._done = 0
        self._waiting: dict[str, Tensor] = {}
        self._small: dict[str, Tensor] = {}
        self._shrunk: dict[str, int] = {}  # rows of previews that are complete
        self._writers: dict[str, Any] = {}
        self._files = ExitStack()
        self._natives: dict[str, Native] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    def add(self, images: Mapping[str, Tensor]) -> None:
        """Write the next band of all images, (C, h, W) as a model returns them, by label."""
        for label, image in images.items():
            rows = torch.cat([self._waiting[label], image], 1) if label in self._waiting else image
            whole = rows.shape[1] // self.step * self.step
            self._shrink(label, rows[:, :whole])
            self._waiting[label] = rows[:, whole:].clone()
        natives = self.native.natives(images, self.batch, 0, self.paired) if self.native else {}
        for label, native in natives.items():
            if label not in self._writers:
                self._natives[label] = self._opened(label, native)
            self._writers[label].write_rows(self._done, native.image)
        self._done += next(iter(images.values())).shape[1]

    def previews(self) -> dict[str, Tensor]:
        """Return the images scaled down by an integer: each pixel is the mean of those it covers."""
        for label, rows in self._waiting.items():
            self._shrink(label, rows)
        return self._small

    def natives(self) -> dict[str, Native]:
        """Return the files of generated images by label."""
        return self._natives

    def _shrink(self, label: str, rows: Tensor) -> None:
        """Add the next rows of an image, a multiple of `step` or the last ones, to its preview."""
        if label not in self._small:
            height, width = (-(-side // self.step) for side in (self.height, self.width))
            self._small[label] = torch.zeros(len(rows), height, width)
            self._shrunk[label] = 0
        if rows.shape[1]:
            small, first = F.avg_pool2d(rows.float(), self.step, ceil_mode=True), self._shrunk[label]
            self._small[label][:, first : first + small.shape[1]] = small
            self._shrunk[label] += small.shape[1]

    def _opened(self, label: str, native: Native) -> Native:
        """Open the file of a generated image, given its first band; return the image without its pixels."""
        if native.kind != "tif":
            raise UserError(
                f"--format {native.kind}: {self.batch.paths_A[0]} has {self.width} x {self.height} pixels;"
                " images of this size are written in parts, as TIFF: use --format tif"
            )
        path = self.folder / FOLDER / f".{self.batch.index.item()}_{label}.tif"
        make_folder(path.parent)
        remove_temporary(path.parent, path.name)
        channels, dtype = len(native.image), native.image.dtype
        writer = formats.open_writer(path, native.like, channels, dtype, self.height, self.width, native.box)
        self._writers[label] = self._files.enter_context(writer)
        return native._replace(image=np.empty((channels, 0, 0), dtype), written=path)


class Source(NamedTuple):
    """What a generated image is made from.

    Attributes:
        path: the image whose kind of file it gets.
        has_place: whether it has that image's georeference or affine.
        box: what it shows of that image; None for all.
    """

    path: str
    has_place: bool = True
    box: formats.Box | None = None


def kind_of(path: str) -> str:
    """Return nii or dcm for a slice of a volume or a DICOM file, else ""."""
    file = (path.file if isinstance(path, Entry) else path).lower()
    if is_streamed(path):
        return ""
    if file.endswith(nifti.EXTENSIONS):
        return "nii"
    # Of files without the extension of an image, those of DICOM alone are images.
    return "" if file.endswith(OTHERS) or not is_file(path) else "dcm"


def is_file(path: str) -> bool:
    """Return whether a sample's path is that of a file, an image in one, or a member of a shard."""
    return isinstance(path, Entry | Member) or os.path.isfile(path)


def is_streamed(path: str) -> bool:
    """Return whether a sample comes from a stream: its file is gone when results are written."""
    file = path.file if isinstance(path, Entry) else path
    return isinstance(file, Member) and not os.path.isfile(file.shard)


def _source(batch: Batch, row: int, paired: bool, of_A: bool) -> Source:
    """Return what a generated image of a sample is made from: of pairs B, else the image that is translated.

    Args:
        of_A: whether the image is of side A.
    """
    path_A, path_B = batch.paths_A[row], batch.paths_B[row]
    box = batch.boxes[row] if batch.boxes else None
    if batch.B is None or not (paired or of_A):
        # Noise that becomes an image has a name, and no file.
        return Source(path_A, is_file(path_A) and not is_streamed(path_A), box)
    if path_A == path_B or is_streamed(path_B):  # two halves of one file
        return Source(path_B, has_place=False)
    if box is None:
        return Source(path_B)
    width, height = formats.header(path_A)[2:0:-1]
    left, top, right, bottom = box
    if not paired:  # where B was cropped is not known
        whole = left <= 0 and top <= 0 and right >= width and bottom >= height
        return Source(path_B, has_place=whole)
    header = formats.header(path_B)
    x, y = header.width / width, header.height / height
    return Source(path_B, box=(left * x, top * y, right * x, bottom * y))


def in_file_type(part: Part, image: Tensor) -> Array:
    """Return an image of a part, (C, H, W) as a model returns it, in the type and the units of its files.

    Class maps become class numbers, (1, H, W).
    """
    if part.kind == "labels":
        classes = classes_of(image, nothing=part.ignore or 0)
        return classes[None].numpy(force=True).astype(part.values.dtype)
    if part.kind == "instances":
        return (image > 0.5).numpy(force=True).astype(np.uint8)
    if part.kind == "8bit":  # the levels in images/
        return _by_rows(image, lambda rows: quantised(rows).numpy(force=True))
    return _by_rows(
        image, lambda rows: part.values.cast(Side((part,)).in_units(rows.clamp(-1, 1)).numpy(force=True))
    )


def _in_16_bits(part: Part, image: Tensor) -> Array:
    """Return an image in 16 bits: in the units of its files, or if these have 8 bits, with 65535 as white."""
    if part.kind != "8bit":
        return UINT16.cast(in_file_type(part, image).astype(np.float64))
    half = UINT16.high / 2
    return _by_rows(image, lambda rows: UINT16.cast(((rows.double() + 1) * half).numpy(force=True)))


def _by_rows(image: Tensor, convert: Callable[[Tensor], Array]) -> Array:
    """Return a converted image, (C, H, W), converted some rows at a time to save memory."""
    height = max(1, ROWS_VALUES // max(1, image.shape[0] * image.shape[2]))
    return np.concatenate([convert(rows) for rows in image.split(height, 1)], 1)


def _check(kind: str, part: Part, like: str) -> None:
    """Raise a `UserError` if images of a part cannot be written in a format."""
    values, reason = part.values, ""
    if kind == "png16" and part.kind == "values":
        if part.channels not in (1, 3):
            reason = f"PNG files have 1 or 3 channels, {part.name} has {part.channels}"
        elif values.low < UINT16.low or values.high > UINT16.high:
            reason = (
                f"16 bits hold 0 to 65535, the values of {part.name} are {values.low:g} to {values.high:g}"
            )
        elif values.dtype == "float32" and values.span < EIGHT_BITS.span:
            reason = (
                f"it holds whole numbers, the values of {part.name} are fractions from {values.low:g} to"
                f" {values.high:g}"
            )
    elif kind == "dcm" and kind_of(like) != "dcm":
        reason = f"the header comes from a DICOM file, and {like or part.name} is none"
    elif kind == "dcm" and part.stored not in DICOM_CHANNELS:
        reason = f"DICOM files have 1 or 3 channels, {part.name} has {part.stored}"
    if reason:
        raise UserError(f"--format {kind}: {reason}; --format tif and npy hold all images")


@lru_cache(maxsize=8)
def _positions(file: str, tiff_pages: str, slice_axis: int) -> dict[str, int]:
    """Return the positions of the images in a file."""
    return {entry: position for position, entry in enumerate(formats.entries([file], tiff_pages, slice_axis))}
