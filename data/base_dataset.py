"""What every data set shares."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from options.base_options import CommandOptions
from util.errors import UserError
from util.seeding import numpy_rng


@dataclass(frozen=True)
class Sample:
    """One sample, the direction already applied; pictures are uint8, (C, H, W)."""

    index: int
    A: Tensor
    B: Tensor | None
    path_A: str
    path_B: str


@dataclass(frozen=True)
class NoOptions:
    """No flags of its own."""


class BaseDataset(Dataset[Sample | UserError], ABC):
    """A data set: its samples are functions of (seed, epoch, index), whichever process reads them.

    Subclasses give `from_options`, `__len__` and `read`.

    Attributes:
        paired: whether B is the ground truth for A, so that results can be compared with it.
    """

    Options: ClassVar[type] = NoOptions
    defaults: ClassVar[Mapping[str, object]] = {}
    paired: ClassVar[bool] = False

    def __init__(self, seed: int):
        self.seed = seed

    @classmethod
    @abstractmethod
    def from_options(cls, options: CommandOptions) -> Self:
        """Return the data set that the options describe."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """Return sample `index` with its augmentation drawn from `rng`."""

    def __getitem__(self, key: tuple[int, int]) -> Sample | UserError:
        """Return the sample (epoch, index), or what is wrong with it.

        An error is returned, not raised: raised in a worker process, it would come out as a traceback.
        """
        epoch, index = key
        try:
            return self.read(index, numpy_rng("augmentation", self.seed, epoch, index))
        except UserError as error:
            return error


def check_channels(flag: str, channels: int) -> bool:
    """Return whether pictures with this number of channels are grey.

    Raises:
        UserError: picture files are read with 1 or 3 channels only.
    """
    if channels not in (1, 3):
        raise UserError(f"--{flag} {channels}: pictures are read with 3 channels (RGB) or 1 (grey)")
    return channels == 1
