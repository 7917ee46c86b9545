"""Join the images of trainA and trainB side by side in train, A on the left, and those of val and test.

    python datasets/make_dataset_aligned.py --dataset-path DATA

DATA/trainA and DATA/trainB become DATA/train/0000.jpg, 0001.jpg, ..., DATA/valA and DATA/valB DATA/val, and
so on. Files of the same name belong together. If no name is in both folders, files of the same position
in the order of names do, and a warning says so; as many files are expected in both then.

Files keep their format and their values, see combine_A_and_B.py. Every file without a partner, and every pair
that cannot be joined, is named; the exit status is 1 then.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.folders.flags import add_flags
from data.folders.pairing import list_images, pair_in_order
from data.folders.side_by_side import join_all
from util.errors import Parser, UserError, run_command
from util.image_limits import set_max_image_gb

log = logging.getLogger(__name__)

PHASES = ("test", "train", "val")


def main(argv: list[str]) -> int:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        *("--dataset-path", "--dataset_path"),
        type=Path,
        required=True,
        metavar="DATA",
        help="a folder with trainA and trainB, testA and testB, or valA and valB",
    )
    add_flags(parser, "tiff_pages", "slice_axis", "num_threads", "max_image_gb")
    options = parser.parse_args(argv)
    set_max_image_gb(options.max_image_gb)
    root = options.dataset_path
    if not root.is_dir():
        raise UserError(f"--dataset-path {root}: there is no such folder")
    sides = {phase: (root / f"{phase}A", root / f"{phase}B") for phase in PHASES}
    sides = {phase: folders for phase, folders in sides.items() if any(folder.is_dir() for folder in folders)}
    if not sides:
        raise UserError(f"--dataset-path {root}: neither trainA and trainB in it, nor testA and testB")
    complete = True
    for phase, folders in sides.items():
        pairs = pair_in_order(list_images(folders[0]), list_images(folders[1]), folders)
        numbered = [(f"{number:04d}", *both) for number, both in enumerate(pairs.files.values())]
        complete &= join_all(
            numbered,
            pairs.problems,
            root / phase,
            options.num_threads,
            tiff_pages=options.tiff_pages,
            slice_axis=options.slice_axis,
        )
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
