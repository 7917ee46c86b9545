"""Training steps that are captured once, as CUDA graphs, and replayed: the host launches one thing a step."""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol

import torch

from util.batch import Batch, Step

log = logging.getLogger(__name__)

WARM_UP = 3
"""So many steps of a kind are computed plainly first: libraries and optimizers set themselves up in them."""

MOST_GRAPHS = 8
"""Each keeps the memory of a step; kinds of steps beyond these are computed plainly."""

Compute = Callable[[Batch], Step]


class Recorder(Protocol):
    """What captures steps."""

    def warm_up(self, run: Callable[[], Step]) -> Step:
        """Return what `run` returns, computed as it will be when it is recorded."""

    def rehearse(self, run: Callable[[], Step]) -> tuple[Step, str]:
        """Do the same, and return too what in it waits for the device, or else an empty text."""

    def record(self, run: Callable[[], Step]) -> tuple[Step, Callable[[], None]]:
        """Return the tensors that `run` will have filled, once what is returned with them is called."""


class CudaRecorder:
    """Captures CUDA graphs, which share one pool of memory."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, run: Callable[[], Step]) -> Step:
        # Not on the default stream: what autograd keeps of it could not be captured later.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            step = run()
        torch.cuda.current_stream().wait_stream(self._stream)
        return step

    def rehearse(self, run: Callable[[], Step]) -> tuple[Step, str]:
        # A capture that fails leaves much of torch in disorder: what would make it fail is looked for before.
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                step = self.warm_up(run)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits = (each for each in found if "called a synchronizing" in str(each.message))
        return step, next((f"{each.filename}, line {each.lineno}, waits for the GPU" for each in waits), "")

    def record(self, run: Callable[[], Step]) -> tuple[Step, Callable[[], None]]:
        graph, generator = torch.cuda.CUDAGraph(), torch.cuda.default_generators[torch.cuda.current_device()]
        # Loaders pin memory in threads of their own, at any time: that must not disturb the capture.
        capture = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        try:
            # The outer context: after a failure torch before 2.15 stays on the graph's stream.
            with torch.cuda.stream(torch.cuda.current_stream()), capture:
                step = run()
        except Exception:
            # One that a failed capture has begun to record refuses to draw outside of captures.
            fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
            generator.graphsafe_set_state(fresh)
            raise
        return step, graph.replay


class Recording(NamedTuple):
    """A captured step: what it reads, what it fills, and what makes it run."""

    batch: Batch
    step: Step
    replay: Callable[[], None]


class StepGraphs:
    """Computes training steps, each kind of them from a recording as soon as there is one.

    A kind is the variant that is named and the shapes of the batch. What a step returns is overwritten by the
    next one of its kind.

    Args:
        compute: makes a step on a batch whose draws are on the device; what it keeps from step to step it
            must change in place, and nothing that it does may wait for the device.
    """

    def __init__(self, compute: Compute, recorder: Recorder):
        self.compute, self.recorder = compute, recorder
        self.recordings: dict[Hashable, Recording] = {}
        self._seen: Counter[Hashable] = Counter()
        self._broken = False

    def run(self, batch: Batch, variant: Hashable) -> Step:
        """Make the training step; `variant` tells apart steps that do different things."""
        tensors = batch.tensors()
        kind = variant, tuple((name, each.shape, each.dtype) for name, each in tensors.items())
        if kind not in self.recordings:
            self._seen[kind] += 1
            full = len(self.recordings) >= MOST_GRAPHS
            if self._broken or full or self._seen[kind] < WARM_UP:
                return self.recorder.warm_up(lambda: self.compute(batch))
            if self._seen[kind] == WARM_UP:
                step, reason = self.recorder.rehearse(lambda: self.compute(batch))
                if reason:
                    self._give_up(reason)
                return step
            if not self._record(kind, batch):
                return self.recorder.warm_up(lambda: self.compute(batch))
        recording = self.recordings[kind]
        for name, static in recording.batch.tensors().items():
            static.copy_(tensors[name], non_blocking=True)
        recording.replay()
        return recording.step

    def _record(self, kind: Hashable, batch: Batch) -> bool:
        """Return whether the step could be recorded; nothing has been computed then."""
        # Without names of files: what a step reads of them would be those of the recorded batch for ever.
        static = batch.copy()
        try:
            step, replay = self.recorder.record(lambda: self.compute(static))
        except Exception as error:
            # Whatever it is that cannot be captured can still be computed; if not, that says why.
            self._give_up(str(error))
            return False
        self.recordings[kind] = Recording(static, step, replay)
        return True

    def _give_up(self, reason: str) -> None:
        self._broken = True
        self.recordings.clear()  # after a failure the random numbers of earlier ones could not be trusted
        log.warning("--cuda_graph: steps are computed one by one, for they cannot be captured: %s", reason)
