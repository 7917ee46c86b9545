"""Curves of several runs in one chart: static SVG, which needs no script."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scripts.comparison.runs import Series

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 8, 24
MOST_POINTS = 60
"""A curve has at most so many points; each is the mean of the records up to it."""

Points = NDArray[np.float64]
"""(N,): a curve's values at N places that all curves of a chart share; NaN where there is none."""


class CurveGroup(NamedTuple):
    """The curves of one group's runs: its number, which decides colour and dashes, and its name."""

    number: int
    label: str
    series: Sequence[Series]


def chart(groups: Sequence[CurveGroup]) -> str:
    """Return an SVG with a thin line for every run and a thick one for each group's mean.

    The mean is drawn as far as all runs of a group have got.
    """
    every = [series for group in groups for series in group.series]
    end = max(max(series.epochs) for series in every)
    count = min(MOST_POINTS, max(len(series.epochs) for series in every))
    curves = {group.number: [resample(series, end, count) for series in group.series] for group in groups}
    finite = np.concatenate([points[np.isfinite(points)] for each in curves.values() for points in each])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    frame = _Frame(end, low, high)
    parts = [frame.grid()]
    thin = [_line(frame, points, group, "run") for group in groups for points in curves[group.number]]
    thick = [_line(frame, np.mean(curves[group.number], axis=0), group, "mean") for group in groups]
    content = "".join([*parts, *thin, *thick])
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{content}</svg>'


def resample(series: Series, end: float, count: int) -> Points:
    """Return a curve at `count` places up to the epoch `end`: the mean of the records since the place before.

    Where there are no records between two places, the curve goes straight on; before its first and after its
    last record, and where no record is finite, it is NaN.
    """
    epochs, values = np.asarray(series.epochs), np.asarray(series.values, dtype=np.float64)
    width = end / count
    places = np.clip(np.ceil(epochs / width - 1e-9).astype(int) - 1, 0, count - 1)
    good = np.isfinite(values)
    sums = np.bincount(places[good], values[good], minlength=count)
    numbers = np.bincount(places[good], minlength=count)
    points = np.divide(sums, numbers, out=np.full(count, math.nan), where=numbers > 0)
    empty = np.bincount(places, minlength=count) == 0
    inner = empty & (np.arange(count) > places.min()) & (np.arange(count) < places.max())
    known = np.flatnonzero(numbers)
    if known.size:
        points[inner] = np.interp(np.flatnonzero(inner), known, points[known])
    return points


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers from `low` to `high`, with at most `most` steps between them."""
    exact = (high - low) / most
    power = 10.0 ** math.floor(math.log10(exact))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= exact * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


class _Frame(NamedTuple):
    """What a chart shows: epochs from 0 to `end`, values from `low` to `high`."""

    end: float
    low: float
    high: float

    def x(self, epoch: float) -> float:
        return LEFT + epoch / self.end * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def grid(self) -> str:
        """Return lines and numbers for both axes."""
        parts = []
        for value in ticks(self.low, self.high, 6):
            y = self.y(value)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
        for epoch in ticks(0, self.end, 6):
            anchor = "end" if self.x(epoch) > WIDTH - 20 else "middle"
            parts.append(
                f'<text x="{self.x(epoch):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{epoch:.4g}</text>'
            )
        return "".join(parts)


def _line(frame: _Frame, points: Points, group: CurveGroup, kind: str) -> str:
    """Return one curve, with gaps where it is NaN; a point between two gaps is a dot."""
    width = frame.end / len(points)
    path, pen = [], "M"
    for place, value in enumerate(points):
        if math.isnan(value):
            pen = "M"
            continue
        path.append(f"{pen}{frame.x((place + 1) * width):.1f} {frame.y(value):.1f}")
        alone = pen == "M" and (place + 1 == len(points) or math.isnan(points[place + 1]))
        path.append("h0" if alone else "")
        pen = "L"
    title = f"<title>{escape(group.label)}</title>"
    return f'<path class="{kind} {classes(group.number)}" d="{"".join(path)}">{title}</path>'


def classes(number: int) -> str:
    """Return the classes of a group's curves: a colour, dashes after all colours, and its own."""
    return f"group-{number} color-{number % 8} dashes-{number // 8 % 4}"


def by_name(runs: Sequence[Mapping[str, Series]]) -> list[str]:
    """Return the names of all runs' curves, in the order in which they come."""
    return list(dict.fromkeys(name for run in runs for name in run))
