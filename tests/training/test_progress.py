"""How fast a run is, and how long it will take."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.environment import Command
from training import progress
from training.progress import FirstSteps, in_words


def test_durations_in_words() -> None:
    assert in_words(timedelta(seconds=80)) == "1 min"
    assert in_words(timedelta(hours=3, seconds=10)) == "3 h 0 min"
    assert in_words(timedelta(days=2, minutes=5)) == "2 d 0 h 5 min"
    assert in_words(timedelta(minutes=59, seconds=59)) == "1 h 0 min"


def test_the_first_steps_tell_the_speed_of_those_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    first, waited, told = FirstSteps(), 0.0, []
    for step in range(1, 200):
        slow = step <= progress.WARM_UP
        now[0] += 9.0 if slow else 0.2
        waited += 5.0 if slow else 0.05
        if first.done(4, waited):
            told.append((step, first.report(40 * 3600 * 20)))
    (line,) = told
    assert line[0] == 50
    assert re.fullmatch(
        r"200 ms a step, 20\.0 images/s, 25% of the time waiting for data;"
        r" about 1 d 16 h 0 min to go, until \d{4}-\d\d-\d\d \d\d:\d\d",
        line[1],
    )


def test_a_run_tells_once_how_long_it_will_take(command: Command, pairs: Path) -> None:
    flags = "--name run --model pix2pix --gpu_ids -1 --netG unet_32 --ngf 2 --ndf 2 --crop_size 32"
    flags += " --load_size 36 --num_threads 0 --n_epochs_decay 0 --no_html --print_freq 1000"
    common = ["--dataroot", pairs, *flags.split(), "--n_epochs"]
    assert "ms a step" not in command("train.py", *common, 2).stdout  # 12 steps
    output = command("train.py", *common, 12, "--continue_train").stdout
    (line,) = (line for line in output.splitlines() if "ms a step" in line)
    assert re.search(r"^\d+ ms a step, [\d.]+ images/s, \d+% of .* about 0 min to go, until 20.*", line)
    assert re.search(r"; peak memory \d\.\d\d GiB$", line)
