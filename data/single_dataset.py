"""One folder of images."""

from collections.abc import Sequence
from random import Random
from typing import Self

from data.base_dataset import BaseDataset, Opened, Sample, Source, files_of
from data.shards import open_folder
from data.sides import Found, find_parts, resolve
from data.transforms import Transform
from options.base_options import CommandOptions
from options.file_options import part_names
from util.parts import Side, Sides


class SingleDataset(BaseDataset):
    """The images in ``dataroot`` itself, whatever ``--phase`` is; there is no B.

    With ``--inputs A1,A2`` those in its folders ``<phase>A1`` and ``<phase>A2``.

    Args:
        paths: the file of every sample, or its files, one for each part of A.
        grey: whether images are grey, unless `sides` says what they hold.
    """

    reads_values = True
    reads_scenes = True
    layout = "folder"

    def __init__(
        self,
        paths: Sequence[Source],
        transform: Transform,
        *,
        grey: bool = False,
        sides: Sides | None = None,
        seed: int,
    ):
        super().__init__(transform, seed)
        self.paths = paths
        self.sides = sides or Sides(A=Side.eight_bits("A", 1 if grey else 3))

    @classmethod
    def from_options(cls, options: CommandOptions) -> Self:
        root, names = open_folder(options.run.dataroot), part_names(options.files.inputs)
        folders = {name: root / f"{options.data.phase}{name}" for name in names} or {"A": root}
        paths = find_parts(options, folders)[: options.data.max_dataset_size]
        sides = resolve(options, Found(list(folders), paths))
        return cls(paths, Transform.from_options(options.data), sides=sides, seed=options.run.seed)

    def __len__(self) -> int:
        return len(self.paths)

    def sources(self) -> list[list[tuple[str, ...]]]:
        return [[files_of(source) for source in self.paths]]

    def read(self, index: int, rng: Random) -> Sample:
        opened = self.first_good(self._open, index, len(self))
        (A,), box, scene = self.prepare([opened], rng)
        return Sample(index, A, None, opened.files[0], opened.files[0], box=box, scene=scene)

    def _open(self, position: int) -> Opened:
        return self.open(self.paths[position], self.sides.A)
