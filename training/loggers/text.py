"""The sinks of every run: the console, ``loss_log.txt``, ``losses.jsonl`` and ``metrics.jsonl``."""

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path

from training.loggers.base import LossRecord, MetricRecord, Sink
from util.files import append_text, start_file

log = logging.getLogger(__name__)


class Console(Sink):
    """Log lines on the console."""

    def log_losses(self, record: LossRecord) -> None:
        log.info("%s", record.line())

    def log_metrics(self, record: MetricRecord) -> None:
        log.info("%s", record.line())


class TextLog(Sink):
    """``loss_log.txt`` in the peer's format.

    Args:
        resume: append to the file if it exists.
    """

    def __init__(self, path: Path, resume: bool):
        self.files = (path,)
        if not (resume and path.exists()):
            start_file(path, f"================ Training Loss ({time.strftime('%c')}) ================\n")

    def log_losses(self, record: LossRecord) -> None:
        self._write(record.line())

    def log_metrics(self, record: MetricRecord) -> None:
        self._write(record.line())

    def _write(self, line: str) -> None:
        append_text(self.files[0], f"{line}\n")


class JsonLines(Sink):
    """Files with every record as one JSON object per line.

    Args:
        losses, metrics: their paths; None: no file of metrics.
        resume: append to the files if they exist.
    """

    def __init__(self, losses: Path, resume: bool, metrics: Path | None = None):
        self.losses, self.metrics = losses, metrics
        self.files = (losses, metrics) if metrics else (losses,)
        for path in self.files:
            if not (resume and path.exists()):
                start_file(path)

    def log_losses(self, record: LossRecord) -> None:
        self._write(self.losses, record)

    def log_metrics(self, record: MetricRecord) -> None:
        if self.metrics:
            self._write(self.metrics, record)

    def _write(self, path: Path, record: LossRecord | MetricRecord) -> None:
        append_text(path, f"{json.dumps(asdict(record))}\n")
