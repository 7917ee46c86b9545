"""One folder of colour images, for colorization."""

from collections.abc import Mapping
from random import Random
from typing import ClassVar, Self

from data.base_dataset import BaseDataset, Sample
from data.image_folder import find_images
from data.shards import open_folder
from data.transforms import Transform, drop_color
from options.base_options import CommandOptions
from options.option import Fixed
from options.test_options import TestOptions

REASON = "the model maps L to ab"


class ColorizationDataset(BaseDataset):
    """The images in ``dataroot/<phase>/``, in RGB; the model computes L and ab from them on its device.

    Args:
        keep_grey: return an image without colour as one channel, so that it does not serve as ground truth.
    """

    fixed: ClassVar[Mapping[str, object]] = {
        "input_nc": Fixed(1, REASON),
        "output_nc": Fixed(2, REASON),
        "direction": Fixed("AtoB", REASON),
    }
    paired = True
    learns_input = True
    layout = "phase"

    def __init__(self, paths: list[str], transform: Transform, *, keep_grey: bool, seed: int):
        super().__init__(transform, seed)
        self.paths, self.keep_grey = paths, keep_grey

    @classmethod
    def from_options(cls, options: CommandOptions) -> Self:
        run, data = options.run, options.data
        paths = find_images(open_folder(run.dataroot) / data.phase)[: data.max_dataset_size]
        keep_grey = isinstance(options, TestOptions)
        return cls(paths, Transform.from_options(data), keep_grey=keep_grey, seed=run.seed)

    def __len__(self) -> int:
        return len(self.paths)

    def sources(self) -> list[list[tuple[str, ...]]]:
        return [[(path,) for path in self.paths]]

    def read(self, index: int, rng: Random) -> Sample:
        opened = self.first_good(lambda at: self.open(self.paths[at], self.sides.A), index, len(self))
        (A,) = self.prepare([opened], rng).images
        path = opened.files[0]
        return Sample(index, drop_color(A) if self.keep_grey else A, None, path, path)
