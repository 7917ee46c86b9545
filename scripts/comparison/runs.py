"""Runs to compare: their flags, curves, metrics and images, and statistics over seeds."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from options.option import cosmetic_flags
from options.parse import argument_text
from options.records import FLAG_VALUES
from options.train_options import TrainOptions
from training.loggers.base import DIAGNOSTIC
from util.checking import Rule, read_json, read_json_lines
from util.errors import UserError
from util.files import native_name
from util.metrics.names import HIGHER_IS_BETTER, of_all_channels
from util.pages.listing import PARTIAL_FILE
from util.pages.page import ROWS_FILE

WITHOUT_EFFECT = cosmetic_flags(TrainOptions.groups().values())
"""Flags of train.py that do not affect what a run learns."""

NOISE = 2.0
"""Standard errors of the difference of two means, above which it is considered larger than the noise."""

LABEL = re.compile(r"(.+?)_((?:real|fake|rec|idt)(?:_[AB](?:_rgb)?(?:_\d+)?)?|fake_style|style)")
"""Name and label of an image in galleries that have no gallery.json."""

NUMBERS = {str: float | None}
POSITION = {
    "epoch": Rule(float, lambda epoch: 1 <= epoch < 1e9, "the number of an epoch"),
    "epoch_fraction?": Rule(float, lambda part: 0 <= part < 1e9, "a part of an epoch"),
}
LOSSES = {**POSITION, "losses": NUMBERS, "diagnostics?": NUMBERS}
METRICS = {**POSITION, "metrics": NUMBERS}
GALLERY = {"rows": [{"name": str, "images": {str: str}}], "paired": bool | None}
"""Shapes of a line of losses.jsonl, of a line of metrics.jsonl, and of gallery.json."""

GALLERY_LIMIT = 1 << 30
"""Bytes of a gallery.json that is read: millions of images."""

Values = Mapping[str, Any]
Images = dict[str, dict[str, Path]]
"""Files by sample and label."""


class Series(NamedTuple):
    """One curve of a run: its values, and their positions in epochs since its start."""

    epochs: list[float]
    values: list[float]


@dataclass(frozen=True)
class TrainedRun:
    """One run, as read from its files.

    Attributes:
        flags: train.py's, by name, as in train_opt.json.
        losses, diagnostics, validation: curves by name.
        metrics: means over the test set, by name.
        images: those of its gallery.
        paired: whether real_B is the ground truth for fake_B; None: unknown.
        missing: a text that says what is missing; empty if the run is complete.
    """

    name: str
    flags: Values
    losses: Mapping[str, Series] = field(default_factory=dict)
    diagnostics: Mapping[str, Series] = field(default_factory=dict)
    validation: Mapping[str, Series] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    images: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    paired: bool | None = None
    missing: str = ""


class Statistic(NamedTuple):
    """A metric over n runs: their mean and sample standard deviation (None for a single run)."""

    n: int
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class RunGroup:
    """Runs whose flags are equal except for the seed.

    Attributes:
        label: the flags that distinguish it, as a text.
        differing: the values of these flags, by name.
    """

    label: str
    differing: Values
    runs: tuple[TrainedRun, ...]

    @property
    def measured(self) -> list[TrainedRun]:
        """The runs that have metrics."""
        return [run for run in self.runs if run.metrics]

    def statistic(self, metric: str) -> Statistic | None:
        """Return the statistic of a metric over the runs that have it; None if none has."""
        values = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        if not values:
            return None
        with np.errstate(invalid="ignore"):  # an infinite PSNR has no deviation
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            return Statistic(len(values), float(np.mean(values)), deviation)


def read_flags(folder: Path) -> dict[str, Any]:
    """Return the flags in a run's train_opt.json.

    Raises:
        UserError: the file does not exist or cannot be read.
    """
    path = folder / "train_opt.json"
    if not path.exists():
        raise UserError(f"{folder}: no run of train.py, which would have a train_opt.json there")
    flags: dict[str, Any] = read_json(path, FLAG_VALUES)
    return flags


def read_run(name: str, folder: Path, results: Path | None, flags: Values, missing: str = "") -> TrainedRun:
    """Read a run.

    Args:
        folder: the folder of its checkpoints.
        results: the folder of its gallery and metrics.json; None: results are not shown.
        flags: train.py's.
        missing: what is known to be missing; if empty, missing results are noticed.
    """
    metrics = read_metrics(results / "metrics.json") if results else {}
    images, paired = read_images(results) if results else ({}, None)
    losses, diagnostics = read_losses(folder / "losses.jsonl")
    if not missing and not images and not metrics:
        unfinished = results is not None and (results / PARTIAL_FILE).exists()
        missing = f"test.py has not finished in {results}" if unfinished else f"no test results in {results}"
    validation = read_validation(folder / "metrics.jsonl")
    return TrainedRun(name, flags, losses, diagnostics, validation, metrics, images, paired, missing)


def read_losses(path: Path) -> tuple[dict[str, Series], dict[str, Series]]:
    """Return the curves of losses and of diagnostics in losses.jsonl; old records have both as losses."""
    losses: dict[str, Series] = {}
    diagnostics: dict[str, Series] = {}
    for record in read_json_lines(path, LOSSES):
        for name, value in record["losses"].items():
            _append(diagnostics if DIAGNOSTIC.fullmatch(name) else losses, name, record, value)
        for name, value in record.get("diagnostics", {}).items():
            _append(diagnostics, name, record, value)
    return losses, diagnostics


def read_validation(path: Path) -> dict[str, Series]:
    """Return the curves of metrics in metrics.jsonl."""
    curves: dict[str, Series] = {}
    for record in read_json_lines(path, METRICS):
        for name, value in record["metrics"].items():
            _append(curves, name, record, value)
    return curves


def _append(curves: dict[str, Series], name: str, record: Values, value: float | None) -> None:
    series = curves.setdefault(name, Series([], []))
    series.epochs.append(record["epoch"] - 1 + record.get("epoch_fraction", 1.0))
    series.values.append(math.nan if value is None else value)


def read_metrics(path: Path) -> dict[str, float]:
    """Return the means of all channels in test.py's metrics.json; none if the file does not exist."""
    if not path.exists():
        return {}
    content = read_json(path, {"mean": {str: float | None}}, "run test.py again")
    means = {name: value for name, value in content["mean"].items() if of_all_channels(name)}
    return {name: float(value) for name, value in means.items() if value is not None}


def read_images(results: Path) -> tuple[Images, bool | None]:
    """Return the images of a gallery in its order, and whether real_B is the ground truth for fake_B.

    Without gallery.json (results of earlier versions) the rows are derived from the names of the files. There
    are none while test.py writes the gallery, or if it was killed.

    Raises:
        UserError: gallery.json is damaged, or names files outside of the gallery's folder.
    """
    path = results / ROWS_FILE
    if not path.exists():
        return ({} if (results / PARTIAL_FILE).exists() else _images_by_file_name(results / "images")), None
    content = read_json(path, GALLERY, "run test.py again", GALLERY_LIMIT)
    return {
        row["name"]: {label: _inside(results, file) for label, file in row["images"].items()}
        for row in content["rows"]
    }, content["paired"]


def _inside(results: Path, file: str) -> Path:
    path = results / native_name(file)
    if "\0" in file or not path.resolve().is_relative_to(results.resolve()):
        raise UserError(f"{results / ROWS_FILE}: {file!r} is outside of the gallery's folder")
    return path


def _images_by_file_name(folder: Path) -> Images:
    images: Images = {}
    root = folder.parent.resolve()
    for path in sorted(path for path in folder.glob("*_*") if path.resolve().is_relative_to(root)):
        match = LABEL.fullmatch(path.stem)
        name, label = match.groups() if match else path.stem.rsplit("_", 1)
        images.setdefault(name, {})[label] = path
    return images


def differing_flags(runs: Sequence[TrainedRun]) -> list[str]:
    """Return the flags whose values differ between runs, except the seed and those `WITHOUT_EFFECT`."""
    names = dict.fromkeys(name for run in runs for name in run.flags)
    considered = [name for name in names if name not in WITHOUT_EFFECT and name != "seed"]
    return [name for name in considered if len({argument_text(run.flags.get(name, "")) for run in runs}) > 1]


def group_runs(runs: Sequence[TrainedRun]) -> list[RunGroup]:
    """Return groups of runs whose flags are equal except for the seed, in the order of the runs."""
    names = differing_flags(runs)
    members_of: dict[tuple[str, ...], list[TrainedRun]] = {}
    for run in runs:
        members_of.setdefault(tuple(argument_text(run.flags.get(name, "")) for name in names), []).append(run)
    groups = []
    for values, members in members_of.items():
        # A flag that a model does not have is not part of the label.
        parts = [f"{name} {value}" for name, value in zip(names, values, strict=True) if value]
        label = ", ".join(parts) or members[0].name
        groups.append(RunGroup(label, dict(zip(names, values, strict=True)), tuple(members)))
    return groups


def metric_names(groups: Iterable[RunGroup]) -> list[str]:
    """Return the metrics of all runs, in the order of their files."""
    return list(dict.fromkeys(name for group in groups for run in group.runs for name in run.metrics))


def best_group(groups: Sequence[RunGroup], metric: str) -> int | None:
    """Return the position of the group with the best mean if it is better than all others beyond noise.

    The difference to each other mean must exceed `NOISE` standard errors of the difference,
    sqrt(s1²/n1 + s2²/n2). So there is none with a single seed, whose deviation is unknown.
    """
    statistics = {i: statistic for i, group in enumerate(groups) if (statistic := group.statistic(metric))}
    if metric not in HIGHER_IS_BETTER or len(statistics) < 2:
        return None
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    best = max(statistics, key=lambda i: sign * statistics[i].mean)
    others = [statistic for i, statistic in statistics.items() if i != best]
    return best if all(_is_beyond_noise(statistics[best], other) for other in others) else None


def _is_beyond_noise(one: Statistic, other: Statistic) -> bool:
    if one.deviation is None or other.deviation is None:
        return False
    error = math.sqrt(one.deviation**2 / one.n + other.deviation**2 / other.n)
    rounding = 1e-9 * abs(one.mean)
    return abs(one.mean - other.mean) > NOISE * error + rounding  # False if a value is not finite
