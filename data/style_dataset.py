"""Photos, each with a style image."""

from collections.abc import Mapping
from random import Random
from typing import ClassVar, Self

from torch import Tensor

from data.base_dataset import BaseDataset, Sample
from data.image_folder import find_images
from data.shards import open_folder
from data.transforms import Transform, drop_color
from options.base_options import CommandOptions
from options.option import Fixed
from options.test_options import TestOptions
from util.parts import Side


class StyleDataset(BaseDataset):
    """The images of ``dataroot/<phase>A/``, each with a style from ``dataroot/<phase>B/``, both in RGB.

    An epoch has the length of folder A. In testing, folder B may be missing.

    Args:
        paths_A, paths_B: the files of the two folders; B may be empty.
        random_style: draw the style at random, instead of going through B in step with A.
        keep_grey: return a photo without colour as one channel, so that it does not serve as ground truth.
    """

    fixed: ClassVar[Mapping[str, object]] = {"direction": Fixed("AtoB", "photos are in A, styles in B")}
    layout = "sides"

    def __init__(
        self,
        paths_A: list[str],
        paths_B: list[str],
        transform: Transform,
        *,
        random_style: bool,
        keep_grey: bool,
        seed: int,
    ):
        super().__init__(transform, seed)
        self.paths_A, self.paths_B = paths_A, paths_B
        self.random_style, self.keep_grey = random_style, keep_grey

    @classmethod
    def from_options(cls, options: CommandOptions) -> Self:
        run, data, network = options.run, options.data, options.network
        testing = isinstance(options, TestOptions)
        root = open_folder(run.dataroot)
        folder_A, folder_B = (root / f"{data.phase}{side}" for side in "AB")
        return cls(
            find_images(folder_A)[: data.max_dataset_size],
            [] if testing and not folder_B.is_dir() else find_images(folder_B),
            Transform.from_options(data),
            random_style=not data.serial_batches,
            keep_grey=testing and network.input_nc == 1,
            seed=run.seed,
        )

    def __len__(self) -> int:
        return len(self.paths_A)

    def files_B(self) -> list[str]:
        return self.paths_B

    def read(self, index: int, rng: Random) -> Sample:
        A, path_A = self._prepared(self.paths_A, self.sides.A, index, rng)
        A = drop_color(A) if self.keep_grey else A
        if not self.paths_B:
            return Sample(index, A, None, path_A, path_A)
        count = len(self.paths_B)
        partner = rng.randrange(count) if self.random_style else index % count
        B, path_B = self._prepared(self.paths_B, self.sides.B, partner, rng)
        return Sample(index, A, B, path_A, path_B)

    def _prepared(self, paths: list[str], side: Side, position: int, rng: Random) -> tuple[Tensor, str]:
        opened = self.first_good(lambda at: self.open(paths[at], side), position, len(paths))
        (image,) = self.prepare([opened], rng).images
        return image, opened.files[0]
