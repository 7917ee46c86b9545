"""What metrics say of all images, in a log and in files."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from util.files import write_text

JSON_FILE, TABLE_FILE = "metrics.json", "metrics.csv"

LABELS = {"psnr": "Mean psnr (dB)", "l1": "Mean l1 (0 to 2)", "fid": "fid", "kid": "kid"}
"""What a log calls them."""


class Summary(NamedTuple):
    """What was found of all images, by metric.

    Attributes:
        mean: means of the images' finite values, and distances of the two sets.
        reference: what to compare some of them with: means of the same for the truth.
        protocol: how the numbers came about.
        left_out: metrics that are missing, or images that are missing in a mean, with the reason.
    """

    mean: dict[str, float]
    reference: dict[str, float]
    protocol: dict[str, str]
    left_out: dict[str, str]

    def lines(self) -> Iterable[str]:
        """Yield the values as a log tells them."""
        for name, value in {**self.mean, **self.reference}.items():
            yield f"{LABELS.get(name, f'Mean {name}')}: {value:.4f}"


def write_summary(folder: Path, rows: Sequence[tuple[str, Mapping[str, float]]], summary: Summary) -> None:
    """Write metrics.json and metrics.csv: each image's values by its name, and the `summary`.

    JSON knows neither infinity nor NaN and has null for both; in the table they are ``inf`` and nothing.
    """
    document = {
        "pictures": [
            {"name": name, **{metric: v if math.isfinite(v) else None for metric, v in values.items()}}
            for name, values in rows
        ],
        **summary._asdict(),
    }
    write_text(folder / JSON_FILE, json.dumps(document, indent=1, allow_nan=False) + "\n")
    columns = list(dict.fromkeys(metric for _, values in (*rows, ("", summary.mean)) for metric in values))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["name", *columns])
    for name, values in (*rows, ("mean", summary.mean)):
        cells = [values.get(metric, math.nan) for metric in columns]
        writer.writerow([name, *("" if math.isnan(value) else value for value in cells)])
    write_text(folder / TABLE_FILE, table.getvalue())


def forget_summary(folder: Path) -> None:
    """Remove the files of `write_summary` that an earlier run has left."""
    for name in (JSON_FILE, TABLE_FILE):
        (folder / name).unlink(missing_ok=True)
