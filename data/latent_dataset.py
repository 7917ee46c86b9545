"""Samples without images, for models that generate images from noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self

import numpy as np
import torch

from data.base_dataset import BaseDataset, Sample
from data.images_dataset import sides_of_generated
from data.sides import Found, resolve
from data.transforms import Transform
from options.base_options import CommandOptions
from options.option import option
from util.parts import Sides


@dataclass(frozen=True)
class LatentOptions:
    """Flags of samples without images."""

    num_samples: int = option(64, "number of images to generate", minimum=1)
    num_classes: int = option(
        0,
        "number of classes, which the generated images cycle through; 0: none",
        minimum=0,
        architecture=True,
    )


class LatentDataset(BaseDataset):
    """Samples named sample_0001, sample_0002, ..., of all classes in turn; A is one pixel."""

    Options = LatentOptions
    reads_values = True
    trains = False
    defaults: ClassVar[Mapping[str, object]] = {"dataroot": ""}

    def __init__(self, num_samples: int, num_classes: int, seed: int, sides: Sides | None = None):
        super().__init__(Transform("none", 0, 0, flip=False), seed)
        self.num_samples, self.num_classes = num_samples, num_classes
        self.sides = sides or Sides()
        A = self.sides.A
        self.pixel = torch.from_numpy(np.zeros((1 if A.is_8bit else A.channels, 1, 1), A.dtype))

    @classmethod
    def from_options(cls, options: CommandOptions) -> Self:
        own, limit = options.dataset, options.data.max_dataset_size
        side = resolve(options, Found(["A"], [])).A
        count = min(own.num_samples, limit or own.num_samples)
        return cls(count, own.num_classes, options.run.seed, sides_of_generated(side, options))

    def __len__(self) -> int:
        return self.num_samples

    def read(self, index: int, rng: Random) -> Sample:
        name = f"sample_{index + 1:04d}"
        label = index % self.num_classes if self.num_classes else None
        return Sample(index, self.pixel, None, name, name, label=label)
