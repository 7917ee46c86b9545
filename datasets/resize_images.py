"""Scale all images of a folder and its subfolders, antialiased, with their depth, format and names kept.

    python datasets/resize_images.py DATA DATA_256 --size 256
    python datasets/resize_images.py DATA DATA_512 --short_side 512 --nearest train_label train_inst

Images are scaled by a bicubic filter: 8-bit images as --exact_resize does, others in floating point.
--nearest takes the nearest pixels instead, as label maps and instance maps need: class numbers and palettes
stay as they are.

The same command continues an interrupted one: results that are there are kept, unless their image or the
flags have changed since. Files appear under their names when they are complete. Every image that cannot be
read is named; the exit status is 1 then.
"""

import argparse
import logging
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.folders.flags import add_flags
from data.folders.resizing import Target, resize_folder
from util.errors import Parser, UserError, run_command
from util.image_limits import set_max_image_gb

log = logging.getLogger(__name__)


def size(text: str) -> tuple[int, int]:
    """Return width and height of a text such as ``256`` or ``512x256``."""
    match = re.fullmatch(r"(\d+)(?:[x,](\d+))?", text)
    if match is None or not int(match[1]) or not int(match[2] or 1):
        raise UserError(f"--size {text}: expected pixels, such as 256 or 512x256 (width x height)")
    return int(match[1]), int(match[2] or match[1])


def main(argv: list[str]) -> int:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder with the images")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write to")
    sizes = parser.add_mutually_exclusive_group(required=True)
    sizes.add_argument("--size", type=size, metavar="W[xH]", help="width and height; one number for both")
    sizes.add_argument("--width", type=int, help="width; the aspect ratio is kept, as with those that follow")
    sizes.add_argument("--short_side", type=int, help="the shorter side")
    sizes.add_argument("--long_side", type=int, help="the longer side")
    sizes.add_argument("--scale", type=float, help="a factor, such as 0.5")
    parser.add_argument("--only_shrink", action="store_true", help="keep the size of smaller images")
    parser.add_argument(
        "--pairs",
        action="store_true",
        help="files hold two images side by side, A and B: sizes are those of one, and each is scaled alone",
    )
    parser.add_argument(
        "--nearest",
        nargs="*",
        metavar="SUBFOLDER",
        help="take the nearest pixels in these subfolders, or in all: label maps, instance maps",
    )
    add_flags(parser, "num_threads", "max_image_gb")
    options = parser.parse_args(argv)
    folder, out = options.folder, options.out
    for flag in ("width", "short_side", "long_side", "scale"):
        value = getattr(options, flag)
        if value is not None and not 0 < value < 1e6:
            raise UserError(f"--{flag} {value}: expected a number above 0")
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
        raise UserError(
            f"{out}: is in {folder}, so that results would be images to scale; name another folder"
        )
    nearest = [folder / name for name in options.nearest or ()]
    if absent := [path for path in nearest if not path.is_dir()]:
        raise UserError(f"--nearest: {absent[0]}: there is no such folder")
    if options.nearest == []:
        nearest = [folder]
    set_max_image_gb(options.max_image_gb)
    target = Target(
        options.size,
        options.width,
        options.short_side,
        options.long_side,
        options.scale,
        options.only_shrink,
    )
    return 0 if resize_folder(folder, out, target, nearest, options.pairs, options.num_threads) else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
