"""Batches copied to the device one ahead: complete, in order, with errors in their places."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data import DATASETS, create_loader
from data.prefetch import on_device, one_ahead
from models import MODELS
from options.parse import parse
from options.train_options import TrainOptions
from training import run as training
from training.progress import Progress, Stopwatch
from util.errors import UserError


def recorded_begin(events: list[str]) -> Callable[[int], Callable[[], int]]:
    def begin(item: int) -> Callable[[], int]:
        events.append(f"begin {item}")
        return lambda: item

    return begin


@pytest.mark.parametrize("count", range(4))
def test_items_come_in_order_and_the_next_has_begun(count: int) -> None:
    events: list[str] = []
    for item in one_ahead(range(count), recorded_begin(events)):
        events.append(f"use {item}")
    assert [event for event in events if "use" in event] == [f"use {i}" for i in range(count)]
    for i in range(count - 1):
        assert events.index(f"begin {i + 1}") < events.index(f"use {i}")
        assert f"begin {i + 2}" not in events[: events.index(f"use {i}")]  # no more than one ahead


def test_an_error_comes_after_the_items_before_it() -> None:
    def three_good() -> Iterator[int]:
        yield from range(3)
        raise UserError("the fourth")

    items: list[int] = []
    with pytest.raises(UserError, match="the fourth"):
        for item in one_ahead(three_good(), recorded_begin([])):
            items.append(item)
    assert items == [0, 1, 2]

    def fails_at_1(item: int) -> Callable[[], int]:
        if item == 1:
            raise RuntimeError("out of memory")
        return lambda: item

    items.clear()
    with pytest.raises(RuntimeError, match="out of memory"):
        for item in one_ahead(range(3), fails_at_1):
            items.append(item)
    assert items == [0]


def test_a_copy_to_the_gpu_waits_for_launched_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the copy might get memory that a launched step has yet to read."""
    events: list[str] = []

    class Stream:
        def wait_stream(self, other: str) -> None:
            events.append(f"the copies wait for the {other}")

        def wait_event(self, event: str) -> None:
            events.append(f"the steps wait for {event}")

        def record_event(self) -> str:
            return "the copy"

        def __str__(self) -> str:
            return "steps"

    class Batch:
        def to(self, *_: object) -> "Batch":
            events.append("copy")
            return self

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    batches: list[Any] = [Batch()]
    assert list(on_device(batches, torch.device("cuda"), torch.float32)) == batches
    assert events == ["the copies wait for the steps", "copy", "the steps wait for the copy"]


def test_on_a_cpu_batches_are_converted_only(pairs: Path) -> None:
    argv = ["--dataroot", str(pairs), "--model", "pix2pix", "--load_size", "36", "--crop_size", "32"]
    options = parse(TrainOptions, [*argv, "--num_threads", "0", "--gpu_ids", "-1"], MODELS, DATASETS)
    cpu, loader = torch.device("cpu"), create_loader(options, torch.device("cpu"))
    batches = list(on_device(loader.epoch(1), cpu, torch.float64))
    for batch, plain in zip(batches, loader.epoch(1), strict=True):
        expected = plain.to(cpu, torch.float64)
        assert batch.paths_A == plain.paths_A and batch.A.dtype == torch.float64
        assert torch.equal(batch.A, expected.A) and torch.equal(batch.pair()[1], expected.pair()[1])


def test_a_prefetched_batch_does_not_count_as_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """If reading the third batch fails, the second is still trained on before everything is saved."""

    class Broken:
        def epoch(self, number: int, start: int) -> Iterator[int]:
            yield from (0, 1)
            raise UserError("damaged")

    saved: list[int] = []
    progress = Progress(epoch=1)
    model = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32)
    trainer = SimpleNamespace(model=model, iteration=0)
    monkeypatch.setattr(training, "on_device", lambda batches, *_: one_ahead(batches, recorded_begin([])))
    monkeypatch.setattr(training.Run, "save", lambda run, *_: saved.append(run.progress.position))
    run = object.__new__(training.Run)
    run.__dict__ |= {"loader": Broken(), "trainer": trainer, "progress": progress, "_watch": Stopwatch(0)}
    with pytest.raises(UserError, match="damaged"):
        for _ in run.batches():
            trainer.iteration += 1
            progress.advance(1)
            assert progress.position == trainer.iteration
    assert saved == [2]
