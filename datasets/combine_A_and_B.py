"""Join images of two folders side by side, A on the left, as pix2pix reads them.

    python datasets/combine_A_and_B.py --fold_A DATA/A --fold_B DATA/B --fold_AB DATA

Every folder in --fold_A is a split, such as train, val and test: DATA/A/train/1.png and DATA/B/train/1.png
become DATA/train/1.png. With --use_AB, 1_A.png and 1_B.png become 1.png. Partners may have different
extensions.

Files keep their format and their values: 8 and 16 bits, floating point, any number of channels. JPEG files
are decoded and saved again, with quality 95 and without reduced colour; the result of a JPEG file and a
lossless one is lossless. Channels are made equal for grey and colour, and for transparency. Pairs that differ
in size, type of values, or otherwise in channels are not joined: train on them in two folders (DATA/trainA
and DATA/trainB).

Every file without a partner, and every pair that cannot be joined, is named; the exit status is 1 then.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.folders.flags import add_flags
from data.folders.pairing import Names, Pairs, list_images, pair_by_name
from data.folders.side_by_side import join_all
from util.errors import Parser, UserError, run_command
from util.formats import EXTENSIONS, stem
from util.image_limits import set_max_image_gb

log = logging.getLogger(__name__)


def find_splits(fold_A: Path, fold_B: Path) -> list[str]:
    """Return the names of the folders in either folder.

    Raises:
        UserError: There is no such folder, or no folder of a split in it.
    """
    for flag, folder in (("--fold_A", fold_A), ("--fold_B", fold_B)):
        if not folder.is_dir():
            raise UserError(f"{flag} {folder}: there is no such folder")
    folders = [path for fold in (fold_A, fold_B) for path in fold.iterdir() if path.is_dir()]
    splits = {path.name for path in folders if not path.name.startswith(".")}
    if not any((fold_A / split).is_dir() for split in splits):
        raise UserError(
            f"--fold_A {fold_A}: no folders in it; each is a split, such as {fold_A / 'train'} with images,"
            f" whose partners are in {fold_B / 'train'}"
        )
    return sorted(splits)


def loose_images(*folders: Path) -> list[Path]:
    """Return the images that are in the folders themselves."""
    paths = sorted(path for folder in folders for path in folder.iterdir() if path.is_file())
    return [path for path in paths if path.name.lower().endswith(EXTENSIONS)]


def pairs_of_split(fold_A: Path, fold_B: Path, use_AB: bool) -> Pairs:
    """Return the pairs of a split by the name of their result, and what is wrong with other files."""
    named_A, named_B = list_images(fold_A), list_images(fold_B)
    if not use_AB:
        return pair_by_name(named_A, named_B, (fold_A, fold_B))
    marked_A, others_A = _marked(named_A, "_A")
    marked_B, others_B = _marked(named_B, "_B")
    # One folder may have both sides.
    others = others_A & others_B if fold_A.resolve() == fold_B.resolve() else others_A | others_B
    problems = [f"{path}: its name ends in neither _A nor _B (--use_AB); left out" for path in sorted(others)]
    pairs = pair_by_name(marked_A, marked_B, (fold_A, fold_B))
    return Pairs(pairs.files, problems + pairs.problems)


def _marked(named: Names, mark: str) -> tuple[Names, set[str]]:
    """Return the files whose names have a mark at the end, by their names without it, and the others."""
    marked, others = {}, set[str]()
    for name, path in named.items():
        base = stem(name)
        if base.endswith(mark):
            marked[base.removesuffix(mark) + name[len(base) :]] = path
        else:
            others.add(path)
    return marked, others


def main(argv: list[str]) -> int:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--fold_A", type=Path, required=True, help="a folder with a folder of images per split"
    )
    parser.add_argument("--fold_B", type=Path, required=True, help="the same for the partners of the images")
    parser.add_argument("--fold_AB", type=Path, required=True, help="the folder to write to")
    parser.add_argument(
        "--num_imgs", type=int, default=1000000, help="pairs of each split at most; default: 1000000"
    )
    parser.add_argument("--use_AB", action="store_true", help="pair 1_A.png with 1_B.png: they become 1.png")
    parser.add_argument("--no_multiprocessing", action="store_true", help="the same as --num_threads 1")
    add_flags(parser, "tiff_pages", "slice_axis", "num_threads", "max_image_gb")
    options = parser.parse_args(argv)
    fold_A, fold_B, fold_AB = options.fold_A, options.fold_B, options.fold_AB
    if options.num_imgs < 1:
        raise UserError(f"--num_imgs {options.num_imgs}: expected 1 or more")
    for flag, folder in (("--fold_A", fold_A), ("--fold_B", fold_B)):
        if folder.resolve() in (fold_AB.resolve(), *fold_AB.resolve().parents):
            raise UserError(f"--fold_AB {fold_AB}: is in {flag} {folder}; name another folder")
    if fold_A.resolve() == fold_B.resolve() and not options.use_AB:
        raise UserError(f"--fold_B {fold_B}: is --fold_A; if it has both 1_A.png and 1_B.png, use --use_AB")
    set_max_image_gb(options.max_image_gb)
    processes = 1 if options.no_multiprocessing else options.num_threads
    complete = not (loose := loose_images(fold_A, fold_B))
    for path in loose:
        log.warning("%s: is in no folder of a split; left out", path)
    for split in find_splits(fold_A, fold_B):
        pairs = pairs_of_split(fold_A / split, fold_B / split, options.use_AB)
        files = [(stem(name), *both) for name, both in pairs.files.items()][: options.num_imgs]
        if len(files) < len(pairs.files):
            log.info("%s: %d of %d pairs (--num_imgs)", split, len(files), len(pairs.files))
        complete &= join_all(
            files,
            pairs.problems,
            fold_AB / split,
            processes,
            tiff_pages=options.tiff_pages,
            slice_axis=options.slice_axis,
        )
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
