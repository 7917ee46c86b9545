"""The flags that train.py and test.py share, in groups: each part of the program uses the groups it needs."""

import logging
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

from options.augment_options import EXAMPLES, parse_augment
from options.file_options import FileOptions, by_part
from options.option import Group, option
from options.runs import checked_name
from util.errors import UserError
from util.image_limits import MAX_IMAGE_GB
from util.metrics.names import (
    DEFAULT_METRICS,
    DOWNLOAD,
    METRICS,
    METRICS_IN_UNITS,
    NETWORK_FILES,
    metrics_using,
    parse_names,
)
from util.registry import label

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

PREPROCESS = ("resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none")


DEBUG = {"num_threads": 0, "cuda_graph": "off", "compile": False}
"""What ``--debug`` sets: everything runs in one process, one operation after the other."""


@dataclass(frozen=True)
class RunOptions:
    """The model, its files, and the device."""

    dataroot: str = option(
        MISSING,
        "the folder with the images (its subfolders depend on the data set), or shards:"
        " folder/train-{000000..000009}.tar, http://host/shards, pipe:command (see overview.md)",
        nonempty=True,
    )
    name: str = option(
        "experiment_name",
        "name of the experiment: its folder in --checkpoints_dir and --results_dir",
        nonempty=True,
        cosmetic=True,
    )
    suffix: str = option(
        "",
        "appended to the name after _, with the values of flags in braces: {model}_{netG}_size{load_size}",
        cosmetic=True,
    )
    checkpoints_dir: str = option(
        "./checkpoints",
        "folder of checkpoints, logs and the training page",
        nonempty=True,
        cosmetic=True,
    )
    model: str = option(
        "cycle_gan", "which model: the name of a models/<name>_model.py, or the path of such a file elsewhere"
    )
    gpu_ids: str = option("0", "GPUs: 0, or several such as 0,1; -1 for the CPU", cosmetic=True)
    epoch: str = option(
        "latest", "which checkpoint to load: latest, or the number of an epoch", nonempty=True
    )
    load_iter: int = option(
        0, "load the checkpoint iter_N instead (see --save_by_iter); 0 loads --epoch", minimum=0
    )
    precision: str = option(
        "fp32",
        "precision of networks: bf16, fp16 (GPUs) and tf32 (NVIDIA GPUs) are lower than fp32, which norm"
        " statistics, losses and weights keep; fp64 is slow, for checks",
        choices=("fp64", "fp32", "tf32", "bf16", "fp16"),
    )
    seed: int = option(0, "seed of all randomness: initial weights, order, augmentation, dropout", minimum=0)
    deterministic: bool = option(
        False, "use only algorithms whose results are reproducible bit for bit; slower on a GPU"
    )
    debug: bool = option(
        False,
        "for debuggers: --num_threads 0, --cuda_graph off and no --compile unless given, and in training an"
        " error at the operation whose gradient is NaN (see debugging.md)",
        cosmetic=True,
    )
    config: str = option(
        "",
        "a file with values of flags, which the command line overrides: *_opt.json or *_opt.txt, of this"
        " program or the peer",
        cosmetic=True,
    )
    verbose: bool = option(False, "print the networks layer by layer", cosmetic=True)

    @property
    def dtype(self) -> "torch.dtype":
        """The type of network weights and images."""
        import torch  # scripts that only read flags start without it

        return torch.float64 if self.precision == "fp64" else torch.float32

    @property
    def tag(self) -> str:
        """The chosen checkpoint: the part of its file names before ``_net_``."""
        return f"iter_{self.load_iter}" if self.load_iter else self.epoch


@dataclass(frozen=True)
class SpeedOptions:
    """How networks are computed; results are the same to float tolerance."""

    speed: str = option(
        "auto",
        "auto: the fastest memory formats and kernels for this device; off: the default ones, to compare",
        choices=("auto", "off"),
    )
    compile: bool = option(
        False, "compile networks with torch.compile: slower for the first minute, then faster"
    )
    cuda_graph: str = option(
        "off",
        "capture whole training steps as CUDA graphs: auto runs eagerly where that is impossible, on fails",
        choices=("off", "auto", "on"),
        phase="train",
    )

    def __post_init__(self) -> None:
        if self.compile and self.speed == "off":
            raise UserError("--compile: --speed off is without optimizations; use only one of them")
        if self.cuda_graph == "on" and self.speed == "off":
            raise UserError("--cuda_graph on: --speed off is without optimizations; use only one of them")


@dataclass(frozen=True)
class NetworkOptions:
    """The architecture; test.py reads it from the checkpoint's options.

    The choices of ``netG`` and ``netD``, and which of these a flag needs, come from the registered networks.
    """

    input_nc: int = option(3, "channels of input images: 3 is RGB, 1 grey", minimum=1, architecture=True)
    output_nc: int = option(3, "channels of output images: 3 is RGB, 1 grey", minimum=1, architecture=True)
    netG: str = option("resnet_9blocks", "generator", architecture=True)
    netD: str = option("basic", "discriminator; basic is a 70 x 70 PatchGAN")
    ngf: int = option(64, "filters in the generator's outermost layer", minimum=1, architecture=True)
    ndf: int = option(64, "filters in the discriminator's first layer", minimum=1)
    n_layers_D: int = option(3, "strided layers of the discriminator", minimum=1)
    norm: str = option(
        "instance",
        "normalisation layers",
        choices=("instance", "batch", "none"),
        # Batch norm is over all ranks anyway.
        synonyms={
            "syncbatch": "batch",
            "sync_batch": "batch",
            "syncinstance": "instance",
            "sync_instance": "instance",
        },
        architecture=True,
    )
    no_dropout: bool = option(False, "no dropout in the generator", architecture=True)
    attention: str = option(
        "none",
        "sizes of feature maps that get self-attention, such as 32 or 32,64 for images of --crop_size,"
        " or fractions of a side such as 1/8",
        architecture=True,
    )
    attention_nets: str = option(
        "GD",
        "the networks with self-attention: generators, discriminators, or both",
        choices=("G", "D", "GD"),
        architecture=True,
    )
    spectral_norm: str = option(
        "none",
        "the networks with spectral norm: generators, discriminators, or both",
        choices=("none", "G", "D", "GD"),
        architecture=True,
    )
    upsample: str = option(
        "deconv",
        "upsampling in generators; nearest and bilinear (with a convolution) avoid checkerboard artifacts",
        choices=("deconv", "nearest", "bilinear"),
        architecture=True,
    )
    padding: str = option(
        "reflect",
        "border padding mode",
        choices=("reflect", "replicate", "zero"),
        architecture=True,
    )
    init_type: str = option(
        "normal", "initial weights", choices=("normal", "xavier", "kaiming", "orthogonal")
    )
    init_gain: float = option(0.02, "scale of initial weights (normal, xavier, orthogonal)", above=0)

    def attention_depths(self, net: str) -> tuple[int, ...]:
        """Return the depths (numbers of halvings) of the feature maps with self-attention in "G" or "D".

        ``--attention`` must be written in fractions, as in parsed options.
        """
        if self.attention == "none" or net not in self.attention_nets:
            return ()
        return tuple(int(part.removeprefix("1/")).bit_length() - 1 for part in self.attention.split(","))


@dataclass(frozen=True)
class DataOptions:
    """The images, and how they are prepared."""

    phase: str = option("train", "which part of the data set: train, val, test, ...")
    dataset_mode: str = option(
        "unaligned",
        "which data set: the name of a data/<name>_dataset.py, or the path of such a file elsewhere",
    )
    direction: str = option(
        "AtoB", "direction of translation between the sides", choices=("AtoB", "BtoA"), architecture=True
    )
    batch_size: int = option(1, "images in a batch", minimum=1)
    num_threads: int = option(
        4,
        "worker processes that read images, by default at most one per CPU core; 0: none",
        minimum=0,
        cosmetic=True,
    )
    serial_batches: bool = option(False, "read images in order instead of shuffling them")
    max_dataset_size: int | None = option(None, "use only the first N images", minimum=1)
    overfit: int = option(
        0,
        "train on the first N samples only, with the same crops and flips in every epoch: a check that the"
        " model can learn them (see debugging.md); 0: off",
        minimum=0,
        phase="train",
    )
    preprocess: str = option("resize_and_crop", "how images are scaled and cropped", choices=PREPROCESS)
    load_size: int = option(286, "scale images to this size", minimum=1)
    crop_size: int = option(256, "then crop to this size", minimum=1)
    no_flip: bool = option(False, "do not flip images at random")
    augment: str = option(
        "none",
        "random changes of training images beyond crops and flips, separated by commas, some of"
        f" {', '.join(EXAMPLES)}; for input and target alike, but color, noise, blur and jpeg for the input"
        " alone unless :AB follows, as in color:0.2:AB (see docs/data.md)",
        phase="train",
        nonempty=True,
    )
    exact_resize: bool = option(
        False, "scale with Pillow, bit for bit like the peer; slower than torch (see overview.md)"
    )
    cache: str = option(
        "none",
        "keep scaled images for later epochs, shared by all worker processes: ram in memory, disk in a file"
        " that is also shared with other runs on this machine",
        choices=("none", "ram", "disk"),
        phase="train",
        cosmetic=True,
    )
    cache_limit: float = option(
        4.0,
        "maximal size of the cache in memory or on the disk, in GB; images beyond it are read in every epoch",
        above=0,
        phase="train",
        needs=("cache", ("ram", "disk")),
        cosmetic=True,
    )
    cache_dir: str = option(
        "./cache/",
        "folder of the cache file, on a local disk",
        phase="train",
        needs=("cache", ("disk",)),
        cosmetic=True,
    )
    bad_images: str = option(
        "skip",
        "images that cannot be read: skip logs and skips them (in training, the next good image replaces"
        " them), error ends the run",
        choices=("skip", "error"),
    )

    max_image_gb: float = option(
        MAX_IMAGE_GB,
        "images that take more memory when decoded count as images that cannot be read: 4 or 5 bytes per"
        " pixel, 8 with transparency or floating point values",
        above=0,
        cosmetic=True,
    )

    def __post_init__(self) -> None:
        scaled = self.preprocess in ("resize_and_crop", "scale_width_and_crop")
        if scaled and self.load_size < self.crop_size:
            raise UserError(
                f"--crop_size {self.crop_size} is larger than the images, which --load_size scales to"
                f" {self.load_size}: raise --load_size or lower --crop_size"
            )
        parse_augment(self.augment)


COLOR_METRICS = f"{DEFAULT_METRICS},ciede2000,colorfulness"
"""Default of models that colorize."""


@dataclass(frozen=True)
class MetricOptions:
    """Metrics of results compared with the truth."""

    metrics: str = option(
        DEFAULT_METRICS,
        f"metrics to measure, separated by commas, some of {', '.join(METRICS)}, or none; lpips, fid and kid"
        " need requirements-metrics.txt; fid and kid need no pairs; mae and rmse, in the file's units, are"
        " default, too, if --output_range is not 8bit",
        cosmetic=True,
    )
    lpips_weights: str = option(
        DOWNLOAD, f"network of lpips: download, or the path of {NETWORK_FILES['lpips']}", cosmetic=True
    )
    inception_weights: str = option(
        DOWNLOAD,
        f"network of fid and kid: download, or the path of {NETWORK_FILES['inception']}",
        cosmetic=True,
    )

    def __post_init__(self) -> None:
        for network, source in self.weights.items():
            if source != DOWNLOAD and not metrics_using(network, self.names):
                users = " or ".join(metrics_using(network))
                log.warning("--%s_weights has no effect without --metrics %s", network, users)

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics in ``--metrics``."""
        return parse_names(self.metrics)

    @property
    def weights(self) -> dict[str, str]:
        """Where the weights of each network come from: ``download`` or a path."""
        return {network: getattr(self, f"{network}_weights") for network in NETWORK_FILES}


@dataclass(frozen=True)
class DisplayOptions:
    """How results are shown."""

    display_winsize: int = option(256, "width of an image on a page, in pixels", minimum=16, cosmetic=True)
    display_range: str = option(
        "",
        "values that pages show as black and white: LO,HI in the file's units, or percentile:P, the P-th and"
        " the (100 - P)-th percentile of each sample's real image; by default the part's own range. By part:"
        " A:0,4095,B:percentile:1",
        cosmetic=True,
    )
    display_bands: str = option(
        "",
        "channels that pages show, by their numbers in the file: three as RGB, such as 4,3,2, two as red and"
        " green, or one as grey; by default the first three, or the first if there are fewer. By part:"
        " A:1,B:4,3,2",
        cosmetic=True,
    )
    use_wandb: bool = option(
        False, "log to Weights & Biases, as --log wandb does (in training)", cosmetic=True
    )
    wandb_project_name: str = option(
        "CycleGAN-and-pix2pix", "name of the project in Weights & Biases", cosmetic=True
    )

    @property
    def ranges(self) -> Mapping[str, str]:
        """The values of ``--display_range`` by part."""
        return by_part("display_range", self.display_range)

    @property
    def bands(self) -> Mapping[str, str]:
        """The values of ``--display_bands`` by part."""
        return by_part("display_bands", self.display_bands)


@dataclass(frozen=True)
class CommandOptions:
    """All options of one command, frozen, one attribute per group.

    Attributes:
        model, dataset: the groups of the chosen model and data set.
        explicit: the flags given on the command line.
        defaults: the value of each flag if it is not given.
    """

    COMMAND: ClassVar[str]
    DEFAULTS: ClassVar[Mapping[str, object]]

    run: RunOptions
    speed: SpeedOptions
    network: NetworkOptions
    data: DataOptions
    files: FileOptions
    metrics: MetricOptions
    display: DisplayOptions
    model: Any
    dataset: Any
    explicit: frozenset[str]
    defaults: Mapping[str, object]

    @classmethod
    def groups(cls) -> dict[str, type[Group]]:
        """Return the groups that every model and data set has, by attribute name."""
        hints, others = get_type_hints(cls), ("model", "dataset", "explicit", "defaults")
        return {item.name: hints[item.name] for item in fields(cls) if item.name not in others}

    @property
    def run_name(self) -> str:
        """The name of the experiment with its suffix."""
        return run_name(self.values())

    @property
    def run_folder(self) -> Path:
        """The folder of the run's checkpoints and logs."""
        return Path(self.run.checkpoints_dir) / self.run_name

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics to measure: those in ``--metrics``; by default more if the target is not 8-bit."""
        names = self.metrics.names
        if "metrics" in self.explicit or self.files.output_range == "8bit":
            return names
        return (*names, *(name for name in METRICS_IN_UNITS if name not in names))

    def values(self) -> dict[str, object]:
        """Return the value of every flag by name."""
        groups = (
            getattr(self, item.name) for item in fields(self) if item.name not in ("explicit", "defaults")
        )
        values = {item.name: getattr(group, item.name) for group in groups for item in fields(group)}
        return {name: value for name, value in values.items() if name in self.defaults}


def run_name(values: Mapping[str, object]) -> str:
    """Return the experiment's name with its suffix, with the flags' `values` in place of braces.

    Raises:
        UserError: The suffix names a flag that does not exist, or the name leads out of a folder.
    """
    checked_name(str(values["name"]))
    short = {name: label(str(values[name])) for name in ("model", "dataset_mode") if name in values}
    try:
        suffix = str(values["suffix"]).format(**{**values, **short})
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"--suffix {values['suffix']}: {error} is not a flag of this command") from None
    return checked_name(f"{values['name']}_{suffix}" if suffix else str(values["name"]))


def attention_fractions(sizes: str, crop_size: int) -> str:
    """Return ``--attention`` with sizes of feature maps written as fractions of `crop_size`, such as 1/8.

    Raises:
        UserError: A size is not `crop_size` divided by a power of two.
    """
    if sizes == "none":
        return sizes
    fractions = []
    for part in sizes.split(","):
        digits = part.removeprefix("1/")
        number = int(digits) if digits.isdecimal() else 0
        parts = number if part != digits else crop_size / number if number else 0
        if parts < 1 or parts not in (2**depth for depth in range(16)):
            raise UserError(
                f"--attention {part}: expected none, --crop_size {crop_size} divided by a power of two, such"
                f" as {crop_size // 8}, or a fraction such as 1/8"
            )
        fractions.append(f"1/{int(parts)}")
    return ",".join(fractions)
