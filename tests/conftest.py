"""What tests share: a tiny data set, reference numbers where they are at hand, commands as users run them."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from datasets import make_demo_dataset
from tests.support.environment import (
    ONE_THREAD,
    ROOT,
    Command,
)


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of pairs, side by side, 32 pixels a side: 6 to train, 3 to test."""
    folder = tmp_path_factory.mktemp("pairs")
    arguments = ["--train", "6", "--val", "2", "--test", "3", "--size", "32"]
    assert make_demo_dataset.main(["--out", str(folder), *arguments]) == 0
    return folder


@pytest.fixture(scope="session")
def data(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data root for every ``--dataset_mode``; the unpaired one has fewer images in B."""
    unpaired = tmp_path_factory.mktemp("unpaired")
    for phase in ("train", "test"):
        for side, left, dropped in (("A", 0, 0), ("B", 32, 1)):
            folder = unpaired / f"{phase}{side}"
            folder.mkdir()
            for path in sorted((pairs / phase).iterdir())[dropped:]:
                Image.open(path).crop((left, 0, left + 32, 32)).save(folder / path.name)
    one_folder = dict.fromkeys(("aligned", "template", "colorization", "images", "latent"), pairs)
    return {**one_folder, "unaligned": unpaired, "style": unpaired, "single": unpaired / "testA"}


@pytest.fixture(scope="session")
def prefork() -> Iterator[subprocess.Popen[str]]:
    """The process that forks those of `command`."""
    argv, pipe = [sys.executable, "-P", str(ROOT / "tests/support/prefork.py")], subprocess.PIPE
    environment = {**ONE_THREAD, "PYTHONPATH": str(ROOT)}
    # In a group of its own, to which the processes that it forks belong.
    options = {"env": environment, "process_group": 0}
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, **options) as process:
        yield process
        # The end of its input would not reach it: workers that tests have left behind hold the pipe open.
        process.terminate()


@pytest.fixture
def command(tmp_path: Path, prefork: subprocess.Popen[str]) -> Command:
    """Runs train.py or test.py in a process of its own, with checkpoints and results below tmp_path."""
    assert prefork.stdin is not None and prefork.stdout is not None
    requests, answers = prefork.stdin, prefork.stdout

    def call(script: str, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        places = ["--checkpoints_dir", str(tmp_path / "checkpoints")]
        if script == "test.py":
            places += ["--results_dir", str(tmp_path / "results")]
        argv = [str(ROOT / script), *map(str, arguments), *places]
        out, err = tmp_path / "out.txt", tmp_path / "err.txt"
        request = {"argv": argv, "cwd": str(tmp_path), "out": str(out), "err": str(err)}
        print(json.dumps(request), file=requests, flush=True)
        if not select.select([answers], [], [], 300)[0]:
            os.killpg(prefork.pid, signal.SIGKILL)
            raise TimeoutError(f"{argv}\n{out.read_text()}\n{err.read_text()}")
        found = int(answers.readline())
        result = subprocess.CompletedProcess(argv, found, out.read_text(), err.read_text())
        assert found == status, result.stdout + result.stderr
        return result

    return call
