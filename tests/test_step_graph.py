"""Steps replayed from recordings are the steps that would have been computed, and nothing in them waits."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from recorder import CpuRecorder, NoTraffic, NoWaiting
from test_models import CPU, TRAINED, arguments, assert_equal_states, model_and_batches
from torch import nn
from torch.optim import Optimizer

from data import DATASETS, create_loader
from models import MODELS, create_model
from models.backbones import Fingerprint
from models.step_graph import WARM_UP
from options.parse import parse
from options.train_options import TrainOptions
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
        def warm_up(self, run: Callable[[], Step]) -> Step:
            with NoWaiting():
                return run()

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
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        waits(torch.ones(1))


def test_what_cannot_be_recorded_is_computed_and_said(
    data: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(CpuRecorder):
        def record(self, run: object) -> tuple[Step, object]:
            raise RuntimeError("operation not permitted when stream is capturing")

    plain, batches = model_and_batches("pix2pix", data, EXACT)
    broken, _ = model_and_batches("pix2pix", data, EXACT)
    broken.capture_steps(Broken())
    for _ in range(WARM_UP + 2):
        plain.step(batches[0])
        broken.step(batches[0])
    assert_equal_states(plain, broken)
    assert [r.getMessage() for r in caplog.records if "stream is capturing" in r.getMessage()] == [
        "--cuda_graph: steps are computed one by one, for they cannot be captured:"
        " operation not permitted when stream is capturing"
    ]
