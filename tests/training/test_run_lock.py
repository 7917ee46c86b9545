"""One run at a time in a folder: which locks are respected, which are taken over, and when."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.environment import ROOT
from training import run_lock
from training.run_lock import RunLock
from util.errors import UserError

HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom training.run_lock import RunLock\n"
    "with RunLock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
)


def hold(folder: Path) -> "subprocess.Popen[str]":
    """Hold the lock in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def forge(folder: Path, age: float = 0.0, **changes: object) -> Path:
    """Leave a lock as a run on another host would."""
    path = folder / "run.lock"
    owner = {"token": "x", "pid": 1, "process": "1", "host": "elsewhere", "job": ""}
    path.write_text(json.dumps(owner | changes))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_second_run_is_refused_and_a_dead_runs_lock_taken_over_at_once(tmp_path: Path) -> None:
    process = hold(tmp_path)
    with pytest.raises(UserError, match=f"process {process.pid} on .* is training in this folder"):
        RunLock(tmp_path).__enter__()
    process.kill()
    process.communicate()
    assert (tmp_path / "run.lock").exists()
    began = time.monotonic()
    with RunLock(tmp_path):
        assert time.monotonic() - began < 1
    assert not list(tmp_path.iterdir())


def test_a_process_with_a_dead_runs_number_does_not_hold_its_lock(tmp_path: Path) -> None:
    forge(tmp_path, host=os.uname().nodename, pid=os.getpid(), process="another boot 123")
    with RunLock(tmp_path):
        pass


def test_another_hosts_lock_is_respected_while_it_has_a_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "SILENCE_SECONDS", 1.5)
    path = forge(tmp_path, age=0.5)
    monkeypatch.setattr(time, "sleep", lambda seconds: os.utime(path))  # the heartbeat
    with pytest.raises(UserError, match="process 1 on elsewhere"):
        RunLock(tmp_path).__enter__()
    assert json.loads(path.read_text())["host"] == "elsewhere"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("age", "wait"), [(0.0, 1.5), (1.0, 0.5), (100.0, 0.0)])
def test_another_hosts_lock_is_taken_over_after_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, wait: float
) -> None:
    assert run_lock.SILENCE_SECONDS == 60
    monkeypatch.setattr(run_lock, "SILENCE_SECONDS", 1.5)
    forge(tmp_path, age=age)
    began = time.monotonic()
    with RunLock(tmp_path):
        assert wait - 0.1 < time.monotonic() - began < wait + 0.6


def test_the_same_slurm_jobs_lock_is_taken_over_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    forge(tmp_path, job="77")
    began = time.monotonic()
    with RunLock(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["job"] == "77"
        assert time.monotonic() - began < 1


def test_a_lock_has_a_heartbeat_and_notices_when_it_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_lock.HEARTBEAT_SECONDS * 3 <= run_lock.SILENCE_SECONDS
    monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.05)
    with RunLock(tmp_path) as lock:
        os.utime(lock.path, (0, 0))
        time.sleep(0.3)
        assert time.time() - lock.path.stat().st_mtime < 10
        lock.check()
        forge(tmp_path)
        with pytest.raises(UserError, match="another run has"):
            lock.check()
    assert (tmp_path / "run.lock").exists()  # the other run's


def test_under_torchrun_rank_0_locks_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunLock(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with RunLock(tmp_path) as other:
            other.check()
        assert (tmp_path / "run.lock").exists()


def test_a_lock_from_the_future_is_taken_over_after_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "SILENCE_SECONDS", 0.5)
    forge(tmp_path, age=-1e6)
    began = time.monotonic()
    with RunLock(tmp_path):
        assert 0.4 < time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        "[" * 100_000,
        '{"host": "HOST"}',
        '{"token": 1, "pid": "x", "process": [], "host": "HOST", "job": ""}',
        '{"token": "x", "pid": 99999999999999, "process": "", "host": "HOST", "job": ""}',
        '{"token": "x", "pid": 0, "process": "", "host": "HOST", "job": ""}',
    ],
)
def test_a_lock_of_a_wrong_structure_is_that_of_an_unknown_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(run_lock, "SILENCE_SECONDS", 0.1)
    (tmp_path / "run.lock").write_text(content.replace("HOST", os.uname().nodename))
    with RunLock(tmp_path) as lock:
        lock.check()


@pytest.mark.parametrize("kind", ["dangling link", "link", "folder", "pipe"])
def test_what_is_no_file_at_the_locks_place_is_an_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run.lock"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        (tmp_path / "other").write_text("mine")
        path.symlink_to(tmp_path / ("other" if kind == "link" else "nothing"))
    with pytest.raises(UserError, match=r"run.lock: not the file of a lock.*remove it"):
        RunLock(tmp_path).__enter__()
    assert kind != "link" or (tmp_path / "other").read_text() == "mine"
