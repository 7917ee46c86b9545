"""Time Lab conversion beside scikit-image, and a colorization item beside an RGB item, on one thread.

    python scripts/benchmark_color.py [--size 256] [--rounds 30]

Both alternate in one process; medians and their ratio are printed.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import color

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.colorization_dataset import ColorizationDataset
from data.single_dataset import SingleDataset
from data.transforms import Transform
from util import console
from util.color import lab_to_rgb, rgb_to_lab

CALLS = 10


def compare(name: str, theirs: Callable[[], object], ours: Callable[[], object], rounds: int) -> None:
    """Print the median milliseconds of two alternating functions, and how many times faster ours is.

    Each turn has several calls, so that most of them do not start with the other function's caches and heap.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for function, times in zip((theirs, ours), seconds, strict=True):
            for _ in range(CALLS):
                began = time.perf_counter()
                function()
                times.append(time.perf_counter() - began)
    a, b = (statistics.median(times[CALLS:]) * 1000 for times in seconds)
    print(f"{name:42} {a:8.3f} ms {b:8.3f} ms   x{a / b:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=int, default=256, help="side of the image in pixels (default: 256)")
    parser.add_argument("--rounds", type=int, default=30, help="turns per function (default: 30)")
    options = parser.parse_args()
    torch.set_num_threads(1)

    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    image = coarse.resize((options.size, options.size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    lab = color.rgb2lab(pixels)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    lab_tensor = rgb_to_lab(tensor)

    print(f"{'':42} {'scikit-image':>11} {'ours':>11}   ratio")
    compare("sRGB to Lab", lambda: color.rgb2lab(pixels), lambda: rgb_to_lab(tensor), options.rounds)
    compare("Lab to sRGB", lambda: color.lab2rgb(lab), lambda: lab_to_rgb(lab_tensor), options.rounds)

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "image.png"))
        image.save(path)
        transform = Transform("resize_and_crop", 286, 256, flip=True)
        plain = SingleDataset([path], transform, grey=False, seed=0)
        coloured = ColorizationDataset([path], transform, keep_grey=False, seed=0)
        print(f"{'':42} {'plain':>11} {'Lab':>11}   ratio")
        compare("a data item", lambda: plain[1, 0], lambda: coloured[1, 0], options.rounds)


if __name__ == "__main__":
    console.set_up()
    main()
