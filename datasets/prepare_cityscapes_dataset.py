"""Make pairs of photos (A) and label colours (B) from the archives of Cityscapes.

    python datasets/prepare_cityscapes_dataset.py --gtFine_dir gtFine --leftImg8bit_dir leftImg8bit \\
        --output_dir datasets/cityscapes

Download gtFine_trainvaltest.zip and leftImg8bit_trainvaltest.zip from https://www.cityscapes-dataset.com and
unpack them. Images are scaled to 256 x 256 and written as JPEG with quality 100: train/0.jpg (side by side,
for pix2pix), trainA/0_A.jpg and trainB/0_B.jpg (for cycle_gan), and test, testA, testB from Cityscapes' val.

The exit status is 1 if an image has no partner, or cannot be read; each is named.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import NamedTuple

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.folders.flags import add_flags
from data.folders.parallel import run_jobs
from util.errors import Parser, UserError, run_command
from util.files import write_atomically
from util.image_io import read_image

log = logging.getLogger(__name__)

SIZE = 256
PHOTO, LABELS = "_leftImg8bit.png", "_gtFine_color.png"
PHASES = {"val": "test", "train": "train"}


class Pair(NamedTuple):
    """The files of a pair, and where it is written: the folder without A or B, and the number."""

    photo: Path
    labels: Path
    out: Path
    number: int

    def __str__(self) -> str:
        return f"{self.photo} and {self.labels}"


def find(folder: Path, phase: str, ending: str, flag: str) -> dict[str, Path]:
    """Return the images of a phase by city and name, without the ending of their names."""
    paths = {
        str(path.relative_to(folder / phase)).removesuffix(ending): path
        for path in sorted((folder / phase).glob(f"*/*{ending}"), key=str)
    }
    if not paths:
        raise UserError(
            f"{flag} {folder}: no images {phase}/CITY/NAME{ending} in it; it is the unpacked folder of"
            f" {'gtFine' if ending == LABELS else 'leftImg8bit'}_trainvaltest.zip"
        )
    return paths


def write_pair(pair: Pair) -> bool:
    """Write a pair side by side, and both images."""
    photo, labels = (read_image(path).resize((SIZE, SIZE)) for path in (pair.photo, pair.labels))
    both = Image.new("RGB", (2 * SIZE, SIZE))
    both.paste(photo, (0, 0))
    both.paste(labels, (SIZE, 0))
    _save(both, pair.out / f"{pair.number}.jpg")
    _save(photo, pair.out.with_name(f"{pair.out.name}A") / f"{pair.number}_A.jpg")
    _save(labels, pair.out.with_name(f"{pair.out.name}B") / f"{pair.number}_B.jpg")
    return True


def _save(image: Image.Image, path: Path) -> None:
    write_atomically(path, lambda file: image.save(file, "JPEG", quality=100, subsampling=0))


def main(argv: list[str]) -> int:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--gtFine_dir", type=Path, required=True, help="the unpacked folder gtFine")
    parser.add_argument("--leftImg8bit_dir", type=Path, required=True, help="the unpacked folder leftImg8bit")
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder to write to")
    add_flags(parser, "num_threads")
    options = parser.parse_args(argv)
    pairs: list[Pair] = []
    unpaired = 0
    for phase, name in PHASES.items():
        photos = find(options.leftImg8bit_dir, phase, PHOTO, "--leftImg8bit_dir")
        labels = find(options.gtFine_dir, phase, LABELS, "--gtFine_dir")
        for key in sorted(photos.keys() ^ labels.keys()):
            path = photos.get(key) or labels[key]
            log.warning("%s: has no partner *%s; left out", path, LABELS if key in photos else PHOTO)
            unpaired += 1
        names = [key for key in labels if key in photos]
        pairs += [Pair(photos[key], labels[key], options.output_dir / name, n) for n, key in enumerate(names)]
        for side in ("", "A", "B"):
            (options.output_dir / f"{name}{side}").mkdir(parents=True, exist_ok=True)
    written = sum(result is not None for result in run_jobs(write_pair, pairs, options.num_threads, "pair"))
    failed = len(pairs) - written
    log.info(
        "%s: %d pairs; %d images without a partner, %d pairs not written",
        *(options.output_dir, written, unpaired, failed),
    )
    return 1 if unpaired or failed else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
