"""Images with or without classes: folders of files, or IDX files such as MNIST's."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.base_dataset import BaseDataset, Opened, Sample
from data.idx import read_idx
from data.image_folder import find_images, name_in
from data.shards import Folder, open_folder
from data.sides import Found, find_files, resolve
from data.transforms import Transform
from options.base_options import CommandOptions
from options.option import Fixed, option
from util.errors import UserError
from util.image_io import read_image
from util.parts import Side, Sides

IDX_IMAGES = re.compile(r"images[-.]idx3-ubyte(\.gz)?$")
IDX_PREFIX = {"train": "train", "test": "t10k"}
"""Prefixes of the names of MNIST's files, by ``--phase``."""


@dataclass(frozen=True)
class ImagesOptions:
    """Flags of images with classes."""

    num_classes: int = option(
        0,
        "number of classes (folders, or labels), to generate images by class; 0 ignores classes",
        minimum=0,
        architecture=True,
    )


@dataclass(frozen=True)
class Images:
    """The images of a data set, and their classes.

    Attributes:
        paths: image files; for an IDX file, its path with the position in it.
        pixels: the content of an IDX file, (N, H, W); None for image files.
        labels: (N,), from 0; None without classes.
        classes: number of classes.
    """

    paths: Sequence[str]
    pixels: NDArray[np.uint8] | None
    labels: Sequence[int] | None
    classes: int

    def open(self, position: int) -> Image.Image:
        """Return the image at a position, in RGB."""
        if self.pixels is None:
            return read_image(self.paths[position])
        return Image.fromarray(self.pixels[position]).convert("RGB")


class ImagesDataset(BaseDataset):
    """The images in ``dataroot/<phase>``, or in ``dataroot`` without such a folder; there is no B.

    Args:
        count: use only the first `count` images.
        grey: whether images are grey, unless `sides` says what they hold.
    """

    Options = ImagesOptions
    fixed: ClassVar[Mapping[str, object]] = {"direction": Fixed("AtoB", "it has images of one side only")}
    reads_values = True
    learns_input = True
    layout = "phase"

    def __init__(
        self,
        images: Images,
        transform: Transform,
        *,
        count: int | None,
        grey: bool = False,
        sides: Sides | None = None,
        seed: int,
    ):
        super().__init__(transform, seed)
        self.images = images
        self.sides = sides or Sides(A=Side.eight_bits("A", 1 if grey else 3))
        self.count = min(len(images.paths), count or len(images.paths))

    @classmethod
    def from_options(cls, options: CommandOptions) -> Self:
        data, wanted = options.data, options.dataset.num_classes
        root = open_folder(options.run.dataroot)
        folder = root / data.phase
        images = find_image_set(
            folder if folder.is_dir() else root, data.phase, lambda folder: find_files(options, folder, "A")
        )
        if wanted and wanted != images.classes:
            raise UserError(
                f"--num_classes {wanted}: the images in {options.run.dataroot} have {images.classes}"
                " classes (folders, or labels); use that number, or 0 to ignore classes"
            )
        if images.pixels is not None and options.files.kind("A", "input") != "8bit":
            raise UserError(f"--input_range {options.files.input_range}: IDX files are read with 8 bits")
        return cls(
            images,
            Transform.from_options(data),
            count=data.max_dataset_size,
            sides=sides_of_generated(resolve(options, Found(["A"], images.paths)).A, options),
            seed=options.run.seed,
        )

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, rng: Random) -> Sample:
        images = self.images
        opened, position = self.first_good(lambda at: (self._open(at), at), index, len(self))
        path = images.paths[position]
        (A,), box, _ = self.prepare([opened], rng)
        label = None if images.labels is None else int(images.labels[position])
        return Sample(index, A, None, path, path, label=label, box=box)

    def _open(self, position: int) -> Opened:
        files = (self.images.paths[position],)
        if self.images.pixels is None:
            return self.open(files, self.sides.A)
        grey = self.sides.A.channels == 1
        return Opened(self.sides.A, files, (self.transform.scale(self.images.open(position), grey),))


def sides_of_generated(side: Side, options: CommandOptions) -> Sides:
    """Return the sides of images and of what a model generates, which holds the same as they do.

    Raises:
        UserError: the flags say that it holds something else.
    """
    if (output_range := options.files.output_range) not in ("8bit", options.files.input_range):
        raise UserError(
            f"--output_range {output_range}: --dataset_mode {options.data.dataset_mode} has images of one"
            " side; use --dataset_mode single to translate them"
        )
    return Sides(side, side)


def find_image_set(folder: Folder, phase: str, find: Callable[[Folder], list[str]] = find_images) -> Images:
    """Return the images of a folder: in an IDX file if there is one, else in folders of classes, else all.

    Args:
        phase: chooses among several IDX files.
        find: returns the image files in a folder.

    Raises:
        UserError: There are no images, or an IDX file is damaged.
    """
    files = sorted(folder.iterdir()) if isinstance(folder, Path) and folder.is_dir() else []
    idx = [file for file in files if IDX_IMAGES.search(file.name)]
    if idx:
        prefix = IDX_PREFIX.get(phase, phase)
        return _read_images(next((file for file in idx if file.name.startswith(prefix)), idx[0]))
    paths = find(folder)
    parts = [Path(name_in(folder, path)).parts for path in paths]
    if any(len(names) == 1 for names in parts):
        return Images(paths, None, None, 0)
    classes = sorted({names[0] for names in parts})
    return Images(paths, None, [classes.index(names[0]) for names in parts], len(classes))


def _read_images(file: Path) -> Images:
    pixels = read_idx(file, dimensions=3)
    paths = [f"{file}/{position:05d}" for position in range(len(pixels))]
    name = file.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    candidates = (file.with_name(name + ending) for ending in ("", ".gz"))
    label_file = next((candidate for candidate in candidates if candidate.exists()), None)
    if label_file is None:
        return Images(paths, pixels, None, 0)
    labels = read_idx(label_file, dimensions=1)
    if len(labels) != len(pixels):
        raise UserError(f"{label_file}: {len(labels)} labels for the {len(pixels)} images of {file.name}")
    return Images(paths, pixels, labels.tolist(), int(labels.max()) + 1)
