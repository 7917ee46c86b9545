"""Where losses and images of a training run go: one sink a place, all behind `Logger`."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from util.errors import UserError
from util.files import DISK_FULL_ERRORS

log = logging.getLogger(__name__)

Visuals = dict[str, NDArray[np.uint8]]
"""Images of one sample by name, (H, W, 3)."""


MEASURED = ("time", "data", "images_per_second", "peak_memory")
"""What of a `LossRecord` is measured: the same run has it otherwise another time."""


@dataclass(frozen=True)
class LossRecord:
    """The losses of one training step, and where and how fast the run was.

    Attributes:
        epoch: from 1.
        epoch_fraction: share of the epoch that is done, 0 to 1.
        iters: images seen in this epoch.
        total_iters: images seen in the whole run.
        time, data: seconds an image since the last record: computing, and waiting for data.
        learning_rate: what ``--lr`` has become; `learning_rates` has that of each optimizer.
        images_per_second: images of all processes since the last record, by the clock.
        peak_memory: the most memory in use so far, in GiB: of the GPU, or else of the process.
    """

    epoch: int
    epoch_fraction: float
    iters: int
    total_iters: int
    time: float
    data: float
    learning_rate: float
    losses: Mapping[str, float]
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0
    peak_memory: float = 0.0

    def line(self) -> str:
        """Return the record as the peer's log writes it."""
        head = f"(epoch: {self.epoch}, iters: {self.iters}, time: {self.time:.3f}, data: {self.data:.3f}) "
        return head + "".join(f"{name}: {value:.3f} " for name, value in self.losses.items())

    def scalars(self) -> dict[str, float]:
        """Return all that makes a curve, by group and name."""
        return {
            **{f"loss/{name}": value for name, value in self.losses.items()},
            **{f"learning_rate/{name}": value for name, value in self.learning_rates.items()},
            "speed/images_per_second": self.images_per_second,
            "speed/seconds_waiting_for_data": self.data,
            "memory/peak_GiB": self.peak_memory,
        }


@dataclass(frozen=True)
class MetricRecord:
    """What validation has found.

    Attributes:
        epoch: from 1.
        total_iters: images seen in the whole run.
    """

    epoch: int
    total_iters: int
    metrics: Mapping[str, float]

    def line(self) -> str:
        """Return the record as a line of a log."""
        head = f"(epoch: {self.epoch}, validation) "
        return head + "".join(f"{name}: {value:.4f} " for name, value in self.metrics.items())

    def scalars(self) -> dict[str, float]:
        """Return all that makes a curve, by group and name."""
        return {f"metrics/{name}": value for name, value in self.metrics.items()}


Record = TypeVar("Record", LossRecord, MetricRecord)


class Sink:
    """A place that takes records and images; what a sink has no use for, it ignores.

    Attributes:
        live: whether its images follow ``--display_freq`` rather than ``--update_html_freq``.
        files: the files that it only ever appends to; a resumed run cuts them back to where its state was
            saved.
    """

    live: ClassVar[bool] = False
    files: tuple[Path, ...] = ()

    def log_losses(self, record: LossRecord) -> None:
        """Take the losses of a step."""

    def log_metrics(self, record: MetricRecord) -> None:
        """Take what validation has found."""

    def log_visuals(self, epoch: int, samples: list[Visuals]) -> None:
        """Take the images of the run's fixed samples."""

    def close(self) -> None:
        """Finish: the run is complete."""


class Console(Sink):
    """Lines of losses on the screen."""

    def log_losses(self, record: LossRecord) -> None:
        log.info("%s", record.line())

    def log_metrics(self, record: MetricRecord) -> None:
        log.info("%s", record.line())


class TextLog(Sink):
    """``loss_log.txt``, line by line as the peer writes it."""

    def __init__(self, path: Path, resume: bool):
        self.files = (path,)
        if not (resume and path.exists()):
            path.write_text(f"================ Training Loss ({time.strftime('%c')}) ================\n")

    def log_losses(self, record: LossRecord) -> None:
        self._write(record.line())

    def log_metrics(self, record: MetricRecord) -> None:
        self._write(record.line())

    def _write(self, line: str) -> None:
        with self.files[0].open("a") as file:
            file.write(f"{line}\n")


class JsonLines(Sink):
    """``losses.jsonl`` and, if it is wanted, ``metrics.jsonl``: every record, an object a line."""

    def __init__(self, losses: Path, resume: bool, metrics: Path | None = None):
        self.losses, self.metrics = losses, metrics
        self.files = (losses, metrics) if metrics else (losses,)
        for path in self.files:
            if not (resume and path.exists()):
                path.write_text("")

    def log_losses(self, record: LossRecord) -> None:
        self._write(self.losses, record)

    def log_metrics(self, record: MetricRecord) -> None:
        if self.metrics:
            self._write(self.metrics, record)

    def _write(self, path: Path, record: LossRecord | MetricRecord) -> None:
        with path.open("a") as file:
            file.write(f"{json.dumps(asdict(record))}\n")


class Logger:
    """Hands everything to all sinks; one that fails is dropped with a warning, and training goes on.

    A full disk is the exception: its `OSError` is raised.

    Args:
        folder: the run's folder, which holds the files of all sinks.
    """

    def __init__(self, folder: Path, sinks: list[Sink]):
        self.folder, self.sinks = folder, sinks

    def log_losses(self, record: LossRecord) -> None:
        """Hand on the losses of a step."""
        self._each(lambda sink: sink.log_losses(record))

    def log_metrics(self, record: MetricRecord) -> None:
        """Hand on what validation has found."""
        self._each(lambda sink: sink.log_metrics(record))

    def takes_visuals(self, pages: bool, live: bool) -> bool:
        """Return whether any sink takes images now that it is the pages' turn, or the live ones'."""
        return any(
            (live if sink.live else pages) and type(sink).log_visuals is not Sink.log_visuals
            for sink in self.sinks
        )

    def log_visuals(self, epoch: int, samples: list[Visuals], pages: bool, live: bool) -> None:
        """Hand on the images of the run's fixed samples to those sinks whose turn it is."""
        self._each(lambda sink: sink.log_visuals(epoch, samples) if (live if sink.live else pages) else None)

    def close(self) -> None:
        """Finish every sink."""
        self._each(lambda sink: sink.close())

    def add(self, name: str, make: Callable[[], Sink]) -> None:
        """Add the sink that `make` returns; one that cannot start is left out with a warning.

        Args:
            name: its name in ``--log``.
        """
        try:
            self.sinks.append(make())
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL_ERRORS:
                raise
            log.warning("--log %s: %s: %s; training goes on without it", name, type(error).__name__, error)

    def lengths(self) -> dict[str, int]:
        """Bring the appended files to the disk; return how many bytes each has, by its path in the folder."""
        lengths = {}
        for path in (path for sink in self.sinks for path in sink.files):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                lengths[str(path.relative_to(self.folder))] = os.fstat(file.fileno()).st_size
        return lengths

    def _each(self, act: Callable[[Sink], None]) -> None:
        for sink in list(self.sinks):
            try:
                act(sink)
            except Exception as error:
                if isinstance(error, OSError) and error.errno in DISK_FULL_ERRORS:
                    raise  # a log with a gap is worse than a run that has to go on later
                log.warning(
                    "%s failed (%s: %s); going on without it",
                    type(sink).__name__,
                    type(error).__name__,
                    error,
                )
                self.sinks.remove(sink)


def check_packages(sinks: Iterable[str]) -> None:
    """Raise a `UserError` if a sink, by its name in ``--log``, needs a package that is not installed."""
    for name in sinks:
        if name != "html" and find_spec(name) is None:  # the others are named after their packages
            raise UserError(f"--log {name} needs the package {name}: pip install -r requirements-loggers.txt")


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """Return the records in a file that has one as a JSON object on each line; none if there is no file."""
    if not path.exists():
        return []
    return [kind(**json.loads(line)) for line in path.read_text().splitlines()]


def by_name(samples: list[Visuals]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield every image as (H, W, 3) with its name, which is its label and its sample's number from 1."""
    for number, visuals in enumerate(samples, 1):
        for label, image in visuals.items():
            yield f"{label}/{number}", in_colour(image)


def in_colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image of (H, W), (H, W, 1) or (H, W, 3) as (H, W, 3)."""
    height, width = image.shape[:2]
    return np.broadcast_to(image.reshape(height, width, -1), (height, width, 3))


def cut_back(folder: Path, lengths: Mapping[str, int]) -> None:
    """Cut the appended files of a run back to their `lengths`: what they told after that never happened."""
    for name, length in lengths.items():
        path = folder / name
        if path.exists() and path.stat().st_size > length:
            os.truncate(path, length)
