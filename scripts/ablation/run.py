"""Run an ablation as local processes, some at a time, each with a log file."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Literal

from scripts.ablation.plan import PlannedRun, is_tested, is_trained, record_of_test
from training.checkpoint import state_id, state_path
from util.files import open_in_place, write_text
from util.stopping import STOPPED_STATUS, StopSignals

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.2

Stage = Literal["train", "test", "done"]
State = Literal["waiting", "running", "done", "stopped", "failed"]

log = logging.getLogger(__name__)


def next_stage(run: PlannedRun) -> Stage:
    """Return the next stage of a run."""
    if not is_trained(run):
        return "train"
    return "done" if is_tested(run) else "test"


class Worker:
    """Trains and tests one run, in a process for each stage.

    Attributes:
        reason: why the run is not done; empty otherwise.
        seconds: run time so far.
    """

    def __init__(self, run: PlannedRun, gpu: str = "", environment: dict[str, str] | None = None):
        self.run, self.gpu, self.environment = run, gpu, environment
        self.state: State = "waiting"
        self.reason = ""
        self.seconds = 0.0
        self._root = ROOT  # pickled with a Slurm job
        self._stage: Stage = "done"
        self._weights = ""  # which state is tested
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._signalled = False

    def start(self) -> None:
        """Start the next stage of the run; a stage that is still next after it has run has failed."""
        before, self._stage = self._stage, next_stage(self.run)
        if self._stage == "done":
            self.state = "done"
        elif self._stage == before:
            self._fail(f"{before}.py ended without an error, but the run is incomplete")
        else:
            self.state = "running"
            self._began = self._began or time.monotonic()
            self._process = self._spawn()

    def poll(self) -> State:
        """Start the next stage if one has ended, and return the state."""
        if self.state == "running" and self._process and (status := self._process.poll()) is not None:
            self.seconds = time.monotonic() - self._began
            if status and self._signalled:
                self.state, self.reason = "stopped", "stopped"
            elif status == STOPPED_STATUS:
                self.state, self.reason = "stopped", "stopped by another signal"
            elif status:
                self._fail(f"{self._stage}.py ended with status {status}")
            else:
                if self._stage == "test":
                    record = record_of_test(self.run, self._weights)
                    write_text(self.run.tested, json.dumps(record) + "\n")
                if self._signalled and next_stage(self.run) != "done":
                    self.state, self.reason = "stopped", "trained, not tested"
                else:
                    self.start()
        return self.state

    def stop(self, number: int) -> None:
        """Send a signal to the running process, once."""
        if self._process and self._process.poll() is None and not self._signalled:
            self._process.send_signal(number)
        self._signalled = True

    def wait(self) -> State:
        """Wait until no stage is running, and return the state."""
        while self.poll() == "running":
            time.sleep(POLL_SECONDS)
        return self.state

    def _fail(self, reason: str) -> None:
        self.state, self.reason = "failed", f"{reason}, see {self.run.log}"

    def _spawn(self) -> "subprocess.Popen[bytes]":
        run = self.run
        run.folder.mkdir(parents=True, exist_ok=True)
        run.tested.unlink(missing_ok=True)
        if self._stage == "train":
            begun = (run.folder / "train_opt.json").exists()
            argv = [str(self._root / "train.py"), *run.train, *(["--continue_train=true"] if begun else [])]
        else:
            self._weights = state_id(state_path(run.folder, "latest"))
            # Said explicitly, so that test.py does not end with status 1 if images cannot be read.
            argv = [str(self._root / "test.py"), "--bad_images=skip", *run.test]
        argv += [f"--gpu_ids={self.gpu}"] if self.gpu else []
        with open_in_place(run.log, os.O_APPEND) as output:
            # In its own session: otherwise Ctrl-C would arrive twice, which ends train.py without saving.
            return subprocess.Popen(
                [sys.executable, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self.environment,
            )


def run_here(runs: Sequence[PlannedRun], jobs: int, gpus: Sequence[str], stop: StopSignals) -> list[Worker]:
    """Run all incomplete runs, `jobs` at a time, and return the workers with their final states."""
    environment = dict(os.environ)
    if jobs > 1:  # by default each would use all cores
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    workers = [Worker(run, environment=environment) for run in runs]
    todo = [worker for worker in workers if next_stage(worker.run) != "done"]
    for worker in workers:
        if worker not in todo:
            worker.state = "done"
            log.info("%s: already done", worker.run.name)
    free = [gpus[slot % len(gpus)] if gpus else "" for slot in range(jobs)]
    waiting, running = list(todo), list[Worker]()
    began, done = time.monotonic(), 0
    while (waiting and not stop.received) or running:
        while waiting and free and not stop.received:
            worker = waiting.pop(0)
            worker.gpu = free.pop(0)
            worker.start()
            running.append(worker)
        for worker in list(running):
            if stop.received:
                worker.stop(signal.Signals[stop.received])
            if worker.poll() != "running":
                running.remove(worker)
                free.append(worker.gpu)
                done += worker.state == "done"
                seconds_per_run = (time.monotonic() - began) / done if done else None
                report(worker, len(waiting) + len(running), seconds_per_run)
        time.sleep(POLL_SECONDS)
    for worker in waiting:
        worker.reason = "not started" if next_stage(worker.run) == "train" else "not tested"
    return workers


def report(worker: Worker, left: int, seconds_per_run: float | None) -> None:
    """Log the state and run time of a run, and the runs that are left with an estimate of their time."""
    estimate = (
        f", about {timedelta(seconds=round(seconds_per_run * left))}" if left and seconds_per_run else ""
    )
    state = f"{worker.state}: {worker.reason}" if worker.reason else worker.state
    run_time = timedelta(seconds=round(worker.seconds))
    log.info("%s: %s, %s; %d left%s", worker.run.name, state, run_time, left, estimate)
