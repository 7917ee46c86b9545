"""Pairs of images: two halves of one file, or two files of the same name."""

from pathlib import Path
from random import Random
from typing import Self

from torch import Tensor

from data.base_dataset import BaseDataset, Sample, check_channels, check_equal_sizes
from data.image_folder import find_images, has_images, name_in
from data.shards import Folder, open_folder
from data.transforms import Transform
from options.base_options import CommandOptions
from util.errors import UserError
from util.image_io import BadImage, read_image
from util.remarks import remark


class AlignedDataset(BaseDataset):
    """Pairs (A, B), cropped and flipped alike.

    Two layouts are supported: ``dataroot/<phase>/`` with A and B side by side in one file, A on the left; and
    ``dataroot/<phase>A/``, ``dataroot/<phase>B/`` with files of the same name, whatever their extensions. A
    folder ``<phase>`` without images is ignored beside these two.

    Args:
        pairs: the two files of each pair; the same file twice if it holds both images.
        swap: return B's image as A, for ``--direction BtoA``.
        grey: whether the input and the output are grey.
    """

    paired = True
    layout = "pairs"

    def __init__(
        self,
        pairs: list[tuple[str, str]],
        transform: Transform,
        *,
        swap: bool,
        grey: tuple[bool, bool],
        seed: int,
    ):
        super().__init__(transform, seed)
        self.pairs, self.swap, self.grey = pairs, swap, grey

    @classmethod
    def from_options(cls, options: CommandOptions) -> Self:
        run, data, network = options.run, options.data, options.network
        grey = check_channels("input_nc", network.input_nc), check_channels("output_nc", network.output_nc)
        pairs = find_pairs(open_folder(run.dataroot), data.phase)[: data.max_dataset_size]
        transform = Transform.from_options(data)
        return cls(pairs, transform, swap=data.direction == "BtoA", grey=grey, seed=run.seed)

    def __len__(self) -> int:
        return len(self.pairs)

    def sources(self) -> list[list[tuple[str, ...]]]:
        return [[(A,) if A == B else (A, B) for A, B in self.pairs]]

    def files_B(self) -> list[str]:
        return [pair[0 if self.swap else 1] for pair in self.pairs]

    def read(self, index: int, rng: Random) -> Sample:
        (path_A, path_B), A, B = self.first_good(self._open, index, len(self))
        # Before the crop: crops of the same size at the same place would not show the same thing.
        check_equal_sizes(A, B, path_A, path_B)
        if self.swap:
            A, B, path_A, path_B = B, A, path_B, path_A

        decision = self.transform.decide(A, rng)
        prepared_A = self.transform.apply(A, decision, path_A)
        prepared_B = self.transform.apply(B, decision, path_B)
        return Sample(index, prepared_A, prepared_B, path_A, path_B)

    def _open(self, position: int) -> tuple[tuple[str, str], Tensor, Tensor]:
        path_A, path_B = paths = self.pairs[position]
        grey_A, grey_B = reversed(self.grey) if self.swap else self.grey
        if path_A != path_B:
            return paths, self.scaled(path_A, grey_A), self.scaled(path_B, grey_B)
        A, B = self.cached(path_A, f"{grey_A=} {grey_B=}", lambda: self._halves(path_A, grey_A, grey_B))
        return paths, A, B

    def _halves(self, path: str, grey_A: bool, grey_B: bool) -> tuple[Tensor, Tensor]:
        both = read_image(path)
        half = both.width // 2
        if half == 0:
            raise BadImage(f"{path}: is 1 pixel wide and cannot hold two images side by side")
        if both.height >= both.width:
            remark(
                "half of one image",
                f"{path}: {both.width} x {both.height} pixels, so A and B are {half} x {both.height}: half of"
                " one image? A pair is one file with A on the left, B on the right, or two files of one"
                " name in folders such as trainA and trainB",
            )
        A = both.crop((0, 0, half, both.height))
        B = both.crop((both.width - half, 0, both.width, both.height))
        return self.transform.scale(A, grey_A), self.transform.scale(B, grey_B)


def find_pairs(dataroot: Folder, phase: str) -> list[tuple[str, str]]:
    """Return the files of every pair, in the order of A's names.

    Raises:
        UserError: The folder has neither layout of `AlignedDataset`, or a file has no partner.
    """
    if not dataroot.is_dir():
        raise UserError(f"--dataroot {dataroot}: there is no such folder")
    folder, folder_A, folder_B = dataroot / phase, dataroot / f"{phase}A", dataroot / f"{phase}B"
    two_folders = folder_A.is_dir() or folder_B.is_dir()
    if not two_folders and not folder.is_dir():
        # The layout that the peer's combine_A_and_B.py joins
        separate = (dataroot / "A" / phase).is_dir() or (dataroot / "B" / phase).is_dir()
        advice = f"rename A/{phase} to {phase}A and B/{phase} to {phase}B" if separate else ""
        raise UserError(
            f"--dataroot {dataroot}: it has neither a folder {phase} (pairs side by side) nor folders"
            f" {phase}A and {phase}B (pairs of files); {advice or 'check --dataroot and --phase'}"
        )
    if not two_folders or has_images(folder):
        return [(path, path) for path in find_images(folder)]

    named_A, named_B = _by_name(folder_A), _by_name(folder_B)
    unpaired = sorted(named_A.keys() ^ named_B.keys())
    if unpaired:
        raise UserError(
            f"--dataroot {dataroot}: {len(unpaired)} images are in only one of {phase}A and {phase}B, such as"
            f" {', '.join(unpaired[:3])}; the two images of a pair need the same name"
        )
    return [(path, named_B[name]) for name, path in named_A.items()]


def _by_name(folder: Folder) -> dict[str, str]:
    paths: dict[str, str] = {}
    for path in find_images(folder):
        name = str(Path(name_in(folder, path)).with_suffix(""))
        if name in paths:
            raise UserError(f"{paths[name]} and {path}: two images of the same name; rename or remove one")
        paths[name] = path
    return paths
