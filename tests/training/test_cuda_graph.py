"""Steps replayed from recordings are the steps that would have been computed, and nothing in them waits."""

import logging
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from data import DATASETS, create_loader
from models import MODELS, create_model
from models.base_model import BaseModel
from models.objectives.backbones import Fingerprint
from models.pix2pix_model import Pix2PixModel
from options.parse import parse
from options.train_options import TrainOptions
from tests.support.models import CPU, TRAINED, arguments, assert_equal_states, model_and_batches
from tests.support.recorder import CpuRecorder, NoTraffic, SyncDetector
from training.cuda_graph import WARM_UP, CudaRecorder
from util.batch import Batch, Step

FLAGS = {
    "cycle_gan": ["--pool_size=2", "--netG=resnet_6blocks"],
    "colorization": ["--rebalance"],
    "pix2pix": ["--on_nan=skip", "--ema_decay=0.9", "--norm=instance", "--lambda_r1=1", "--r1_every=3"],
    "dcgan": ["--diffaug=color,translation,cutout", "--n_critic=2", "--clip_grad=1", "--norm=none"],
    "unified": ["--lambda_gp=1", "--gan_mode=wgangp", "--norm=none"],
}
"""What keeps something from step to step, or makes steps of several kinds."""

EXACT = f"--lr={2**-12}"
"""A rate that float32 holds exactly: in recorded steps it is a tensor."""


@pytest.mark.parametrize("name", TRAINED)
def test_recorded_steps_are_the_computed_ones(name: str, data: dict[str, Path]) -> None:
    flags = [EXACT, *FLAGS.get(name, [])]
    plain, batches = model_and_batches(name, data, *flags)
    recorded, _ = model_and_batches(name, data, *flags)
    recorder = CpuRecorder()
    recorded.capture_steps(recorder)
    for turn in range(3 * WARM_UP + 4):
        for model in (plain, recorded):
            model.set_learning_rate(2.0**-turn)
        expected = plain.step(batches[turn % len(batches)])
        found = recorded.step(batches[turn % len(batches)])
        for ours, theirs in zip(expected, found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert recorder.replays >= WARM_UP
    assert_equal_states(plain, recorded)


@pytest.mark.parametrize("name", TRAINED)
def test_nothing_in_a_step_waits_for_the_device(name: str, data: dict[str, Path]) -> None:
    class Watch(CpuRecorder):
        def run(self, compute: Callable[[], Step]) -> Step:
            step, waits = self.find_sync(compute)
            assert not waits
            return step

    model, batches = model_and_batches(name, data, *FLAGS.get(name, []))
    model.capture_steps(Watch())
    for batch in batches[:WARM_UP]:
        model.step(batch)


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device whose tensors hold nothing, so that nobody can read them, made fit for training."""
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda device, *args, **kwargs: autocast("cpu", *args, **kwargs))
    optimizers = sys.modules[Optimizer.__module__]
    monkeypatch.setattr(optimizers, "_get_fused_kernels_supported_devices", lambda: ["meta"])
    monkeypatch.setattr(Fingerprint, "__init__", lambda self, *args: nn.Module.__init__(self))
    return torch.device("meta")


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_needs_nothing_of_the_host(name: str, data: dict[str, Path], meta: torch.device) -> None:
    options = parse(TrainOptions, arguments(name, data, *FLAGS.get(name, [])), MODELS, DATASETS)
    model = create_model(options, meta)
    batches = [batch.to(meta, model.dtype) for batch in create_loader(options, CPU).epoch(1)]
    model.step(batches[0])  # what never changes may be sent once

    def watched(batch: Batch) -> Step:
        with NoTraffic():
            return compute(batch)

    compute, model._compute = model._compute, watched  # type: ignore[method-assign]
    model.step(batches[1])


@pytest.mark.parametrize(
    "waits", [lambda x: x.item(), lambda x: x.nonzero(), lambda x: bool(x > 0), lambda x: x[x > 0]]
)
def test_what_waits_is_noticed(waits: Callable[[torch.Tensor], object]) -> None:
    with SyncDetector() as noticed:
        waits(torch.ones(1))
    assert len(noticed.found) == 1


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What torch is told of streams, captures and random numbers where there seems to be a GPU."""
    generator = torch.Generator()
    told = SimpleNamespace(generator=generator, captures=[], modes=[], states=[])
    stand_in = SimpleNamespace(
        device=generator.device,
        initial_seed=lambda: 7,
        graphsafe_set_state=lambda state: told.states.append(state.initial_seed()),
    )

    def capture(*args: object, **kwargs: object) -> AbstractContextManager[None]:
        told.captures.append(kwargs)
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
        "set_sync_debug_mode": told.modes.append,
    }
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return told


def test_a_rehearsal_tells_where_the_gpu_was_waited_for(gpu: SimpleNamespace) -> None:
    def waits() -> Step:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return Step({}, {})

    recorder, plain = CudaRecorder(), Step({}, {})
    assert recorder.find_sync(lambda: plain) == (plain, "")
    step, reason = recorder.find_sync(waits)
    assert step == plain and reason.startswith(f"{__file__}, line ") and reason.endswith("waits for the GPU")
    with pytest.raises(RuntimeError):
        recorder.find_sync(_raise)
    assert gpu.modes == ["warn", "default"] * 3


def test_captures_bear_other_threads_and_failures(gpu: SimpleNamespace) -> None:
    recorder, plain = CudaRecorder(), Step({}, {})
    assert recorder.capture(lambda: plain)[0] is plain
    assert gpu.captures == [{"capture_error_mode": "thread_local"}] and gpu.states == []
    with pytest.raises(RuntimeError, match="capturing"):
        recorder.capture(_raise)
    assert gpu.states == [7]  # random numbers go on as if nothing had happened


def _raise() -> Step:
    raise RuntimeError("operation not permitted when stream is capturing")


def both_after(steps: int, recorder: CpuRecorder, data: dict[str, Path]) -> tuple[BaseModel, BaseModel]:
    """Return a model after so many steps, of two kinds in turn, and one that should be captured in them."""
    flags = [EXACT, "--norm=instance", "--n_critic=2"]
    plain, batches = model_and_batches("pix2pix", data, *flags)
    captured, _ = model_and_batches("pix2pix", data, *flags)
    captured.capture_steps(recorder)
    for turn in range(steps):
        plain.step(batches[turn % len(batches)])
        captured.step(batches[turn % len(batches)])
    return plain, captured


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each for each in map(logging.LogRecord.getMessage, caplog.records) if "CUDA graph" in each]


def test_a_step_that_waits_is_not_captured(
    data: dict[str, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorder(CpuRecorder):
        def capture(self, compute: Callable[[], Step]) -> tuple[Step, Callable[[], None]]:
            raise AssertionError("this would end badly")

    def waiting(model: Pix2PixModel, batch: Batch) -> Step:
        step = train_step(model, batch)
        return step._replace(losses={name: torch.tensor(loss.item()) for name, loss in step.losses.items()})

    train_step = Pix2PixModel.train_step
    monkeypatch.setattr(Pix2PixModel, "train_step", waiting)
    assert_equal_states(*both_after(2 * (WARM_UP + 2), Recorder(), data))
    (message,) = said(caplog)
    assert message.startswith("CUDA graph capture failed (_local_scalar_dense waits for the device")
    assert message.endswith("); running eagerly")


@pytest.mark.parametrize("earlier", [0, 1])
def test_what_cannot_be_recorded_is_computed_and_said(
    earlier: int, data: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Also in mid-step, when another kind of step has been recorded, which is not trusted any more."""

    class Refusal(TorchDispatchMode):
        left = 5  # some gradients are there when it happens

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.left -= "backward" in func.__name__
            if self.left < 0:
                raise RuntimeError("operation not permitted when stream is capturing")
            return func(*args, **(kwargs or {}))

    class Broken(CpuRecorder):
        recorded = 0

        def capture(self, compute: Callable[[], Step]) -> tuple[Step, Callable[[], None]]:
            self.recorded += 1
            if self.recorded <= earlier:
                return super().capture(compute)
            with Refusal():
                compute()
            raise AssertionError("a step without gradients")

    recorder = Broken()
    plain, captured = both_after(2 * (WARM_UP + 2), recorder, data)
    assert_equal_states(plain, captured)
    assert recorder.recorded == earlier + 1 and recorder.replays <= earlier
    assert said(caplog) == [
        "CUDA graph capture failed (operation not permitted when stream is capturing); running eagerly"
    ]
