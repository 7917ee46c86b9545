"""The trainer: everything between a batch and updated weights that is the same for every model."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from models.base_model import BaseModel, detached
from models.layers.recomputation import recompute_generators
from models.objectives.image_pool import ImagePool
from options.train_options import TrainOptions
from training.cuda_graph import CudaRecorder, Recorder, StepGraphs, wants_capture
from training.ema import Ema
from training.gradient_sync import GradientSync
from training.loss_scale import LossScale
from training.nonfinite import NonFiniteGuard
from training.optimizers import load_optimizer, make_capturable, make_optimizers, parameters_of, set_rates
from util import distributed
from util.batch import Batch, Step, select_rows
from util.checking import require
from util.errors import UserError
from util.seeding import seed_for, torch_rng
from util.weights import EMA_SUFFIX, load_into

log = logging.getLogger(__name__)


class Trainer:
    """Trains a model batch by batch.

    Attributes:
        optimizers: "G" updates the networks G, G_A, G_B, ...
        iteration: training steps made so far.
        nonfinite: keeps losses and gradients that are not finite out of the weights.
        ema: averages of the generators.
    """

    def __init__(self, model: BaseModel, options: TrainOptions):
        optimization, self.device = options.optimization, model.device
        self.model = model
        self.optimizers = make_optimizers(model.nets, optimization)
        self.nonfinite = NonFiniteGuard(optimization.on_nan, self.device)
        self.loss_scale = LossScale(self.device) if options.run.precision == "fp16" else None
        self.n_critic, self.clip_grad = options.adversarial.n_critic, optimization.clip_grad
        self.part_size = part_size(options)
        if optimization.checkpointing:
            if options.speed.compile:
                raise UserError("--checkpointing does not work with --compile; leave one of them out")
            recompute_generators(model.nets)
        self.ema: Ema | None = None
        if optimization.ema_decay:
            generators = {name: net for name, net in model.nets.items() if name.startswith("G")}
            self.ema = Ema(generators, optimization.ema_decay)
        self._syncs: dict[str, GradientSync] = {}
        if distributed.world_size() > 1:
            self._syncs = {name: GradientSync(parameters_of(o)) for name, o in self.optimizers.items()}
        self.iteration = 0
        # The same number as a tensor that is changed in place, for captured steps.
        self._iteration = torch.zeros((), device=self.device, dtype=torch.float64)
        self._replicas = 1  # ranks that compute the same batch
        self._weight = 1.0  # of the loss of the present part of the batch
        self._parts_left = 0
        self._pending: dict[str, Tensor] = {}  # losses whose gradients wait for the update, by optimizer
        self._graphs: StepGraphs | None = None
        if wants_capture(options, self.device):
            self.capture_steps(CudaRecorder())

    def step(self, batch: Batch, monitor: bool = False) -> Step:
        """Make one training step on a batch that is on the model's device.

        Args:
            monitor: measure the model's diagnostics in this step.
        """
        self.model.check_batch(batch)
        self.iteration += 1
        self._iteration.fill_(self.iteration)
        self.model.diagnostics.start_step(monitor)
        batch = self._prepare(batch)
        with distributed.data_parallel(batch.total > 0):
            if self._graphs and not monitor:
                step = self._graphs.run(batch, variant=self.updates("G"))
            else:
                step = self._compute(batch)
        if self.ema and self.updates("G"):
            self.ema.update(self.model.nets)
        return step

    def updates(self, name: str) -> bool:
        """Return whether this step updates optimizer `name`: G waits for every `n_critic`-th step."""
        return name != "G" or self.iteration % self.n_critic == 0

    def update(self, name: str, loss: Tensor) -> None:
        """Make one step of optimizer `name` on `loss`, if it is finite; no other network gets gradients.

        Of a batch in parts the gradients are accumulated, and the step is made after the last part.
        """
        if not self.updates(name):
            return
        if self._weight < 1:
            loss = loss * self._weight
        pending = self._pending.get(name)
        if pending is None:
            self.optimizers[name].zero_grad()
        self._pending[name] = loss.detach() if pending is None else pending + loss.detach()
        if self._syncs and not self._parts_left:
            self._syncs[name].begin(self._pending[name])
        scaled = self.loss_scale.apply(loss) if self.loss_scale else loss
        with torch.autocast(self.device.type, enabled=False):
            scaled.backward(inputs=parameters_of(self.optimizers[name]))
        if self.part_size is None:
            self._optimizer_step(name)

    def _prepare(self, batch: Batch) -> Batch:
        """Return the batch with its random decisions, and seed torch's generator for dropout."""
        # Seeded in every step, so that a step does not depend on what came before it.
        rank = distributed.rank() if batch.total else 0
        torch.manual_seed(seed_for("dropout", self.model.seed, self.iteration, *([rank] if rank else [])))
        generator = torch_rng("draws", self.model.seed, self.iteration)
        draws = self.model.draws(batch.global_size, self.iteration, generator)
        if batch.total:  # drawn for the whole batch: each rank takes its rows
            draws = select_rows(draws, distributed.rank_slice(batch.total, distributed.world_size(), rank))
            batch, self._replicas = replace(batch, share=len(batch) / batch.total), 1
        else:
            self._replicas = distributed.world_size()
            self._gather_pools()
        draws |= self.model.facts(batch)
        on_device = {name: draw.to(self.device, non_blocking=True) for name, draw in draws.items()}
        return replace(self.model.formatted(batch), draws=on_device)

    def _compute(self, batch: Batch) -> Step:
        """Run the step on the device: all that a CUDA graph captures."""
        protected = self._buffers() if self.nonfinite.policy == "skip" else []
        before = [buffer.clone() for buffer in protected]
        self._pending = {}  # a step that failed to be captured may have left losses
        losses, visuals = self._run_parts(batch) if self.part_size else self._run(batch)
        if distributed.world_size() > 1:
            losses = self._mean_over_ranks(losses, batch.share / self._replicas)
        bad = self.nonfinite.end_step(self._iteration, losses)
        for buffer, earlier in zip(protected, before, strict=True):
            buffer.copy_(torch.where(bad, earlier, buffer))
        return Step(losses, visuals)

    def _run(self, batch: Batch) -> Step:
        """Run the model's `train_step` on a batch, or on a part of one."""
        self._weight = batch.share / self._replicas
        with self.model.precision.autocast():
            losses, visuals = self.model.train_step(batch, self.update)
        return Step(detached(losses), detached(visuals))

    def _run_parts(self, batch: Batch) -> Step:
        """Run `train_step` on one part of the batch after the other, then update; return the means."""
        assert self.part_size is not None
        parts = list(batch.micro_batches(self.part_size, distributed.world_size()))
        shares = [len(part) / len(batch) for part in parts]
        steps = []
        for self._parts_left, share, part in zip(reversed(range(len(parts))), shares, parts, strict=True):
            self.model.diagnostics.batch_fraction = share
            steps.append(self._run(replace(part, share=share * batch.share)))
        self.model.diagnostics.batch_fraction = 1.0
        for name in list(self._pending):
            self._optimizer_step(name)
        losses = {
            name: torch.stack([share * step.losses[name] for share, step in zip(shares, steps, strict=True)])
            for name in steps[0].losses
        }
        return Step(
            {name: values.sum() for name, values in losses.items()},
            {name: torch.cat([step.visuals[name] for step in steps]) for name in steps[0].visuals},
        )

    def _optimizer_step(self, name: str) -> None:
        """Make the step of optimizer `name` with the gradients that are there, if all is finite."""
        optimizer, loss = self.optimizers[name], self._pending.pop(name)
        parameters = parameters_of(optimizer)
        if self._syncs:
            self._syncs[name].finish()
        overflow = self.loss_scale.unscale(parameters) if self.loss_scale else None
        self.model.diagnostics.record_gradients(name, parameters)
        if self.clip_grad:
            nn.utils.clip_grad_norm_(parameters, self.clip_grad)
        blocked = self.nonfinite.blocks(name, loss, parameters)
        # torch's fused optimizers change nothing where this is 1, without asking the host.
        optimizer.found_inf = blocked if overflow is None else torch.maximum(blocked, overflow)  # type: ignore[attr-defined]
        optimizer.step()
        torch.clear_autocast_cache()  # it holds the old weights in lower precision

    def _mean_over_ranks(self, losses: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
        """Return the losses of the whole batch, of which this rank has those of its rows."""
        values = torch.stack([loss.double() for loss in losses.values()]) * weight
        distributed.all_reduce_sum([values])
        return dict(zip(losses, values, strict=True))

    def _buffers(self) -> list[Tensor]:
        """Return what a step that is left out must not change beside the weights."""
        owners = [*self.model.nets.values(), *self.model.state.values()]
        return [buffer for owner in owners for buffer in owner.buffers()]

    def _gather_pools(self) -> None:
        """Give every rank the images of all positions in the batch."""
        for part in self.model.state.values():
            if isinstance(part, ImagePool):
                part.complete()

    def capture_steps(self, recorder: Recorder) -> None:
        """Replay captured steps from now on, see `StepGraphs`."""
        owners = {"optimizers": self.optimizers, "model": self.model}
        owners |= {"nonfinite": self.nonfinite, "loss_scale": self.loss_scale}
        self._graphs = StepGraphs(self._compute, recorder, owners, self.model.precision.name)
        for optimizer in self.optimizers.values():
            make_capturable(optimizer, self.device)

    def set_learning_rate(self, factor: float) -> None:
        """Set every learning rate to `factor` times its initial value."""
        for optimizer in self.optimizers.values():
            set_rates(optimizer, factor)

    @contextmanager
    def as_tested(self) -> Iterator[None]:
        """Let the model translate as in test.py within the context.

        It has the averages of ``--ema_decay``, if there are any, and is in evaluation mode if test.py's
        ``--eval`` is this model's default.
        """
        modes = [(layer, layer.training) for net in self.model.nets.values() for layer in net.modules()]
        if {**self.model.defaults, **self.model.test_defaults}.get("eval"):
            self.model.eval()
        try:
            with self.ema.applied_to(self.model.nets) if self.ema else nullcontext():
                yield
        finally:
            for layer, training in modes:
                layer.training = training

    def exports(self) -> dict[str, nn.Module]:
        """Return the networks whose weights are exported, by name."""
        averages = self.ema.nets if self.ema else {}
        return self.model.nets | {f"{name}{EMA_SUFFIX}": net for name, net in averages.items()}

    def non_finite_nets(self) -> list[str]:
        """Return the names of the networks with a weight that is not finite; this waits for the device."""
        return [
            name
            for name, net in self.model.nets.items()
            if not get_total_norm(
                [tensor for tensor in net.state_dict().values() if tensor.is_floating_point()], inf
            ).isfinite()
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return all that training needs to go on exactly; every rank has to call it."""
        self._gather_pools()
        return {
            "iteration": self.iteration,
            "nets": {name: net.state_dict() for name, net in self.model.nets.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "state": {name: part.state_dict() for name, part in self._stateful().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state_dict`; initial learning rates and momentum stay this trainer's.

        Raises:
            UserError: the networks have another architecture, or a part of the state is missing.
            ValueError: a part of the state has another structure.
        """
        self.iteration = state["iteration"]
        for name, net in self.model.nets.items():
            load_into(net, state["nets"][name], f"the saved state of network {name}")
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][name])
        for name, part in self._stateful().items():
            if name not in state["state"]:
                raise UserError(
                    f"--continue_train: the saved state has no {name}: resume with the flags of the run, or"
                    " start a new run from its weights with --init_from"
                )
            require(state["state"][name], getattr(part, "STATE", object), f"model.state.{name}")
            part.load_state_dict(state["state"][name])

    def _stateful(self) -> dict[str, Any]:
        """Return everything with a state of its own, by its key in a checkpoint."""
        optional = {"loss_scale": self.loss_scale, "ema": self.ema}
        present = {name: part for name, part in optional.items() if part is not None}
        return {"health": self.model.diagnostics, **self.model.state, **present}


def part_size(options: TrainOptions) -> int | None:
    """Return how many of a rank's samples ``--accumulate`` computes at once; None: all.

    Raises:
        UserError: the ranks' batches cannot be divided so.
    """
    accumulate = options.optimization.accumulate
    if accumulate == 1:
        return None
    parts = accumulate * distributed.world_size()
    if options.data.batch_size % parts:
        raise UserError(
            f"--accumulate {accumulate} on {distributed.world_size()} ranks needs a --batch_size that is a"
            f" multiple of {parts}"
        )
    return options.data.batch_size // parts
