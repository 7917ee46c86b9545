"""A training run: steps, logs, samples, validation and checkpoints; where it starts."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from data import Loader
from data.prefetch import on_device
from options.train_options import TrainOptions
from training.checkpoint import load_state, remove_old, save_checkpoint, set_aside
from training.loggers.base import Logger, LossRecord, MetricRecord, cut_back
from training.optimizers import rates
from training.progress import FirstSteps, Progress, Stopwatch
from training.run_lock import RunLock
from training.schedules import LearningRate
from training.trainer import Trainer
from training.validation import Validation
from util import distributed
from util.batch import Batch
from util.device import peak_memory
from util.errors import UserError
from util.image_io import to_uint8
from util.weights import initialise_from, load_weights, weights_path

log = logging.getLogger(__name__)


@dataclass
class Run:
    """A training run: the trainer, the data, the progress, and where results go.

    Attributes:
        samples: the fixed images that the training page shows.
        recent: the files of every step since `check`, by iteration.
        saved_at: when the latest state was saved, in seconds of `time.monotonic`.
    """

    options: TrainOptions
    loader: Loader
    samples: list[Batch]
    trainer: Trainer
    learning_rate: LearningRate
    progress: Progress
    logger: Logger
    lock: RunLock
    validation: Validation | None = None
    recent: dict[int, list[str]] = field(default_factory=dict)
    saved_at: float = field(default_factory=time.monotonic)

    def batches(self) -> Iterator[Batch]:
        """Yield the rest of the epoch's batches, on the device; if reading fails, save first."""
        model = self.trainer.model
        try:
            rest = self.loader.epoch(self.progress.epoch, self.progress.position)
            yield from on_device(rest, model.device, model.dtype)
        except UserError:
            if self.trainer.iteration and distributed.world_size() == 1:  # other ranks may be in another step
                self.save("latest")
            raise

    def step(self, batch: Batch) -> Mapping[str, Tensor]:
        """Make one training step on a batch that is on the device; its losses stay there."""
        trainer, progress = self.trainer, self.progress
        monitor = progress.will_cross(self.options.logging.print_freq, batch.global_size)
        losses, _ = trainer.step(batch, monitor)
        self.recent[trainer.iteration] = list(dict.fromkeys([*batch.paths_A, *batch.paths_B]))
        progress.advance(batch.global_size)
        if self.learning_rate.watches:
            progress.watched += batch.global_size * sum(
                losses[name].double() for name in trainer.model.watched_losses
            )
        return losses

    def log_speed(self, first_steps: FirstSteps, watch: Stopwatch) -> None:
        """Log the speed and the peak memory of the first steps."""
        device = self.trainer.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        speed, unit = first_steps.report(self.progress.images, watch.waited), "GiB"
        unit += " of the GPU's" if device.type == "cuda" else ""
        log.info("%s; peak memory %.2f %s", speed, peak_memory(device), unit)

    def log_losses(self, losses: Mapping[str, Tensor], watch: Stopwatch) -> dict[str, float]:
        """Hand the losses of a step to the logger and return their values; this waits for the device.

        Of several processes the first one does it.
        """
        if distributed.rank():
            return {}
        progress = self.progress
        values = {name: value.item() for name, value in losses.items()}
        monitor = self.trainer.model.diagnostics
        diagnostics = {name: value.item() for name, value in monitor.values().items()}
        for warning in monitor.warnings(diagnostics):
            log.warning("%s", warning)
        computed, waited = watch.per_image(progress.images)
        factor = self.learning_rate.factor(progress.epoch)
        record = LossRecord(
            epoch=progress.epoch,
            epoch_fraction=progress.position / len(self.loader),
            iters=progress.position,
            total_iters=progress.images,
            time=computed,
            data=waited,
            learning_rate=self.options.optimization.lr * factor,
            losses=values,
            diagnostics=diagnostics,
            learning_rates=rates(self.trainer.optimizers, factor),
            images_per_second=1 / (computed + waited),
            peak_memory=peak_memory(self.trainer.device),
        )
        self.logger.log_losses(record)
        return values

    def show(self, epoch: int, pages: bool = True, live: bool = True) -> None:
        """Translate the fixed samples for the sinks whose turn it is; without such sinks do nothing."""
        if not self.samples or not self.logger.takes_visuals(pages, live):
            return
        model = self.trainer.model
        images = []
        for sample in self.samples:
            visuals = model.translate(sample.to(model.device, model.dtype))
            images.append({name: to_uint8(image[0]) for name, image in visuals.items()})
        if overview := model.overview():
            images.append({name: to_uint8(image) for name, image in overview.items()})
        self.logger.log_visuals(epoch, images, pages, live)

    def validate(self, epoch: int) -> bool:
        """Measure the model if that is due, and log it; return whether it is the best one so far."""
        validation = self.validation
        if validation is None or not validation.is_due(epoch):
            return False
        try:
            means, left_out = validation.measure(self.trainer.model)
        except UserError:
            if distributed.world_size() == 1:  # others may have read on
                self.save("latest")
            raise
        if distributed.rank() == 0:
            self.logger.log_metrics(MetricRecord(epoch, self.progress.images, means))
        missing = "the results of this model have no truth to compare with"
        if validation.watched and validation.watched not in means:
            self.save("latest")
            reason = left_out.get(validation.watched, missing)
            raise UserError(f"--best {validation.watched}: not found in validation: {reason}")
        if not means:
            log.warning("--val_freq: nothing could be measured: %s", missing)
        return validation.is_best(means, epoch)

    def is_over(self) -> bool:
        """Return whether validation has found nothing better for so long that training ends; say so."""
        validation = self.validation
        if validation is None or not validation.is_over:
            return False
        log.info(
            "--patience %d: no better %s since epoch %d (%.4f, kept as best); training ends here",
            validation.patience,
            validation.watched,
            validation.best_epoch,
            validation.best,
        )
        return True

    def save(self, *tags: str) -> None:
        """Write a checkpoint under every tag, after a look at what goes into it.

        Raises:
            UserError: training has met what is not finite; the state is saved under ``nan`` instead.
        """
        self.check()
        if names := self.trainer.non_finite_nets():
            self.abort_non_finite(
                f"weights of {', '.join(names)} are not finite after iteration {self.trainer.iteration}"
            )
        self._log_save(tags)
        self.write(*tags)
        self.saved_at = time.monotonic()
        if self.options.saving.keep_last and distributed.rank() == 0:
            remove_old(self.options.run_folder, self.options.saving.keep_last)

    def _log_save(self, tags: Sequence[str]) -> None:
        """Log what is saved, in the peer's words."""
        progress = self.progress
        epoch = progress.epoch if progress.position else progress.epoch - 1
        if str(epoch) in tags:
            log.info("saving the model at the end of epoch %d, iters %d", epoch, progress.images)
        else:
            log.info("saving the latest model (epoch %d, total_iters %d)", epoch, progress.images)
        if "best" in tags:
            log.info("saving the best model (epoch %d, total_iters %d)", epoch, progress.images)

    def write(self, *tags: str) -> None:
        """Write a checkpoint under every tag, as it is."""
        self.lock.check()
        model = self.trainer.state_dict()
        if distributed.rank():
            return
        state = {
            "model": model,
            "learning_rate": self.learning_rate.state_dict(),
            "progress": self.progress.state_dict(),
            "pictures": len(self.loader),
            "logs": self.logger.lengths(),
            "options": self.options.values(),
        }
        if self.validation:
            state["validation"] = self.validation.state_dict()
        save_checkpoint(self.options.run_folder, list(tags), state, self.trainer.exports())

    def is_due(self) -> bool:
        """Return whether the clock asks for a save."""
        minutes = self.options.saving.save_latest_minutes
        return minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes

    def check(self) -> None:
        """Tell of losses that were not finite since the last check; this waits for the device.

        Raises:
            UserError: training cannot go on.
        """
        recent, self.recent = self.recent, {}
        report = self.trainer.nonfinite.pop_report()
        if report is None:
            return
        losses = ", ".join(f"{name} = {value}" for name, value in report.losses.items())
        found = (
            f"iteration {report.iteration}: not finite: {losses or 'a gradient'}, in updating"
            f" {' and '.join(report.optimizers) or 'nothing'}, on"
            f" {', '.join(recent.get(report.iteration, ['images seen earlier']))}"
        )
        if report.fatal:
            self.abort_non_finite(found)
        log.warning(
            "--on_nan skip: %d steps left out since the last look; the first: %s", report.steps, found
        )

    def abort_non_finite(self, found: str) -> NoReturn:
        """Save a copy for inspection, which no other run takes for a good state, and end."""
        self.write("nan")
        raise UserError(
            f"{found}. For inspection everything is saved as nan_*.pth in {self.options.run_folder}; the last"
            " good state is still there for --continue_train. Try a lower --lr, or --on_nan skip, which"
            " leaves such steps out"
        )


def start(
    options: TrainOptions,
    trainer: Trainer,
    learning_rate: LearningRate,
    images: int,
    validation: Validation | None,
) -> Progress:
    """Return where to start, with everything as it has to be there.

    With ``--continue_train`` that is where it was saved, or the beginning if nothing was saved yet. Without a
    state, as in a folder of the peer's, the networks' weights alone are loaded.

    Args:
        images: how many the data set has.
    """
    saving, folder, tag = options.saving, options.run_folder, options.run.tag
    progress = Progress(epoch=saving.epoch_count)
    if saving.continue_train:
        state = load_state(folder, tag)
        if state is not None:
            return resume(options, trainer, learning_rate, images, validation, state)
        begun = tag == "latest" and (folder / "train_opt.json").exists()
        if not begun or any(weights_path(folder, tag, name).exists() for name in trainer.model.nets):
            for name, net in trainer.model.nets.items():
                load_weights(net, weights_path(folder, tag, name))
            log.info(
                "%s: weights without a training state; optimizers start fresh, at epoch %d",
                folder,
                progress.epoch,
            )
            return progress
        log.info("%s: nothing had been saved yet; it starts from the beginning", folder)

    if saving.init_from:
        initialise_from(trainer.model.nets, Path(saving.init_from), tag)
    if not saving.continue_train and distributed.rank() == 0 and set_aside(folder, "latest", "replaced"):
        log.warning(
            "%s held an earlier run. This one replaces it; its last checkpoint is kept as replaced"
            " (--continue_train would have gone on with it, and still does with --epoch replaced)",
            folder,
        )
    return progress


def resume(
    options: TrainOptions,
    trainer: Trainer,
    learning_rate: LearningRate,
    images: int,
    validation: Validation | None,
    state: Mapping[str, Any],
) -> Progress:
    """Bring everything back to where `state` was saved, and say what is different now."""
    folder, then, now = options.run_folder, state["options"], options.values()
    if then["model"] != options.run.model:
        raise UserError(f"--continue_train: {folder} was trained with --model {then['model']}")
    trainer.load_state_dict(state["model"])
    learning_rate.load_state_dict(state["learning_rate"])
    if validation and "validation" in state:
        validation.load_state_dict(state["validation"])
    if distributed.rank() == 0:
        cut_back(folder, state["logs"])
    changed = [
        f"--{name} {now[name]} (was {then[name]})"
        for name in sorted(now.keys() & then.keys() - {"continue_train"})
        if now[name] != then[name]
    ]
    if changed:
        log.info("Flags that have changed: %s", ", ".join(changed))
    if images != state["pictures"]:
        log.warning(
            "There are %d images now and were %d: from here on the run is another one",
            images,
            state["pictures"],
        )
    progress = Progress.from_state_dict(state["progress"])
    if "epoch_count" in options.explicit:
        progress = Progress(epoch=options.saving.epoch_count, images=progress.images)
        log.info("--epoch_count %d overrides the saved state's epoch", progress.epoch)
    log.info("Going on in epoch %d after %d of its images", progress.epoch, progress.position)
    return progress
