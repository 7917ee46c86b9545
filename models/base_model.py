"""What every model shares: its networks, the loss that it trains on, one translation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from models.layers.blocks import separate_images
from models.layers.precision import Precision, at_least_float32
from models.layers.sizes import check_sizes
from models.layers.speed import choose_convolutions, compile_networks, memory_format, use_reference_path
from models.networks import flag_rules
from models.objectives.diagnostics import Diagnostics
from models.objectives.gan import Objective
from options.base_options import CommandOptions
from options.option import NoOptions
from options.train_options import TrainOptions
from util.batch import Batch, Step
from util.errors import UserError
from util.seeding import seed_for

Update = Callable[[str, Tensor], None]
"""``update("G", loss)`` makes one step of the optimizer of the networks G, G_A, G_B, ... on a 0-d loss."""


class Stateful(Protocol):
    """Something that a checkpoint holds beside the networks, such as an image pool or a running mean."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> object: ...
    def buffers(self) -> Iterable[Tensor]:
        """Return the tensors that a step left out by ``--on_nan skip`` must leave unchanged."""


class BaseModel(ABC):
    """Networks by name, what they learn from a batch, and how they translate one.

    Subclasses define `build`, `train_step` and `test_step`. A model is complete once constructed; it has
    discriminators and an objective only if `options` are a `TrainOptions`.

    Attributes:
        options: the model's own flags, an instance of `Options`; loss weights are among them.
        nets: network ``"G_A"`` is saved as ``latest_net_G_A.pth`` and trained by the optimizer ``"G"``.
        state: what else a resumed run needs.
        objective: the adversarial losses that the flags choose.
        diagnostics: measures of whether training goes well.
    """

    Options: ClassVar[type] = NoOptions
    defaults: ClassVar[Mapping[str, object]] = {}
    """Defaults of other groups' flags that this model changes."""
    test_defaults: ClassVar[Mapping[str, object]] = {}
    """Defaults that only test.py changes."""
    fixed: ClassVar[Mapping[str, object]] = {}
    """Flags of which only one value is supported: the value, or `Fixed` with the reason."""
    example_flags: ClassVar[Mapping[str, object]] = {}
    """Values of flags for tests: with them it runs offline, and each of its flags matters in a few steps."""
    architecture: ClassVar[tuple[str, ...]] = ()
    """Flags that decide this model's architecture beyond those that decide every model's."""
    judged: ClassVar[tuple[str, ...]] = ("output_nc",)
    """Flags with the numbers of channels of the images that discriminators judge, without conditions."""
    watched_losses: tuple[str, ...] = ()
    """The losses whose sum ``--lr_policy plateau`` watches."""
    trains: ClassVar[bool] = True
    reads_B: ClassVar[bool] = False
    """Whether `train_step` needs images of side B."""
    takes_masks: ClassVar[bool] = False
    """Whether `train_step` weights losses of pixels by ``batch.mask``; otherwise ``--mask`` is refused."""
    flag_rules = staticmethod(flag_rules)

    options: Any
    objective: Objective

    def __init__(self, options: CommandOptions, device: torch.device):
        self.options = options.model
        self.device, self.dtype, self.seed = device, options.run.dtype, options.run.seed
        self.state: dict[str, Stateful] = {}
        self.diagnostics = Diagnostics()
        if isinstance(options, TrainOptions):
            if options.files.mask and not self.takes_masks:
                raise UserError(f"--mask: --model {options.run.model} does not weight its losses by masks")
            self.objective = Objective.from_options(
                options.adversarial, options.network, options.files, self.diagnostics, self.judged
            )
        self.precision = Precision(options.run.precision, device)
        torch.manual_seed(seed_for("initial weights", self.seed))
        self.nets = {name: net.to(device, self.dtype) for name, net in self.build(options).items()}
        self._memory_format = torch.contiguous_format
        self._optimize(options)

    @staticmethod
    def from_record(recorded: Mapping[str, Any], chosen: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values of flags for testing, given those recorded in training and the chosen ones."""
        return recorded

    @abstractmethod
    def build(self, options: CommandOptions) -> dict[str, nn.Module]:
        """Return the networks by name, with initial weights; for test.py only those that `test_step` uses."""

    @abstractmethod
    def train_step(self, batch: Batch, update: Update) -> Step:
        """Update every network once, in the paper's order, and return the losses and images.

        Args:
            batch: on the device, with the random decisions of `draws`. A and B have ``--input_nc`` and
                ``--output_nc`` channels: images in [-1, 1], classes one-hot. Losses of pixels are weighted
                by its mask, if it has one.
        """

    @abstractmethod
    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return the images to show by name, the generated ones among them, (N, C, H, W).

        They are as networks see them (`Side.encode`); a name says which side an image is of (`Sides.of`).
        """

    def draws(self, count: int, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the random decisions for `count` images that `train_step` finds in ``batch.draws``.

        They are on the CPU, (count, ...) or 0-d. A subclass adds its own to those of the objective.
        """
        discriminators = [name for name in self.nets if name.startswith("D")]
        return self.objective.draws(discriminators, count, generator, iteration)

    def facts(self, batch: Batch) -> dict[str, Tensor]:
        """Return what only the host knows of a batch and `train_step` needs in ``batch.draws``, (N, ...)."""
        return {}

    def check_files(self, paths_B: Sequence[str]) -> None:  # noqa: B027  (optional)
        """Raise a `UserError` if this model cannot be trained on these files.

        Args:
            paths_B: files of side B; empty if the data set has none, or cannot list them.
        """

    def check_batch(self, batch: Batch) -> None:
        """Raise a `UserError` for a batch that this model cannot be trained on."""
        if self.reads_B:
            batch.pair()
        check_sizes(self.nets.values(), batch)

    def check_weights(self) -> None:  # noqa: B027  (optional)
        """Raise a `UserError` if the flags of test.py do not fit the weights, which have been loaded."""

    @torch.inference_mode()
    def translate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the images of `test_step`; each image's result does not depend on the others in the batch.

        Networks in training mode (the peer's way of testing) normalise and drop out each image separately.
        """
        seeds = [seed_for("test dropout", self.seed, index) >> 1 for index in batch.index.tolist()]
        with separate_images(self.nets.values(), seeds), self.precision.autocast():
            return detached(self.test_step(self.formatted(batch)))

    def captions(self, batch: Batch) -> list[dict[str, str]]:
        """Return the captions in a gallery for each sample, by label, where they differ from the label."""
        return [{} for _ in range(len(batch))]

    def overview(self) -> dict[str, Tensor]:
        """Return images of the model as a whole by name, (C, H, W) as networks see them."""
        return {}

    def eval(self) -> None:
        """Switch to evaluation mode: no dropout, batch norm with the running statistics."""
        for net in self.nets.values():
            net.eval()

    def formatted(self, batch: Batch) -> Batch:
        """Return the batch with its images in the networks' memory format."""
        return batch.map_images(lambda image: image.contiguous(memory_format=self._memory_format))

    def _optimize(self, options: CommandOptions) -> None:
        """Choose memory format, convolution algorithms and compilation."""
        if options.speed.speed == "off":
            use_reference_path(self.nets.values())
            return
        self._memory_format = memory_format(self.nets.values(), self.device, self.precision.name)
        for net in self.nets.values():
            net.to(memory_format=self._memory_format)
        choose_convolutions(options)
        if options.speed.compile:
            training = isinstance(options, TrainOptions)
            # torch cannot differentiate compiled networks twice, as gradient penalties do.
            penalised = training and (self.objective.lambda_gp or self.objective.lambda_r1)
            nets = [net for name, net in self.nets.items() if not (penalised and name.startswith("D"))]
            compile_networks(nets, self.device, training)


def detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without their graphs, in float32 or better."""
    return {name: at_least_float32(tensor.detach()) for name, tensor in tensors.items()}
