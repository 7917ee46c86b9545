"""One folder of images."""

from random import Random
from typing import Self

from data.base_dataset import BaseDataset, Sample, check_channels
from data.image_folder import find_images
from data.shards import open_folder
from data.transforms import Transform
from options.base_options import CommandOptions


class SingleDataset(BaseDataset):
    """The images in ``dataroot`` itself, whatever ``--phase`` is; there is no B."""

    layout = "folder"

    def __init__(self, paths: list[str], transform: Transform, *, grey: bool, seed: int):
        super().__init__(transform, seed)
        self.paths, self.grey = paths, grey

    @classmethod
    def from_options(cls, options: CommandOptions) -> Self:
        paths = find_images(open_folder(options.run.dataroot))[: options.data.max_dataset_size]
        grey = check_channels("input_nc", options.network.input_nc)
        return cls(paths, Transform.from_options(options.data), grey=grey, seed=options.run.seed)

    def __len__(self) -> int:
        return len(self.paths)

    def sources(self) -> list[list[tuple[str, ...]]]:
        return [[(path,) for path in self.paths]]

    def read(self, index: int, rng: Random) -> Sample:
        image, path = self.first_good(self.opener(self.paths, self.grey), index, len(self))
        A = self.transform.apply(image, self.transform.decide(image, rng), path)
        return Sample(index, A, None, path, path)
