"""Two folders of unpaired images."""

from collections.abc import Mapping, Sequence
from functools import partial
from random import Random
from typing import Self

from torch import Tensor

from data.base_dataset import BaseDataset, Opened, Sample, Source, files_of
from data.image_folder import has_images
from data.shards import Folder, open_folder
from data.sides import Found, find_parts, folder_names, resolve
from data.transforms import Transform
from options.base_options import CommandOptions
from options.test_options import TestOptions
from util.errors import UserError
from util.formats import Box
from util.parts import Side, Sides
from util.registry import label


class UnalignedDataset(BaseDataset):
    """Images of ``dataroot/<phase>A/``, each with one of ``dataroot/<phase>B/``, prepared independently.

    An epoch has the length of the larger folder; the smaller one starts over when it ends.

    With ``--inputs`` and ``--outputs``, images of the same name in several folders are joined.

    Args:
        paths_A, paths_B: the file of every sample of the two folders, or its files, one for each part.
        random_partner: draw B's image at random, instead of going through B in step with A.
        swap: return B's image as A, for ``--direction BtoA``.
        grey: whether the input and the output are grey, unless `sides` says what they hold.
    """

    reads_values = True
    layout = "sides"

    def __init__(
        self,
        paths_A: Sequence[Source],
        paths_B: Sequence[Source],
        transform: Transform,
        *,
        random_partner: bool,
        swap: bool,
        grey: tuple[bool, bool] = (False, False),
        sides: Sides | None = None,
        seed: int,
    ):
        super().__init__(transform, seed)
        self.paths_A, self.paths_B = paths_A, paths_B
        self.random_partner, self.swap = random_partner, swap
        self.sides = sides or Sides.of_grey(*grey)

    @classmethod
    def from_options(cls, options: CommandOptions) -> Self:
        run, data, files = options.run, options.data, options.files
        root, swap = open_folder(run.dataroot), data.direction == "BtoA"
        if isinstance(options, TestOptions) and not files.inputs and not files.outputs:
            _check_sides(root, options)
        A, B = (
            _find(options, root, folders, flag)
            for folders, flag in zip(folder_names(options), ("input", "output"), strict=True)
        )
        return cls(
            B.samples if swap else A.samples,
            A.samples if swap else B.samples,
            Transform.from_options(data),
            random_partner=not data.serial_batches,
            swap=swap,
            sides=resolve(options, A, B),
            seed=run.seed,
        )

    def __len__(self) -> int:
        return max(len(self.paths_A), len(self.paths_B))

    def sources(self) -> list[list[tuple[str, ...]]]:
        return [[files_of(source) for source in paths] for paths in (self.paths_A, self.paths_B)]

    def files_B(self) -> list[str]:
        return [files_of(source)[0] for source in (self.paths_A if self.swap else self.paths_B)]

    def read(self, index: int, rng: Random) -> Sample:
        count_A, count_B = len(self.paths_A), len(self.paths_B)
        partner = rng.randrange(count_B) if self.random_partner else index % count_B
        return self.read_at(index, (index % count_A, partner), rng)

    def read_at(self, index: int, positions: tuple[int, int], rng: Random) -> Sample:
        sources = list(zip((self.paths_A, self.paths_B), positions, strict=True))
        images: list[Tensor] = []
        paths: list[str] = []
        boxes: list[Box | None] = []
        for (samples, position), side in zip(
            reversed(sources) if self.swap else sources, (self.sides.A, self.sides.B), strict=True
        ):
            opened = self.first_good(partial(self._open, samples, side), position, len(samples))
            (image,), box, _ = self.prepare([opened], rng)
            images.append(image)
            paths.append(opened.files[0])
            boxes.append(box)
        return Sample(index, images[0], images[1], paths[0], paths[1], box=boxes[0])

    def _open(self, samples: Sequence[Source], side: Side, position: int) -> Opened:
        return self.open(samples[position], side)


def _find(options: CommandOptions, root: Folder, folders: Mapping[str, str], flag: str) -> Found:
    """Return the samples of one side, given the folders of its parts without the phase."""
    paths = {part: root / f"{options.data.phase}{folder}" for part, folder in folders.items()}
    return Found(list(folders), find_parts(options, paths, flag)[: options.data.max_dataset_size])


def _check_sides(root: Folder, options: TestOptions) -> None:
    """Raise a `UserError` that says how to translate one side if there are no images of the other."""
    phase, direction = options.data.phase, options.data.direction
    sides = [side for side in "AB" if (root / f"{phase}{side}").is_dir()]
    if len(sides) == 2 or not (sides or has_images(root)):
        return
    absent = " and ".join(str(root / f"{phase}{side}") for side in "AB" if side not in sides)
    suffix = ("_A" if (sides == ["A"]) == (direction == "AtoB") else "_B") if sides else "_A (or _B)"
    folder = root / f"{phase}{sides[0]}" if sides else root
    raise UserError(
        f"{absent}: there is no such folder, and --model {label(options.run.model)} translates both sides. To"
        f" translate one: --model test --model_suffix {suffix} --dataroot {folder}"
    )
