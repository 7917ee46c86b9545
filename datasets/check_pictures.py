"""List the files of a folder that can be used as images, and what is wrong with the others.

    python datasets/check_pictures.py FOLDER [FOLDER ...]

Every file is decoded as in training. The exit status is 1 if a file with the name of an image cannot be used:
training would replace it (--bad_images skip) or end (--bad_images error).
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.image_folder import files_in, has_image_suffix
from util import console
from util.errors import UserError
from util.image_io import BadImage, read_image
from util.image_limits import MAX_IMAGE_GB, set_max_image_gb
from util.text import printable


def check(path: Path) -> tuple[str, str]:
    """Return ``loaded`` with the size, or ``bad`` or ``ignored`` with the reason."""
    if not has_image_suffix(path.name):
        return "ignored", "hidden" if path.name.startswith(".") else "not named like an image"
    try:
        image = read_image(path)
    except BadImage as error:
        return "bad", str(error).removeprefix(f"{path}: ")
    return "loaded", f"{image.width} x {image.height}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--max_image_gb", type=float, default=MAX_IMAGE_GB, metavar="GB", help="as in training; default: 0.9"
    )
    options = parser.parse_args(argv)
    folders = options.folders
    set_max_image_gb(options.max_image_gb)
    for folder in folders:
        if not folder.is_dir():
            parser.error(printable(f"{folder}: there is no such folder"))
    try:
        found = [sorted(Path(file.path) for file in files_in(folder, hidden=True)) for folder in folders]
    except UserError as error:
        parser.error(printable(str(error)))
    files = [path for paths in found for path in paths]
    counts: Counter[str] = Counter()
    width = max((len(printable(str(path))) for path in files), default=0)
    for path in tqdm(files, disable=None):
        verdict, reason = check(path)
        counts[verdict] += 1
        line = f"{printable(str(path)):{width}}  {verdict:7}  {printable(reason)}"
        tqdm.write(line, file=sys.stdout)
    print(", ".join(f"{counts[verdict]} {verdict}" for verdict in ("loaded", "bad", "ignored")))
    return 1 if counts["bad"] else 0


if __name__ == "__main__":
    console.set_up()
    sys.exit(main())
