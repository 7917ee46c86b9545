"""A training run: where it starts, its epochs and steps, what it logs, shows, validates and saves."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from data import Loader
from data.prefetch import on_device
from options.parse import save as save_options
from options.train_options import TrainOptions
from training.checkpoint import (
    TAG,
    SavedState,
    SaveOrder,
    changed_weights,
    clean_up,
    discard_first_save,
    find_state,
    save_checkpoint,
    save_numbers,
    set_aside,
    state_path,
)
from training.loggers import create_logger
from training.loggers.base import Logger, LossRecord, MetricRecord, remove_logs, truncate_logs
from training.optimizers import rates
from training.progress import FirstSteps, Progress, Stopwatch
from training.run_lock import RunLock
from training.schedules import LearningRate
from training.trainer import Trainer
from training.validation import NO_TRUTH, Validation
from util import distributed
from util.batch import Batch
from util.checking import COUNT, POSITIVE, check, loading
from util.device import peak_memory
from util.display import Display
from util.errors import UserError
from util.image_io import Visuals
from util.stopping import Stopped
from util.text import printable
from util.weights import initialise_from, load_weights, weights_path

log = logging.getLogger(__name__)

MOMENTS = {"step": float | Tensor, "exp_avg": Tensor, "exp_avg_sq": Tensor}
STATE = {
    "model": {
        "iteration": COUNT,
        "nets": {str: {str: Tensor}},
        "optimizers": {str: {"state": {int: MOMENTS}, "param_groups": [{"lr": float | Tensor}]}},
        "state": {str: dict},
    },
    "learning_rate": {"factor": float, "best": float, "bad_epochs": COUNT},
    "progress": {
        "epoch": POSITIVE,
        "position": COUNT,
        "pictures": COUNT,
        "watched": float,
        "last": COUNT,
    },
    "pictures": POSITIVE,
    "logs": {str: COUNT},
    "options": {"model": str},
    "validation?": {"watched": str, "best": float, "epoch": COUNT, "stale": COUNT, "averaged?": bool},
    "checkpoints?": {str: COUNT},
}
"""The shape of a run's state; keys with ``?`` are those that earlier versions did not write."""

NOT_COMPARED = {"continue_train", "checkpoints_dir", "name", "suffix"}
"""Flags that a resumed run may change without a remark; a run's folder may have been moved."""


class Run:
    """A training run in its folder.

    Constructed, it is at its start: resumed with ``--continue_train``, otherwise at the first epoch.

    Args:
        loader: the training images.
        lock: of the run's folder.

    Attributes:
        progress: the present epoch and position.
        is_as_saved: whether the run is where it was resumed.
        logger: takes losses, metrics and samples; on ranks other than 0 it has no sinks.
    """

    def __init__(self, options: TrainOptions, loader: Loader, trainer: Trainer, lock: RunLock):
        self.options, self.loader, self.trainer, self.lock = options, loader, trainer, lock
        self.learning_rate = LearningRate.from_options(options.optimization)
        self.validation = Validation.from_options(options, trainer.device)
        if self.validation:
            self.validation.check(trainer.model)
        writes = distributed.rank() == 0
        self._display = Display(loader.dataset.sides, options.display.ranges, options.display.bands)
        self._samples = loader.first(options.logging.html_samples) if writes and options.sinks else []
        self.progress = Progress(epoch=options.saving.epoch_count)
        self._lengths: Mapping[str, int] = {}  # of the logs, in the state that is resumed from
        self.is_as_saved = False
        self._repeat: list[str] = []  # tags of an interrupted save
        self._start()
        if writes:
            clean_up(options.run_folder)
        self._order = SaveOrder(options.run_folder)
        if trainer.ema:
            if not trainer.iteration:
                trainer.ema.restart(trainer.model.nets)  # which may have been loaded from files
            log.info(
                "--ema_decay %g: samples, validation and --best judge the averaged weights (test.py --ema)",
                options.optimization.ema_decay,
            )
        self.logger = Logger(options.run_folder, [])
        if writes:
            if trainer.iteration == 0 or self.images_left > 0:
                save_options(self.options)
            self.logger = create_logger(self.options, self.progress)
            truncate_logs(options.run_folder, self._lengths, self.logger.names())
            self.logger.note_display(self._display.notes())
        if self._repeat:
            log.info("The last save was interrupted; it is repeated")
            self._write(*self._repeat)
        if self.is_as_saved and options.run.tag == "latest":
            self._remove_old()  # the last run may have ended before it did
        self._watch, self._first_steps = Stopwatch(self.progress.images), FirstSteps()
        self._factor = self.learning_rate.factor(max(1, self.progress.epoch - 1))
        self._epoch_began = self._saved_at = time.monotonic()
        self._recent: dict[int, list[str]] = {}  # files of the steps since `check`, by iteration
        if self.progress.epoch > options.optimization.last_epoch:
            log.warning(
                "Nothing is left to train: epoch %d is done, and the last one is %d"
                " (--n_epochs %d and --n_epochs_decay %d). A higher --n_epochs continues it",
                self.progress.epoch - 1,
                options.optimization.last_epoch,
                options.optimization.n_epochs,
                options.optimization.n_epochs_decay,
            )

    @property
    def images_left(self) -> int:
        """The number of training images that are left."""
        epochs = max(0, self.options.optimization.last_epoch - self.progress.epoch + 1)
        return max(0, epochs * len(self.loader) - self.progress.position)

    def is_over(self) -> bool:
        """Return whether all epochs are done, or validation has not improved for ``--patience``."""
        if self.progress.epoch > self.options.optimization.last_epoch:
            return True
        validation = self.validation
        if validation is None or not validation.is_over:
            return False
        log.info(
            "--patience %d: no better %s since epoch %d (%.4f, saved as best); training ends here",
            validation.patience,
            validation.watched,
            validation.best_epoch,
            validation.best,
        )
        return True

    def start_epoch(self) -> None:
        """Set the learning rate of the epoch."""
        before, self._factor = self._factor, self.learning_rate.factor(self.progress.epoch)
        lr = self.options.optimization.lr_G or self.options.optimization.lr
        log.info("learning rate %.7f -> %.7f", lr * before, lr * self._factor)
        self.trainer.set_learning_rate(self._factor)
        self._epoch_began = time.monotonic()

    def batches(self) -> Iterator[Batch]:
        """Yield the rest of the epoch's batches, on the device; save if reading fails or is stopped."""
        model = self.trainer.model
        try:
            rest = self.loader.epoch(self.progress.epoch, self.progress.position)
            yield from self._watch.waiting(on_device(rest, model.device, model.dtype))
        except (Exception, Stopped):
            if self.trainer.iteration and distributed.world_size() == 1:  # other ranks may be in another step
                self.save("latest")
            raise

    def step(self, batch: Batch) -> Mapping[str, Tensor]:
        """Make one training step on a batch that is on the device; return its losses, which stay there."""
        trainer, progress = self.trainer, self.progress
        monitor = progress.will_cross(self.options.logging.print_freq, batch.global_size)
        trainer.model.objective.epochs_done = progress.epoch - 1 + progress.position / len(self.loader)
        self.is_as_saved = False
        losses, _ = trainer.step(batch, monitor)
        self._recent[trainer.iteration] = list(dict.fromkeys([*batch.paths_A, *batch.paths_B]))
        progress.advance(batch.global_size)
        if self.learning_rate.watches:
            watched = (losses[name].double() for name in trainer.model.watched_losses)
            progress.watched += batch.global_size * sum(watched)
        if self._first_steps.done(progress.images, self._watch.waited):
            self._log_speed()
        return losses

    def end_epoch(self) -> None:
        """Validate, update the learning rate's policy, show the samples and save what is due."""
        epoch, saving = self.progress.epoch, self.options.saving
        self.is_as_saved = False
        # Before anything else, so that a run stopped in it can resume at the end of this epoch.
        improved = self.validate(epoch)
        self.learning_rate.end_epoch(float(self.progress.watched) / len(self.loader))
        self.progress.next_epoch()
        self.show(epoch, pages=True, live=True)
        tags = [str(epoch)] if epoch % saving.save_epoch_freq == 0 else []
        if improved:
            tags.append("best")
        if tags:
            self.save(*tags, "latest")
        last, seconds = self.options.optimization.last_epoch, time.monotonic() - self._epoch_began
        left = timedelta(seconds=round(seconds * (last - epoch)))
        log.info("End of epoch %d / %d \t Time Taken: %d sec, about %s left", epoch, last, seconds, left)

    def log_losses(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """Log the losses of a step and return their values, on rank 0; this waits for the device.

        Raises:
            UserError: They are not finite, and training cannot continue.
        """
        values: dict[str, float] = {}
        if distributed.rank() == 0:
            values = {name: value.item() for name, value in losses.items()}
            monitor = self.trainer.model.diagnostics
            diagnostics = {name: value.item() for name, value in monitor.values().items()}
            for warning in monitor.warnings(diagnostics):
                log.warning("%s", warning)
            progress = self.progress
            computed, waited = self._watch.per_image(progress.images)
            record = LossRecord(
                epoch=progress.epoch,
                epoch_fraction=progress.position / len(self.loader),
                iters=progress.position,
                total_iters=progress.images,
                time=computed,
                data=waited,
                learning_rate=self.options.optimization.lr * self._factor,
                losses=values,
                diagnostics=diagnostics,
                learning_rates=rates(self.trainer.optimizers, self._factor),
                images_per_second=1 / (computed + waited),
                peak_memory=peak_memory(self.trainer.device),
            )
            self.logger.log_losses(record)
        self.check()
        return values

    def show(self, epoch: int, pages: bool, live: bool) -> None:
        """Translate the fixed samples for sinks with pages, for live ones, or both, if there are any.

        Without such sinks nothing is translated, and the host does not wait for the device.
        """
        if not self._samples or not self.logger.takes_visuals(pages, live):
            return
        model = self.trainer.model
        images: list[Visuals] = []
        with self.trainer.as_tested():
            for sample in self._samples:
                visuals = model.translate(sample.to(model.device, model.dtype))
                images.append(self._display.previews({name: image[0] for name, image in visuals.items()}))
            if overview := model.overview():
                images.append(self._display.previews(overview))
        self.logger.log_visuals(epoch, images, pages, live)

    def validate(self, epoch: int) -> bool:
        """Measure and log the model if validation is due; return whether it is the best so far."""
        validation = self.validation
        if validation is None or not validation.is_due(epoch):
            return False
        try:
            with self.trainer.as_tested():
                means, left_out = validation.measure(self.trainer.model)
        except (Exception, Stopped):
            if distributed.world_size() == 1:  # other ranks may have read on
                self.save("latest")
            raise
        if distributed.rank() == 0:
            self.logger.log_metrics(MetricRecord(epoch, self.progress.images, means, validation.averaged))
        if validation.watched and validation.watched not in means:
            self.save("latest")
            reason = left_out.get(validation.watched, NO_TRUTH)
            raise UserError(f"--best {validation.watched}: not found in validation: {reason}")
        if not means:
            log.warning("--val_freq: nothing could be measured: %s", NO_TRUTH)
        return validation.is_best(means, epoch)

    def is_save_due(self) -> bool:
        """Return whether ``--save_latest_minutes`` have passed since the last save."""
        minutes = self.options.saving.save_latest_minutes
        return minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes

    def save(self, *tags: str) -> None:
        """Save a checkpoint under every tag, if what it contains is finite.

        Raises:
            UserError: Losses or weights are not finite; the state is saved under ``nan`` instead.
        """
        self.check()
        if names := self.trainer.non_finite_nets():
            self._abort_non_finite(
                f"weights of {', '.join(names)} are not finite after iteration {self.trainer.iteration}"
            )
        self._log_save(tags)
        self._write(*tags)
        self._saved_at = time.monotonic()
        self._remove_old()

    def check(self) -> None:
        """Report losses that were not finite since the last check; this waits for the device.

        Raises:
            UserError: Training cannot continue.
        """
        recent, self._recent = self._recent, {}
        report = self.trainer.nonfinite.pop_report()
        if report is None:
            return
        losses = ", ".join(f"{name} = {value}" for name, value in report.losses.items())
        files = ", ".join(recent.get(report.iteration, ["earlier images"]))
        first = (
            f"iteration {report.iteration}: not finite: {losses or 'a gradient'}, in the update of"
            f" {' and '.join(report.optimizers) or 'nothing'}, on {files}"
        )
        if report.fatal:
            self._abort_non_finite(first)
        log.warning("--on_nan skip: %d steps left out recently; the first: %s", report.steps, first)

    def _abort_non_finite(self, reason: str) -> NoReturn:
        """Save the state for inspection, under a tag that no other run resumes from, and end."""
        self._write("nan")
        raise UserError(
            f"{reason}. The state is saved as nan_*.pth in {self.options.run_folder} for inspection; the last"
            " good one is still there for --continue_train. Try a lower --lr, or --on_nan skip, which leaves"
            " such steps out"
        )

    def _write(self, *tags: str) -> None:
        """Write a checkpoint under every tag."""
        self.lock.check()
        model = self.trainer.state_dict()
        if distributed.rank():
            return
        self._order.add(tags)
        state = {
            "model": model,
            "learning_rate": self.learning_rate.state_dict(),
            "progress": self.progress.state_dict(),
            "pictures": len(self.loader),
            "logs": self.logger.lengths(),
            "options": self.options.values(),
            "checkpoints": dict(self._order.numbers),
        }
        if self.validation:
            state["validation"] = self.validation.state_dict()
        keep_state = self.options.saving.keep_state
        save_checkpoint(self.options.run_folder, list(tags), state, self.trainer.exports(), keep_state)

    def _remove_old(self) -> None:
        """Remove the checkpoints that ``--keep_last`` does not keep."""
        if self.options.saving.keep_last and distributed.rank() == 0:
            self._order.remove_old(self.options.saving.keep_last)

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

    def _log_speed(self) -> None:
        """Log the speed and the peak memory of the first steps."""
        device = self.trainer.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        speed = self._first_steps.report(self.progress.images, self._watch.waited)
        unit = "GiB of GPU memory" if device.type == "cuda" else "GiB"
        log.info("%s; peak memory %.2f %s", speed, peak_memory(device), unit)

    def _start(self) -> None:
        """Load what the flags say, and set the position.

        With ``--continue_train`` that is the saved state; without one, in a folder that train.py has begun,
        nothing: what a run that ended in its first save has left there does not count. In other folders, such
        as the peer's, it is the weights.
        """
        saving, folder, tag = self.options.saving, self.options.run_folder, self.options.run.tag
        nets = self.trainer.model.nets
        if saving.continue_train:
            saved = find_state(folder, tag)
            if saved is not None:
                self._resume(saved)
                return
            # Rank 0 is the first to write to the folder, when all ranks have decided.
            begun = self.lock.found_folder or distributed.is_restart()
            if not distributed.broadcast_object(begun and tag == "latest" and _is_begun(folder)):
                if tag != "latest" and state_path(folder, "latest").exists():
                    raise UserError(
                        f"--continue_train: the checkpoint {tag} in {folder} has no state to resume from (see"
                        f" --keep_state). To train on from its weights, start a run with --init_from {folder}"
                        f" --epoch {tag} and another --name"
                    )
                for name, net in nets.items():
                    load_weights(net, weights_path(folder, tag, name))
                log.info(
                    "%s: weights without a training state; optimizers start fresh, at epoch %d",
                    folder,
                    self.progress.epoch,
                )
                return
            log.info("%s: nothing was saved yet; starting from the beginning", folder)
            self.options = replace(self.options, saving=replace(saving, continue_train=False))
        if saving.init_from:
            initialise_from(nets, Path(saving.init_from), tag)
        distributed.gather_objects(None)  # until every rank has read what it needs from the folder
        if distributed.rank() == 0:
            discard_first_save(folder, "latest")
            remove_logs(folder)
            if set_aside(folder, "latest", "replaced"):
                use = "--continue_train --epoch replaced resumes it"
                if not state_path(folder, "replaced").exists():
                    use = f"its weights alone: --init_from {folder} --epoch replaced starts from them"
                log.warning(
                    "%s held an earlier run. This one replaces it; its last checkpoint is kept as replaced"
                    " (%s)",
                    folder,
                    use,
                )

    def _resume(self, saved: SavedState) -> None:
        """Load a state written by `_write`, and log what has changed since.

        Raises:
            UserError: It is of another model, is not a run's state, or the weights beside it are of another
                origin.
        """
        options, folder, tag = self.options, self.options.run_folder, self.options.run.tag
        state = check(saved.content, STATE, saved.path)
        then, now = state["options"], options.values()
        if then["model"] != options.run.model:
            raise UserError(f"--continue_train: {folder} was trained with --model {printable(then['model'])}")
        with loading(saved.path):
            self.trainer.load_state_dict(state["model"])
            self.learning_rate.load_state_dict(state["learning_rate"])
            if self.validation and "validation" in state:
                self.validation.load_state_dict(state["validation"])
            self.progress = Progress.from_state_dict(state["progress"])
        self._refuse_changed_weights(saved)
        self._lengths, self.is_as_saved = state["logs"], True
        if saved.is_interrupted:
            self._repeat = _last_tags(state, tag)
        changed = [
            f"--{name} {now[name]} (was {printable(str(then[name]))})"
            for name in sorted(now.keys() & then.keys() - NOT_COMPARED)
            if now[name] != then[name]
        ]
        if changed:
            log.info("Flags that have changed: %s", ", ".join(changed))
        if len(self.loader) != state["pictures"]:
            log.warning(
                "There are %d images, and there were %d: the run does not continue exactly",
                len(self.loader),
                state["pictures"],
            )
        if "epoch_count" in options.explicit:
            self.progress = Progress(epoch=options.saving.epoch_count, images=self.progress.images)
            log.info("--epoch_count %d overrides the saved state's epoch", self.progress.epoch)
        log.info("Resuming in epoch %d after %d of its images", self.progress.epoch, self.progress.position)

    def _refuse_changed_weights(self, saved: SavedState) -> None:
        """Raise a `UserError` if weights beside the state are not those that the run has saved with it."""
        folder, tag = self.options.run_folder, self.options.run.tag
        changed: list[Path] = []
        distributed.gather_objects(None)  # until every rank has read the state: rank 0 may replace it next
        if distributed.rank() == 0:
            changed = changed_weights(folder, tag, saved, self.trainer.exports())
        if changed := distributed.broadcast_object(changed):
            names = ", ".join(path.name for path in changed)
            raise UserError(
                f"--continue_train: {names} in {folder} changed after the run had saved"
                f" {saved.path.name}, which it resumes from with the weights of its own. To train on from the"
                f" files, start a run with --init_from {folder} and another --name; to resume without them,"
                " remove or replace these files"
            )


def _is_begun(folder: Path) -> bool:
    """Return whether a run of train.py has begun in a folder; weights without a record are the peer's."""
    return (folder / "train_opt.json").exists() or not any(folder.glob("latest_net_*.pth"))


def _last_tags(state: Mapping[str, Any], tag: str) -> list[str]:
    """Return the tags of the last save under `tag`, which is their last."""
    numbers = save_numbers(state)
    others = [other for other, number in numbers.items() if number == numbers.get(tag) and other != tag]
    return [*filter(TAG.fullmatch, others), tag]
