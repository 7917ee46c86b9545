"""Runs side by side: what they were trained with, what they lost and measured, summed up over seeds."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from options.option import cosmetic_flags
from options.train_options import TrainOptions
from util.errors import UserError
from util.metrics.names import HIGHER_IS_BETTER

WITHOUT_EFFECT = cosmetic_flags(TrainOptions.groups().values())
"""Flags of train.py that leave what a run learns as it is."""

Values = Mapping[str, Any]
Images = dict[str, dict[str, Path]]
"""The files of images, by sample and label."""


class Series(NamedTuple):
    """One curve of a run: epochs, which count from 0 at its start, and values."""

    epochs: list[float]
    values: list[float]


@dataclass(frozen=True)
class TrainedRun:
    """One run, as its files tell of it.

    Attributes:
        flags: train.py's, by name, as train_opt.json has them.
        losses, validation: curves, by name.
        metrics: of the whole test, by name; empty where nothing was measured.
        images: those of its gallery.
        missing: what it lacks, for the reader; empty if it is complete.
    """

    name: str
    flags: Values
    losses: Mapping[str, Series] = field(default_factory=dict)
    validation: Mapping[str, Series] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    images: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    missing: str = ""


class Statistic(NamedTuple):
    """A metric over runs: their number, mean, sample standard deviation (None for a single run)."""

    n: int
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class RunGroup:
    """Runs whose flags agree but for the seed.

    Attributes:
        label: the flags that distinguish it, for the reader.
        differing: these flags' values, by name.
    """

    label: str
    differing: Values
    runs: tuple[TrainedRun, ...]

    @property
    def measured(self) -> list[TrainedRun]:
        """The runs that have metrics."""
        return [run for run in self.runs if run.metrics]

    def statistic(self, metric: str) -> Statistic | None:
        """Return a metric over the group's runs that have it; None if none has."""
        values = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        if not values:
            return None
        with np.errstate(invalid="ignore"):  # an infinite PSNR has no deviation
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            return Statistic(len(values), float(np.mean(values)), deviation)


def read_flags(folder: Path) -> dict[str, Any]:
    """Return what train_opt.json of a run's folder says.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = folder / "train_opt.json"
    if not path.exists():
        raise UserError(f"{folder}: no run of train.py, which would have a train_opt.json there")
    flags = _read_json(path)
    if not isinstance(flags, dict):
        raise UserError(f"{path}: expected an object with flags and their values")
    return flags


def read_run(name: str, folder: Path, results: Path | None, flags: Values, missing: str = "") -> TrainedRun:
    """Return what the files of a run tell.

    Args:
        folder: that of its checkpoints.
        results: that of its gallery, with metrics.json where something was measured; None: not to be shown.
        flags: train.py's.
        missing: what is known to be missing; else it is looked for.
    """
    metrics = read_metrics(results / "metrics.json") if results else {}
    images = read_images(results) if results else {}
    if not missing and not images and not metrics:
        missing = f"no test results in {results}"
    return TrainedRun(
        name,
        flags,
        read_series(folder / "losses.jsonl", "losses"),
        read_series(folder / "metrics.jsonl", "metrics"),
        metrics,
        images,
        missing,
    )


def read_series(path: Path, key: str) -> dict[str, Series]:
    """Return the curves of a log with an object a line, whose `key` has values by name; {} without a file.

    A last line that is being written just now is left out.
    """
    found: dict[str, Series] = {}
    if not path.exists():
        return found
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            break
        epoch = record["epoch"] - 1 + record.get("epoch_fraction", 1.0)
        for name, value in record[key].items():
            series = found.setdefault(name, Series([], []))
            series.epochs.append(epoch)
            series.values.append(math.nan if value is None else value)
    return found


def read_metrics(path: Path) -> dict[str, float]:
    """Return the means that test.py's metrics.json has; {} without a file."""
    if not path.exists():
        return {}
    content = _read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("mean"), dict):
        raise UserError(f'{path}: expected an object with "mean"; test.py makes it anew')
    return {name: float(value) for name, value in content["mean"].items() if value is not None}


class _GalleryReader(HTMLParser):
    """Collects the images of a gallery: in every <article> a name in <h2> and links with a data-key."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, dict[str, str]] = {}
        self._name = ""
        self._in_heading = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "article":
            self._name = ""
        elif tag == "h2":
            self._in_heading = True
        elif tag == "a" and self._name and given.get("data-key") and given.get("href"):
            self.found.setdefault(self._name, {})[str(given["data-key"])] = str(given["href"])

    def handle_endtag(self, tag: str) -> None:
        self._in_heading = self._in_heading and tag != "h2"

    def handle_data(self, data: str) -> None:
        if self._in_heading:
            self._name += data


def read_images(results: Path) -> Images:
    """Return the images of a gallery in its order; {} if there is none."""
    page = results / "index.html"
    if not page.exists():
        return {}
    reader = _GalleryReader()
    reader.feed(page.read_text("utf-8"))
    return {
        name: {label: results / unquote(address) for label, address in images.items()}
        for name, images in reader.found.items()
    }


def differing_flags(runs: Sequence[TrainedRun]) -> list[str]:
    """Return the flags, but the seed and those `WITHOUT_EFFECT`, that have not one value in all runs."""
    names = dict.fromkeys(name for run in runs for name in run.flags)
    left = [name for name in names if name not in WITHOUT_EFFECT and name != "seed"]
    return [name for name in left if len({text(run.flags.get(name, "")) for run in runs}) > 1]


def group_runs(runs: Sequence[TrainedRun]) -> list[RunGroup]:
    """Return the runs in groups that differ in flags other than the seed, in the order of the runs."""
    names = differing_flags(runs)
    found: dict[tuple[str, ...], list[TrainedRun]] = {}
    for run in runs:
        found.setdefault(tuple(text(run.flags.get(name, "")) for name in names), []).append(run)
    groups = []
    for values, members in found.items():
        # What a model does not have at all says nothing of it.
        parts = [f"{name} {value}" for name, value in zip(names, values, strict=True) if value]
        label = ", ".join(parts) or members[0].name
        groups.append(RunGroup(label, dict(zip(names, values, strict=True)), tuple(members)))
    return groups


def metric_names(groups: Iterable[RunGroup]) -> list[str]:
    """Return all metrics of the groups' runs, in the order of their files."""
    return list(dict.fromkeys(name for group in groups for run in group.runs for name in run.metrics))


def best_groups(groups: Sequence[RunGroup], metric: str) -> set[int]:
    """Return the positions of the groups with the best mean; none where there is nothing to choose."""
    found = {position: group.statistic(metric) for position, group in enumerate(groups)}
    means = {position: each.mean for position, each in found.items() if each and not math.isnan(each.mean)}
    if metric not in HIGHER_IS_BETTER or len(means) < 2:
        return set()
    best = max(means.values()) if HIGHER_IS_BETTER[metric] else min(means.values())
    return {position for position, mean in means.items() if mean == best}


def text(value: object) -> str:
    """Return a flag's value as the command line has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "inf" if value is None else str(value)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
