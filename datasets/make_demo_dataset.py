"""Draw a small paired data set of façades, packed side by side as pix2pix expects.

    python datasets/make_demo_dataset.py --out datasets/demo --train 200 --val 20 --test 20 --size 128

OUT/train, OUT/val and OUT/test receive 0001.png, 0002.png, ... Each file is 2 * size wide and size high: the
left half (A) is the photo, the right half (B) the label map.
"""

import argparse
import logging
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.facades import SPLITS, write_pairs
from util import console

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 after one line on stderr about a wrong value."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("datasets/demo"), help="folder to write to")
    for split, count in zip(SPLITS, (200, 20, 20), strict=True):
        parser.add_argument(f"--{split}", type=int, default=count, help=f"number of {split} images")
    parser.add_argument("--size", type=int, default=128, help="height and half the width, in pixels")
    parser.add_argument("--seed", type=int, default=0, help="images with the same seed are the same")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        counts = {split: getattr(options, split) for split in SPLITS}
        write_pairs(options.out, counts, options.size, options.seed)
    except (OSError, ValueError) as error:
        print(f"make_demo_dataset: error: {error}", file=sys.stderr)
        return 2
    edge = 256 if options.size >= 256 else 128  # the sizes of the networks; loading scales other images
    flags = f"--model pix2pix --direction BtoA --netG unet_{edge} --load_size {edge} --crop_size {edge}"
    folder = shlex.quote(str(options.out))
    log.info("Train on it with:\n  python train.py --dataroot %s --name demo %s", folder, flags)
    return 0


if __name__ == "__main__":
    console.set_up()
    sys.exit(main())
