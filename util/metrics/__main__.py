"""Compare the images of two folders: ``python -m util.metrics RESULTS TRUTH``."""

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
from util.image_limits import MAX_IMAGE_GB, set_max_image_gb
from util.metrics.measure import Metrics
from util.metrics.names import DEFAULT_METRICS, DOWNLOAD, METRICS, NETWORK_FILES, Metric, parse_names
from util.metrics.summary import write_summary

log = logging.getLogger(__name__)

MAX_NAMES = 3
"""Number of file names that an error message lists."""


def main(argv: list[str]) -> int:
    options = _parse(argv)
    set_max_image_gb(options.max_image_gb)
    metrics = Metrics.load(
        parse_names(options.metrics),
        select_device(options.gpu_ids or "0", explicit=options.gpu_ids is not None),
        {network: getattr(options, f"{network}_weights") for network in NETWORK_FILES},
    )
    if not metrics.names:
        raise UserError(f"--metrics {options.metrics}: there is nothing left to measure")
    results = find_images(options.results, options.suffix_a)
    truth = find_images(options.truth, options.suffix_b)
    rows: list[tuple[str, dict[str, float]]] = []
    if metrics.needs_pairs:
        check_pairs(options, results, truth)
        for name in tqdm(results, disable=None):
            rows.append((name, measure_pair(metrics, name, results[name], truth[name])))
    else:
        for side, images in (("fake", results), ("real", truth)):
            for name, path in tqdm(images.items(), disable=None):
                metrics.update_set(side, read_levels(path), [name])
    summary = metrics.compute()
    log.info("%d and %d images", len(results), len(truth))
    for line in summary.lines():
        log.info("%s", line)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        write_summary(options.out, rows, summary)
    return 0


def find_images(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the images of a folder by name, without extension and `suffix`, in alphabetical order.

    Raises:
        UserError: the folder has no images, or two with the same name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in EXTENSIONS or path.name.startswith(".") or not path.is_file():
            continue
        if not path.stem.endswith(suffix):
            continue
        name = path.stem.removesuffix(suffix)
        if name in images:
            raise UserError(f"{images[name]} and {path}: two images of one name; rename or remove one")
        images[name] = path
    if not images:
        ending = f" whose name ends with {suffix}" if suffix else ""
        raise UserError(f"{folder}: there is no image{ending} in it")
    return images


def check_pairs(options: argparse.Namespace, results: Collection[str], truth: Collection[str]) -> None:
    """Raise a `UserError` if an image of one folder is missing in the other."""
    for folder, names, others in ((options.truth, results, truth), (options.results, truth, results)):
        if missing := [name for name in names if name not in others]:
            listed = ", ".join(missing[:MAX_NAMES]) + (", ..." if len(missing) > MAX_NAMES else "")
            raise UserError(
                f"{folder}: {len(missing)} images have no partner there ({listed}); the images of a pair"
                " have the same name, apart from --suffix_a and --suffix_b"
            )


def measure_pair(metrics: Metrics, name: str, result: Path, truth: Path) -> dict[str, float]:
    """Return the values of one result by metric.

    Raises:
        UserError: the images differ in size.
    """
    fake, real = read_levels(result), read_levels(truth)
    if fake.shape != real.shape:
        sizes = [f"{image.shape[3]} x {image.shape[2]}" for image in (fake, real)]
        raise UserError(f"{result} has {sizes[0]} pixels, {truth} {sizes[1]}: they must be equal")
    values = metrics.update(fake, real, [name])
    return {metric: value.item() for metric, value in values.items()}


def read_levels(path: Path) -> Tensor:
    """Return an image file in RGB, uint8 (1, 3, H, W)."""
    return torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)[None]


def _describe(metric: Metric) -> str:
    direction = "higher" if metric.higher_is_better else "lower"
    unit = f" ({metric.unit})" if metric.unit else ""
    return f"  {metric.name:14} {direction:6} is better{unit}: {metric.protocol}"


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m util.metrics",
        description="Compare the images of two folders, which are paired by name.",
        epilog="metrics:\n" + "\n".join(map(_describe, METRICS.values())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("results", type=Path, help="folder of images")
    parser.add_argument("truth", type=Path, help="folder of images to compare with; may be the same")
    parser.add_argument(
        "--metrics",
        default=DEFAULT_METRICS,
        help=f"some of {', '.join(METRICS)}, separated by commas (default: {DEFAULT_METRICS}); with fid"
        " and kid alone the folders may hold different images",
    )
    parser.add_argument(
        "--suffix_a", default="", help="take results whose name ends with it, such as _fake_B"
    )
    parser.add_argument("--suffix_b", default="", help="take truth whose name ends with it, such as _real_B")
    for network, file in NETWORK_FILES.items():
        parser.add_argument(f"--{network}_weights", default=DOWNLOAD, help=f"download, or the path of {file}")
    parser.add_argument("--gpu_ids", help="which GPU; -1 is the CPU (default: 0, without one the CPU)")
    parser.add_argument(
        "--max_image_gb", type=float, default=MAX_IMAGE_GB, help="memory of one image (default: 0.9)"
    )
    parser.add_argument("--out", type=Path, help="folder to write metrics.json and metrics.csv to")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_command(main))
