"""The runs of an ablation as jobs of Slurm, by the package submitit, which this file alone needs."""

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
from util.errors import UserError
from util.files import write_text
from util.stopping import StopSignals

POLL_SECONDS = 2.0
MANY = 1_000_000
"""How often a job may run out of time: each time it goes on."""

log = logging.getLogger(__name__)


class RunJob:
    """What a job does; shortly before its end it saves, and submitit queues it again."""

    def __init__(self, run: PlannedRun):
        self.worker = Worker(run)

    def __call__(self) -> tuple[State, str]:
        self.worker.start()
        return self.worker.wait(), self.worker.told

    def checkpoint(self) -> Any:
        """Stop what runs and wait for its save; return what is to go on."""
        from submitit.helpers import DelayedSubmission

        self.worker.stop(signal.SIGUSR1)
        self.worker.wait()
        return DelayedSubmission(RunJob(self.worker.run))


def run_on_slurm(
    runs: Sequence[PlannedRun], settings: argparse.Namespace, stop: StopSignals, cluster: str = "slurm"
) -> list[Worker]:
    """Submit all that is not done and wait for it; return how each has ended.

    Jobs go on when the waiting is stopped; the next call waits for them instead of submitting them again.

    Args:
        cluster: ``slurm``, or ``local`` for submitit's processes of this machine.

    Raises:
        UserError: there is no submitit, or no Slurm.
    """
    submitit = _submitit()
    if cluster == "slurm" and not shutil.which("sbatch"):
        raise UserError(
            "--slurm: there is no sbatch on this machine; leave --slurm out, or log in to a cluster"
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
    log.info("%d jobs submitted, %d from before; their files: %s", len(new), len(jobs) - len(new), folder)
    _wait([worker for worker in workers if worker.state == "waiting"], jobs, cluster, stop)
    if stop.received and any(worker.state == "running" for worker in workers):
        ids = " ".join(jobs[worker.run.name].job_id for worker in workers if worker.state == "running")
        log.info(
            "The jobs go on; the same command waits for them again, and this stops them: scancel %s", ids
        )
    return workers


def _submitit() -> Any:
    # At this signal, which Slurm sends to all processes of a job, train.py saves; the import reads it.
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise UserError(
            "--slurm: jobs are submitted by the package submitit: pip install submitit"
        ) from error
    return submitit


def _submit(
    submitit: Any, cluster: str, folder: Path, runs: Sequence[PlannedRun], settings: argparse.Namespace
) -> dict[str, Any]:
    """Submit a job for every run; return them by the runs' names."""
    if not runs:
        return {}
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=MANY)
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
    """Return the jobs of an earlier call that are still queued or running, by the runs' names."""
    ids: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    alive = _queued() if ids else set()
    if alive is None:
        raise UserError(
            "--slurm: squeue does not answer, and there are jobs of an earlier call; try again later"
        )
    return {name: submitit.SlurmJob(folder, number) for name, number in ids.items() if number in alive}


def _queued() -> set[str] | None:
    """Return the numbers of jobs, and tasks of arrays, that are not over; None if Slurm does not answer."""
    command = ["squeue", "--noheader", "--array", "--format=%i"]
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode else set(done.stdout.split())


def _wait(waiting: Sequence[Worker], jobs: Mapping[str, Any], cluster: str, stop: StopSignals) -> None:
    began, done = time.monotonic(), 0
    for worker in waiting:
        worker.state, worker.told = "running", "its job is not through"
    left = list(waiting)
    while left and not stop.received:
        alive = _queued() if cluster == "slurm" else {job.job_id for job in jobs.values() if not job.done()}
        over = [] if alive is None else [each for each in left if jobs[each.run.name].job_id not in alive]
        for worker in over:
            left.remove(worker)
            worker.seconds = time.monotonic() - began
            _conclude(worker, jobs[worker.run.name])
            done += worker.state == "done"
            report(worker, len(left), worker.seconds / done if done else None)
        time.sleep(POLL_SECONDS)


def _conclude(worker: Worker, job: Any) -> None:
    """Set how a job has ended: by the files of its run, else by what it returned."""
    worker.state, worker.told = "failed", f"job {job.job_id} has ended early, see {job.paths.stderr}"
    if next_stage(worker.run) == "done":
        worker.state, worker.told = "done", ""
    elif job.paths.result_pickle.exists():
        try:
            worker.state, worker.told = job.result()
        except Exception as error:  # whatever was raised in the job
            worker.told = f"job {job.job_id}: {type(error).__name__}, see {job.paths.stderr}"
