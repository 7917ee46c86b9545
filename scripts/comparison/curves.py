"""The data of charts that show curves of several runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.comparison.runs import Series

MAX_POINTS = 100
"""Points of a curve; each is the mean of the records since the point before."""

Points = NDArray[np.float64]
"""(N,): a curve's values at N positions that all curves of a chart share; NaN where there is none."""


def chart(name: str, groups: Sequence[Sequence[Mapping[str, Series]]]) -> dict[str, Any]:
    """Return the curves `name` of all runs as JSON for the page's script.

    Args:
        groups: for each group the curves by name of its runs.
    """
    curves = {
        str(number): [run[name] for run in runs if name in run]
        for number, runs in enumerate(groups)
        if any(name in run for run in runs)
    }
    every = [series for of_group in curves.values() for series in of_group]
    end = max(max(series.epochs) for series in every)
    count = min(MAX_POINTS, max(len(series.epochs) for series in every))
    runs = {
        number: [[_number(value) for value in resample(series, end, count)] for series in of_group]
        for number, of_group in curves.items()
    }
    return {"name": name, "end": end, "count": count, "runs": runs}


def resample(series: Series, end: float, count: int) -> Points:
    """Return a curve at `count` evenly spaced positions up to the epoch `end`.

    Each value is the mean of the records since the position before. Between two positions without records
    the curve is interpolated linearly. Before its first and after its last record, and where no record is
    finite, it is NaN.
    """
    epochs, values = np.asarray(series.epochs), np.asarray(series.values, dtype=np.float64)
    width = end / count or 1.0
    places = np.clip(np.ceil(epochs / width - 1e-9).astype(int) - 1, 0, count - 1)
    finite = np.isfinite(values)
    sums = np.bincount(places[finite], values[finite], minlength=count)
    numbers = np.bincount(places[finite], minlength=count)
    points = np.divide(sums, numbers, out=np.full(count, math.nan), where=numbers > 0)
    empty = np.bincount(places, minlength=count) == 0
    inner = empty & (np.arange(count) > places.min()) & (np.arange(count) < places.max())
    known = np.flatnonzero(numbers)
    if known.size:
        points[inner] = np.interp(np.flatnonzero(inner), known, points[known])
    return points


def curve_names(runs: Sequence[Mapping[str, Series]]) -> list[str]:
    """Return the names of all curves of the runs, in the order in which they first occur."""
    return list(dict.fromkeys(name for run in runs for name in run))


def _number(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None
