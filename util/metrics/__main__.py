"""Measures the images of one folder against those of another: what `python -m util.metrics` runs."""

import argparse
import logging
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from util.device import select_device
from util.errors import Parser, UserError, run_command
from util.image_io import EXTENSIONS, read_image
from util.metrics.features import ALEXNET_FILE, DOWNLOAD, INCEPTION_FILE
from util.metrics.measure import DEFAULT_METRICS, HIGHER_IS_BETTER, IMAGE_METRICS, Metrics, parse_names
from util.metrics.summary import write_summary

log = logging.getLogger(__name__)

EXAMPLES = 3
"""How many names a message lists."""


def main(argv: list[str]) -> int:
    options = _parse(argv)
    metrics = Metrics.load(
        parse_names(options.metrics),
        select_device(options.gpu_ids or "0", explicit=options.gpu_ids is not None),
        options.lpips_weights,
        options.inception_weights,
    )
    if not metrics.names:
        raise UserError(f"--metrics {options.metrics}: there is nothing left to measure")
    results = find_images(options.results, options.suffix_a)
    truth = find_images(options.truth, options.suffix_b)
    rows: list[tuple[str, dict[str, float]]] = []
    if set(IMAGE_METRICS) & set(metrics.names):
        check_partners(options, results, truth)
        for name, path in tqdm(results.items(), disable=None):
            fake, real = read(path), read(truth[name])
            if fake.shape != real.shape:
                sizes = [f"{image.shape[3]} x {image.shape[2]}" for image in (fake, real)]
                raise UserError(f"{path} has {sizes[0]} pixels, {truth[name]} {sizes[1]}: they must be equal")
            found = metrics.update(fake, real, [name])
            rows.append((name, {metric: values.item() for metric, values in found.items()}))
    else:
        for side, images in (("fake", results), ("real", truth)):
            for name, path in tqdm(images.items(), disable=None):
                metrics.update_set(side, read(path), [name])
    summary = metrics.compute()
    log.info("%d and %d images", len(results), len(truth))
    for line in summary.lines():
        log.info("%s", line)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        write_summary(options.out, rows, summary)
    return 0


def find_images(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the images in a folder by their names, without the ending and `suffix`, in order.

    Raises:
        UserError: there are none, or two of one name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in EXTENSIONS or path.name.startswith(".") or not path.is_file():
            continue
        if not path.stem.endswith(suffix):
            continue
        name = path.stem.removesuffix(suffix)
        if name in found:
            raise UserError(f"{found[name]} and {path}: two images of one name; rename or remove one")
        found[name] = path
    if not found:
        ending = f" whose name ends with {suffix}" if suffix else ""
        raise UserError(f"{folder}: there is no image{ending} in it")
    return found


def check_partners(options: argparse.Namespace, results: Collection[str], truth: Collection[str]) -> None:
    """Raise a `UserError` if an image has no partner."""
    for folder, mine, others in (
        (options.truth, results, truth),
        (options.results, truth, results),
    ):
        if lonely := [name for name in mine if name not in others]:
            named = ", ".join(lonely[:EXAMPLES]) + (", ..." if len(lonely) > EXAMPLES else "")
            raise UserError(
                f"{folder}: {len(lonely)} images have no partner there ({named}); partners have one name,"
                " apart from --suffix_a and --suffix_b"
            )


def read(path: Path) -> Tensor:
    """Return the image in RGB, uint8 (1, 3, H, W)."""
    return torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)[None]


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m util.metrics",
        description="Compare the images of two folders, which belong together by their names.",
        allow_abbrev=False,
    )
    parser.add_argument("results", type=Path, help="a folder of images")
    parser.add_argument("truth", type=Path, help="what they are compared with; may be the same folder")
    parser.add_argument(
        "--metrics",
        default=DEFAULT_METRICS,
        help=f"some of {', '.join(HIGHER_IS_BETTER)} (default: {DEFAULT_METRICS}); with fid and kid alone the"
        " folders may hold different images",
    )
    parser.add_argument("--suffix_a", default="", help="take the results whose name ends so, such as _fake_B")
    parser.add_argument("--suffix_b", default="", help="take the truth whose name ends so, such as _real_B")
    parser.add_argument("--lpips_weights", default=DOWNLOAD, help=f"download, or the path of {ALEXNET_FILE}")
    parser.add_argument(
        "--inception_weights", default=DOWNLOAD, help=f"download, or the path of {INCEPTION_FILE}"
    )
    parser.add_argument("--gpu_ids", help="which GPU; -1 is the CPU (default: 0, without one the CPU)")
    parser.add_argument("--out", type=Path, help="a folder to write metrics.json and metrics.csv to")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_command(main))
