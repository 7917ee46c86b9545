"""TensorBoard event files: `tensorboard --logdir checkpoints` compares runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from options.train_options import TrainOptions
from training.loggers.base import LossRecord, MetricRecord, Sink, named_images
from training.progress import Progress
from util.image_io import Visuals


class TensorBoardLog(Sink):
    """Event files whose step is the number of images seen.

    Args:
        folder: where the files are. A new run removes older ones; in those of a resumed run, readers ignore
            steps beyond `progress`.
        flags: the run's hyper-parameters.
        progress: the position of the run, which changes while it trains.
    """

    package: ClassVar[str | None] = "tensorboard"

    def __init__(self, folder: Path, flags: Mapping[str, object], progress: Progress):
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.progress = progress
        self.last_shown = 0
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

    @classmethod
    def start(cls, options: TrainOptions, progress: Progress) -> Self:
        return cls(options.run_folder / "tensorboard", options.values(), progress)

    def log_losses(self, record: LossRecord) -> None:
        self._write(record.scalars(), record.total_iters)

    def log_metrics(self, record: MetricRecord) -> None:
        self._write(record.scalars(), record.total_iters)

    def log_visuals(self, epoch: int, samples: list[Visuals]) -> None:
        if self.progress.images == self.last_shown:  # the epoch ended with a step that was due anyway
            return
        self.last_shown = self.progress.images
        for name, image in named_images(samples):
            self.writer.add_image(name, image, self.progress.images, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()

    def _write(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()
