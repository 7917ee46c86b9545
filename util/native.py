"""Generated images as files in the type and the units of their targets."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from util import formats
from util.batch import Batch, Box
from util.display import classes_of, parts_of
from util.errors import UserError
from util.files import make_folder
from util.formats.base import missing
from util.parts import EIGHT_BITS, Part, Side, Values
from util.shards import Entry

FOLDER = "native"
"""The folder of a gallery that has these files."""

KINDS = {"npy": ".npy", "tif": ".tif", "png16": ".png", "nii": ".nii.gz", "dcm": ".dcm"}
"""Extensions by the values of ``--format`` that are no format of previews."""

DICOM = (".dcm", ".dicom", ".ima")
UINT16 = Values("uint16", 0, 65535)

ROWS_VALUES = 1 << 22
"""Values that are converted at a time."""

log = logging.getLogger(__name__)

Array = NDArray[Any]


class Native(NamedTuple):
    """A generated image, (C, H, W), in the type and the units of its target.

    Attributes:
        kind: a key of `KINDS`.
        like: the file whose georeference, affine or header it gets; "" for none.
        box: what it shows of the image `like`; None for all.
        volume: the name of the volume of which it is a slice; "" for none.
        position, length: its position among the slices of the volume, and their number.
        axis: the axis of the volume along which the slices are.
        fill: the value of slices without a result.
    """

    image: Array
    kind: str
    like: str
    box: Box | None
    volume: str = ""
    position: int = 0
    length: int = 1
    axis: int = 2
    fill: float = 0.0

    @property
    def source(self) -> str:
        """The file `like`, of which it may be one of several images."""
        return self.like.file if isinstance(self.like, Entry) else self.like


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
            if not given.startswith("fake") or (self.kind == "auto" and side.is_8bit):
                continue
            like, box = _source(batch, row, paired, of_A=side is batch.sides.A)
            for label, part, image_of_part in parts_of({given: image}, batch.sides):
                natives[label] = self._native(part, image_of_part, like, box)
        return natives

    def check_packages(self) -> None:
        """Raise a `UserError` if the package of the format is missing."""
        package = {"nii": "nibabel", "dcm": "pydicom"}.get(self.kind)
        if package and find_spec(package) is None:
            raise missing(package, f"--format {self.kind}")

    def _native(self, part: Part, image: Tensor, like: str, box: Box | None) -> Native:
        kind = self.kind
        if kind == "auto":
            kind = kind_of(like) if part.channels == 1 or not part.is_image else ""
            kind = kind or "tif"
        _check(kind, part, like)
        values = _in_16_bits(part, image) if kind == "png16" else in_file_type(part, image)
        native = Native(values, kind, like, box)
        if kind != "nii":
            return native
        positions = _slices(native.source, self.tiff_pages, self.slice_axis)
        return native._replace(
            volume=formats.name_of(native.source),
            position=positions.get(like, 0),
            length=len(positions),
            axis=self.slice_axis,
            fill=part.values.low if part.kind == "values" else part.ignore or 0,
        )


class NativeFolder:
    """The folder with the generated images of a gallery.

    A volume is written when all of its slices are there, or by `finish`.

    Args:
        folder: that of the gallery.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._volumes: dict[str, dict[int, Native]] = {}  # slices by position, by the name of their file
        self._names: dict[tuple[str, str], str] = {}  # of volumes, by source file and label
        self._taken: set[str] = set()

    def path(self, row: str, label: str, native: Native) -> str:
        """Return the path in the gallery's folder of the file that an image belongs to.

        Args:
            row: the name of its row, which no other row of the gallery has.
        """
        if not native.volume:
            return f"{FOLDER}/{row}_{label}{extension(native)}"
        key = native.source, label
        if key not in self._names:
            number, name = 1, f"{native.volume}_{label}{extension(native)}"
            while name.casefold() in self._taken:
                number += 1
                name = f"{native.volume}_{number}_{label}{extension(native)}"
            self._taken.add(name.casefold())
            self._names[key] = f"{FOLDER}/{name}"
        return self._names[key]

    def add(self, name: str, native: Native) -> Callable[[], None] | None:
        """Return a function that writes the file; None if it is a volume that lacks slices.

        Args:
            name: its path in the gallery's folder.

        Raises:
            UserError: slices of a volume show different places of it.
        """
        make_folder(self.folder / FOLDER)
        path = self.folder / name
        if not native.volume:
            return partial(formats.write, path, native.image, native.like, native.box)
        slices = self._volumes.setdefault(name, {})
        first = next(iter(slices.values()), native)
        if (native.box, native.image.shape) != (first.box, first.image.shape):
            raise UserError(
                f"{native.source}: its slices are cropped at different places, or of different sizes, and do"
                " not make up a volume; use a --preprocess that does not crop, such as none, or --format tif"
            )
        slices[native.position] = native
        return self._writing(name) if len(slices) == native.length else None

    def finish(self) -> None:
        """Write the volumes that lack slices."""
        for name in list(self._volumes):
            slices = self._volumes[name]
            native = next(iter(slices.values()))
            log.warning(
                "%s: %d of the %d slices have no result; they are filled with %g",
                self.folder / name,
                native.length - len(slices),
                native.length,
                native.fill,
            )
            self._writing(name)()

    def _writing(self, name: str) -> Callable[[], None]:
        slices = self._volumes.pop(name)
        native = next(iter(slices.values()))
        missing = np.full_like(native.image, native.fill)
        images = [slices[at].image if at in slices else missing for at in range(native.length)]
        like = native.source if kind_of(native.source) == "nii" else ""
        return partial(
            vars(formats)["write_volume"], self.folder / name, images, like, native.box, native.axis
        )


def kind_of(path: str) -> str:
    """Return nii or dcm for a volume or a DICOM file, else ""."""
    file = (path.file if isinstance(path, Entry) else path).lower()
    return "nii" if file.endswith((".nii", ".nii.gz")) else "dcm" if file.endswith(DICOM) else ""


def extension(native: Native) -> str:
    """Return the extension of an image's file."""
    uncompressed = native.kind == "nii" and native.source.lower().endswith(".nii")
    return ".nii" if uncompressed else KINDS[native.kind]


def _source(batch: Batch, row: int, paired: bool, of_A: bool) -> tuple[str, Box | None]:
    """Return the file whose georeference, affine or header a generated image gets, and what it shows of it.

    Args:
        of_A: whether the image is generated from B.
    """
    path_A, path_B = batch.paths_A[row], batch.paths_B[row]
    box = batch.boxes[row] if batch.boxes else None
    if batch.B is None or path_A == path_B:  # both halves of one file share no place
        return ("", None) if batch.B is not None else (path_A, box)
    if not paired and not of_A:
        return path_A, box
    if box is None:
        return path_B, None
    width, height = formats.header(path_A)[2:0:-1]
    left, top, right, bottom = box
    if not paired:  # where B was cropped is not known
        whole = left <= 0 and top <= 0 and right >= width and bottom >= height
        return (path_B if whole else ""), None
    header = formats.header(path_B)
    x, y = header.width / width, header.height / height
    return path_B, (left * x, top * y, right * x, bottom * y)


def in_file_type(part: Part, image: Tensor) -> Array:
    """Return an image of a part, (C, H, W) as a model returns it, in the type and the units of its files.

    Class maps become class numbers, (1, H, W).
    """
    if part.kind == "labels":
        classes = classes_of(image, nothing=part.ignore or 0)
        return classes[None].numpy(force=True).astype(part.values.dtype)
    if part.kind == "instances":
        return (image > 0.5).numpy(force=True).astype(np.uint8)
    return _by_rows(image, lambda rows: part.values.cast(Side((part,)).in_units(rows).numpy(force=True)))


def _in_16_bits(part: Part, image: Tensor) -> Array:
    """Return an image in 16 bits: in the units of its files, or if these have 8 bits, with 65535 as white."""
    if part.kind != "8bit":
        return UINT16.cast(in_file_type(part, image).astype(np.float64))
    half = UINT16.high / 2
    return _by_rows(image, lambda rows: UINT16.cast(((rows.double() + 1) * half).numpy(force=True)))


def _by_rows(image: Tensor, convert: Callable[[Tensor], Array]) -> Array:
    """Return a converted image, (C, H, W); some rows at a time, because it needs several times their memory."""
    height = max(1, ROWS_VALUES // max(1, image.shape[0] * image.shape[2]))
    return np.concatenate([convert(rows) for rows in image.split(height, 1)], 1)


def _check(kind: str, part: Part, like: str) -> None:
    """Raise a `UserError` if images of a part cannot be written in a format."""
    values, channels = part.values, part.channels if part.is_image else 1
    reason = ""
    if kind == "png16" and part.kind == "values":
        if channels not in (1, 3):
            reason = f"PNG files have 1 or 3 channels, {part.name} has {channels}"
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
    elif kind == "dcm" and channels != 1:
        reason = f"DICOM files have 1 channel here, {part.name} has {channels}"
    if reason:
        raise UserError(f"--format {kind}: {reason}; --format tif and npy hold all images")


@lru_cache(maxsize=8)
def _slices(file: str, tiff_pages: str, slice_axis: int) -> dict[str, int]:
    """Return the positions of the images in a file."""
    return {entry: position for position, entry in enumerate(formats.entries([file], tiff_pages, slice_axis))}
