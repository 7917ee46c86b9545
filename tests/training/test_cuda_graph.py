"""Replayed steps equal eager ones; a replay that does not is noticed; nothing in a step waits for the GPU."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from data import DATASETS, create_loader
from models import MODELS
from models.objectives.backbones import Fingerprint
from models.pix2pix_model import Pix2PixModel
from options.parse import parse
from options.train_options import TrainOptions
from tests.support.models import (
    CPU,
    TRAINED,
    arguments,
    assert_equal_states,
    create_trainer,
    trainer_and_batches,
    with_masks,
)
from tests.support.recorder import Call, CpuRecorder, NoTraffic, SyncDetector
from training.cuda_graph import LOSS_TOLERANCE, WARM_UP, CudaRecorder, StepGraphs, wants_capture
from training.live_state import RANDOM_STATE, Snapshot, step_differences, tensors
from training.trainer import Trainer
from util import distributed
from util.batch import Batch, Step
from util.errors import UserError

FLAGS = {
    "cycle_gan": ["--pool_size=2", "--netG=resnet_6blocks"],
    "colorization": ["--rebalance"],
    "pix2pix": ["--on_nan=skip", "--ema_decay=0.9", "--norm=instance", "--lambda_r1=1", "--r1_every=2"],
    "dcgan": ["--diffaug=color,translation,cutout", "--n_critic=2", "--clip_grad=1", "--norm=none"],
    "unified": ["--lambda_gp=1", "--gan_mode=wgangp", "--norm=none"],
}
"""Flags with state from step to step, or with steps of several kinds."""

TWO_KINDS = {"pix2pix", "dcgan"}

EXACT = f"--lr={2**-12}"
"""A rate that float32 holds exactly: in captured steps it is a tensor."""


@pytest.mark.parametrize("name", TRAINED)
def test_replayed_steps_equal_eager_ones(
    name: str, data: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    flags = [EXACT, *FLAGS.get(name, [])]
    eager, batches = trainer_and_batches(name, data, *flags)
    captured, _ = trainer_and_batches(name, data, *flags)
    batches = with_masks(name, batches)
    recorder = CpuRecorder()
    captured.capture_steps(recorder)
    for turn in range((WARM_UP + 4) * (2 if name in TWO_KINDS else 1)):
        for trainer in (eager, captured):
            trainer.set_learning_rate(2.0**-turn)
        expected = eager.step(batches[turn % len(batches)])
        step = captured.step(batches[turn % len(batches)])
        for ours, theirs in zip(expected, step, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert recorder.replays == (6 if name in TWO_KINDS else 3) and not logged(caplog)
    assert_equal_states(eager, captured)


def test_replays_and_their_verification_cope_with_loss_scaling(
    data: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """The scale is halved in every step, also in the verified one, and averages and parts are there too."""
    flags = [EXACT, "--precision=fp16", "--ema_decay=0.9", "--accumulate=2", "--norm=instance"]
    eager, batches = trainer_and_batches("pix2pix", data, *flags)
    captured, _ = trainer_and_batches("pix2pix", data, *flags)
    captured.capture_steps(CpuRecorder())
    for trainer in (eager, captured):
        assert trainer.loss_scale is not None
        trainer.loss_scale.scale.fill_(2.0**40)
        for turn in range(WARM_UP + 4):
            trainer.step(batches[turn % len(batches)])
        assert trainer.loss_scale.scale < 2.0**35
    assert not logged(caplog)
    assert_equal_states(eager, captured)


@pytest.mark.parametrize("name", TRAINED)
def test_nothing_in_a_step_waits_for_the_device(name: str, data: dict[str, Path]) -> None:
    class Watch(CpuRecorder):
        def run(self, compute: Callable[[], Step]) -> Step:
            step, syncs = self.find_sync(compute)
            assert not syncs
            return step

    trainer, batches = trainer_and_batches(name, data, *FLAGS.get(name, []))
    trainer.capture_steps(Watch())
    for batch in with_masks(name, batches[:WARM_UP]):
        trainer.step(batch)


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device whose tensors hold no data, so that the host cannot read them, made fit for training."""
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda device, *args, **kwargs: autocast("cpu", *args, **kwargs))
    optimizers = sys.modules[Optimizer.__module__]
    monkeypatch.setattr(optimizers, "_get_fused_kernels_supported_devices", lambda: ["meta"])
    monkeypatch.setattr(Fingerprint, "__init__", lambda self, *args: nn.Module.__init__(self))
    return torch.device("meta")


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_needs_nothing_of_the_host(name: str, data: dict[str, Path], meta: torch.device) -> None:
    options = parse(TrainOptions, arguments(name, data, *FLAGS.get(name, [])), MODELS, DATASETS)
    trainer = create_trainer(options, meta)
    batches = [batch.to(meta, trainer.model.dtype) for batch in create_loader(options, CPU).epoch(1)]
    batches = with_masks(name, batches)
    trainer.step(batches[0])  # what never changes may be sent once

    def watched(batch: Batch) -> Step:
        with NoTraffic():
            return compute(batch)

    compute, trainer._compute = trainer._compute, watched  # type: ignore[method-assign]
    trainer.step(batches[1])


@pytest.mark.parametrize(
    "waits", [lambda x: x.item(), lambda x: x.nonzero(), lambda x: bool(x > 0), lambda x: x[x > 0]]
)
def test_the_stand_in_detects_synchronisation(waits: Callable[[torch.Tensor], object]) -> None:
    with SyncDetector() as syncs:
        waits(torch.ones(1))
    assert len(syncs.found) == 1


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stand-ins for streams, captures and generators of a GPU; it holds the arguments of their calls."""
    generator = torch.Generator()
    calls = SimpleNamespace(generator=generator, captures=[], modes=[], states=[])
    stand_in = SimpleNamespace(
        device=generator.device,
        initial_seed=lambda: 7,
        graphsafe_set_state=lambda state: calls.states.append(state.initial_seed()),
    )

    def capture(*args: object, **kwargs: object) -> AbstractContextManager[None]:
        calls.captures.append(kwargs)
        return nullcontext()

    cuda = {
        "Stream": MagicMock,
        "stream": lambda stream: nullcontext(),
        "current_stream": MagicMock,
        "current_device": lambda: 0,
        "graph_pool_handle": lambda: None,
        "CUDAGraph": MagicMock,
        "graph": capture,
        "default_generators": [stand_in],
        "set_sync_debug_mode": calls.modes.append,
    }
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return calls


def test_the_line_that_waits_for_the_gpu_is_named(gpu: SimpleNamespace) -> None:
    def waits() -> Step:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return Step({}, {})

    recorder, step = CudaRecorder(), Step({}, {})
    assert recorder.find_sync(lambda: step) == (step, "")
    result, reason = recorder.find_sync(waits)
    assert result == step and reason.startswith(f"{__file__}, line ") and reason.endswith("waits for the GPU")
    with pytest.raises(RuntimeError):
        recorder.find_sync(_raise)
    assert gpu.modes == ["warn", "default"] * 3


def test_captures_allow_for_other_threads_and_failures(gpu: SimpleNamespace) -> None:
    recorder, step = CudaRecorder(), Step({}, {})
    assert recorder.capture(lambda: step)[0] is step
    assert gpu.captures == [{"capture_error_mode": "thread_local"}] and gpu.states == []
    with pytest.raises(RuntimeError, match="capturing"):
        recorder.capture(_raise)
    assert gpu.states == [7]  # the random state is restored


def _raise() -> Step:
    raise RuntimeError("operation not permitted when stream is capturing")


def both_after(steps: int, recorder: CpuRecorder, data: dict[str, Path]) -> tuple[Trainer, Trainer]:
    """Return a trainer after some steps, of two kinds in turn, and one whose steps `recorder` captures."""
    flags = [EXACT, "--norm=instance", "--n_critic=2"]
    eager, batches = trainer_and_batches("pix2pix", data, *flags)
    captured, _ = trainer_and_batches("pix2pix", data, *flags)
    captured.capture_steps(recorder)
    for turn in range(steps):
        eager.step(batches[turn % len(batches)])
        captured.step(batches[turn % len(batches)])
    return eager, captured


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = map(logging.LogRecord.getMessage, caplog.records)
    return [message for message in messages if "CUDA graph" in message]


def test_a_step_that_waits_is_not_captured(
    data: dict[str, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorder(CpuRecorder):
        def capture(self, compute: Callable[[], Step]) -> tuple[Step, Callable[[], None]]:
            raise AssertionError("on a GPU this fails, and leaves torch in disorder")

    def waiting(model: Pix2PixModel, *args: Any) -> Step:
        step = train_step(model, *args)
        losses = {name: torch.tensor(loss.item()) for name, loss in step.losses.items()}
        return step._replace(losses=losses)

    train_step = Pix2PixModel.train_step
    monkeypatch.setattr(Pix2PixModel, "train_step", waiting)
    assert_equal_states(*both_after(2 * (WARM_UP + 2), Recorder(), data))
    (message,) = logged(caplog)
    assert message.startswith("CUDA graph capture failed (_local_scalar_dense waits for the device")
    assert message.endswith("); running eagerly")


@pytest.mark.parametrize("earlier", [0, 1])
def test_after_a_failed_capture_steps_run_eagerly(
    earlier: int, data: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Also in mid-step, when another kind of step has been captured, which is not trusted any more."""

    class Refusal(TorchDispatchMode):
        left = 5  # some gradients are there when it happens

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.left -= "backward" in func.__name__
            if self.left < 0:
                raise RuntimeError("operation not permitted when stream is capturing")
            return func(*args, **(kwargs or {}))

    class Broken(CpuRecorder):
        captures = 0

        def capture(self, compute: Callable[[], Step]) -> tuple[Step, Callable[[], None]]:
            self.captures += 1
            if self.captures <= earlier:
                return super().capture(compute)
            with Refusal():
                compute()
            raise AssertionError("a step without gradients")

    recorder = Broken()
    eager, captured = both_after(2 * (WARM_UP + 2), recorder, data)
    assert_equal_states(eager, captured)
    assert recorder.captures == earlier + 1 and recorder.replays <= earlier
    assert logged(caplog) == [
        "CUDA graph capture failed (operation not permitted when stream is capturing); running eagerly"
    ]


def test_after_a_replay_that_differs_steps_run_eagerly(
    data: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    class Forgetful(CpuRecorder):
        def replayed(self, calls: list[Call]) -> Iterator[Call]:
            yield from (call for call in calls if call.name != "_fused_adam_")

    recorder = Forgetful()
    assert_equal_states(*both_after(2 * (WARM_UP + 4), recorder, data))
    assert recorder.replays == 1
    (message,) = logged(caplog)
    assert message.startswith("CUDA graph replay differs from an eager step in optimizers.")
    assert "optimizers.D.weights" in message and message.endswith("; running eagerly")


STEADY = {
    "cycle_gan": ["--pool_size=2"],
    "colorization": ["--rebalance", "--instance_noise=0.1"],
    "dcgan": ["--diffaug=translation", "--norm=none", "--instance_noise=0.1"],
    "pix2pix": ["--netG=resnet_6blocks", "--spectral_norm=D", "--diffaug=translation"],
    "style_transfer": ["--instance_noise=0.1", "--nz=4"],
    "unified": ["--diffaug=translation", "--instance_noise=0.1", "--norm=none"],
}
"""Flags with state from step to step, or random numbers in it, but with steps of one kind alone."""

DRAWN_FOR = {"cycle_gan", "dcgan", "pix2pix", "style_transfer", "unified"}
"""The models whose losses then depend on ``batch.draws``."""

DRAWING = {"bernoulli_", "native_dropout", "normal_", "randn_like"}
"""Operators that draw random numbers."""


class ForgetfulRecorder(CpuRecorder):
    """Replays all operators but some, by their positions."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.forgotten: frozenset[int] = frozenset()

    def replayed(self, calls: list[Call]) -> Iterator[Call]:
        self.calls = calls
        yield from (call for index, call in enumerate(calls) if index not in self.forgotten)


def omissions(calls: list[Call], live: dict[str, list[Tensor]]) -> dict[frozenset[int], str]:
    """Return what a replay may forget: all writes to a tensor, or all random numbers, by the tensor's name.

    Of the tensors of one network, or of another part, with the same last name it is the first.
    """
    drawing = frozenset(index for index, call in enumerate(calls) if call.name in DRAWING)
    names = {drawing: RANDOM_STATE} if drawing else {}
    firsts = {(*name.split(".")[:2], name.split(".")[-1]): name for name in reversed(live)}
    for name in firsts.values():
        places = {tensor.data_ptr() for tensor in live[name]}
        writes = (i for i, call in enumerate(calls) if places & {x.data_ptr() for x in call.written()})
        names.setdefault(frozenset(writes), name)
    return names


@pytest.mark.parametrize("name", TRAINED)
def test_what_a_replay_forgets_is_named(name: str, data: dict[str, Path]) -> None:
    trainer, batches = trainer_and_batches(name, data, EXACT, *STEADY.get(name, []))
    recorder, seen = ForgetfulRecorder(), list[Batch]()
    trainer.capture_steps(recorder)
    graphs = trainer._graphs
    assert graphs is not None
    compute = graphs.compute

    def watched(batch: Batch) -> Step:
        seen.append(batch)
        return compute(batch)

    graphs.compute = watched
    for turn in range(WARM_UP + 2):
        trainer.step(batches[turn % 2])
    (graph,) = graphs.captured.values()
    earlier, batch = seen[-2:]

    before = Snapshot(graphs.owners)
    step = compute(batch)
    after = Snapshot(graphs.owners)

    def differences(shown: Batch) -> list[str]:
        before.restore()
        replayed = graph.replay(shown)
        names = after.differences(Snapshot(graphs.owners), before)
        return names + step_differences(step, replayed, LOSS_TOLERANCE)

    assert not differences(batch)
    assert differences(replace(earlier, draws=batch.draws))  # frozen images
    assert not DRAWN_FOR & {name} or differences(replace(batch, draws=earlier.draws))  # frozen draws
    changed = after.differences(before, before)
    forgotten = set()
    for positions, state in omissions(recorder.calls, tensors(graphs.owners)).items():
        if state in changed:
            recorder.forgotten = positions
            assert state in differences(batch)
            forgotten.add(state.split(".")[0])
    assert {"optimizers"} < forgotten or name == "template"


class Toy:
    """A trainer of one weight, whose step a test completes."""

    def __init__(self, extra: Callable[["Toy"], Tensor | float]):
        self.extra = extra
        self.net = nn.Linear(1, 1)
        self.optimizer = SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.count, self.size = 0, 0
        self.mean = torch.zeros(())
        self.not_a_number, self.expanded = torch.nan, torch.ones(1).expand(3)
        with torch.inference_mode():
            self.constant = torch.ones(2)
        self.noise = torch.tensor(torch.nan)
        self.owners = {"optimizers": {"G": self.optimizer}, "toy": self}

    def compute(self, batch: Batch) -> Step:
        self.size = len(batch)
        self.optimizer.zero_grad()
        loss = self.net(batch.A.view(-1, 1)).square().mean() + self.extra(self)
        loss.backward()
        self.optimizer.step()
        return Step({"G": loss.detach()}, {"real_A": batch.A})

    def counted(self) -> float:
        self.count += 1
        return self.count / 1e6

    def replaced(self) -> Tensor:
        self.mean = 0.5 * self.mean + 1e-3
        return self.mean

    def drawn_on_the_host(self) -> float:
        return float(torch.get_default_dtype().itemsize) * next(HOST_NUMBERS)

    def in_place(self) -> Tensor:
        self.noise.copy_(self.noise)  # NaN equals NaN
        return self.mean.mul_(0.5).add_(torch.rand(()))


HOST_NUMBERS = iter(range(1000))


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (Toy.in_place, ""),
        (Toy.counted, "capture failed (toy.count is a Python number that changes in every step; make it a"),
        (Toy.replaced, "replay differs from an eager step in toy.mean"),
        (Toy.drawn_on_the_host, "replay differs from an eager step in loss G"),
    ],
)
def test_mistakes_in_a_step_are_named(
    extra: Callable[[Toy], Tensor | float], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Batches of two sizes are two kinds of step: what depends on the size alone is no mistake."""
    torch.manual_seed(0)
    toy = Toy(extra)
    graphs = StepGraphs(toy.compute, CpuRecorder(), toy.owners)
    for turn in range(2 * (WARM_UP + 4)):
        size = 1 + turn % 2
        images, index = torch.rand(size, 1, 1, 1), torch.arange(size)
        graphs.run(Batch(images, None, [""] * size, [], index), variant=None)
    assert [message.removeprefix("CUDA graph ").startswith(reason) for message in logged(caplog)] == (
        [True] if reason else []
    )
    assert len(graphs.captured) == (0 if reason else 2)


@pytest.mark.parametrize(
    ("flags", "device", "ranks", "obstacle"),
    [
        ([], "cuda", 1, ""),
        ([], "cpu", 1, "CUDA graphs need an NVIDIA GPU, and this run is on the CPU"),
        ([], "cuda", 4, "steps of several ranks cannot be captured, and there are 4"),
        (["--checkpointing"], "cuda", 1, "steps with --checkpointing cannot be captured"),
    ],
)
def test_auto_runs_eagerly_where_on_is_an_error(
    flags: list[str],
    device: str,
    ranks: int,
    obstacle: str,
    data: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: ranks)
    caplog.set_level(logging.INFO)

    def wants(*more: str) -> bool:
        options = parse(TrainOptions, arguments("pix2pix", data, *flags, *more), MODELS, DATASETS)
        return wants_capture(options, torch.device(device))

    assert not wants() and not wants("--cuda_graph=off") and not logged(caplog)
    assert wants("--cuda_graph=auto") == (not obstacle)
    assert [text.removeprefix("--cuda_graph auto: ") for text in caplog.messages if "--cuda" in text] == (
        [f"{obstacle}; running eagerly"] if obstacle else []
    )
    if obstacle:
        with pytest.raises(UserError, match=f"--cuda_graph on: {obstacle}; use --cuda_graph auto"):
            wants("--cuda_graph=on")
    else:
        assert wants("--cuda_graph=on")
    with pytest.raises(UserError, match="--cuda_graph on: --speed off"):
        wants("--cuda_graph=on", "--speed=off")
