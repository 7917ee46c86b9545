"""What a training run logs: records of losses and metrics, the sinks that take them, and `Logger`."""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from options.train_options import TrainOptions
from training.progress import Progress
from util.checking import COUNT, open_regular, read_json_lines
from util.files import DISK_FULL_ERRORS, open_in_place, sync
from util.image_io import Visuals

log = logging.getLogger(__name__)

MEASURED = ("time", "data", "images_per_second", "peak_memory")
"""Fields of a `LossRecord` that differ between two executions of the same run."""

RUN_LOGS = ("loss_log.txt", "losses.jsonl", "metrics.jsonl", "web/index.html")
"""The append-only files of this program's own sinks, by their paths in the run's folder."""

DIAGNOSTIC = re.compile(r"(grad|G_over)_.+|diversity.*|.+_(acc_real|acc_fake|doubt|light)")
"""Names of diagnostics, which old files have among the losses."""


@dataclass(frozen=True)
class LossRecord:
    """The losses of one training step, with progress and speed.

    Attributes:
        epoch: from 1.
        epoch_fraction: completed fraction of the epoch, 0 to 1.
        iters: images seen in this epoch.
        total_iters: images seen in the whole run.
        time, data: seconds per image since the last record: computation, and waiting for data.
        learning_rate: the value of ``--lr`` after decay; `learning_rates` has each optimizer's own.
        images_per_second: throughput of all ranks since the last record, wall-clock.
        peak_memory: in GiB, of the GPU or else of the process.
        diagnostics: accuracies, gradient norms and other values that are not minimised.
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
    diagnostics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the record of a line of losses.jsonl, in which old runs have no field `diagnostics`."""
        values = _own_fields(cls, values)
        if "diagnostics" in values:
            return cls(**values)
        losses: Mapping[str, float] = values["losses"]
        names = {name for name in losses if DIAGNOSTIC.fullmatch(name)}
        return cls(
            **{
                **values,
                "losses": {name: value for name, value in losses.items() if name not in names},
                "diagnostics": {name: value for name, value in losses.items() if name in names},
            }
        )

    def line(self) -> str:
        """Return the losses as a line of the peer's log."""
        head = f"(epoch: {self.epoch}, iters: {self.iters}, time: {self.time:.3f}, data: {self.data:.3f}) "
        return head + "".join(f"{name}: {value:.3f} " for name, value in self.losses.items())

    def scalars(self) -> dict[str, float]:
        """Return all values that are plotted, by "group/name"."""
        return {
            **{f"loss/{name}": value for name, value in self.losses.items()},
            **{f"diagnostics/{name}": value for name, value in self.diagnostics.items()},
            **{f"learning_rate/{name}": value for name, value in self.learning_rates.items()},
            "speed/images_per_second": self.images_per_second,
            "speed/seconds_waiting_for_data": self.data,
            "memory/peak_GiB": self.peak_memory,
        }


@dataclass(frozen=True)
class MetricRecord:
    """The means of one validation.

    Attributes:
        epoch: from 1.
        total_iters: images seen in the whole run.
        averaged: whether the averaged weights of ``--ema_decay`` were measured.
    """

    epoch: int
    total_iters: int
    metrics: Mapping[str, float]
    averaged: bool = False

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the record of a line of metrics.jsonl."""
        return cls(**_own_fields(cls, values))

    def line(self) -> str:
        """Return the metrics as a line of a log."""
        head = f"(epoch: {self.epoch}, validation{', averaged weights' if self.averaged else ''}) "
        return head + "".join(f"{name}: {value:.4f} " for name, value in self.metrics.items())

    def scalars(self) -> dict[str, float]:
        """Return all values that are plotted, by "group/name"."""
        return {f"metrics/{name}": value for name, value in self.metrics.items()}


Record = TypeVar("Record", LossRecord, MetricRecord)

NUMBERS = {str: float}
LINES: Mapping[type, Mapping[str, object]] = {
    LossRecord: {
        **{"epoch": COUNT, "epoch_fraction": float, "iters": COUNT, "total_iters": COUNT},
        **{"time": float, "data": float, "learning_rate": float, "losses": NUMBERS},
        **{"learning_rates?": NUMBERS, "images_per_second?": float, "peak_memory?": float},
        "diagnostics?": NUMBERS,
    },
    MetricRecord: {"epoch": COUNT, "total_iters": COUNT, "metrics": NUMBERS, "averaged?": bool},
}
"""Shapes of a line of losses.jsonl and of metrics.jsonl."""


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """Return the records of a file with one JSON object per line; none if the file does not exist.

    Raises:
        UserError: a line is not such a record.
    """
    return [kind.from_json(line) for line in read_json_lines(path, LINES[kind])]


def _own_fields(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of fields of a record; later versions may have others."""
    return {item.name: values[item.name] for item in fields(kind) if item.name in values}


class Sink:
    """A destination of records and images. Subclasses override what they take; the rest is ignored.

    ``<name>_sink.py`` in this folder holds the sink that ``--log <name>`` chooses.

    Attributes:
        package: an optional package; import it inside methods, as ``--log`` may not ask for this sink.
        flags: flags without effect unless a chosen sink lists them. Those about images need not be listed.
        live: take images every ``--display_freq`` images rather than every ``--update_html_freq``.
        files: append-only files; a resumed run truncates them to the length that its checkpoint recorded.
    """

    package: ClassVar[str | None] = None
    flags: ClassVar[tuple[str, ...]] = ()
    live: ClassVar[bool] = False
    files: tuple[Path, ...] = ()

    @classmethod
    def start(cls, options: TrainOptions, progress: Progress) -> Self:
        """Open the sink; a run that is resumed continues what is there.

        Args:
            progress: the position of the run, which changes while it trains.
        """
        raise NotImplementedError(f"{cls.__name__} cannot be chosen with --log")

    def log_losses(self, record: LossRecord) -> None:
        """Take the losses of a step."""

    def log_metrics(self, record: MetricRecord) -> None:
        """Take the means of a validation."""

    def log_visuals(self, epoch: int, samples: list[Visuals]) -> None:
        """Take the current images of the run's fixed samples."""

    def note_display(self, notes: Sequence[str]) -> None:
        """Take sentences on how images are shown that are not RGB or grey with 8 bits, at the start."""

    def close(self) -> None:
        """Finish; called at the end of a complete run only."""

    @classmethod
    def takes_images(cls) -> bool:
        """Return whether the sink overrides `log_visuals`."""
        return cls.log_visuals is not Sink.log_visuals

    @classmethod
    def flags_read(cls) -> set[str]:
        """Return all flags that have an effect because of this sink."""
        images = ("html_samples", "display_freq" if cls.live else "update_html_freq")
        return {*cls.flags, *(images if cls.takes_images() else ())}


class Logger:
    """Pass records and images to all sinks.

    A sink that raises is dropped with a warning, except that a full disk ends the run: `OSError` is raised.

    Args:
        folder: the run's folder, which contains all files of sinks.
    """

    def __init__(self, folder: Path, sinks: list[Sink]):
        self.folder, self.sinks = folder, sinks

    def log_losses(self, record: LossRecord) -> None:
        """Log the losses of a step."""
        self._each(lambda sink: sink.log_losses(record))

    def log_metrics(self, record: MetricRecord) -> None:
        """Log the means of a validation."""
        self._each(lambda sink: sink.log_metrics(record))

    def note_display(self, notes: Sequence[str]) -> None:
        """Say how images are shown that are not RGB or grey with 8 bits, if there are any."""
        if notes:
            self._each(lambda sink: sink.note_display(notes))

    def takes_visuals(self, pages: bool, live: bool) -> bool:
        """Return whether any sink takes images: a live one if `live`, another one if `pages`."""
        return any((live if sink.live else pages) and sink.takes_images() for sink in self.sinks)

    def log_visuals(self, epoch: int, samples: list[Visuals], pages: bool, live: bool) -> None:
        """Log the images of the run's fixed samples in live sinks if `live`, in all others if `pages`."""
        self._each(lambda sink: sink.log_visuals(epoch, samples) if (live if sink.live else pages) else None)

    def close(self) -> None:
        """Finish every sink."""
        self._each(lambda sink: sink.close())

    def add(self, name: str, start: Callable[[], Sink]) -> None:
        """Add the sink that `start` returns; if it raises, warn and continue without it.

        Args:
            name: its name in ``--log``.
        """
        try:
            self.sinks.append(start())
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL_ERRORS:
                raise
            log.warning("--log %s: %s: %s; training continues without it", name, type(error).__name__, error)

    def lengths(self) -> dict[str, int]:
        """Flush the append-only files to disk; return their sizes in bytes by their paths in the folder."""
        lengths: dict[str, int] = {}

        def measure(sink: Sink) -> None:
            for path in sink.files:
                with open_regular(path) as file:
                    sync(file.fileno())
                    lengths[str(path.relative_to(self.folder))] = os.fstat(file.fileno()).st_size

        self._each(measure)
        return lengths

    def names(self) -> set[str]:
        """Return the paths of the append-only files in the folder."""
        return {str(path.relative_to(self.folder)) for sink in self.sinks for path in sink.files}

    def _each(self, act: Callable[[Sink], None]) -> None:
        for sink in list(self.sinks):
            try:
                act(sink)
            except Exception as error:
                if isinstance(error, OSError) and error.errno in DISK_FULL_ERRORS:
                    raise  # a resumed run leaves no gap in the log, a dropped sink would
                log.warning(
                    "%s failed (%s: %s); training continues without it",
                    type(sink).__name__,
                    type(error).__name__,
                    error,
                )
                self.sinks.remove(sink)


def truncate_logs(folder: Path, lengths: Mapping[str, int], names: Iterable[str] = ()) -> None:
    """Truncate a run's append-only files to the `lengths` that its checkpoint recorded.

    Args:
        names: of the run's files beyond `RUN_LOGS`. Other names in `lengths` are not the run's, and ignored.

    Raises:
        OSError: a file is a link.
    """
    for name in {*RUN_LOGS, *names} & lengths.keys():
        path = folder / name
        if path.exists() and path.stat().st_size > lengths[name]:
            with open_in_place(path) as file:
                file.truncate(lengths[name])


def remove_logs(folder: Path) -> None:
    """Remove the logs of an earlier run in a folder, which not every sink of a new one would replace."""
    for name in RUN_LOGS:
        (folder / name).unlink(missing_ok=True)


def named_images(samples: list[Visuals]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield every image as (H, W, 3) with the name "label/number of its sample, from 1"."""
    for number, visuals in enumerate(samples, 1):
        for label, image in visuals.items():
            yield f"{label}/{number}", as_rgb(image)


def as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image of (H, W), (H, W, 1) or (H, W, 3) as (H, W, 3)."""
    height, width = image.shape[:2]
    return np.broadcast_to(image.reshape(height, width, -1), (height, width, 3))
