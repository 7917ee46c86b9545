"""What every data set shares."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar, Self, TypeVar

from torch import Tensor
from torch.utils.data import Dataset

from data.cache import ImageCache, Images
from data.transforms import Transform
from options.base_options import CommandOptions
from options.option import NoOptions
from util.errors import UserError
from util.image_io import BadImage, read_image
from util.seeding import python_rng

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One sample, the direction already applied; images are uint8, (C, H, W).

    Attributes:
        label: the number of its class, from 0; None without classes.
        passed_over: the bad images that others have taken the place of.
    """

    index: int
    A: Tensor
    B: Tensor | None
    path_A: str
    path_B: str
    label: int | None = None
    passed_over: tuple[BadImage, ...] = ()


@dataclass(frozen=True)
class Rejected:
    """Why there is no sample `index`."""

    index: int
    error: UserError


class BaseDataset(Dataset[Sample | Rejected], ABC):
    """A data set: its samples are functions of (seed, epoch, index), whichever process reads them.

    Subclasses give `from_options`, `__len__` and `read`.

    Attributes:
        paired: whether B is the ground truth for A, so that results can be compared with it.
        replace_bad: whether the next good image takes the place of one that cannot be read.
        cache: keeps scaled images for later epochs.
        together: the positions in A and B of the next sample, where a stream says which files are at hand.
    """

    Options: ClassVar[type] = NoOptions
    defaults: ClassVar[Mapping[str, object]] = {}
    fixed: ClassVar[Mapping[str, object]] = {}
    paired: ClassVar[bool] = False

    def __init__(self, transform: Transform, seed: int):
        self.transform, self.seed = transform, seed
        self.replace_bad = False
        self.cache: ImageCache | None = None
        self.together: tuple[int, int] | None = None
        self._passed_over: list[BadImage] = []

    @classmethod
    @abstractmethod
    def from_options(cls, options: CommandOptions) -> Self:
        """Return the data set that the options describe."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def read(self, index: int, rng: Random) -> Sample:
        """Return sample `index` with its augmentation drawn from `rng`; open its files by `first_good`."""

    def sources(self) -> list[list[tuple[str, ...]]]:
        """Return the files of every sample; of A and of B in lists of their own where any two may meet.

        Raises:
            UserError: the data set needs files in an order that a stream cannot give.
        """
        raise UserError(
            f"{type(self).__name__}: it cannot be read from a stream; --dataroot must be a folder"
            " or shards on a disk"
        )

    def opener(self, paths: list[str], grey: bool) -> Callable[[int], tuple[Tensor, str]]:
        """Return what gives the image at a position of `paths`, scaled, with its path."""
        return lambda position: (self.scaled(paths[position], grey), paths[position])

    def scaled(self, path: str, grey: bool) -> Tensor:
        """Return the scaled image at `path`, (C, H, W), from the cache if it is there."""
        (image,) = self.cached(path, f"{grey=}", lambda: (self.transform.scale(read_image(path), grey),))
        return image

    def cached(self, path: str, what: str, make: Callable[[], Images]) -> Images:
        """Return the scaled images that `make` makes of a file, from the cache if they are there.

        Args:
            what: tells different images of one file apart.
        """
        if self.cache is None:
            return make()
        return self.cache.get(path, f"{self.transform} {what}", make)

    def first_good(self, open_at: Callable[[int], T], position: int, count: int) -> T:
        """Return what `open_at` finds at a position, or at the next one in path order whose image is good.

        Args:
            open_at: opens the image, or the images, at one of `count` positions.

        Raises:
            BadImage: the image is bad, and is not to be replaced.
            UserError: all images are bad.
        """
        bad: list[BadImage] = []
        for step in range(count):
            try:
                found = open_at((position + step) % count)
            except BadImage as error:
                if not self.replace_bad:
                    raise
                bad.append(error)
            else:
                self._passed_over += bad
                return found
        raise UserError(f"None of these {count} images can be used. The first: {bad[0]}")

    def __getitem__(self, key: tuple[int, int]) -> Sample | Rejected:
        """Return the sample (epoch, index), or what is wrong with it.

        An error is returned, not raised: raised in a worker process, it would come out as a traceback.
        """
        epoch, index = key
        self._passed_over = []
        try:
            sample = self.read(index, python_rng("augmentation", self.seed, epoch, index))
        except UserError as error:
            return Rejected(index, error)
        return replace(sample, passed_over=tuple(self._passed_over)) if self._passed_over else sample


def check_channels(flag: str, channels: int) -> bool:
    """Return whether images with this number of channels are grey.

    Raises:
        UserError: image files are read with 1 or 3 channels only.
    """
    if channels not in (1, 3):
        raise UserError(f"--{flag} {channels}: images are read with 3 channels (RGB) or 1 (grey)")
    return channels == 1
