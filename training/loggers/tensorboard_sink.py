"""TensorBoard event files: `tensorboard --logdir checkpoints` compares runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from options.train_options import TrainOptions
from training.loggers.base import LossRecord, MetricRecord, Sink, named_images
from training.progress import Progress
from util.files import make_folder
from util.image_io import Visuals
from util.text import printable


class TensorBoardLog(Sink):
    """Event files whose step is the number of images seen.

    Args:
        folder: where the files are. A new run removes older ones; in those of a resumed run, readers ignore
            steps beyond `progress`.
        flags: the run's hyper-parameters.
        progress: the position of the run, which changes while it trains.
        metrics: names of the metrics that validations will log.
    """

    package: ClassVar[str | None] = "tensorboard"

    def __init__(
        self, folder: Path, flags: Mapping[str, object], progress: Progress, metrics: Sequence[str] = ()
    ):
        from torch.utils.tensorboard import SummaryWriter

        self.progress, self.metrics = progress, metrics
        self.hyperparameters = {
            name: value if isinstance(value, bool | int | float) else printable(str(value))
            for name, value in flags.items()
        }
        self.described = False
        self.last_shown = 0
        make_folder(folder)
        if progress.images == 0:
            for path in folder.glob("events.out.tfevents.*"):
                path.unlink()
        self.writer = SummaryWriter(str(folder), purge_step=progress.images + 1)

    @classmethod
    def start(cls, options: TrainOptions, progress: Progress) -> Self:
        metrics = options.metric_names if options.validation.val_freq else ()
        return cls(options.run_folder / "tensorboard", options.values(), progress, metrics)

    def log_losses(self, record: LossRecord) -> None:
        if not self.described:
            self._describe(record)
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

    def _describe(self, record: LossRecord) -> None:
        """Write the run's row of the HPARAMS page: its flags, with a column for every loss and metric.

        The page takes a column's value from the last scalar of its name.
        """
        from torch.utils.tensorboard.summary import hparams

        names = [f"loss/{name}" for name in record.losses] + [f"metrics/{name}" for name in self.metrics]
        for summary in hparams(self.hyperparameters, dict.fromkeys(names, 0.0)):
            self.writer._get_file_writer().add_summary(summary, record.total_iters)
        self.described = True

    def _write(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()
