"""Train a model.

    python train.py --dataroot ./datasets/facades --name facades_pix2pix --model pix2pix --direction BtoA

Checkpoints, logs and the training page go to ``<checkpoints_dir>/<name>/``; ``--continue_train`` resumes from
the last checkpoint. SIGINT (Ctrl-C), SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU finish the step, save, and
end with status 75.
``--help`` lists every flag of the chosen model and data set.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the imports below take seconds

import logging
import sys
from contextlib import ExitStack, suppress
from dataclasses import replace

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data import DATASETS, Loader, create_loader
from data.sides import with_sides
from models import MODELS, create_model
from models.base_model import BaseModel
from options.parse import check_run, check_weights, options_text, parse
from options.train_options import TrainOptions
from training.loggers import check_sinks
from training.run import Run
from training.run_lock import RunLock
from training.trainer import Trainer
from util import distributed
from util.device import prepare_device, processes_to_launch
from util.errors import run_command
from util.stopping import STOPPED_STATUS, Stopped, StopSignals, interruptible

log = logging.getLogger(__name__)

TO_SAVE_MEMORY = (
    "Try --accumulate N, which computes a batch in N parts, --checkpointing, --precision bf16, a lower"
    " --batch_size or a lower --crop_size; on a CPU also --num_threads 0 or a lower --cache_limit. The last"
    " checkpoint is intact: add --continue_train to resume from it"
)


def main(argv: list[str]) -> int:
    run: Run | None = None
    with StopSignals() as stop, ExitStack() as resources:
        try:
            with interruptible():
                check_run(TrainOptions, argv)
                options = parse(TrainOptions, argv, MODELS, DATASETS)
                check_weights(options)
                check_sinks(options)
                ranks = processes_to_launch(options.run.gpu_ids)
            if ranks > 1:
                with suppress(Stopped):
                    return distributed.launch(ranks, __file__, argv)
                return STOPPED_STATUS
            with interruptible():
                run = prepare(options, resources)
            complete = train(run, stop)
        except Stopped:
            if run is None or distributed.world_size() > 1:
                log.warning(
                    "Stopped by %s %s",
                    stop.received,
                    "before training began; there is nothing to save"
                    if run is None
                    else "while waiting for images; --continue_train resumes from the last save",
                )
                return STOPPED_STATUS
            complete = False
        if complete:
            run.logger.close()
    distributed.shutdown()
    if complete:
        log.info("Done: %s", options.run_folder)
        return 0
    log.info(
        "Stopped by %s in epoch %d after %d of its images; everything is saved: --continue_train resumes",
        stop.received,
        run.progress.epoch,
        run.progress.position,
    )
    return STOPPED_STATUS


def prepare(options: TrainOptions, resources: ExitStack) -> Run:
    """Return the run at its start.

    Args:
        resources: takes what must be released when the run ends.
    """
    if distributed.is_restart():
        options = replace(options, saving=replace(options.saving, continue_train=True))
    device = prepare_device(options.run.gpu_ids, "gpu_ids" in options.explicit, options.run.deterministic)
    log.info(options_text(options))

    loader = create_loader(options, device)
    options = with_sides(options, loader.dataset.sides)
    model = create_model(options, device)
    trainer = Trainer(model, options)
    check_data(model, loader)
    log.info("%d training images; %s on %s", len(loader), options.run.model, device)
    log.info("Random numbers: --seed %d", options.run.seed)
    if (ranks := distributed.world_size()) > 1:
        log.info("%d ranks share each batch of %d", ranks, options.data.batch_size)

    lock = resources.enter_context(RunLock(options.run_folder))
    resources.enter_context(torch.autograd.set_detect_anomaly(options.run.debug))
    return Run(options, loader, trainer, lock)


def check_data(model: BaseModel, loader: Loader) -> None:
    """Raise a `UserError` if the model cannot be trained on the data, before anything is written."""
    model.check_files(loader.dataset.files_B())
    for sample in loader.first(1):
        model.check_batch(sample)


def train(run: Run, stop: StopSignals) -> bool:
    """Train the remaining epochs; return whether they are complete, or a signal has stopped them."""
    progress, logs, saving = run.progress, run.options.logging, run.options.saving
    flags, hidden = distributed.SharedFlags(), True if distributed.rank() else None

    with logging_redirect_tqdm(), tqdm(total=run.images_left, unit=" images", disable=hidden) as bar:
        while not run.is_over():
            run.start_epoch()
            bar.set_description(f"epoch {progress.epoch} / {run.options.optimization.last_epoch}")

            for batch in run.batches():
                losses = run.step(batch)
                bar.update(batch.global_size)
                stopping, save_due = flags.any(bool(stop.received), run.is_save_due())

                # Frequencies count images, and act in the step that reaches a multiple.
                if progress.crossed(logs.print_freq):
                    bar.set_postfix(run.log_losses(losses))
                pages, live = progress.crossed(logs.update_html_freq), progress.crossed(logs.display_freq)
                run.show(progress.epoch, pages, live)
                if progress.crossed(saving.save_latest_freq):
                    run.save(*([f"iter_{progress.images}"] if saving.save_by_iter else []), "latest")
                elif stopping or save_due:
                    run.save("latest")
                if stopping:
                    return False

            run.end_epoch()
    if not run.is_as_saved:
        run.save("latest")
    return True


if __name__ == "__main__":
    sys.exit(run_command(main, TO_SAVE_MEMORY))
