"""Train a model.

    python train.py --dataroot ./datasets/facades --name facades_pix2pix --model pix2pix --direction BtoA

Checkpoints, logs and the training page go to ``<checkpoints_dir>/<name>/``; ``--continue_train`` goes on from
the last saved state. ``--help`` lists every flag of the chosen model and data set.
"""

import logging
import sys
import time

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data import DATASETS, Loader, create_loader
from models import MODELS, create_model
from models.base_model import BaseModel
from models.schedules import Plateau, cosine, linear, step
from options.parse import parse, save
from options.train_options import LoggingOptions, OptimizationOptions, TrainOptions
from util.batch import Batch
from util.checkpoint import load_state, load_weights, save_checkpoint, weights_path
from util.device import select_device
from util.errors import run
from util.image_io import to_uint8
from util.loggers import Console, JsonLines, Logger, LossRecord, Sink, TextLog, cut_back
from util.progress import Progress, Stopwatch
from util.training_page import TrainingPage

log = logging.getLogger(__name__)


def main(argv: list[str]) -> None:
    options = parse(TrainOptions, argv, MODELS, DATASETS)
    device = select_device(options.run.gpu_ids, "gpu_ids" in options.explicit)
    loader = create_loader(options, device)
    model = create_model(options, device)
    log.info("%d training pictures; %s on %s", len(loader), options.run.model, device)

    progress, plateau = start(options, model)
    save(options)
    logger = create_logger(options)
    train(options, loader, model, logger, progress, plateau)
    logger.close()


def train(
    options: TrainOptions,
    loader: Loader,
    model: BaseModel,
    logger: Logger,
    progress: Progress,
    plateau: Plateau,
) -> None:
    """Run the epochs that are left; frequencies count pictures and act when they are crossed."""
    optimization, logs, saving = options.optimization, options.logging, options.saving
    last = optimization.n_epochs + optimization.n_epochs_decay
    samples = [] if logs.no_html else loader.first(logs.html_samples)
    watch = Stopwatch()
    pictures_left = max(0, last - progress.epoch + 1) * len(loader) - progress.position

    def save_as(*tags: str) -> None:
        state = {
            "model": model.state_dict(),
            "progress": progress.state_dict(),
            "plateau": plateau.state_dict(),
            "logs": logger.lengths(),
            "options": options.values(),
        }
        save_checkpoint(options.run_folder, list(tags), state, model.nets)

    with logging_redirect_tqdm(), tqdm(total=pictures_left, unit=" images", disable=None) as bar:
        while progress.epoch <= last:
            epoch, began = progress.epoch, time.monotonic()
            factor = learning_rate_factor(optimization, epoch, plateau)
            model.set_learning_rate(factor)

            for batch in watch.waiting(loader.epoch(epoch, progress.position)):
                losses, _ = model.step(batch.to(model.device, model.dtype))
                progress.advance(len(batch))
                bar.update(len(batch))
                if optimization.lr_policy == "plateau":
                    progress.watched += len(batch) * sum(
                        losses[name].double() for name in model.watched_losses
                    )

                if progress.crossed(logs.print_freq):
                    values = {name: value.item() for name, value in losses.items()}
                    bar.set_postfix(epoch=epoch, **{name: f"{value:.3f}" for name, value in values.items()})
                    fraction = progress.position / len(loader)
                    seconds, waited = watch.per_picture(progress.pictures)
                    where = (epoch, fraction, progress.position, progress.pictures)
                    logger.log_losses(LossRecord(*where, seconds, waited, factor * optimization.lr, values))
                if progress.crossed(logs.update_html_freq):
                    show(model, samples, logger, epoch)
                if progress.crossed(saving.save_latest_freq):
                    save_as("latest", *([f"iter_{progress.pictures}"] if saving.save_by_iter else []))

            plateau = plateau.after(float(progress.watched) / len(loader))
            progress.next_epoch()
            show(model, samples, logger, epoch)
            log.info("End of epoch %d / %d: %.0f s", epoch, last, time.monotonic() - began)
            if epoch % saving.save_epoch_freq == 0:
                save_as("latest", str(epoch))
    save_as("latest")
    log.info("Done: %s", options.run_folder)


def learning_rate_factor(options: OptimizationOptions, epoch: int, plateau: Plateau) -> float:
    """Return the factor on the initial learning rate that ``--lr_policy`` gives an epoch."""
    match options.lr_policy:
        case "linear":
            return linear(epoch, options.n_epochs, options.n_epochs_decay)
        case "step":
            return step(epoch, options.lr_decay_iters)
        case "cosine":
            return cosine(epoch, options.n_epochs + options.n_epochs_decay)
    return plateau.factor


def show(model: BaseModel, samples: list[Batch], logger: Logger, epoch: int) -> None:
    """Hand the fixed samples, translated as they would be now, to the logger."""
    if not samples:
        return
    visuals = (model.translate(sample.to(model.device, model.dtype)) for sample in samples)
    logger.log_visuals(epoch, [{name: to_uint8(picture[0]) for name, picture in v.items()} for v in visuals])


def start(options: TrainOptions, model: BaseModel) -> tuple[Progress, Plateau]:
    """Return where to start; with ``--continue_train`` the model and the logs go back to the saved state.

    Without a state, as in a folder of the peer's, the networks' weights alone are loaded.
    """
    run, saving, folder = options.run, options.saving, options.run_folder
    progress, plateau = Progress(epoch=saving.epoch_count), Plateau()
    if not saving.continue_train:
        if (folder / "latest_state.pth").exists():
            log.warning(
                "%s holds an earlier run, which this one replaces (--continue_train would go on).", folder
            )
        return progress, plateau

    state = load_state(folder, run.tag)
    if state is None:
        for name, net in model.nets.items():
            load_weights(net, weights_path(folder, run.tag, name))
        log.info(
            "%s: weights without a training state; optimizers start fresh, at epoch %d",
            folder,
            progress.epoch,
        )
        return progress, plateau

    model.load_state_dict(state["model"])
    progress, plateau = Progress(**state["progress"]), Plateau(**state["plateau"])
    if "epoch_count" in options.explicit:
        progress.epoch, progress.position, progress.watched = saving.epoch_count, 0, 0.0
        log.info("--epoch_count %d overrides the saved state's epoch.", saving.epoch_count)
    cut_back(folder, state["logs"])
    log.info("Going on in epoch %d after %d of its pictures", progress.epoch, progress.position)
    return progress, plateau


def create_logger(options: TrainOptions) -> Logger:
    """Return the logger with the sinks that the options ask for."""
    folder, resume, logs = options.run_folder, options.saving.continue_train, options.logging
    warn_of_absent_sinks(logs, options.display.use_wandb)
    sinks: list[Sink] = [
        Console(),
        TextLog(folder / "loss_log.txt", resume),
        JsonLines(folder / "losses.jsonl", resume),
    ]
    if not logs.no_html:
        title = f"Experiment name = {options.run_name}"
        sinks.append(
            TrainingPage(folder, title, width=options.display.display_winsize, resume=resume)
        )
    return Logger(folder, sinks)


def warn_of_absent_sinks(logs: LoggingOptions, use_wandb: bool) -> None:
    """Say so if a display was asked for that does not exist yet."""
    if logs.display_id > 0:
        log.warning(
            "--display_id %d: visdom is not available yet; the training page shows the run.", logs.display_id
        )
    if use_wandb:
        log.warning(
            "--use_wandb: wandb is not available yet; the training page and losses.jsonl record the run."
        )


if __name__ == "__main__":
    sys.exit(run(main))
