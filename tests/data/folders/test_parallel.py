"""Jobs in several processes."""

import errno
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.folders.parallel import run_jobs
from util.errors import UserError
from util.files import write_atomically
from util.remarks import remark
from util.stopping import Stopped, StopSignals


def job(item: int | str | Path) -> str:
    if item == "bad":
        raise UserError("bad: cannot be used")
    if item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "x.png")
    if item == "bug":
        raise ZeroDivisionError
    if item == "odd":
        remark("oddness of a test", "odd is odd")
    if isinstance(item, Path):
        write_atomically(item, lambda file: time.sleep(60))
    return f"done {item}"


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = multiprocessing.active_children()
    yield
    assert multiprocessing.active_children() == before


@pytest.mark.parametrize("processes", [1, 2])
def test_errors_of_jobs_are_logged_and_the_others_go_on(
    processes: int, caplog: pytest.LogCaptureFixture
) -> None:
    items = [1, "bad", 2, "odd", "bad", "odd"]
    expected = ["done 1", None, "done 2", "done odd", None, "done odd"]
    with caplog.at_level(logging.WARNING):
        assert run_jobs(job, items, processes) == expected
    messages = sorted(caplog.messages)
    assert [message for message in messages if message != "odd is odd"] == ["bad: cannot be used"] * 2


def test_a_job_that_kills_its_process_is_named_and_loses_no_other(caplog: pytest.LogCaptureFixture) -> None:
    items = [*range(5), "killed", *range(5, 9), "killed"]
    with caplog.at_level(logging.WARNING):
        results = run_jobs(job, items, 3)
    assert results == [None if item == "killed" else f"done {item}" for item in items]
    assert caplog.messages == ["killed: the process that worked on it died; out of memory?"] * 2


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("item", "error"), [("full", OSError), ("bug", ZeroDivisionError)])
def test_a_full_disk_and_a_bug_end_all_jobs(processes: int, item: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run_jobs(job, [item, 1], processes)


def test_a_stop_signal_ends_jobs_at_once_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    def stop() -> None:
        deadline = time.monotonic() + 20
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    start = time.monotonic()
    with StopSignals(at_once=True), pytest.raises(Stopped):
        run_jobs(job, [tmp_path / "a.png", tmp_path / "b.png"], 2)
    assert time.monotonic() - start < 30
    assert not list(tmp_path.iterdir())
