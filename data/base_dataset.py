"""The base class of data sets."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.cache import ImageCache, Images
from data.examples import Layout, write_example
from data.reading import Unread, read_part
from data.transforms import Decision, Transform
from options.base_options import CommandOptions
from options.option import NoOptions
from util import formats
from util.batch import Scene
from util.errors import UserError, user_message
from util.image_io import EXTENSIONS, BadImage, read_image
from util.image_limits import MAX_IMAGE_GB, set_max_image_gb
from util.parts import Part, Side, Sides
from util.remarks import Remark, collecting
from util.seeding import python_rng

T = TypeVar("T")

Files = tuple[str, ...]
"""The files of one side of a sample, one for each of its parts."""

Source = str | Files
"""The file of one side of a sample, or its files."""


@dataclass(frozen=True)
class Sample:
    """One sample, ``--direction`` already applied; images are (C, H, W), of the type of their `Side`.

    Attributes:
        mask: (1, H, W), uint8; None without ``--mask``.
        box: its place in its file; None for data sets of 8-bit images.
        scene: the sample itself, to be read in parts, if it is too large for memory; A and B are then without
            pixels.
        label: class number, from 0; None without classes.
        replaced: the bad images in whose place this sample has others.
        remarks: what the user should know about its files.
    """

    index: int
    A: Tensor
    B: Tensor | None
    path_A: str
    path_B: str
    label: int | None = None
    mask: Tensor | None = None
    box: formats.Box | None = None
    scene: Scene | None = None
    replaced: tuple[BadImage, ...] = ()
    remarks: tuple[Remark, ...] = ()


class Opened(NamedTuple):
    """The scaled images of one side of a sample, one for each of its parts, or images to read in parts."""

    side: Side
    files: Files
    images: tuple[Tensor | Unread, ...]


class Prepared(NamedTuple):
    """What networks get of a sample.

    Attributes:
        images: (C, H, W) for each side; without pixels if there is a scene.
        box: the place of the first in its file if `find_boxes`.
        scene: what is to be read in parts instead.
    """

    images: list[Tensor]
    box: formats.Box | None = None
    scene: Scene | None = None


@dataclass(frozen=True)
class Rejected:
    """Why sample `index` cannot be read."""

    index: int
    error: UserError


class BaseDataset(Dataset[Sample | Rejected], ABC):
    """A data set; a sample depends on (seed, epoch, index) only, not on the process that reads it.

    Subclasses define `from_options`, `__len__` and `read`.

    Attributes:
        sides: what the images hold; 8-bit RGB unless the data set sets it.
        unread_pixels: of larger images only the parts that are needed are read; 0: all are read whole.
            `create_loader` sets it.
        find_boxes: give samples their places in their files; `create_loader` sets it.
        replace_bad: use the next good image in place of one that cannot be read; the loader sets it.
        cache: keeps scaled images for later epochs; `create_loader` sets it.
        max_image_gb: limit of one decoded image in every process that reads; `create_loader` sets it.
    """

    Options: ClassVar[type] = NoOptions
    """Its own flags."""
    defaults: ClassVar[Mapping[str, object]] = {}
    """Other flags' defaults that it changes."""
    fixed: ClassVar[Mapping[str, object]] = {}
    """Other flags of which it supports only one value: the value, or `Fixed` with the reason."""
    paired: ClassVar[bool] = False
    """Whether B is the ground truth for A, which results are compared with."""
    learns_input: ClassVar[bool] = False
    """Whether what models learn to produce is made of A, as in colorization."""
    trains: ClassVar[bool] = True
    """Whether train.py can use it."""
    reads_values: ClassVar[bool] = False
    """Whether it follows the flags of `FileOptions`; otherwise images are read with 8 bits."""
    reads_scenes: ClassVar[bool] = False
    """Whether test.py can have a sample of it that is too large for memory, as a `Scene`."""
    reads_masks: ClassVar[bool] = False
    """Whether it has masks with ``--mask``."""
    layout: ClassVar[Layout | None] = None
    """How its image files are arranged in folders; None: otherwise, and it cannot be packed into shards."""

    def __init__(self, transform: Transform, seed: int):
        self.transform, self.seed = transform, seed
        self.sides = Sides()
        self.find_boxes = False
        self.unread_pixels = 0
        self.replace_bad = False
        self.cache: ImageCache | None = None
        self.max_image_gb = MAX_IMAGE_GB
        self._replaced: list[BadImage] = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the limit in a worker process that was not forked."""
        self.__dict__.update(state)
        set_max_image_gb(self.max_image_gb)

    @classmethod
    @abstractmethod
    def from_options(cls, options: CommandOptions) -> Self:
        """Return the data set that the options describe."""

    @classmethod
    def make_example(cls, folder: Path) -> None:
        """Write a small data set to `folder`, an empty folder: the tests of all data sets read it.

        Override it where `layout` does not describe the files.
        """
        if cls.layout:
            write_example(folder, cls.layout)

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def read(self, index: int, rng: Random) -> Sample:
        """Return sample `index`, augmented by random numbers from `rng`; open its files by `first_good`."""

    def read_at(self, index: int, positions: tuple[int, int], rng: Random) -> Sample:
        """Return sample `index` made of the images at these positions of the two `sources`."""
        raise NotImplementedError(f"{type(self).__name__} has one list of sources")

    def sources(self) -> list[list[tuple[str, ...]]]:
        """Return the files of every sample: one list, or two (A and B) if any A may be paired with any B.

        Raises:
            UserError: The data set needs its files in an order that a stream cannot provide.
        """
        raise UserError(
            f"{type(self).__name__}: cannot be read from a stream; --dataroot must be a folder or shards on a"
            " disk"
        )

    def files_B(self) -> Sequence[str]:
        """Return the files that a sample's B can come from; empty if it has none, or cannot tell."""
        return ()

    def open(self, source: Source, side: Side) -> Opened:
        """Return the scaled images of a side of a sample, from the cache if possible."""
        files = files_of(source)
        images = [self.open_part(path, part) for path, part in zip(files, side.parts, strict=True)]
        return Opened(side, files, tuple(images))

    def open_part(self, path: str, part: Part) -> Tensor | Unread:
        """Return the scaled image of a part, (C, H, W), from the cache if possible."""
        if part.kind == "8bit" or (part.kind == "mask" and path.lower().endswith(EXTENSIONS)):
            return self.scaled(path, grey=part.channels == 1)
        if part.kind == "values" and self.unread_pixels:
            header = formats.header(path)
            if header.height * header.width > self.unread_pixels and formats.can_window(path):
                return Unread(path, part, (part.channels, header.height, header.width))
        (image,) = self.cached(
            path, part.text, lambda: (self.transform.scale_values(read_part(path, part), part),)
        )
        return image

    def prepare(self, opened: Sequence[Opened], rng: Random) -> Prepared:
        """Return images of a sample that are cropped, flipped and augmented alike, with their parts joined.

        Raises:
            UserError: The images differ in size, or are smaller than the crop.
        """
        first, first_path = opened[0].images[0], opened[0].files[0]
        for _, files, images in opened:
            for position, image in enumerate(images):
                if image is not first:
                    check_equal_sizes(first, image, first_path, files[position])
        if (
            self.unread_pixels
            and self.transform.preprocess == "none"
            and any(isinstance(image, Unread) for _, _, images in opened for image in images)
        ):
            empty = [torch.empty(sum(image.shape[0] for image in images), 0, 0) for _, _, images in opened]
            box = 0.0, 0.0, float(first.shape[2]), float(first.shape[1])
            return Prepared(empty, box, LargeSample(tuple(opened)))
        decision = self.transform.decide(first, rng)
        prepared = [self._joined(side, decision) for side in opened]
        return Prepared(prepared, self._box(opened[0], decision) if self.find_boxes else None)

    def _joined(self, opened: Opened, decision: Decision) -> Tensor:
        """Return the images of a side, cropped, flipped and augmented, and joined along the channels."""
        side, files, images = opened
        transform, is_input, prepared = self.transform, side is self.sides.A, []
        for image, part in zip(images, side.parts, strict=True):
            decided = decision
            if isinstance(image, Unread):
                left, top, right, bottom = transform.needed(image.shape, decision, files[0])
                image = image.read(left, top, right, bottom)
                decided = decision._replace(x=decision.x - left, y=decision.y - top)
            prepared.append(transform.apply(image, decided, files[0], part, is_input=is_input))
        return join(prepared, side)

    def _box(self, opened: Opened, decision: Decision) -> formats.Box:
        header = formats.header(opened.files[0])
        return self.transform.box(decision, (header.width, header.height))

    def scaled(self, path: str, grey: bool) -> Tensor:
        """Return the scaled image at `path`, (C, H, W), from the cache if possible."""
        (image,) = self.cached(path, f"{grey=}", lambda: (self.transform.scale(read_image(path), grey),))
        return image

    def cached(self, path: str, what: str, make: Callable[[], Images]) -> Images:
        """Return the scaled images that `make` makes from a file, from the cache if possible.

        Args:
            what: tells apart different images made from one file.
        """
        if self.cache is None:
            return make()
        return self.cache.get(path, f"{self.transform.text} {what}", make)

    def first_good(self, open_at: Callable[[int], T], position: int, count: int) -> T:
        """Return ``open_at(position)``; with `replace_bad`, at the next position whose image can be read.

        Args:
            open_at: opens the image, or images, at one of `count` positions.

        Raises:
            BadImage: The image cannot be read, without `replace_bad`.
            UserError: No image can be read.
        """
        errors: list[BadImage] = []
        for step in range(count):
            try:
                result = open_at((position + step) % count)
            except BadImage as error:
                if not self.replace_bad:
                    raise
                errors.append(error)
            else:
                self._replaced += errors
                return result
        raise UserError(f"None of these {count} images can be used. The first: {errors[0]}")

    def __getitem__(self, key: tuple[int, int]) -> Sample | Rejected:
        """Return the sample (epoch, index), or why it cannot be read."""
        return self.sample(*key)

    def sample(self, epoch: int, index: int, positions: tuple[int, int] | None = None) -> Sample | Rejected:
        """Return sample `index` as it is in `epoch`, or why it cannot be read.

        An error is returned, not raised: raised in a worker process, it would reach the user as a traceback.

        Args:
            positions: see `read_at`; None to let the data set choose.
        """
        self._replaced = []
        remarks: list[Remark] = []
        rng = python_rng("augmentation", self.seed, epoch, index)
        try:
            with collecting(remarks):
                sample = self.read(index, rng) if positions is None else self.read_at(index, positions, rng)
        except (UserError, OSError) as error:
            message = user_message(error, memory_advice="Lower --num_threads")
            if message is None:
                raise
            return Rejected(index, error if isinstance(error, UserError) else UserError(message))
        if self._replaced or remarks:
            return replace(sample, replaced=tuple(self._replaced), remarks=tuple(remarks))
        return sample


def check_channels(flag: str, channels: int) -> bool:
    """Return whether images with this number of channels are grey.

    Raises:
        UserError: The number is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise UserError(f"--{flag} {channels}: images are read with 3 channels (RGB) or 1 (grey)")
    return channels == 1


def files_of(source: Source) -> Files:
    """Return the files of one side of a sample."""
    return (source,) if isinstance(source, str) else source


@dataclass(frozen=True)
class LargeSample:
    """A `Scene` that is read from the files of A and B."""

    sides: tuple[Opened, ...]

    @property
    def height(self) -> int:
        """Its height in pixels."""
        return self.sides[0].images[0].shape[1]

    @property
    def width(self) -> int:
        """Its width in pixels."""
        return self.sides[0].images[0].shape[2]

    def read(self, left: int, top: int, right: int, bottom: int) -> tuple[Tensor, Tensor | None]:
        """Return the part of A, and of B if there is one, with these edges, (C, h, w)."""
        A, *B = (
            join(
                [
                    image.read(left, top, right, bottom)
                    if isinstance(image, Unread)
                    else image[:, top:bottom, left:right]
                    for image in opened.images
                ],
                opened.side,
            )
            for opened in self.sides
        )
        return A, B[0] if B else None


def join(images: Sequence[Tensor], side: Side) -> Tensor:
    """Return the images of the parts of a side, each (C, H, W), joined along the channels."""
    if len(images) == 1:
        return images[0]
    return torch.from_numpy(np.concatenate([image.numpy().astype(side.dtype) for image in images]))


def check_equal_sizes(A: Tensor | Unread, B: Tensor | Unread, path_A: str, path_B: str) -> None:
    """Raise a `UserError` if the scaled images of a pair, (C, H, W), differ in height or width."""
    if A.shape[1:] != B.shape[1:]:
        images = sorted([(path_A, A), (path_B, B)], key=lambda image: image[0])
        paths = " and ".join(path for path, _ in images)
        sizes = " and ".join(f"{image.shape[2]} x {image.shape[1]}" for _, image in images)
        raise UserError(
            f"{paths} differ in size: {sizes} pixels; the images of a pair must be equal: use"
            " --preprocess resize_and_crop, or make them the same size"
        )
