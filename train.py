"""Train a model.

    python train.py --dataroot ./datasets/facades --name facades_pix2pix --model pix2pix --direction BtoA

Checkpoints, logs and the training page go to ``<checkpoints_dir>/<name>/``; ``--continue_train`` goes on from
the last saved state. SIGINT (Ctrl-C), SIGTERM and SIGUSR1 finish the step, save, and end with status 75.
``--help`` lists every flag of the chosen model and data set.
"""

import logging
import sys
import time
from dataclasses import replace
from datetime import timedelta

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data import DATASETS, create_loader
from models import MODELS, create_model
from options.parse import options_text, parse, save
from options.train_options import TrainOptions
from training.loggers import check_sinks, create_logger
from training.loggers.base import Logger
from training.progress import FirstSteps, Stopwatch
from training.run import Run, start
from training.run_lock import RunLock
from training.schedules import LearningRate
from training.trainer import Trainer
from training.validation import Validation
from util import distributed
from util.device import prepare_device, processes_to_launch
from util.errors import run_command
from util.stopping import STOPPED_STATUS, StopSignals

log = logging.getLogger(__name__)

TO_SAVE_MEMORY = (
    "Try --accumulate N, which computes a batch in N parts, --checkpointing, --precision bf16, a lower"
    " --batch_size or a lower --crop_size; on a CPU also --num_threads 0 or a lower --cache_limit. What was"
    " saved before is whole: with --continue_train such a command goes on from there"
)


def main(argv: list[str]) -> int:
    with StopSignals() as stop:
        options = parse(TrainOptions, argv, MODELS, DATASETS)
        check_sinks(options)
        if (processes := processes_to_launch(options.run.gpu_ids)) > 1:
            return distributed.launch(processes, __file__, argv)
        if distributed.is_restart():
            options = replace(options, saving=replace(options.saving, continue_train=True))
        device = prepare_device(options.run.gpu_ids, "gpu_ids" in options.explicit, options.run.deterministic)
        log.info("%s", options_text(options))
        loader = create_loader(options, device)
        model = create_model(options, device)
        trainer = Trainer(model, options)
        log.info("%d training images; %s on %s", len(loader), options.run.model, device)
        log.info("Random numbers: --seed %d", options.run.seed)
        if distributed.world_size() > 1:
            log.info(
                "%d processes share each batch of %d; batch norm has the statistics of the whole of it",
                distributed.world_size(),
                options.data.batch_size,
            )
        shows = distributed.rank() == 0 and options.sinks
        samples = loader.first(options.logging.html_samples) if shows else []
        validation = Validation.from_options(options, device)

        with RunLock(options.run_folder) as lock, torch.autograd.set_detect_anomaly(options.run.debug):
            learning_rate = LearningRate.from_options(options.optimization)
            progress = start(options, trainer, learning_rate, len(loader), validation)
            if distributed.rank() == 0:
                save(options)
            writes = distributed.rank() == 0
            logger = create_logger(options, progress) if writes else Logger(options.run_folder, [])
            run = Run(options, loader, samples, trainer, learning_rate, progress, logger, lock, validation)
            if train(run, stop):
                logger.close()
                log.info("Done: %s", options.run_folder)
                distributed.shutdown()
                return 0
    distributed.shutdown()
    where = f"epoch {progress.epoch} after {progress.position} of its images"
    log.info("Stopped by %s in %s: all is saved, --continue_train goes on from here", stop.received, where)
    return STOPPED_STATUS


def train(run: Run, stop: StopSignals) -> bool:
    """Run the epochs that are left; frequencies count images and act when they are crossed.

    Returns:
        Whether the run is complete, rather than stopped by a signal.
    """
    loader, progress, rate = run.loader, run.progress, run.learning_rate
    logs, saving, last = run.options.logging, run.options.saving, run.options.optimization.last_epoch
    left = max(0, last - progress.epoch + 1) * len(loader) - progress.position
    lr = run.options.optimization.lr_G or run.options.optimization.lr
    factor = rate.factor(max(1, progress.epoch - 1))
    watch, first_steps = Stopwatch(progress.images), FirstSteps()
    agreement, quiet = distributed.SharedFlags(), True if distributed.rank() else None

    with logging_redirect_tqdm(), tqdm(total=left, unit=" images", disable=quiet) as bar:
        while progress.epoch <= last and not run.is_over():
            epoch, began = progress.epoch, time.monotonic()
            before, factor = factor, rate.factor(epoch)
            log.info("learning rate %.7f -> %.7f", lr * before, lr * factor)
            run.trainer.set_learning_rate(factor)
            bar.set_description(f"epoch {epoch} / {last}")

            for batch in watch.waiting(run.batches()):
                losses = run.step(batch)
                stopping, due = agreement.any(bool(stop.received), run.is_due())
                bar.update(batch.global_size)
                if first_steps.done(progress.images, watch.waited):
                    run.log_speed(first_steps, watch)
                if progress.crossed(logs.print_freq):
                    bar.set_postfix(run.log_losses(losses, watch))
                    run.check()
                run.show(epoch, progress.crossed(logs.update_html_freq), progress.crossed(logs.display_freq))
                if progress.crossed(saving.save_latest_freq):
                    run.save(*([f"iter_{progress.images}"] if saving.save_by_iter else []), "latest")
                elif stopping or due:
                    run.save("latest")
                if stopping:
                    return False

            rate.end_epoch(float(progress.watched) / len(loader))
            progress.next_epoch()
            run.show(epoch, pages=True, live=True)
            tags = [str(epoch)] if epoch % saving.save_epoch_freq == 0 else []
            if run.validate(epoch):
                tags.append("best")
            if tags:
                run.save(*tags, "latest")
            seconds = time.monotonic() - began
            to_go = timedelta(seconds=round(seconds * (last - epoch)))
            log.info("End of epoch %d / %d \t Time Taken: %d sec, about %s left", epoch, last, seconds, to_go)
    run.save("latest")
    return True


if __name__ == "__main__":
    sys.exit(run_command(main, TO_SAVE_MEMORY))
