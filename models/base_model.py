"""What every model shares: its networks and optimizers, one training step, one translation, and its state."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from models.layers.blocks import separate_images
from models.layers.precision import Precision, at_least_float32
from models.layers.recomputation import recompute_generators
from models.layers.sizes import check_sizes
from models.layers.speed import (
    choose_convolutions,
    compile_networks,
    memory_format,
    use_reference_path,
)
from models.objectives.diagnostics import Diagnostics
from models.objectives.gan import Objective
from models.objectives.image_pool import ImagePool
from options.base_options import CommandOptions
from options.option import NoOptions
from options.train_options import TrainOptions
from training.cuda_graph import CudaRecorder, Recorder, StepGraphs, wants_capture
from training.ema import EMA_SUFFIX, Ema
from training.gradient_sync import GradientSum
from training.nonfinite import LossGuard
from training.optimizers import load_optimizer, make_capturable, set_rates
from util import distributed
from util.batch import Batch, Step, select_rows
from util.errors import UserError
from util.seeding import seed_for, torch_rng
from util.weights import load_into

log = logging.getLogger(__name__)


class Stateful(Protocol):
    """Something whose state a checkpoint holds."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class BaseModel(ABC):
    """A model: networks by name, optimizers by the name of what they update, the paper's order of updates.

    Subclasses give `from_options`, `train_step` and `test_step`.

    Attributes:
        nets: network ``"G_A"`` is saved as ``latest_net_G_A.pth``.
        optimizers: what `minimize` updates; "G" may update the nets G_A and G_B.
        state: what else a resumed run needs, such as an image pool.
        guard: what keeps losses that are not finite out of the weights.
        precision: what arithmetic steps and translations are computed in.
        objective: the adversarial losses.
        diagnostics: measures of whether training goes well.
        n_critic: generators are updated in every so manieth step only.
        clip_grad: the largest norm of an update's gradient.
        part_size: compute batches in parts of so many samples, and update after the last; None: in one.
        share: how much of its batch `train_step` is given.
        ema: averages of the generators.
        iteration: training steps made so far.
    """

    Options: ClassVar[type] = NoOptions
    defaults: ClassVar[Mapping[str, object]] = {}
    test_defaults: ClassVar[Mapping[str, object]] = {}
    """Defaults that only test.py changes."""
    fixed: ClassVar[Mapping[str, object]] = {}
    """Flags of which only one value is supported: the value, or `Fixed` with the reason."""
    example_flags: ClassVar[tuple[str, ...]] = ()
    """Flags that tests of every model pass: what it needs to run without a network connection."""
    architecture: ClassVar[tuple[str, ...]] = ()
    """Flags that decide this model's architecture beyond those that decide every model's."""
    watched_losses: tuple[str, ...] = ()
    """The losses whose sum ``--lr_policy plateau`` watches."""
    trains: ClassVar[bool] = True

    def __init__(
        self,
        nets: dict[str, nn.Module],
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
        objective: Objective | None = None,
    ):
        self.nets = {name: net.to(device, dtype) for name, net in nets.items()}
        self.optimizers: dict[str, Optimizer] = {}
        self.diagnostics = Diagnostics()
        self.objective = replace(objective or Objective("vanilla"), diagnostics=self.diagnostics)
        self.state: dict[str, Stateful] = {"health": self.diagnostics}
        self.device, self.dtype, self.seed = device, dtype, seed
        self.guard = LossGuard(device=device)
        self.precision = Precision("fp32", device)
        self.n_critic = 1
        self.clip_grad: float | None = None
        self.part_size: int | None = None
        self.share = 1.0
        self.ema: Ema | None = None
        self.iteration = 0
        self._copies = 1  # how many processes compute the same
        self._minimized: dict[str, Tensor] = {}  # losses whose gradients wait for the update, by optimizer
        self._parts_left = 0  # of the batch, after this one
        self._sums: dict[str, GradientSum] = {}  # over several processes
        # The iteration, as captured steps have to find it.
        self._number = torch.zeros((), device=device, dtype=torch.float64)
        self._memory_format = torch.contiguous_format
        self._graphs: StepGraphs | None = None

    @classmethod
    @abstractmethod
    def from_options(cls, options: CommandOptions, device: torch.device) -> Self:
        """Return the model that the options describe; a `TestOptions` needs no more than the generators."""

    @abstractmethod
    def train_step(self, batch: Batch) -> Step:
        """Update every network once, in the paper's order."""

    @abstractmethod
    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return the visuals of `batch`, the generated images among them."""

    def draws(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the random decisions for `count` images that `train_step` finds in ``batch.draws``.

        They are on the CPU, (count, ...) or 0-d.
        """
        return {}

    def facts(self, batch: Batch) -> dict[str, Tensor]:
        """Return what else `train_step` finds there: what the host alone knows of a batch, (N, ...)."""
        return {}

    def prepare_training(self, options: TrainOptions) -> None:
        """Follow the flags that mean the same for every model."""
        optimization = options.optimization
        self.guard = LossGuard(optimization.on_nan, self.device)
        self.n_critic, self.clip_grad = options.adversarial.n_critic, optimization.clip_grad
        if optimization.accumulate > 1:
            parts = optimization.accumulate * distributed.world_size()
            if options.data.batch_size % parts:
                raise UserError(
                    f"--accumulate {optimization.accumulate} with {distributed.world_size()} processes needs"
                    f" a --batch_size that is a multiple of {parts}"
                )
            self.part_size = options.data.batch_size // optimization.accumulate // distributed.world_size()
        if optimization.checkpointing:
            if options.speed.compile:
                raise UserError("--checkpointing does not go together with --compile; leave one of them out")
            recompute_generators(self.nets)
        if distributed.world_size() > 1:
            self._sums = {name: GradientSum(self._parameters(name)) for name in self.optimizers}
        if optimization.ema_decay:
            generators = {name: net for name, net in self.nets.items() if name.startswith("G")}
            self.ema = self.state["ema"] = Ema(generators, optimization.ema_decay)

    def set_precision(self, name: str) -> None:
        """Compute as ``--precision`` says."""
        self.precision = Precision(name, self.device)
        if self.precision.scales:
            self.state["loss_scale"] = self.precision

    def set_speed(self, options: CommandOptions) -> None:
        """Choose the fastest way to compute, or with ``--speed off`` the plainest."""
        nets, speed = self.nets.values(), options.speed
        if speed.speed == "off":
            use_reference_path(nets)
            return
        self._memory_format = memory_format(nets, self.device, self.precision.name)
        for net in nets:
            net.to(memory_format=self._memory_format)
        choose_convolutions(options)
        if speed.compile:
            compile_networks(self.compilable().values(), self.device, isinstance(options, TrainOptions))
        if isinstance(options, TrainOptions) and wants_capture(options, self.device):
            self.capture_steps(CudaRecorder())

    def compilable(self) -> dict[str, nn.Module]:
        """Return the networks that ``--compile`` is for."""
        # What torch compiles cannot be differentiated twice, as gradient penalties do with discriminators.
        penalised = self.objective.lambda_gp or self.objective.lambda_r1
        return {name: net for name, net in self.nets.items() if not (penalised and name.startswith("D"))}

    def capture_steps(self, recorder: Recorder) -> None:
        """Compute training steps from recordings, see `StepGraphs`."""
        owners = {"optimizers": self.optimizers, "nets": self.nets, "state": self.state}
        owners |= {"guard": self.guard, "precision": self.precision}
        self._graphs = StepGraphs(self._compute, recorder, owners)
        for optimizer in self.optimizers.values():
            make_capturable(optimizer, self.device)

    def exports(self) -> dict[str, nn.Module]:
        """Return the networks whose weights are exported, by name."""
        averages = self.ema.nets if self.ema else {}
        return self.nets | {f"{name}{EMA_SUFFIX}": net for name, net in averages.items()}

    def step(self, batch: Batch, monitor: bool = False) -> Step:
        """Make one training step on a batch on the model's device; if `monitor`, record diagnostics."""
        self.check_batch(batch)
        self.iteration += 1
        self._number.fill_(self.iteration)
        self.diagnostics.start_step(monitor)
        # Dropout draws from torch's own generator: seeded here, a step is the same whatever came before it.
        number, processes = distributed.rank() if batch.total else 0, distributed.world_size()
        torch.manual_seed(seed_for("dropout", self.seed, self.iteration, *([number] if number else [])))
        # Drawn for the whole batch, whoever has which part of it.
        draws = self.draws(batch.global_size, torch_rng("draws", self.seed, self.iteration))
        if batch.total:
            draws = select_rows(draws, distributed.rank_slice(batch.total, processes, number))
            self.share, self._copies = len(batch) / batch.total, 1
        else:
            self.share, self._copies = 1.0, processes
            self._complete_state()
        draws |= self.facts(batch)
        on_device = {name: draw.to(self.device, non_blocking=True) for name, draw in draws.items()}
        batch = replace(self._formatted(batch), draws=on_device)
        with distributed.data_parallel(batch.total > 0):
            if self._graphs and not monitor:
                step = self._graphs.run(batch, variant=self.updates("G"))
            else:
                step = self._compute(batch)
        if self.ema and self.updates("G"):
            self.ema.update(self.nets)
        return step

    def _compute(self, batch: Batch) -> Step:
        """Make a training step: all of it that is the device's work, see `StepGraphs`."""
        skips = self.guard.policy == "skip"
        statistics = [buffer for net in self.nets.values() for buffer in net.buffers()] if skips else []
        before = [buffer.clone() for buffer in statistics]
        losses, visuals = self._train(batch)
        if distributed.world_size() > 1:
            losses = self._over_processes(losses)
        bad = self.guard.end_step(self._number, losses)
        for buffer, earlier in zip(statistics, before, strict=True):
            buffer.copy_(torch.where(bad, earlier, buffer))
        return Step(_detached(losses), _detached(visuals))

    def _formatted(self, batch: Batch) -> Batch:
        return batch.map_images(lambda image: image.contiguous(memory_format=self._memory_format))

    def _train(self, batch: Batch) -> Step:
        """Return what `train_step` makes of a batch: in one, or part by part."""
        self._minimized = {}  # of a step that could not be captured, losses may have stayed there
        if self.part_size is None:
            with self.precision.autocast():
                return self.train_step(batch)
        found: list[tuple[float, Step]] = []
        of_all = self.share
        parts = list(batch.micro_batches(self.part_size, distributed.world_size()))
        for self._parts_left, part in zip(reversed(range(len(parts))), parts, strict=True):
            share = self.diagnostics.batch_fraction = len(part) / len(batch)
            self.share = share * of_all
            with self.precision.autocast():
                # Detached at once: nothing of a part's graph may stay in memory.
                found.append((share, Step(*map(_detached, self.train_step(part)))))
        self.share, self.diagnostics.batch_fraction = of_all, 1.0
        for name in list(self._minimized):
            self._update(name)
        first = found[0][1]
        return Step(
            {
                name: torch.stack([share * step.losses[name] for share, step in found]).sum()
                for name in first.losses
            },
            {name: torch.cat([step.visuals[name] for _, step in found]) for name in first.visuals},
        )

    @torch.inference_mode()
    def translate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the visuals of `batch`; each image's are what they would be in a batch of its own.

        Networks in training mode (the peer's way of testing) normalise and drop out each image separately.
        """
        seeds = [seed_for("test dropout", self.seed, index) >> 1 for index in batch.index.tolist()]
        with separate_images(self.nets.values(), seeds), self.precision.autocast():
            return _detached(self.test_step(self._formatted(batch)))

    def captions(self, batch: Batch) -> list[dict[str, str]]:
        """Return what a gallery says under the images of each sample, by label, beyond the label."""
        return [{} for _ in range(len(batch))]

    def overview(self) -> dict[str, Tensor]:
        """Return images of the model as a whole, (1 or 3, H, W) in [-1, 1], by the names to show."""
        return {}

    def updates(self, name: str) -> bool:
        """Return whether this step updates what optimizer `name` is for."""
        return name != "G" or self.iteration % self.n_critic == 0

    def minimize(self, name: str, loss: Tensor) -> None:
        """Make one step of optimizer `name` on `loss`, if it is finite; no other network gets gradients.

        Of a batch in parts the gradients are added up, and the step is made after the last part.
        """
        if not self.updates(name):
            return
        if self.share / self._copies < 1:
            loss = loss * (self.share / self._copies)
        before = self._minimized.get(name)
        if before is None:
            self.optimizers[name].zero_grad()
        self._minimized[name] = loss.detach() if before is None else before + loss.detach()
        if self._sums and not self._parts_left:
            self._sums[name].begin(self._minimized[name])
        self.precision.backward(loss, self._parameters(name))
        if self.part_size is None:
            self._update(name)

    def _parameters(self, name: str) -> list[nn.Parameter]:
        groups = self.optimizers[name].param_groups
        return [parameter for group in groups for parameter in group["params"]]

    def _update(self, name: str) -> None:
        """Make the step of optimizer `name` with the gradients that are there, if all is finite."""
        optimizer, parameters, loss = self.optimizers[name], self._parameters(name), self._minimized.pop(name)
        if self._sums:
            self._sums[name].finish()
        overflow = self.precision.unscale(parameters)
        self.diagnostics.record_gradients(name, parameters)
        if self.clip_grad:
            nn.utils.clip_grad_norm_(parameters, self.clip_grad)
        # torch's fused optimizers leave everything as it is where this is 1, without asking the host.
        blocked = self.guard.blocks(name, loss, parameters)
        optimizer.found_inf = torch.maximum(blocked, overflow)  # type: ignore[attr-defined]
        optimizer.step()
        torch.clear_autocast_cache()  # it holds the old weights in fewer digits

    def _over_processes(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of the whole batch, of this process's part of it."""
        values = torch.stack([loss.detach().double() for loss in losses.values()]) * (
            self.share / self._copies
        )
        distributed.all_reduce_sum([values])
        return dict(zip(losses, values, strict=True))

    def _complete_state(self) -> None:
        """Give every process the state that the processes have each a part of."""
        for part in self.state.values():
            if isinstance(part, ImagePool):
                part.complete()

    def broken_nets(self) -> list[str]:
        """Return the names of the networks with a weight that is not finite; this waits for the device."""
        return [
            name
            for name, net in self.nets.items()
            if not get_total_norm(
                [t for t in net.state_dict().values() if t.is_floating_point()], inf
            ).isfinite()
        ]

    def set_learning_rate(self, factor: float) -> None:
        """Set every learning rate to `factor` times its initial value."""
        for optimizer in self.optimizers.values():
            set_rates(optimizer, factor)

    def eval(self) -> None:
        """Switch to evaluation: no dropout, batch norm with the statistics of training."""
        for net in self.nets.values():
            net.eval()

    def state_dict(self) -> dict[str, Any]:
        """Return all that training needs to go on exactly; every process has to ask for it."""
        self._complete_state()
        return {
            "iteration": self.iteration,
            "nets": {name: net.state_dict() for name, net in self.nets.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "state": {name: part.state_dict() for name, part in self.state.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; initial learning rates and momentum stay this model's.

        Raises:
            UserError: the networks are of another architecture.
        """
        self.iteration = state["iteration"]
        for name, net in self.nets.items():
            load_into(net, state["nets"][name], f"the saved state of network {name}")
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][name])
        for name, part in self.state.items():
            part.load_state_dict(state["state"][name])

    def check_batch(self, batch: Batch) -> None:
        """Raise a `UserError` for a batch that this model cannot be trained on."""
        check_sizes(self.nets.values(), batch)


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: at_least_float32(tensor.detach()) for name, tensor in tensors.items()}
