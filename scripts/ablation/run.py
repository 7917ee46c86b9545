"""The runs of an ablation as processes of this machine: some at a time, stopped together, each with a log."""

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

from scripts.ablation.plan import PlannedRun, is_tested, is_trained
from util.files import write_text
from util.stopping import STOPPED_STATUS, StopSignals

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.2

Stage = Literal["train", "test", "done"]
State = Literal["waiting", "running", "done", "stopped", "failed"]

log = logging.getLogger(__name__)


def next_stage(run: PlannedRun) -> Stage:
    """Return what a run needs next."""
    if not is_trained(run):
        return "train"
    return "done" if is_tested(run) else "test"


class Worker:
    """Takes one run through training and test, in processes of their own.

    Attributes:
        state: where it is.
        told: what went wrong, for the reader; empty otherwise.
    """

    def __init__(self, run: PlannedRun, gpu: str = "", environment: dict[str, str] | None = None):
        self.run, self.gpu, self.environment = run, gpu, environment
        self.state: State = "waiting"
        self.told = ""
        self.seconds = 0.0
        self._root = ROOT  # travels with a job to its machine
        self._stage: Stage = "done"
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._signalled = False

    def start(self) -> None:
        """Start the next stage of the run; a stage that leads to itself has failed."""
        before, self._stage = self._stage, next_stage(self.run)
        if self._stage == "done":
            self.state = "done"
        elif self._stage == before:
            self._fail(f"{before}.py ended without an error, but its work is not complete")
        else:
            self.state = "running"
            self._began = self._began or time.monotonic()
            self._process = self._spawn()

    def poll(self) -> State:
        """Return the state, after starting the next stage where one has ended."""
        if self.state == "running" and self._process and (status := self._process.poll()) is not None:
            self.seconds = time.monotonic() - self._began
            if status and self._signalled:
                self.state, self.told = "stopped", "stopped before its end"
            elif status == STOPPED_STATUS:
                self.state, self.told = "stopped", "stopped by a signal from outside"
            elif status:
                self._fail(f"{self._stage}.py ended with status {status}")
            else:
                if self._stage == "test":
                    write_text(self.run.tested, json.dumps(list(self.run.test)) + "\n")
                if self._signalled and next_stage(self.run) != "done":
                    self.state, self.told = "stopped", "trained, not tested yet"
                else:
                    self.start()
        return self.state

    def stop(self, number: int) -> None:
        """Send a signal to the process that runs, once."""
        if self._process and self._process.poll() is None and not self._signalled:
            self._process.send_signal(number)
        self._signalled = True

    def wait(self) -> State:
        """Go on until nothing of it runs any more."""
        while self.poll() == "running":
            time.sleep(POLL_SECONDS)
        return self.state

    def _fail(self, why: str) -> None:
        self.state, self.told = "failed", f"{why}, see {self.run.log}"

    def _spawn(self) -> "subprocess.Popen[bytes]":
        run = self.run
        run.folder.mkdir(parents=True, exist_ok=True)
        if self._stage == "train":
            begun = (run.folder / "train_opt.json").exists()
            argv = [str(self._root / "train.py"), *run.train, *(["--continue_train=true"] if begun else [])]
        else:
            run.tested.unlink(missing_ok=True)
            argv = [str(self._root / "test.py"), *run.test]
        argv += [f"--gpu_ids={self.gpu}"] if self.gpu else []
        with run.log.open("a") as output:
            # A session of its own: Ctrl-C would reach it twice, and a second one ends train.py at once.
            return subprocess.Popen(
                [sys.executable, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self.environment,
            )


def run_here(runs: Sequence[PlannedRun], jobs: int, gpus: Sequence[str], stop: StopSignals) -> list[Worker]:
    """Run all that is not done, `jobs` at a time; return how each has ended."""
    environment = dict(os.environ)
    if jobs > 1:  # or each would take all cores
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    workers = [Worker(run, environment=environment) for run in runs]
    todo = [worker for worker in workers if next_stage(worker.run) != "done"]
    for worker in workers:
        if worker not in todo:
            worker.state = "done"
            log.info("%s: done before", worker.run.name)
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
                each = (time.monotonic() - began) / done if done else None
                report(worker, len(waiting) + len(running), each)
        time.sleep(POLL_SECONDS)
    for worker in waiting:
        worker.told = "not begun" if next_stage(worker.run) == "train" else "not tested yet"
    return workers


def report(worker: Worker, left: int, seconds: float | None) -> None:
    """Print a run's line: its name, state and time, and, from the `seconds` for each so far, what is left."""
    guess = f", about {timedelta(seconds=round(seconds * left))}" if left and seconds else ""
    state = f"{worker.state}: {worker.told}" if worker.told else worker.state
    took = timedelta(seconds=round(worker.seconds))
    log.info("%s: %s, %s; %d left%s", worker.run.name, state, took, left, guess)
