"""The files of a gallery's generated images in the type and the units of their targets."""

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from util import formats
from util.errors import UserError
from util.files import NAME_MAX, cut_name, make_folder
from util.formats import Box

FOLDER = "native"
"""The folder of a gallery that has these files."""

KINDS = {"npy": ".npy", "tif": ".tif", "png16": ".png", "nii": ".nii.gz", "dcm": ".dcm"}
"""Extensions by the values of ``--format`` that are no format of previews."""

log = logging.getLogger(__name__)


class Volume(NamedTuple):
    """The place of a slice in a volume.

    Attributes:
        file: of which the slices are made.
        first: the first of the images in it.
        number, length: the position of the slice and the number of slices.
        fill: the value of slices without a result.
    """

    file: str
    first: str
    number: int
    length: int
    fill: float


class Native(NamedTuple):
    """A generated image, (C, H, W), in the type and the units of its target.

    Attributes:
        kind: a key of `KINDS`.
        like: the image whose georeference, affine or header it gets; "" for none.
        box: what it shows of the image `like`; None for all.
        volume: its place in a volume; None if it has a file of its own.
        written: the file that has been written already, of an image too large for memory; it is renamed.
    """

    image: NDArray[Any]
    kind: str
    like: str
    box: Box | None
    volume: Volume | None = None
    written: Path | None = None

    @property
    def extension(self) -> str:
        """The extension of its file."""
        uncompressed = self.volume and self.volume.file.lower().endswith(".nii")
        return ".nii" if uncompressed else KINDS[self.kind]


class NativeFolder:
    """The folder with the generated images of a gallery.

    A volume is written when all of its slices are there, or by `finish`.

    Args:
        folder: that of the gallery.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._slices: dict[str, dict[int, Native]] = {}  # of volumes, by position, by the path of the volume
        self._complete: set[str] = set()
        self._paths: dict[tuple[str, str], str] = {}  # of volumes, by source file and label
        self._taken: set[str] = set()

    def path(self, row: str, label: str, native: Native) -> str:
        """Return the path in the gallery's folder of the file that an image belongs to.

        Args:
            row: the name of its row, which no other row of the gallery has.
        """
        ending = f"_{label}{native.extension}"
        if native.volume is None:
            return f"{FOLDER}/{row}{ending}"
        key = native.volume.file, label
        if key not in self._paths:
            name = cut_name(formats.name_of(native.volume.file), NAME_MAX - len(ending) - len("_999999"))
            number, free = 1, name + ending
            while free.casefold() in self._taken:
                number += 1
                free = f"{name}_{number}{ending}"
            self._taken.add(free.casefold())
            self._paths[key] = f"{FOLDER}/{free}"
        return self._paths[key]

    def add(self, path: str, native: Native) -> Callable[[], None] | None:
        """Return a function that writes a file; None if it is a volume that lacks slices.

        Args:
            path: that of the file in the gallery's folder.

        Raises:
            UserError: slices of a volume show different places of it.
        """
        make_folder(self.folder / FOLDER)
        image, like, box, volume = native.image, native.like, native.box, native.volume
        if native.written:
            return partial(os.replace, native.written, self.folder / path)
        if volume is None:
            return partial(formats.write, self.folder / path, image, like, box)
        if path in self._complete:  # the slice is translated again, for another partner
            return None
        slices = self._slices.setdefault(path, {})
        first = next(iter(slices.values()), native)
        if (box, image.shape) != (first.box, first.image.shape):
            raise UserError(
                f"{volume.file}: its slices are cropped at different places, or of different sizes, and do"
                " not make up a volume; use a --preprocess that does not crop, such as none, or --format tif"
            )
        slices[volume.number] = native
        return self._writing(path) if len(slices) == volume.length else None

    def finish(self) -> None:
        """Write the volumes that lack slices."""
        for path, slices in list(self._slices.items()):
            volume = next(native.volume for native in slices.values() if native.volume)
            log.warning(
                "%s: %d of its %d slices have no result; they are filled with %g",
                self.folder / path,
                volume.length - len(slices),
                volume.length,
                volume.fill,
            )
            self._writing(path)()

    def _writing(self, path: str) -> Callable[[], None]:
        slices = self._slices.pop(path)
        self._complete.add(path)
        native = next(iter(slices.values()))
        assert native.volume
        absent = np.full_like(native.image, native.volume.fill)
        images = [slices[at].image if at in slices else absent for at in range(native.volume.length)]
        like = native.volume.first if native.like else ""
        return partial(formats.write_volume, self.folder / path, images, like, native.box)
