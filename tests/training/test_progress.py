"""The speed and memory that a run reports."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.environment import Command
from training import progress
from training.progress import FirstSteps, Stopwatch


def test_the_speed_is_that_of_the_steps_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    first, images, waited, reports = FirstSteps(), 0, 0.0, []
    for step in range(1, 200):
        slow = step <= progress.WARM_UP
        now[0] += 9.0 if slow else 0.2
        images += 1 if slow else 4
        waited += 5.0 if slow else 0.05
        if first.done(images, waited):
            reports.append((step, first.report(images, waited)))
    assert reports == [(50, "200 ms per step, 20.0 images/s, 25% of the time waiting for data")]


def test_the_stopwatch_separates_computing_and_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def batches() -> Iterator[int]:
        for size in (2, 2, 4):
            now[0] += 0.5
            yield size

    images, watch = 100, Stopwatch(100)
    for size in watch.waiting(batches()):
        images += size
        now[0] += 3.0 if size == 2 else 8.0
        if images == 104:
            assert watch.per_image(images) == (1.5, 0.25)
    assert watch.per_image(images) == (2.0, 0.125) and watch.waited == 1.5


def test_a_run_reports_its_speed_and_memory_once(command: Command, pairs: Path) -> None:
    flags = "--name run --model pix2pix --gpu_ids -1 --netG unet_32 --ngf 2 --ndf 2 --crop_size 32"
    flags += " --load_size 36 --num_threads 0 --n_epochs_decay 0 --no_html --print_freq 1000"
    common = ["--dataroot", pairs, *flags.split(), "--n_epochs"]
    assert "ms per step" not in command("train.py", *common, 2).stdout  # 12 steps
    output = command("train.py", *common, 12, "--continue_train").stdout
    (line,) = (line for line in output.splitlines() if "ms per step" in line)
    assert re.search(r"^\d+ ms per step, [\d.]+ images/s, \d+% of the time waiting for data;", line)
    assert re.search(r"; peak memory \d\.\d\d GiB$", line)
