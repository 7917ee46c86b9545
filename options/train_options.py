"""The flags of train.py only."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from options.base_options import CommandOptions
from options.option import option
from util.errors import UserError, did_you_mean
from util.metrics.names import METRICS
from util.registry import is_path, registered_names

SINKS = registered_names("training.loggers", "sink")
"""The choices of ``--log``, by file names: options do not import what they configure."""

log = logging.getLogger(__name__)

GAN_MODES = ("vanilla", "lsgan", "hinge", "wgangp")


@dataclass(frozen=True)
class AdversarialOptions:
    """The adversarial objective."""

    gan_mode: str = option("lsgan", "adversarial objective", choices=GAN_MODES)
    lambda_gp: float = option(
        10.0, "weight of the gradient penalty; 0: none", minimum=0, needs=("gan_mode", ("wgangp",))
    )
    lambda_r1: float = option(
        0.0, "weight of the R1 penalty (on the discriminator's gradient at real images); 0: none", minimum=0
    )
    r1_every: int = option(16, "apply the R1 penalty every N-th step, with N times the weight", minimum=1)
    label_smoothing: float = option(
        0.0,
        "one-sided label smoothing: real images have the target 1 - this (vanilla, lsgan)",
        minimum=0,
        below=1,
    )
    n_critic: int = option(1, "updates of discriminators per update of generators", minimum=1)
    diffaug: str = option(
        "none",
        "differentiable augmentation of all images that discriminators see, for small data sets: some of"
        " color,translation,cutout; color changes RGB and grey images, never the condition of a pair",
    )
    instance_noise: float = option(
        0.0, "standard deviation of noise on all images that discriminators see", minimum=0
    )
    instance_noise_epochs: int = option(
        0, "lower --instance_noise linearly to 0 over the first N epochs; 0: keep it", minimum=0
    )
    pool_size: int = option(
        50, "size of the pool of earlier fakes that discriminators also see; 0: none", minimum=0
    )

    def __post_init__(self) -> None:
        if self.instance_noise_epochs and not self.instance_noise:
            raise UserError(
                f"--instance_noise_epochs {self.instance_noise_epochs} needs --instance_noise: the standard"
                " deviation to begin with, such as 0.1"
            )


@dataclass(frozen=True)
class OptimizationOptions:
    """The optimizer and its learning rate."""

    n_epochs: int = option(100, "epochs at the initial learning rate", minimum=0)
    n_epochs_decay: int = option(
        100, "further epochs, over which the linear policy lowers the learning rate to 0", minimum=0
    )
    lr: float = option(0.0002, "initial learning rate of Adam", above=0)
    beta1: float = option(0.5, "momentum term of Adam", minimum=0, below=1)
    beta2: float = option(
        0.999, "decay rate of Adam's average of squared gradients; WGAN-GP's is 0.9", minimum=0, below=1
    )
    lr_policy: str = option(
        "linear",
        "learning rate schedule",
        choices=("linear", "step", "plateau", "cosine"),
        synonyms={"lambda": "linear"},
    )
    lr_decay_iters: int = option(
        50, "divide the learning rate by 10 every N epochs", minimum=1, needs=("lr_policy", ("step",))
    )
    lr_G: float = option(0.0, "initial learning rate of generators; 0: --lr", minimum=0)
    lr_D: float = option(0.0, "initial learning rate of discriminators; 0: --lr", minimum=0)
    clip_grad: float | None = option(None, "maximal norm of a network's gradient", above=0)
    accumulate: int = option(
        1,
        "gradient accumulation: compute each batch in N parts, with about 1/N of the memory for activations",
        minimum=1,
    )
    checkpointing: bool = option(
        False,
        "activation checkpointing: generators recompute activations in the backward pass; less memory, more"
        " time, the same result",
    )
    ema_decay: float = option(
        0.0,
        "decay per step of the moving averages of generators' weights (test.py --ema); 0: none",
        minimum=0,
        below=1,
    )
    on_nan: str = option(
        "stop",
        "losses that are not finite: stop ends the run and keeps the last good state, skip skips the update",
        choices=("stop", "skip"),
    )

    @property
    def last_epoch(self) -> int:
        """Number of the last epoch."""
        return self.n_epochs + self.n_epochs_decay


@dataclass(frozen=True)
class LoggingOptions:
    """Logging during training; frequencies count images."""

    log: str = option(
        "html",
        "where losses and images are logged, besides the console, loss_log.txt and losses.jsonl: some of"
        f" {','.join(SINKS)}, separated by commas, or none. Under torchrun use --loggers: torchrun takes"
        " --log for an abbreviation of its own flags",
        alias="loggers",
        cosmetic=True,
    )
    print_freq: int = option(100, "print losses every N images", minimum=1, cosmetic=True)
    update_html_freq: int = option(
        1000,
        "update the samples on the training page and in TensorBoard every N images",
        minimum=1,
        cosmetic=True,
    )
    html_samples: int = option(4, "number of fixed images that are shown", minimum=1, cosmetic=True)
    no_html: bool = option(False, "write no training page", cosmetic=True)
    display_freq: int = option(
        400,
        "update the samples in visdom and Weights & Biases every N images",
        minimum=1,
        cosmetic=True,
    )
    display_ncols: int = option(
        4, "images per row in visdom; 0: one window per image", minimum=0, cosmetic=True
    )
    display_id: int = option(
        0,
        "number of the first visdom window; a number above 0 turns visdom on, like --log visdom",
        cosmetic=True,
    )
    display_server: str = option("http://localhost", "visdom server", cosmetic=True)
    display_env: str = option("main", "visdom environment", cosmetic=True)
    display_port: int = option(8097, "visdom port", minimum=1, cosmetic=True)

    def __post_init__(self) -> None:
        for name in self.listed:
            if name not in SINKS and not is_path(name):
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
    """Validation: --metrics measured during training on images that are not trained on."""

    val_freq: int = option(0, "validate every N epochs; 0: never", minimum=0, cosmetic=True)
    val_phase: str = option("val", "part of the data set to validate on", cosmetic=True)
    val_size: int | None = option(None, "validate on the first N images only", minimum=1, cosmetic=True)
    best: str = option(
        "",
        "keep the model with the best value of this metric as checkpoint best (test.py --epoch best)",
        cosmetic=True,
    )
    patience: int | None = option(
        None, "end training after N validations in a row without a better --best", minimum=1
    )

    def __post_init__(self) -> None:
        if self.best and self.best not in METRICS:
            hint = did_you_mean(self.best, METRICS)
            raise UserError(f"--best {self.best}: no such metric{hint} There are {', '.join(METRICS)}")
        if self.best and not self.val_freq:
            raise UserError(f"--best {self.best} needs --val_freq, such as --val_freq 1 for every epoch")
        if self.patience and not self.best:
            raise UserError(f"--patience {self.patience} needs --best: the metric that has to improve")


@dataclass(frozen=True)
class SavingOptions:
    """When checkpoints are written, and where training starts."""

    save_latest_freq: int = option(5000, "save the latest state every N images", minimum=1, cosmetic=True)
    save_epoch_freq: int = option(5, "keep a checkpoint every N epochs", minimum=1, cosmetic=True)
    save_latest_minutes: float | None = option(
        15.0,
        "also save the latest state every N minutes; inf: never",
        above=0,
        cosmetic=True,
    )
    keep_last: int | None = option(
        None,
        "keep only the last N checkpoints of epochs, and the last N of --save_by_iter",
        minimum=1,
        cosmetic=True,
    )
    keep_state: str = option(
        "all",
        "which checkpoints keep the training state, which is larger than the weights: all, or latest alone;"
        " the others can then be tested, but not be resumed from",
        choices=("all", "latest"),
        cosmetic=True,
    )
    save_by_iter: bool = option(
        False, "also keep the states of --save_latest_freq, as checkpoints iter_N", cosmetic=True
    )
    continue_train: bool = option(
        False, "resume from the latest state (or from --epoch, --load_iter)", cosmetic=True
    )
    init_from: str = option(
        "",
        "start from the weights in the folder of another run (of --epoch), or in a file; networks without"
        " weights there get initial ones",
    )
    epoch_count: int = option(1, "number of the first epoch; also overrides that of a resumed run", minimum=1)


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
        first, last = self.saving.epoch_count, self.optimization.last_epoch
        if first > max(1, last):
            raise UserError(
                f"--epoch_count {first}: nothing would be trained, because the last epoch is {last}"
                f" (--n_epochs {self.optimization.n_epochs} and --n_epochs_decay"
                f" {self.optimization.n_epochs_decay}); to train more epochs, raise --n_epochs"
            )
        batch_size, parts = self.data.batch_size, self.optimization.accumulate
        if batch_size % parts:
            raise UserError(
                f"--accumulate {parts}: --batch_size {batch_size} is not a multiple of it; use"
                f" --batch_size {-(-batch_size // parts) * parts}, or an --accumulate that divides it"
            )
