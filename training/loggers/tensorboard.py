"""Logs for TensorBoard: `tensorboard --logdir checkpoints` compares runs."""

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from training.loggers.base import LossRecord, MetricRecord, Sink, Visuals, by_name
from training.progress import Progress


class TensorBoardLog(Sink):
    """Event files; a step is an image that the run has seen."""

    def __init__(self, folder: Path, flags: Mapping[str, object], progress: Progress):
        """Begin the logs in `folder`, or go on with those that are there if the run has begun before.

        Args:
            flags: the run's hyper-parameters.
            progress: where the run is, now and later. What the folder tells of later steps than now never
                happened; readers leave it out.
        """
        self.progress = progress
        self.shown = 0
        if progress.images == 0:
            for path in folder.glob("events.out.tfevents.*"):
                path.unlink()
        self.writer = SummaryWriter(str(folder), purge_step=progress.images + 1)
        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in flags.items()
        }
        for summary in hparams(plain, {}):
            self.writer._get_file_writer().add_summary(summary, progress.images)
        self.writer.flush()

    def log_losses(self, record: LossRecord) -> None:
        self._write(record.scalars(), record.total_iters)

    def log_metrics(self, record: MetricRecord) -> None:
        self._write(record.scalars(), record.total_iters)

    def log_visuals(self, epoch: int, samples: list[Visuals]) -> None:
        if self.progress.images == self.shown:  # an epoch has ended with a step whose turn it was
            return
        self.shown = self.progress.images
        for name, image in by_name(samples):
            self.writer.add_image(name, image, self.progress.images, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()

    def _write(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()
