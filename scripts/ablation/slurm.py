"""Run an ablation as Slurm jobs, with the optional package submitit."""

import argparse
import json
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.ablation.plan import PlannedRun
from scripts.ablation.run import ROOT, State, Worker, next_stage, report
from util.checking import read_json
from util.errors import UserError
from util.files import write_text
from util.stopping import StopSignals

POLL_SECONDS = 2.0
MAX_TIMEOUTS = 1_000_000
"""Number of times that a job may run out of time and be queued again: in effect no limit."""

log = logging.getLogger(__name__)


class RunJob:
    """The function of a job; before the time limit it saves, and submitit queues it again."""

    def __init__(self, run: PlannedRun):
        self.worker = Worker(run)

    def __call__(self) -> tuple[State, str]:
        self.worker.start()
        return self.worker.wait(), self.worker.reason

    def checkpoint(self) -> Any:
        """Stop the run, wait until it has saved, and return the submission that resumes it."""
        from submitit.helpers import DelayedSubmission

        self.worker.stop(signal.SIGUSR1)
        self.worker.wait()
        return DelayedSubmission(RunJob(self.worker.run))


def run_on_slurm(
    runs: Sequence[PlannedRun], settings: argparse.Namespace, stop: StopSignals, cluster: str = "slurm"
) -> list[Worker]:
    """Submit all incomplete runs, wait for them, and return the workers with their final states.

    If the waiting is stopped, the jobs continue, and the next call waits for them instead of submitting them
    again.

    Args:
        cluster: ``slurm``, or ``local`` for local processes of submitit.

    Raises:
        UserError: submitit or Slurm is missing.
    """
    submitit = _submitit()
    if cluster == "slurm" and not shutil.which("sbatch"):
        raise UserError(
            "--slurm: there is no sbatch on this machine; log in to a cluster, or leave --slurm out"
        )
    workers = [Worker(run) for run in runs]
    for worker in workers:
        worker.state = "done" if next_stage(worker.run) == "done" else "waiting"
    folder = runs[0].folder.parent / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "jobs.json"
    jobs = _earlier(submitit, folder, record) if cluster == "slurm" else {}
    new = [worker.run for worker in workers if worker.state == "waiting" and worker.run.name not in jobs]
    jobs |= _submit(submitit, cluster, folder, new, settings)
    write_text(record, json.dumps({name: job.job_id for name, job in jobs.items()}, indent=1) + "\n")
    log.info("%d jobs submitted, %d submitted earlier; logs: %s", len(new), len(jobs) - len(new), folder)
    _wait([worker for worker in workers if worker.state == "waiting"], jobs, cluster, stop)
    if stop.received and any(worker.state == "running" for worker in workers):
        ids = " ".join(jobs[worker.run.name].job_id for worker in workers if worker.state == "running")
        log.info("The jobs continue; the same command waits for them again. To stop them: scancel %s", ids)
    return workers


def _submitit() -> Any:
    # At this signal, which Slurm sends to all processes of a job, train.py saves. Set before the import.
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise UserError("--slurm: the package submitit is missing: pip install submitit") from error
    return submitit


def _submit(
    submitit: Any, cluster: str, folder: Path, runs: Sequence[PlannedRun], settings: argparse.Namespace
) -> dict[str, Any]:
    """Submit a job for every run, and return the jobs by run name."""
    if not runs:
        return {}
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=MAX_TIMEOUTS)
    given = dict(text.partition("=")[::2] for text in settings.sbatch or [])
    executor.update_parameters(
        name=settings.name,
        timeout_min=settings.time or 60,
        cpus_per_task=settings.cpus_per_task or 8,
        **({"gpus_per_node": settings.gpus_per_node} if settings.gpus_per_node else {}),
        **({"slurm_partition": settings.partition} if settings.partition else {}),
        **({"slurm_array_parallelism": settings.jobs} if settings.jobs else {}),
        **({"slurm_additional_parameters": given} if given else {}),
        slurm_signal_delay_s=120,
    )
    with executor.batch():  # one array: --jobs limits how many run at a time
        return {run.name: executor.submit(RunJob(run)) for run in runs}


def _earlier(submitit: Any, folder: Path, record: Path) -> dict[str, Any]:
    """Return the jobs of an earlier call that are queued or running, by run name."""
    advice = "remove it; jobs of an earlier call that still run are then not waited for"
    ids: dict[str, str] = read_json(record, {str: str}, advice) if record.exists() else {}
    alive = _queued() if ids else set()
    if alive is None:
        raise UserError(
            "--slurm: squeue failed, so the jobs of an earlier call cannot be found; try again later"
        )
    return {name: submitit.SlurmJob(folder, number) for name, number in ids.items() if number in alive}


def _queued() -> set[str] | None:
    """Return the IDs of queued and running jobs and array tasks; None if squeue fails."""
    command = ["squeue", "--noheader", "--array", "--format=%i"]
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode else set(done.stdout.split())


def _wait(waiting: Sequence[Worker], jobs: Mapping[str, Any], cluster: str, stop: StopSignals) -> None:
    began, done = time.monotonic(), 0
    for worker in waiting:
        worker.state, worker.reason = "running", "its job has not ended"
    left = list(waiting)
    while left and not stop.received:
        alive = _queued() if cluster == "slurm" else {job.job_id for job in jobs.values() if not job.done()}
        ended = [] if alive is None else [w for w in left if jobs[w.run.name].job_id not in alive]
        for worker in ended:
            left.remove(worker)
            worker.seconds = time.monotonic() - began
            _conclude(worker, jobs[worker.run.name])
            done += worker.state == "done"
            report(worker, len(left), worker.seconds / done if done else None)
        time.sleep(POLL_SECONDS)


def _conclude(worker: Worker, job: Any) -> None:
    """Set the final state of a run from its files, or else from the result of its job."""
    worker.state, worker.reason = "failed", f"job {job.job_id} ended early, see {job.paths.stderr}"
    if next_stage(worker.run) == "done":
        worker.state, worker.reason = "done", ""
    elif job.paths.result_pickle.exists():
        try:
            worker.state, worker.reason = job.result()
        except Exception as error:  # anything that was raised in the job
            worker.reason = f"job {job.job_id}: {type(error).__name__}, see {job.paths.stderr}"
