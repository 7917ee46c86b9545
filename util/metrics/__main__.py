"""Compare the images of two folders: ``python -m util.metrics RESULTS TRUTH``."""

import argparse
import logging
import sys
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from util import formats
from util.device import select_device
from util.errors import Parser, UserError, run_command
from util.image_io import EXTENSIONS, read_image
from util.image_limits import MAX_IMAGE_GB, set_max_image_gb
from util.metrics.measure import Metrics
from util.metrics.names import (
    DEFAULT_METRICS,
    DOWNLOAD,
    METRICS,
    METRICS_IN_UNITS,
    NETWORK_FILES,
    Metric,
    parse_names,
)
from util.metrics.summary import write_summary
from util.metrics.target import Target
from util.parts import Part, Side, Values, full_range, parse_interval

log = logging.getLogger(__name__)

MAX_NAMES = 3
"""Number of file names that an error message lists."""


def main(argv: list[str]) -> int:
    options = _parse(argv)
    set_max_image_gb(options.max_image_gb)
    in_8_bits = options.data_range == "8bit"
    if options.metrics is None:
        options.metrics = DEFAULT_METRICS if in_8_bits else ",".join((DEFAULT_METRICS, *METRICS_IN_UNITS))
    names = parse_names(options.metrics)
    find = find_images if in_8_bits else partial(find_any_images, options)
    results, truth = find(options.results, options.suffix_a), find(options.truth, options.suffix_b)
    target = Target() if in_8_bits else target_of(options.data_range, next(iter(truth.values())))
    metrics = Metrics.load(
        names,
        select_device(options.gpu_ids or "0", explicit=options.gpu_ids is not None),
        {network: getattr(options, f"{network}_weights") for network in NETWORK_FILES},
        target,
    )
    if not metrics.names:
        raise UserError(f"--metrics {options.metrics}: there is nothing left to measure")
    rows: list[tuple[str, dict[str, float]]] = []
    if metrics.needs_pairs:
        check_pairs(options, results, truth)
        for name in tqdm(results, disable=None):
            rows.append((name, measure_pair(metrics, name, results[name], truth[name])))
    else:
        for side, images in (("fake", results), ("real", truth)):
            for name, path in tqdm(images.items(), disable=None):
                metrics.update_set(side, read(path, target), [name])
    summary = metrics.compute()
    log.info("%d and %d images", len(results), len(truth))
    for line in summary.lines():
        log.info("%s", line)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        write_summary(options.out, rows, summary)
    return 0


def find_images(folder: Path, suffix: str) -> dict[str, str]:
    """Return the images of a folder by name, without extension and `suffix`, in alphabetical order.

    Raises:
        UserError: the folder has no images, or two with the same name.
    """
    files = [path for path in files_of(folder) if path.suffix.lower() in EXTENSIONS]
    images = [(path.stem.removesuffix(suffix), str(path)) for path in files if path.stem.endswith(suffix)]
    return by_name(images, folder, suffix)


def find_any_images(options: argparse.Namespace, folder: Path, suffix: str) -> dict[str, str]:
    """Return the images in the files of a folder, of any format and depth, as `find_images` does.

    A file that holds several is named after itself without `suffix`, and after each of them.

    Raises:
        UserError: the folder has no images, or two with the same name.
    """
    images: list[tuple[str, str]] = []
    for path in files_of(folder):
        file_name = formats.name_of(str(path))
        if not formats.is_image_file(str(path)) or not file_name.endswith(suffix):
            continue
        for entry in formats.entries([str(path)], options.tiff_pages, options.slice_axis):
            number = formats.name_of(entry).removeprefix(file_name)
            images.append((file_name.removesuffix(suffix) + number, entry))
    return by_name(images, folder, suffix)


def files_of(folder: Path) -> list[Path]:
    """Return the files of a folder in alphabetical order, without those whose name begins with a dot.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.is_file()]


def by_name(images: Iterable[tuple[str, str]], folder: Path, suffix: str) -> dict[str, str]:
    """Return the paths of a folder's images by name.

    Raises:
        UserError: there are none, or two with the same name.
    """
    paths: dict[str, str] = {}
    for name, path in images:
        if name in paths:
            raise UserError(f"{paths[name]} and {path}: two images of the same name; rename or remove one")
        paths[name] = path
    if not paths:
        ending = f" whose name ends with {suffix}" if suffix else ""
        files = [str(path) for path in files_of(folder) if formats.is_image_file(str(path))]
        others = [Path(file).name for file in files if formats.name_of(file).endswith(suffix)]
        hint = f"; files such as {others[0]} are read with --data_range" if others else ""
        raise UserError(f"{folder}: there is no image{ending} in it{hint}")
    return paths


def target_of(data_range: str, path: str) -> Target:
    """Return the target with the channels and the type of an image and the range in ``--data_range``.

    Raises:
        UserError: it is not a range.
    """
    header = formats.header(path)
    interval = full_range(header.dtype) if data_range == "full" else parse_interval(data_range)
    if interval is None:
        raise UserError(
            f"--data_range {data_range}: expected 8bit, full, or an interval such as 0,4095 or -1000,3000"
        )
    if data_range == "full" and header.dtype == "float32":
        image = formats.read(path)
        if not (image.min() >= 0 and image.max() <= 1):
            raise UserError(
                f"--data_range full: floating point lies in 0..1, but {path} has values from {image.min():g}"
                f" to {image.max():g}; give the interval, such as --data_range -1000,3000"
            )
    values = Values(header.dtype, *interval)
    return Target(Side((Part("B", "values", channels=header.channels, values=values),)))


def check_pairs(options: argparse.Namespace, results: Collection[str], truth: Collection[str]) -> None:
    """Raise a `UserError` if an image of one folder is missing in the other."""
    for folder, names, others in ((options.truth, results, truth), (options.results, truth, results)):
        if missing := [name for name in names if name not in others]:
            listed = ", ".join(missing[:MAX_NAMES]) + (", ..." if len(missing) > MAX_NAMES else "")
            raise UserError(
                f"{folder}: {len(missing)} images have no partner there ({listed}); the images of a pair"
                " have the same name, apart from --suffix_a and --suffix_b"
            )


def measure_pair(metrics: Metrics, name: str, result: str, truth: str) -> dict[str, float]:
    """Return the values of one result by metric.

    Raises:
        UserError: the images differ in size.
    """
    fake, real = (read(path, metrics.target) for path in (result, truth))
    if fake.shape != real.shape:
        sizes = [f"{image.shape[3]} x {image.shape[2]}" for image in (fake, real)]
        raise UserError(f"{result} has {sizes[0]} pixels, {truth} {sizes[1]}: they must be equal")
    values = metrics.update(fake, real, [name])
    return {metric: value.item() for metric, value in values.items()}


def read(path: str, target: Target) -> Tensor:
    """Return an image in RGB, uint8 (1, 3, H, W), or in the file's units, float64 (1, C, H, W).

    Raises:
        UserError: it has another number of channels than the target.
    """
    if target.is_rgb:
        return torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)[None]
    image = formats.read(path)
    if len(image) != target.side.channels:
        raise UserError(
            f"{path}: has {len(image)} channels, the first image of the truth {target.side.channels}"
        )
    return torch.from_numpy(image.astype(np.float64))[None]


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
        help=f"some of {', '.join(METRICS)}, separated by commas (default: {DEFAULT_METRICS}, with"
        f" --data_range also {','.join(METRICS_IN_UNITS)}); with fid and kid alone the folders may hold"
        " different images",
    )
    parser.add_argument(
        "--data_range",
        default="8bit",
        help="8bit reads RGB with 8 bits, whatever the files hold (default); the others compare the files'"
        " own values, which are not clipped: full, the whole range of an integer type (0..1 of floating"
        " point), or an interval LO,HI in the files' units",
    )
    parser.add_argument(
        "--tiff_pages",
        default="samples",
        choices=("samples", "channels"),
        help="with --data_range: pages of a TIFF file are images, or channels of one (default: samples)",
    )
    parser.add_argument(
        "--slice_axis",
        type=int,
        default=2,
        choices=(0, 1, 2),
        help="with --data_range: axis of a volume along which its slices are the images (default: 2)",
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
