"""Metrics over all images, in the log and in metrics.json and metrics.csv."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from util.files import write_text
from util.metrics.names import METRICS
from util.text import csv_cell

JSON_FILE, TABLE_FILE = "metrics.json", "metrics.csv"


class Summary(NamedTuple):
    """Metrics over all images, by name.

    Attributes:
        mean: means of the images' finite values, and distances of the sets.
        reference: values of the truth, or of the truth without colour, to compare some means with.
        protocol: how each value was computed.
        left_out: metrics that are missing, or images missing in a mean, with the reason.
        by_channel: means by metric and channel, such as ``mae[4]``; metrics.json has them among the means.
    """

    mean: dict[str, float]
    reference: dict[str, float]
    protocol: dict[str, str]
    left_out: dict[str, str]
    by_channel: dict[str, float] = {}  # noqa: RUF012

    def lines(self) -> Iterable[str]:
        """Yield a line for the log for each value."""
        for name, value in {**self.mean, **self.reference}.items():
            label = METRICS[name].label if name in METRICS else f"Mean {name}"
            yield f"{label}: {value:.4f}"


def write_summary(folder: Path, rows: Sequence[tuple[str, Mapping[str, float]]], summary: Summary) -> None:
    """Write metrics.json and metrics.csv.

    Infinity and NaN, which JSON lacks, are null in metrics.json; metrics.csv has ``inf`` and an empty cell.
    Names in metrics.csv are those of `util.text.csv_cell`.

    Args:
        rows: the name of each image and its values by metric.
    """
    means = {**summary.mean, **summary.by_channel}
    document = {
        "pictures": [
            {"name": name, **{metric: v if math.isfinite(v) else None for metric, v in values.items()}}
            for name, values in rows
        ],
        "mean": means,
        "reference": summary.reference,
        "protocol": summary.protocol,
        "left_out": summary.left_out,
    }
    write_text(folder / JSON_FILE, json.dumps(document, indent=1, allow_nan=False) + "\n")
    columns = list(dict.fromkeys(metric for _, values in (*rows, ("", means)) for metric in values))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["name", *map(csv_cell, columns)])
    for name, values in (*rows, ("mean", means)):
        cells = [values.get(metric, math.nan) for metric in columns]
        writer.writerow([csv_cell(name), *("" if math.isnan(value) else value for value in cells)])
    write_text(folder / TABLE_FILE, table.getvalue())


def remove_summary(folder: Path) -> None:
    """Remove the files of `write_summary`, if they exist."""
    for name in (JSON_FILE, TABLE_FILE):
        (folder / name).unlink(missing_ok=True)
