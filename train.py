"""Train a model.

    python train.py --dataroot ./datasets/facades --name facades_pix2pix --model pix2pix --direction BtoA

Checkpoints, logs and the training page go to ``<checkpoints_dir>/<name>/``; ``--continue_train`` goes on from
the last saved state. ``--help`` lists every flag of the chosen model and data set.
"""

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data import DATASETS, Loader, create_loader
from models import MODELS, create_model
from models.base_model import BaseModel
from models.schedules import LearningRate
from options.parse import parse, save
from options.train_options import TrainOptions
from util.batch import Batch
from util.checkpoint import load_state, load_weights, save_checkpoint, state_path, weights_path
from util.device import select_device
from util.errors import UserError, run_command
from util.image_io import to_uint8
from util.loggers import Console, JsonLines, Logger, LossRecord, Sink, TextLog, cut_back
from util.progress import Progress, Stopwatch
from util.training_page import TrainingPage

log = logging.getLogger(__name__)


@dataclass
class Run:
    """A training run: what it learns with, how far it is, and where it tells so."""

    options: TrainOptions
    loader: Loader
    model: BaseModel
    learning_rate: LearningRate
    progress: Progress
    logger: Logger

    def log_losses(self, losses: Mapping[str, Tensor], watch: Stopwatch) -> dict[str, float]:
        """Hand the losses of a step to the logger and return their values; this waits for the device."""
        progress = self.progress
        values = {name: value.item() for name, value in losses.items()}
        computed, waited = watch.per_picture(progress.pictures)
        record = LossRecord(
            epoch=progress.epoch,
            epoch_fraction=progress.position / len(self.loader),
            iters=progress.position,
            total_iters=progress.pictures,
            time=computed,
            data=waited,
            learning_rate=self.options.optimization.lr * self.learning_rate.factor(progress.epoch),
            losses=values,
        )
        self.logger.log_losses(record)
        return values

    def show(self, samples: list[Batch], epoch: int) -> None:
        """Hand the fixed samples, translated as they would be now, to the logger."""
        found = [self.model.translate(sample.to(self.model.device, self.model.dtype)) for sample in samples]
        if found:
            pictures = [
                {name: to_uint8(picture[0]) for name, picture in visuals.items()} for visuals in found
            ]
            self.logger.log_visuals(epoch, pictures)

    def save(self, *tags: str) -> None:
        """Write a checkpoint under every tag."""
        state = {
            "model": self.model.state_dict(),
            "learning_rate": self.learning_rate.state_dict(),
            "progress": self.progress.state_dict(),
            "logs": self.logger.lengths(),
            "options": self.options.values(),
        }
        save_checkpoint(self.options.run_folder, list(tags), state, self.model.nets)


def main(argv: list[str]) -> None:
    options = parse(TrainOptions, argv, MODELS, DATASETS)
    device = select_device(options.run.gpu_ids, "gpu_ids" in options.explicit)
    loader = create_loader(options, device)
    model = create_model(options, device)
    log.info("%d training pictures; %s on %s", len(loader), options.run.model, device)

    learning_rate = LearningRate.from_options(options.optimization)
    progress = start(options, model, learning_rate)
    save(options)
    logger = create_logger(options)
    train(Run(options, loader, model, learning_rate, progress, logger))
    logger.close()
    log.info("Done: %s", options.run_folder)


def train(run: Run) -> None:
    """Run the epochs that are left; frequencies count pictures and act when they are crossed."""
    model, loader, progress, rate = run.model, run.loader, run.progress, run.learning_rate
    logs, saving, last = run.options.logging, run.options.saving, run.options.optimization.last_epoch
    samples = [] if logs.no_html else loader.first(logs.html_samples)
    left = max(0, last - progress.epoch + 1) * len(loader) - progress.position
    watch = Stopwatch(progress.pictures)

    with logging_redirect_tqdm(), tqdm(total=left, unit=" images", disable=None) as bar:
        while progress.epoch <= last:
            epoch, began = progress.epoch, time.monotonic()
            model.set_learning_rate(rate.factor(epoch))
            bar.set_description(f"epoch {epoch} / {last}")

            for batch in watch.waiting(loader.epoch(epoch, progress.position)):
                losses, _ = model.step(batch.to(model.device, model.dtype))
                progress.advance(len(batch))
                bar.update(len(batch))
                if rate.watches:
                    watched = sum(losses[name].double() for name in model.watched_losses)
                    progress.watched += len(batch) * watched

                if progress.crossed(logs.print_freq):
                    bar.set_postfix(run.log_losses(losses, watch))
                if progress.crossed(logs.update_html_freq):
                    run.show(samples, epoch)
                if progress.crossed(saving.save_latest_freq):
                    run.save("latest", *([f"iter_{progress.pictures}"] if saving.save_by_iter else []))

            rate.end_epoch(float(progress.watched) / len(loader))
            progress.next_epoch()
            run.show(samples, epoch)
            if epoch % saving.save_epoch_freq == 0:
                run.save("latest", str(epoch))
            seconds = time.monotonic() - began
            to_go = timedelta(seconds=round(seconds * (last - epoch)))
            log.info("End of epoch %d / %d: %.0f s, about %s to go", epoch, last, seconds, to_go)
    run.save("latest")


def start(options: TrainOptions, model: BaseModel, learning_rate: LearningRate) -> Progress:
    """Return where to start; with ``--continue_train`` everything goes back to where it was saved.

    Without a state, as in a folder of the peer's, the networks' weights alone are loaded.
    """
    saving, folder, tag = options.saving, options.run_folder, options.run.tag
    progress = Progress(epoch=saving.epoch_count)
    if not saving.continue_train:
        if state_path(folder, tag).exists():
            log.warning(
                "%s holds an earlier run, which this one replaces (--continue_train would go on)", folder
            )
        return progress

    state = load_state(folder, tag)
    if state is None:
        for name, net in model.nets.items():
            load_weights(net, weights_path(folder, tag, name))
        log.info(
            "%s: weights without a training state; optimizers start fresh, at epoch %d",
            folder,
            progress.epoch,
        )
        return progress

    if state["options"]["model"] != options.run.model:
        raise UserError(f"--continue_train: {folder} was trained with --model {state['options']['model']}")
    model.load_state_dict(state["model"])
    learning_rate.load_state_dict(state["learning_rate"])
    cut_back(folder, state["logs"])
    progress = Progress(**state["progress"])
    if "epoch_count" in options.explicit:
        progress = Progress(epoch=saving.epoch_count, pictures=progress.pictures)
        log.info("--epoch_count %d overrides the saved state's epoch", saving.epoch_count)
    log.info("Going on in epoch %d after %d of its pictures", progress.epoch, progress.position)
    return progress


def create_logger(options: TrainOptions) -> Logger:
    """Return the logger with the sinks that the options ask for."""
    folder, resume, logs = options.run_folder, options.saving.continue_train, options.logging
    sinks: list[Sink] = [
        Console(),
        TextLog(folder / "loss_log.txt", resume),
        JsonLines(folder / "losses.jsonl", resume),
    ]
    if not logs.no_html:
        title = f"Experiment name = {options.run_name}"
        sinks.append(TrainingPage(folder, title, width=options.display.display_winsize, resume=resume))
    if logs.display_id > 0:
        log.warning(
            "--display_id %d: no visdom display yet; the training page shows the run", logs.display_id
        )
    if options.display.use_wandb:
        log.warning("--use_wandb: no wandb log yet; the training page and losses.jsonl record the run")
    return Logger(folder, sinks)


if __name__ == "__main__":
    sys.exit(run_command(main))
