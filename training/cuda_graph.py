"""CUDA graphs of whole training steps: captured once, verified once, then replayed with a single launch."""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, Protocol

import torch

from options.train_options import TrainOptions
from training.live_state import Snapshot, numbers, step_differences
from util import distributed
from util.batch import Batch, Step
from util.errors import UserError

log = logging.getLogger(__name__)

WARM_UP = 3
"""Eager warm-up steps per batch shape before capture."""

MAX_GRAPHS = 8
"""Each graph keeps the memory of a step; steps of further shapes run eagerly."""

MAX_NAMES = 8
"""As many of the tensors that differ are named in a warning."""

LOSS_TOLERANCE = 1e-3
LOW_PRECISION_TOLERANCE = {"tf32": 1e-2, "fp16": 1e-2, "bf16": 2e-2}
"""Relative differences of losses and images that other algorithms or orders of summation may cause."""

Compute = Callable[[Batch], Step]


def wants_capture(options: TrainOptions, device: torch.device) -> bool:
    """Return whether training steps are to be captured, by ``--cuda_graph``; log why if they cannot be.

    Raises:
        UserError: ``--cuda_graph on``, and they cannot be.
    """
    wanted = options.speed.cuda_graph
    if wanted == "off" or options.speed.speed == "off":
        return False
    obstacle = obstacle_to_capture(options, device)
    if obstacle and wanted == "on":
        raise UserError(f"--cuda_graph on: {obstacle}; use --cuda_graph auto to run eagerly in that case")
    if obstacle:
        log.info("--cuda_graph auto: %s; running eagerly", obstacle)
    return not obstacle


def obstacle_to_capture(options: TrainOptions, device: torch.device) -> str:
    """Return why these training steps cannot be captured; an empty string if they can."""
    if device.type != "cuda":
        return f"CUDA graphs need an NVIDIA GPU, and this run is on the {device.type.upper()}"
    if distributed.world_size() > 1:
        return f"steps of several ranks cannot be captured, and there are {distributed.world_size()}"
    if options.optimization.checkpointing:
        return "steps with --checkpointing cannot be captured"
    return ""


class Recorder(Protocol):
    """Captures steps."""

    def run(self, compute: Callable[[], Step]) -> Step:
        """Run a step eagerly, in the way that prepares its capture."""

    def find_sync(self, compute: Callable[[], Step]) -> tuple[Step, str]:
        """Run a step eagerly; return it with the first line that waits for the device, or an empty string."""

    def capture(self, compute: Callable[[], Step]) -> tuple[Step, Callable[[], None]]:
        """Capture a step without running it; return its output tensors and the function that fills them."""


class CudaRecorder:
    """Captures CUDA graphs, which share one memory pool."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, compute: Callable[[], Step]) -> Step:
        # On the stream of the capture: what autograd keeps from the default stream cannot be captured.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            step = compute()
        torch.cuda.current_stream().wait_stream(self._stream)
        return step

    def find_sync(self, compute: Callable[[], Step]) -> tuple[Step, str]:
        # A failed capture leaves torch in disorder, so its usual reason is looked for before.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                step = self.run(compute)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        syncs = (warning for warning in caught if "called a synchronizing" in str(warning.message))
        return step, next((f"{sync.filename}, line {sync.lineno}, waits for the GPU" for sync in syncs), "")

    def capture(self, compute: Callable[[], Step]) -> tuple[Step, Callable[[], None]]:
        graph, generator = torch.cuda.CUDAGraph(), torch.cuda.default_generators[torch.cuda.current_device()]
        # thread_local: data loaders pin memory in threads of their own, which must not end the capture.
        capture = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        try:
            # The outer context: after a failure torch before 2.15 stays on the graph's stream.
            with torch.cuda.stream(torch.cuda.current_stream()), capture:
                step = compute()
        except Exception:
            # A generator of a failed capture refuses to draw outside of captures.
            fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
            generator.graphsafe_set_state(fresh)
            raise
        return step, graph.replay


class Captured(NamedTuple):
    """A captured step: its input and output tensors, and the function that runs it."""

    batch: Batch
    step: Step
    launch: Callable[[], None]

    def replay(self, batch: Batch) -> Step:
        """Run the step on `batch`; what it returns is overwritten by the next replay."""
        tensors = batch.tensors()
        for name, static in self.batch.tensors().items():
            static.copy_(tensors[name], non_blocking=True)
        self.launch()
        return self.step


class StepGraphs:
    """Runs training steps: eagerly at first, from a captured graph per variant and batch shape later on.

    Before a graph is used, one replay is compared with an eager step from the same state. If they differ,
    or if a capture fails, all steps run eagerly from then on.

    Args:
        compute: the step, on a batch whose draws are on the device; it must change state in place and never
            wait for the device.
        recorder: captures it.
        owners: objects from whose attributes everything that `compute` changes can be reached, by the name to
            report; "optimizers" are the optimizers.
        precision: a choice of ``--precision``; it decides how much losses and images may differ.
    """

    def __init__(
        self,
        compute: Compute,
        recorder: Recorder,
        owners: Mapping[str, object],
        precision: str = "fp32",
    ):
        self.compute, self.recorder = compute, recorder
        self.tolerance = LOW_PRECISION_TOLERANCE.get(precision, LOSS_TOLERANCE)
        # Optimizers first: their weights are compared as one, not layer by layer.
        self.owners = {"optimizers": owners["optimizers"], **owners}
        self.captured: dict[Hashable, Captured] = {}
        self._steps: Counter[Hashable] = Counter()
        self._numbers: dict[Hashable, dict[str, float]] = {}
        self._failed = False

    def run(self, batch: Batch, variant: Hashable) -> Step:
        """Make the training step; `variant` distinguishes steps that run different code."""
        kind = variant, tuple((name, x.shape, x.dtype) for name, x in batch.tensors().items())
        self._steps[kind] += 1
        count = self._steps[kind]
        if self._failed or count < WARM_UP:
            step = self._run_eagerly(batch)
            if count == WARM_UP - 1:
                self._numbers[kind] = numbers(self.owners)
            return step
        if count == WARM_UP:
            return self._find_obstacle(kind, batch)
        if count == WARM_UP + 1:
            self._capture(kind, batch)
        captured = self.captured.get(kind)
        if captured is None or count == WARM_UP + 1:
            return self._run_eagerly(batch)
        return self._verify(captured, batch) if count == WARM_UP + 2 else captured.replay(batch)

    def _run_eagerly(self, batch: Batch) -> Step:
        return self.recorder.run(lambda: self.compute(batch))

    def _find_obstacle(self, kind: Hashable, batch: Batch) -> Step:
        """Run a step eagerly and give up if it does what a graph cannot repeat."""
        before = numbers(self.owners)
        step, obstacle = self.recorder.find_sync(lambda: self.compute(batch))
        earlier = self._numbers.pop(kind)
        counters = [
            name
            for name, value in numbers(self.owners).items()
            if value != before.get(name) and value != earlier.get(name)
        ]
        if counters:
            obstacle = f"{counters[0]} is a Python number that changes in every step; make it a tensor"
        if obstacle:
            self._give_up(f"capture failed ({obstacle})")
        return step

    def _capture(self, kind: Hashable, batch: Batch) -> None:
        if len(self.captured) >= MAX_GRAPHS:
            return
        static = batch.copy()  # without file names, which replays could not update
        try:
            step, launch = self.recorder.capture(lambda: self.compute(static))
        except Exception as error:  # of any kind: if the step cannot run at all, the eager one raises it
            self._give_up(f"capture failed ({error})")
        else:
            self.captured[kind] = Captured(static, step, launch)

    def _verify(self, captured: Captured, batch: Batch) -> Step:
        """Run a step eagerly and again as a replay, compare them, and keep the result of the eager step."""
        before = Snapshot(self.owners)
        step = self._run_eagerly(batch)
        eager = Snapshot(self.owners)
        before.restore()
        replayed = captured.replay(batch)
        different = eager.differences(Snapshot(self.owners), before)
        different += step_differences(step, replayed, self.tolerance)
        eager.restore()
        if different:
            more = f" and {len(different) - MAX_NAMES} more" if len(different) > MAX_NAMES else ""
            names = ", ".join(different[:MAX_NAMES])
            self._give_up(f"replay differs from an eager step in {names}{more}")
        return step

    def _give_up(self, reason: str) -> None:
        self._failed = True
        self.captured.clear()  # after a failed capture the random numbers of earlier graphs are unreliable
        log.warning("CUDA graph %s; running eagerly", reason)
