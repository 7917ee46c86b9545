"""A run that was killed or stopped resumes and ends with the same bytes as an uninterrupted one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scripts.kill_and_resume import differences
from tests.support.environment import ONE_THREAD, ROOT

COMMON = "--gpu_ids -1 --load_size 36 --crop_size 32 --netG resnet_6blocks --ngf 4 --ndf 4 --n_epochs_decay 1"
OFTEN = "--n_epochs 5 --print_freq 1 --save_latest_freq 2 --save_epoch_freq 2 --html_samples 1"
NOISE = ["--instance_noise", "0.1", "--instance_noise_epochs", "4"]
FLAGS = {
    # dropout is on, and the noise falls in every step
    "pix2pix": ["--model", "pix2pix", *COMMON.split(), *OFTEN.split(), *NOISE],
    # the pools are full from the third step on
    "cycle_gan": ["--model", "cycle_gan", *COMMON.split(), *OFTEN.split(), "--pool_size", "2"],
}
STEPS = 36


@pytest.fixture(scope="module")
def whole(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an uninterrupted run of each model."""
    folder = tmp_path_factory.mktemp("whole")
    for model in FLAGS:
        process = launch(folder, model, data, model)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert "--seed 0\n" in output
    return folder


def launch(
    folder: Path, name: str, data: dict[str, Path], model: str, *flags: object
) -> "subprocess.Popen[str]":
    dataroot = data["aligned" if model == "pix2pix" else "unaligned"]
    argv = [sys.executable, str(ROOT / "train.py"), "--dataroot", str(dataroot), *FLAGS[model]]
    argv += ["--checkpoints_dir", str(folder), "--name", name, *map(str, flags)]
    return subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ONE_THREAD,
        start_new_session=True,
    )


def wait_for(log: Path, steps: int) -> None:
    """Wait until a run has logged `steps` steps."""
    deadline = time.monotonic() + 60
    while not log.exists() or log.read_bytes().count(b"\n") < steps:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def position(folder: Path) -> int:
    return torch.load(folder / "latest_state.pth", weights_only=True)["progress"]["pictures"]


def finish(process: "subprocess.Popen[str]", status: int = 0) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == status, output
    return output


@pytest.mark.parametrize(
    ("model", "workers"),
    [("pix2pix", (0, 3)), ("pix2pix", (1, 0)), ("pix2pix", (3, 1)), ("cycle_gan", (3, 0))],
)
def test_a_run_killed_at_a_random_step(
    whole: Path, data: dict[str, Path], tmp_path: Path, model: str, workers: tuple[int, int]
) -> None:
    step = random.randrange(4, STEPS - 8)
    process = launch(tmp_path, "run", data, model, "--num_threads", workers[0])
    wait_for(tmp_path / "run" / "losses.jsonl", step)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    at = position(tmp_path / "run")
    assert step - 4 <= at < STEPS, "the run was over before it could be killed"

    output = finish(launch(tmp_path, "run", data, model, "--continue_train", "--num_threads", workers[1]))
    assert "Resuming in epoch" in output
    assert list(differences(whole / model, tmp_path / "run")) == []


def test_signals_stop_a_run_in_mid_epoch_with_the_status_for_requeueing(
    whole: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    log, flags = tmp_path / "run" / "losses.jsonl", ["--save_latest_freq", 1000, "--num_threads", 2]
    for steps, name in ((4, "SIGTERM"), (14, "SIGUSR1"), (22, "SIGINT")):
        process = launch(
            tmp_path, "run", data, "pix2pix", *flags, *(["--continue_train"] if log.exists() else [])
        )
        wait_for(log, steps)
        if name == "SIGTERM":  # while training waits for images
            os.killpg(process.pid, signal.SIGSTOP)
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(1)
        # A cluster signals every process of the run, the workers too.
        time.sleep(0.05)
        os.killpg(process.pid, signal.Signals[name])
        output = finish(process, status=75)
        assert f"Stopped by {name} in epoch" in output and "Traceback" not in output
        assert steps <= position(tmp_path / "run") < STEPS
        # Nothing was trained after the save.
        assert position(tmp_path / "run") == json.loads(log.read_text().splitlines()[-1])["total_iters"]
    finish(launch(tmp_path, "run", data, "pix2pix", *flags, "--continue_train"))
    assert list(differences(whole / "pix2pix", tmp_path / "run")) == []


def test_a_second_ctrl_c_ends_the_process_at_once(tmp_path: Path) -> None:
    code = (
        "import ctypes\nfrom util.stopping import StopSignals\n"
        "with StopSignals() as stop:\n    print('ready', flush=True)\n"
        "    for _ in range(100):\n        ctypes.CDLL(None).usleep(900_000)\n"  # no Python in it
        "        if stop.received:\n            print(stop.received, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "SIGINT\n"
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert process.wait(timeout=10) == -signal.SIGINT
    assert time.monotonic() - began < 0.5
    process.stdout.close()


@pytest.mark.parametrize("kills", ["2", pytest.param("6", marks=pytest.mark.slow)])
def test_kills_at_random_times(kills: str) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "kill_and_resume.py")]
    result = subprocess.run(
        [*script, "--kills", kills, "--epochs", "4", "--seed", str(random.randrange(10**6))],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{kills} kills" in result.stdout


def test_a_finished_run_has_nothing_left_to_do_and_more_epochs_resume_it(
    whole: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(whole / "pix2pix", tmp_path / "run")
    finish(launch(tmp_path, "run", data, "pix2pix", "--continue_train"))
    assert list(differences(whole / "pix2pix", tmp_path / "run")) == []
    longer = [*("--continue_train", "--n_epochs", 6), *("--seed", 5)]
    output = finish(launch(tmp_path, "run", data, "pix2pix", *longer))
    assert "Flags that have changed: --n_epochs 6 (was 5), --seed 5 (was 0)" in output
    lines = (tmp_path / "run" / "losses.jsonl").read_text().splitlines()
    assert [json.loads(line)["total_iters"] for line in lines] == list(range(1, STEPS + 7))
    page = (tmp_path / "run" / "web" / "index.html").read_text()
    assert page.count('data-epoch="') == 7
