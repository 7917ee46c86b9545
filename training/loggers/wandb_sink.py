"""Weights & Biases; with WANDB_MODE=offline, `wandb sync` uploads the files later."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from options.train_options import TrainOptions
from training.loggers.base import LossRecord, MetricRecord, Sink, named_images
from training.progress import Progress
from util.files import write_text
from util.image_io import Visuals

TIMEOUT = 60
"""Seconds to wait for the server at the start and at the end; training never waits in between."""


class WandbLog(Sink):
    """A wandb run whose step is the number of images seen.

    Args:
        folder: where its files are, among them wandb_id.txt, the id of the run.
        flags: the run's hyper-parameters.
        progress: the position of the run, which changes while it trains.
        resume: continue the run of that id.

    Raises:
        wandb.Error: not logged in, or the server cannot be reached.
    """

    package: ClassVar[str | None] = "wandb"
    flags: ClassVar[tuple[str, ...]] = ("wandb_project_name",)
    live: ClassVar[bool] = True

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
        import wandb

        self.progress = progress
        self.make_image = wandb.Image
        file = folder / "wandb_id.txt"
        run_id = file.read_text().strip() if resume and file.is_file() else None
        self.run = wandb.init(
            project=project,
            name=name,
            id=run_id,
            resume="allow" if run_id else None,
            config=dict(flags),
            allow_val_change=True,
            dir=str(folder),
            settings=wandb.Settings(
                console="off", init_timeout=TIMEOUT, finish_timeout=TIMEOUT, save_code=False
            ),
        )
        write_text(file, f"{self.run.id}\n")

    @classmethod
    def start(cls, options: TrainOptions, progress: Progress) -> Self:
        return cls(
            options.run_folder,
            options.display.wandb_project_name,
            options.run_name,
            options.values(),
            progress,
            resume=options.saving.continue_train,
        )

    def log_losses(self, record: LossRecord) -> None:
        self._write({**record.scalars(), "epoch": record.epoch}, record.total_iters)

    def log_metrics(self, record: MetricRecord) -> None:
        self._write({**record.scalars(), "epoch": record.epoch}, record.total_iters)

    def log_visuals(self, epoch: int, samples: list[Visuals]) -> None:
        images = {name: self.make_image(image) for name, image in named_images(samples)}
        self._write({**images, "epoch": epoch}, self.progress.images)

    def close(self) -> None:
        self.run.finish()

    def _write(self, values: Mapping[str, Any], step: int) -> None:
        # wandb ignores steps that it already has; those that a resumed run repeats have the same values.
        self.run.log(dict(values), step=step)
