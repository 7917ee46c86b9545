"""Pairs of images: two halves of one file, or two files of the same name."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import NamedTuple, Self

from torch import Tensor

from data.base_dataset import BaseDataset, Opened, Sample, Source, files_of
from data.image_folder import find_images, has_images
from data.matching import match_in_order, match_masks, match_names
from data.reading import Half, half_image, read_part
from data.shards import Folder, open_folder
from data.sides import Found, find_files, folder_names, resolve
from data.transforms import Transform
from options.base_options import CommandOptions
from util import formats
from util.errors import UserError
from util.image_io import read_image
from util.parts import Part, Side, Sides

log = logging.getLogger(__name__)

MASK = Side((Part("M", "mask", channels=1),))
HALVES: tuple[Half, Half] = ("left", "right")
WHOLE: tuple[Half, Half] = ("", "")


Pair = tuple[Source, Source]
"""The files of A and of B, the same if one file holds both."""


class Samples(NamedTuple):
    """The files of all samples.

    Attributes:
        pairs: of A and B as in the folders, or of input and output if flags name the folders.
        masks: of the masks; empty without ``--mask``.
        inputs, outputs: the names of the parts of input and output.
    """

    pairs: list[Pair]
    masks: list[str]
    inputs: list[str]
    outputs: list[str]


class AlignedDataset(BaseDataset):
    """Pairs (A, B), cropped and flipped alike.

    These layouts are supported:

    - ``dataroot/<phase>/`` with A and B side by side in one file, A on the left;
    - ``dataroot/<phase>A/``, ``dataroot/<phase>B/`` with files of the same name, whatever their extensions. A
      folder ``<phase>`` without images is ignored beside these two;
    - the folders that ``--inputs`` and ``--outputs`` name, with files of the same name;
    - pix2pixHD's ``dataroot/<phase>_label/``, ``<phase>_img/`` and perhaps ``<phase>_inst/``, or
      ``<phase>_A/`` and ``<phase>_B/``, whose files belong together by name, else in their order.

    With ``--mask``, ``dataroot/<phase>M/`` has a mask of the same name for every pair.

    Args:
        pairs: the files of each pair, A and B as in the folders; the same file twice if it holds both images.
        swap: return B's image as A, for ``--direction BtoA``.
        grey: whether the input and the output are grey, unless `sides` says what they hold.
        masks: the mask of each pair; empty without masks.
    """

    paired = True
    reads_values = True
    reads_masks = True
    reads_scenes = True
    layout = "pairs"

    def __init__(
        self,
        pairs: Sequence[Pair],
        transform: Transform,
        *,
        swap: bool,
        grey: tuple[bool, bool] = (False, False),
        sides: Sides | None = None,
        masks: Sequence[str] = (),
        seed: int,
    ):
        super().__init__(transform, seed)
        self.pairs, self.masks, self.swap = pairs, masks, swap
        self.sides = sides or Sides.of_grey(*grey)

    @classmethod
    def from_options(cls, options: CommandOptions) -> Self:
        run, data = options.run, options.data
        swap, root = data.direction == "BtoA", open_folder(run.dataroot)
        found = find_samples(options, root)
        pairs = found.pairs[: data.max_dataset_size]
        halves = HALVES if pairs[0][0] == pairs[0][1] else WHOLE
        A, B = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        if swap:
            A, B, halves = B, A, halves[::-1]
        sides = resolve(options, Found(found.inputs, A, halves[0]), Found(found.outputs, B, halves[1]))
        transform = Transform.from_options(data)
        return cls(pairs, transform, swap=swap, sides=sides, masks=found.masks, seed=run.seed)

    def __len__(self) -> int:
        return len(self.pairs)

    def sources(self) -> list[list[tuple[str, ...]]]:
        masks: Sequence[Source] = self.masks or [()] * len(self.pairs)
        return [
            [
                files_of(A) + (() if A == B else files_of(B)) + files_of(mask)
                for (A, B), mask in zip(self.pairs, masks, strict=False)
            ]
        ]

    def files_B(self) -> list[str]:
        return [files_of(pair[0 if self.swap else 1])[0] for pair in self.pairs]

    def read(self, index: int, rng: Random) -> Sample:
        opened = self.first_good(self._open, index, len(self))
        (A, B, *mask), box, scene = self.prepare(opened, rng)
        path_A, path_B = opened[0].files[0], opened[1].files[0]
        return Sample(index, A, B, path_A, path_B, mask=mask[0] if mask else None, box=box, scene=scene)

    def _open(self, position: int) -> list[Opened]:
        """Return input, output, and the mask if there is one."""
        A, B = self.pairs[position]
        left, right = (self.sides.B, self.sides.A) if self.swap else (self.sides.A, self.sides.B)
        if A == B:
            (path,) = files_of(A)
            image_A, image_B = self._open_halves(path, left.parts[0], right.parts[0])
            opened = [Opened(left, (path,), (image_A,)), Opened(right, (path,), (image_B,))]
        else:
            opened = [self.open(A, left), self.open(B, right)]
        if self.swap:
            opened.reverse()
        return [*opened, self.open(self.masks[position], MASK)] if self.masks else opened

    def _open_halves(self, path: str, A: Part, B: Part) -> tuple[Tensor, ...]:
        if A.kind == B.kind == "8bit":
            grey_A, grey_B = A.channels == 1, B.channels == 1
            return self.cached(path, f"{grey_A=} {grey_B=}", lambda: self._halves(path, grey_A, grey_B))
        halves = (A, HALVES[0]), (B, HALVES[1])
        return self.cached(
            path, f"{A.text} {B.text}", lambda: tuple(self._half(path, *half) for half in halves)
        )

    def _halves(self, path: str, *grey: bool) -> tuple[Tensor, ...]:
        both = read_image(path)
        return tuple(
            self.transform.scale(half_image(both, path, half), each)
            for half, each in zip(HALVES, grey, strict=True)
        )

    def _half(self, path: str, part: Part, half: Half) -> Tensor:
        if part.kind == "8bit":
            return self.transform.scale(half_image(read_image(path), path, half), part.channels == 1)
        return self.transform.scale_values(read_part(path, part, half), part)


def find_samples(options: CommandOptions, root: Folder) -> Samples:
    """Return the files of every pair, and its mask with ``--mask``.

    Raises:
        UserError: The folder has none of the layouts of `AlignedDataset`, or a file has no partner.
    """
    files, phase = options.files, options.data.phase
    hd = _hd_folders(options, root)
    if hd or files.inputs or files.outputs:
        inputs, outputs = hd or folder_names(options)
        parts = [(name, folder, "input") for name, folder in inputs.items()]
        parts += [(name, folder, "output") for name, folder in outputs.items()]
        folders = [root / f"{phase}{folder}" for _, folder, _ in parts]
        found = [
            (folder, find_files(options, folder, part, flag))
            for folder, (part, _, flag) in zip(folders, parts, strict=True)
        ]
        samples = match_in_order(found) if hd else match_names(found)
        pairs: list[Pair] = [(sample[: len(inputs)], sample[len(inputs) :]) for sample in samples]
        folder_A = folders[0]
    else:
        inputs, outputs = {"A": "A"}, {"B": "B"}
        pairs = [*find_pairs(root, phase, partial(_find_side, options))]
        folder_A = root / (phase if pairs[0][0] == pairs[0][1] else f"{phase}A")
    masks: list[str] = []
    if files.mask:
        folder_M = root / f"{phase}M"
        paths_A = [files_of(A)[0] for A, _ in pairs]
        masks = match_masks(folder_A, paths_A, folder_M, find_files(options, folder_M, "M", "mask"))
    return Samples(pairs, masks, list(inputs), list(outputs))


def hd_folders(root: Folder, phase: str) -> tuple[str, ...]:
    """Return the folders, without the phase, of pix2pixHD's layout; () if it is not that."""
    if (root / f"{phase}A").is_dir():
        return ()
    if (root / f"{phase}_label").is_dir():
        return ("_label", "_inst", "_img") if (root / f"{phase}_inst").is_dir() else ("_label", "_img")
    return ("_A", "_B") if (root / f"{phase}_A").is_dir() else ()


def _hd_folders(options: CommandOptions, root: Folder) -> tuple[dict[str, str], dict[str, str]] | None:
    """Return the folders, without the phase, of the parts in pix2pixHD's layout; None if it is not that.

    Raises:
        UserError: ``--direction BtoA`` with label maps.
    """
    phase, files, swap = options.data.phase, options.files, options.data.direction == "BtoA"
    folders = () if files.inputs or files.outputs else hd_folders(root, phase)
    if "_label" in folders:
        if swap:
            raise UserError(
                f"--direction BtoA: {root / phase}_label is the input; --inputs _img --outputs _label"
                " exchanges the folders"
            )
        edges = files.label_nc and not files.no_instance and "_inst" in folders
        inputs = {"label": "_label"} if files.label_nc else {"A": "_label"}
        return inputs | ({"inst": "_inst"} if edges else {}), {"B": "_img"}
    if folders:
        return {"A": "_B" if swap else "_A"}, {"B": "_A" if swap else "_B"}
    return None


def _find_side(options: CommandOptions, folder: Folder, side: str) -> list[str]:
    """Return the images of side ``A`` or ``B`` of the folders, or those that hold both."""
    parts = [("A", "input"), ("B", "output")]
    if side != "AB":
        return find_files(options, folder, *parts[(side == "A") == (options.data.direction == "BtoA")])
    native = [part for part in parts if options.files.kind(*part) != "8bit"]
    return find_files(options, folder, *(native or parts)[0])


def find_pairs(
    dataroot: Folder,
    phase: str,
    find: Callable[[Folder, str], list[str]] = lambda folder, side: find_images(folder),
) -> list[tuple[str, str]]:
    """Return the files of every pair, in the order of A's names; one file twice if it holds both.

    Args:
        find: returns the images in a folder of side ``A``, ``B``, or of both side by side, ``AB``.

    Raises:
        UserError: The folder has neither layout of `AlignedDataset`, or a file has no partner.
    """
    if not dataroot.is_dir():
        raise UserError(f"--dataroot {dataroot}: there is no such folder")
    folder, folder_A, folder_B = dataroot / phase, dataroot / f"{phase}A", dataroot / f"{phase}B"
    two_folders = folder_A.is_dir() or folder_B.is_dir()
    if not two_folders and not folder.is_dir():
        # The layout that combine_A_and_B.py joins
        separate = (dataroot / "A" / phase).is_dir() or (dataroot / "B" / phase).is_dir()
        advice = "check --dataroot and --phase"
        if separate:
            advice = (
                f"rename A/{phase} to {phase}A and B/{phase} to {phase}B, or use datasets/combine_A_and_B.py"
            )
        raise UserError(
            f"--dataroot {dataroot}: it has neither a folder {phase} (pairs side by side) nor folders"
            f" {phase}A and {phase}B (pairs of files); {advice}"
        )
    if not two_folders or has_images(folder, formats.EXTENSIONS):
        return [(path, path) for path in find(folder, "AB")]

    folders = [(folder_A, find(folder_A, "A")), (folder_B, find(folder_B, "B"))]
    return [(A, B) for A, B in match_names(folders)]
