"""The flags of train.py alone."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from options.base_options import CommandOptions
from options.option import option
from util.errors import UserError, did_you_mean
from util.metrics.names import METRICS
from util.registry import registered_names

SINKS = registered_names("training.loggers", "sink")
"""The choices of ``--log``, by file names: options do not import what they configure."""

log = logging.getLogger(__name__)

GAN_MODES = ("vanilla", "lsgan", "hinge", "wgangp")


@dataclass(frozen=True)
class AdversarialOptions:
    """How discriminators and generators are played off against each other."""

    gan_mode: str = option("lsgan", "adversarial objective", choices=GAN_MODES)
    lambda_gp: float = option(
        10.0, "weight of the gradient penalty; 0: none", minimum=0, needs=("gan_mode", ("wgangp",))
    )
    lambda_r1: float = option(
        0.0, "weight of the penalty on the discriminator's gradient at real images; 0: none", minimum=0
    )
    r1_every: int = option(16, "steps from one such penalty to the next", minimum=1)
    label_smoothing: float = option(
        0.0, "how far the target for real images is below 1 (vanilla, lsgan)", minimum=0, below=1
    )
    n_critic: int = option(1, "updates of discriminators for one of generators", minimum=1)
    diffaug: str = option(
        "none",
        "change the images that discriminators see, where data are few: some of color,translation,cutout",
    )
    instance_noise: float = option(
        0.0, "standard deviation of noise on the images that discriminators see", minimum=0
    )
    pool_size: int = option(50, "earlier fakes kept to show to the discriminator; 0: none", minimum=0)


@dataclass(frozen=True)
class OptimizationOptions:
    """The optimizer and its learning rate."""

    n_epochs: int = option(100, "epochs at the initial learning rate", minimum=0)
    n_epochs_decay: int = option(
        100, "epochs after them, in which the linear policy lowers the rate", minimum=0
    )
    lr: float = option(0.0002, "initial learning rate of Adam", above=0)
    beta1: float = option(0.5, "momentum term of Adam", minimum=0, below=1)
    lr_policy: str = option(
        "linear", "how the learning rate falls", choices=("linear", "step", "plateau", "cosine")
    )
    lr_decay_iters: int = option(
        50, "epochs after which the rate falls to a tenth", minimum=1, needs=("lr_policy", ("step",))
    )
    lr_G: float = option(0.0, "initial learning rate of generators; 0: --lr", minimum=0)
    lr_D: float = option(0.0, "initial learning rate of discriminators; 0: --lr", minimum=0)
    clip_grad: float | None = option(None, "the largest norm that a network's gradient may have", above=0)
    accumulate: int = option(
        1,
        "compute each batch in N parts whose gradients are added up: needs about an N-th of the memory for"
        " activations",
        minimum=1,
    )
    checkpointing: bool = option(
        False,
        "generators compute their activations again in the backward pass instead of keeping them: less"
        " memory, more time, the same result",
    )
    ema_decay: float = option(
        0.0,
        "keep averages of generators' weights, with this decay a step, for test.py --ema; 0: none",
        minimum=0,
        below=1,
    )
    on_nan: str = option(
        "stop",
        "a loss that is not finite: stop keeps the last good state and ends the run, skip leaves such updates"
        " out",
        choices=("stop", "skip"),
    )

    @property
    def last_epoch(self) -> int:
        """The number of the last epoch."""
        return self.n_epochs + self.n_epochs_decay


@dataclass(frozen=True)
class LoggingOptions:
    """What is logged and shown during training; frequencies count images."""

    log: str = option(
        "html",
        "where losses and images go, beside the screen, loss_log.txt and losses.jsonl: some of"
        f" {','.join(SINKS)}, with commas, or none",
        cosmetic=True,
    )
    print_freq: int = option(100, "images between two lines of losses", minimum=1, cosmetic=True)
    update_html_freq: int = option(
        1000,
        "images between two updates of the samples on the training page and TensorBoard",
        minimum=1,
        cosmetic=True,
    )
    html_samples: int = option(4, "how many fixed images are shown", minimum=1, cosmetic=True)
    no_html: bool = option(False, "write no training page", cosmetic=True)
    display_freq: int = option(
        400,
        "images between two updates of the samples in visdom and Weights & Biases",
        minimum=1,
        cosmetic=True,
    )
    display_ncols: int = option(
        4, "images in a row of the visdom display; 0: a window each", minimum=0, cosmetic=True
    )
    display_id: int = option(
        0,
        "number of the first visdom window; above 0 it asks for visdom, as --log visdom does with 1",
        cosmetic=True,
    )
    display_server: str = option("http://localhost", "visdom server", cosmetic=True)
    display_env: str = option("main", "visdom environment", cosmetic=True)
    display_port: int = option(8097, "visdom port", minimum=1, cosmetic=True)

    def __post_init__(self) -> None:
        for name in self.listed:
            if name not in SINKS:
                raise UserError(
                    f"--log {name}: no such choice{did_you_mean(name, SINKS)}"
                    f" Choices, with commas: {', '.join(SINKS)}; or none"
                )

    @property
    def listed(self) -> list[str]:
        """The names in ``--log``."""
        return [] if self.log == "none" else self.log.split(",")


@dataclass(frozen=True)
class ValidationOptions:
    """What is measured during training on images that are not trained on; --metrics says what."""

    val_freq: int = option(0, "epochs between two validations; 0: none", minimum=0, cosmetic=True)
    val_phase: str = option("val", "the part of the data set that they measure on", cosmetic=True)
    val_size: int | None = option(None, "measure on its first N images only", minimum=1, cosmetic=True)
    best: str = option(
        "",
        "keep the model with the best value of this metric as a checkpoint named best (test.py --epoch best)",
        cosmetic=True,
    )
    patience: int | None = option(
        None, "end training when so many validations in a row have found no better --best", minimum=1
    )

    def __post_init__(self) -> None:
        if self.best and self.best not in METRICS:
            hint = did_you_mean(self.best, METRICS)
            raise UserError(f"--best {self.best}: no such metric{hint} There are {', '.join(METRICS)}")
        if self.best and not self.val_freq:
            raise UserError(f"--best {self.best} needs --val_freq, such as --val_freq 1 for every epoch")
        if self.patience and not self.best:
            raise UserError(f"--patience {self.patience} needs --best: the metric that has to get better")


@dataclass(frozen=True)
class SavingOptions:
    """When checkpoints are written, and where a run starts from."""

    save_latest_freq: int = option(
        5000, "images between two saves of the latest state", minimum=1, cosmetic=True
    )
    save_epoch_freq: int = option(5, "epochs between two checkpoints that are kept", minimum=1, cosmetic=True)
    save_latest_minutes: float | None = option(
        15.0,
        "minutes between two saves of the latest state, by the clock; inf: images alone count",
        above=0,
        cosmetic=True,
    )
    keep_last: int | None = option(
        None,
        "keep only the last N checkpoints of epochs, and the last N of --save_by_iter",
        minimum=1,
        cosmetic=True,
    )
    save_by_iter: bool = option(False, "keep the saves of --save_latest_freq too, as iter_N", cosmetic=True)
    continue_train: bool = option(
        False, "go on from the last saved state (or from --epoch, --load_iter)", cosmetic=True
    )
    init_from: str = option(
        "",
        "start from the weights in this folder of another run (of --epoch), or in this file; what they lack"
        " starts fresh",
    )
    epoch_count: int = option(
        1, "number of the first epoch; given, it overrides a continued run's", minimum=1
    )


@dataclass(frozen=True)
class TrainOptions(CommandOptions):
    """All options of train.py."""

    COMMAND: ClassVar[str] = "train"
    DEFAULTS: ClassVar[Mapping[str, object]] = {}

    adversarial: AdversarialOptions
    optimization: OptimizationOptions
    logging: LoggingOptions
    validation: ValidationOptions
    saving: SavingOptions

    @property
    def sinks(self) -> tuple[str, ...]:
        """The sinks that ``--log`` and the peer's flags choose, in alphabetical order."""
        logs = self.logging
        chosen = {*logs.listed, *(["visdom"] * (logs.display_id > 0)), *(["wandb"] * self.display.use_wandb)}
        return tuple(sorted(chosen - {"html"} if logs.no_html else chosen))

    def __post_init__(self) -> None:
        if not self.validation.val_freq:
            for name in ("val_phase", "val_size", *(item.name for item in fields(self.metrics))):
                if name in self.explicit:
                    log.warning("--%s has no effect in training without --val_freq", name)
        batch_size, parts = self.data.batch_size, self.optimization.accumulate
        if batch_size % parts:
            raise UserError(
                f"--accumulate {parts}: --batch_size {batch_size} is not a multiple of it; take"
                f" --batch_size {-(-batch_size // parts) * parts}, or an --accumulate that divides it"
            )
