"""Two folders of unpaired images."""

from random import Random
from typing import Self

from data.base_dataset import BaseDataset, Sample, check_channels
from data.image_folder import find_images, has_images
from data.shards import Folder, open_folder
from data.transforms import Transform
from options.base_options import CommandOptions
from options.test_options import TestOptions
from util.errors import UserError
from util.registry import label


class UnalignedDataset(BaseDataset):
    """Images of ``dataroot/<phase>A/``, each with one of ``dataroot/<phase>B/``, prepared independently.

    An epoch has the length of the larger folder; the smaller one starts over when it ends.

    Args:
        paths_A, paths_B: the files of the two folders.
        random_partner: draw B's image at random, instead of going through B in step with A.
        swap: return B's image as A, for ``--direction BtoA``.
        grey: whether the input and the output are grey.
    """

    layout = "sides"

    def __init__(
        self,
        paths_A: list[str],
        paths_B: list[str],
        transform: Transform,
        *,
        random_partner: bool,
        swap: bool,
        grey: tuple[bool, bool],
        seed: int,
    ):
        super().__init__(transform, seed)
        self.paths_A, self.paths_B = paths_A, paths_B
        self.random_partner, self.swap, self.grey = random_partner, swap, grey

    @classmethod
    def from_options(cls, options: CommandOptions) -> Self:
        run, data, network = options.run, options.data, options.network
        grey = check_channels("input_nc", network.input_nc), check_channels("output_nc", network.output_nc)
        root = open_folder(run.dataroot)
        if isinstance(options, TestOptions):
            _check_sides(root, options)
        paths_A, paths_B = (
            find_images(root / f"{data.phase}{side}")[: data.max_dataset_size] for side in "AB"
        )
        return cls(
            paths_A,
            paths_B,
            Transform.from_options(data),
            random_partner=not data.serial_batches,
            swap=data.direction == "BtoA",
            grey=grey,
            seed=run.seed,
        )

    def __len__(self) -> int:
        return max(len(self.paths_A), len(self.paths_B))

    def sources(self) -> list[list[tuple[str, ...]]]:
        return [[(path,) for path in paths] for paths in (self.paths_A, self.paths_B)]

    def files_B(self) -> list[str]:
        return self.paths_A if self.swap else self.paths_B

    def read(self, index: int, rng: Random) -> Sample:
        count_A, count_B = len(self.paths_A), len(self.paths_B)
        partner = rng.randrange(count_B) if self.random_partner else index % count_B
        return self.read_at(index, (index % count_A, partner), rng)

    def read_at(self, index: int, positions: tuple[int, int], rng: Random) -> Sample:
        sides = list(zip((self.paths_A, self.paths_B), positions, strict=True))
        prepared, paths = [], []
        for (side, position), grey in zip(reversed(sides) if self.swap else sides, self.grey, strict=True):
            image, path = self.first_good(self.opener(side, grey), position, len(side))
            prepared.append(self.transform.apply(image, self.transform.decide(image, rng), path))
            paths.append(path)
        return Sample(index, prepared[0], prepared[1], paths[0], paths[1])


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
