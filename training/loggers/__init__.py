"""The sinks: ``--log`` chooses among ``training/loggers/<name>_sink.py``; `create_logger` starts them."""

import logging
from functools import partial
from importlib.util import find_spec

from options.train_options import TrainOptions
from training.loggers.base import Logger, Sink
from training.loggers.text import Console, JsonLines, TextLog
from training.progress import Progress
from util.errors import UserError
from util.registry import Registry

log = logging.getLogger(__name__)

SINKS: Registry[Sink] = Registry("training.loggers", "sink", "--log", Sink)


def check_sinks(options: TrainOptions) -> None:
    """Check that the chosen sinks can start, and warn of flags that only other sinks read.

    Raises:
        UserError: a sink needs a package that is not installed.
    """
    sinks = {name: SINKS.get(name) for name in dict.fromkeys([*SINKS.names(), *options.sinks])}
    for name in options.sinks:
        package = sinks[name].package
        if package and find_spec(package) is None:
            raise UserError(
                f"--log {name} needs the package {package}: pip install -r requirements.txt -r"
                " requirements-loggers.txt"
            )
    for flag in sorted(options.explicit):
        readers = [name for name, sink in sinks.items() if flag in sink.flags_read()]
        if readers and not set(readers) & set(options.sinks):
            log.warning("--%s has no effect without --log %s", flag, " or ".join(readers))


def create_logger(options: TrainOptions, progress: Progress) -> Logger:
    """Return the logger with the sinks of every run and those of ``--log``."""
    folder, resume = options.run_folder, options.saving.continue_train
    metrics = folder / "metrics.jsonl" if options.validation.val_freq else None
    logger = Logger(
        folder,
        [
            Console(),
            TextLog(folder / "loss_log.txt", resume),
            JsonLines(folder / "losses.jsonl", resume, metrics),
        ],
    )
    for name in options.sinks:
        logger.add(name, partial(SINKS.get(name).start, options, progress))
    return logger
