"""Logs in Weights & Biases; with WANDB_MODE=offline in files that `wandb sync` sends later."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from training.loggers.base import LossRecord, MetricRecord, Sink, Visuals, by_name
from training.progress import Progress
from util.files import write_text

PATIENCE = 60
"""Seconds to wait for an answer at the start and at the end; training waits for none in between."""


class WandbLog(Sink):
    """A run there; a step is an image that the run has seen."""

    live = True

    def __init__(
        self,
        folder: Path,
        project: str,
        name: str,
        flags: Mapping[str, object],
        progress: Progress,
        *,
        resume: bool,
    ):
        """Begin a run, or go on with the one whose id `folder` holds where `resume` is True.

        Args:
            flags: the run's hyper-parameters.
            progress: where the run is, now and later.

        Raises:
            Exception: one of wandb's own; it is not known here, or cannot be reached.
        """
        self.progress = progress
        file = folder / "wandb_id.txt"
        known = file.read_text().strip() if resume and file.exists() else None
        self.run = wandb.init(
            project=project,
            name=name,
            id=known,
            resume="allow" if known else None,
            config=dict(flags),
            allow_val_change=True,
            dir=str(folder),
            settings=wandb.Settings(
                console="off", init_timeout=PATIENCE, finish_timeout=PATIENCE, save_code=False
            ),
        )
        write_text(file, f"{self.run.id}\n")

    def log_losses(self, record: LossRecord) -> None:
        self._write({**record.scalars(), "epoch": record.epoch}, record.total_iters)

    def log_metrics(self, record: MetricRecord) -> None:
        self._write({**record.scalars(), "epoch": record.epoch}, record.total_iters)

    def log_visuals(self, epoch: int, samples: list[Visuals]) -> None:
        images = {name: wandb.Image(image) for name, image in by_name(samples)}
        self._write({**images, "epoch": epoch}, self.progress.images)

    def close(self) -> None:
        self.run.finish()

    def _write(self, values: Mapping[str, Any], step: int) -> None:
        # Where a resumed run repeats steps it repeats their values; wandb takes no step that it has already.
        self.run.log(dict(values), step=step)
