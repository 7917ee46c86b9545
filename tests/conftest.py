"""Fixtures of all tests: small data sets, and commands as users run them."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch

from data import DATASETS
from tests.support.environment import (
    ONE_THREAD,
    ROOT,
    Command,
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape names that are not UTF-8 in captured logs, which processes of xdist could not send."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _sighup() -> None:
    """Let SIGHUP act, also where the tests run under nohup, which processes inherit."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data root for every ``--dataset_mode``, with the example that the data set makes of itself."""
    roots = {mode: tmp_path_factory.mktemp(mode) for mode in DATASETS.names()}
    for mode, root in roots.items():
        DATASETS.get(mode).make_example(root)
    return roots


@pytest.fixture(scope="session")
def pairs(data: dict[str, Path]) -> Path:
    """A data set of pairs, side by side, 32 pixels a side: 6 to train, 2 to validate, 3 to test."""
    return data["aligned"]


@pytest.fixture(scope="session")
def prefork() -> Iterator[subprocess.Popen[str]]:
    """The process that forks the processes of `command`."""
    argv, pipe = [sys.executable, "-P", str(ROOT / "tests/support/prefork.py")], subprocess.PIPE
    environment = {**ONE_THREAD, "PYTHONPATH": str(ROOT)}
    # In its own process group, with the processes that it forks.
    options = {"env": environment, "process_group": 0}
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, **options) as process:
        yield process
        # It would not see the end of its input: worker processes left by tests keep the pipe open.
        process.terminate()


@pytest.fixture
def command(tmp_path: Path, prefork: subprocess.Popen[str]) -> Command:
    """Run train.py or test.py in its own process, with checkpoints and results below tmp_path."""
    assert prefork.stdin is not None and prefork.stdout is not None
    requests, answers = prefork.stdin, prefork.stdout

    def call(script: str, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        folders = ["--checkpoints_dir", str(tmp_path / "checkpoints")]
        if script == "test.py":
            folders += ["--results_dir", str(tmp_path / "results")]
        argv = [str(ROOT / script), *map(str, arguments), *folders]
        out, err = tmp_path / "out.txt", tmp_path / "err.txt"
        request = {"argv": argv, "cwd": str(tmp_path), "out": str(out), "err": str(err)}
        print(json.dumps(request), file=requests, flush=True)
        if not select.select([answers], [], [], 300)[0]:
            os.killpg(prefork.pid, signal.SIGKILL)
            raise TimeoutError(f"{argv}\n{out.read_text()}\n{err.read_text()}")
        returncode = int(answers.readline())
        result = subprocess.CompletedProcess(argv, returncode, out.read_text(), err.read_text())
        assert returncode == status, result.stdout + result.stderr
        return result

    return call
