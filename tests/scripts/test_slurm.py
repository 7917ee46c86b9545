"""The scripts for Slurm: with stand-ins for its commands, and (slow) as jobs of a real one here."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.cluster import SCRIPTS, Cluster
from tests.support.environment import ONE_THREAD, ROOT

# srun writes down what it was to run, does as $SRUN says, and ends; scontrol writes down what it was told.
STAND_INS = {
    "srun": 'printf "%s\\n" "$@" > srun.txt; eval "$SRUN"',
    "scontrol": 'if [ "$1" = show ]; then echo node7; else echo "$@" >> scontrol.txt; fi',
}
JOB = {"SLURM_JOB_ID": "4567", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "node7", "SRUN": "exit 0"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project's folder with the scripts and stand-ins for what they call."""
    for name, content in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{content}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    return tmp_path


def run(project: Path, script: str, *arguments: str, **environment: str) -> tuple[int, list[str]]:
    """Run a job script; return its status, and what srun was to run, from its own flags on."""
    clean = {name: value for name, value in ONE_THREAD.items() if not name.startswith("SLURM")}
    path = {"PATH": f"{project}:{os.environ['PATH']}", "PYTHON": sys.executable}
    job = ["bash", str(SCRIPTS / script), *arguments]
    done = subprocess.run(job, cwd=project, env={**clean, **path, **JOB, **environment}, check=False)
    told = project / "srun.txt"
    return done.returncode, told.read_text().splitlines() if told.exists() else []


@pytest.mark.parametrize(
    ("what_happens", "status", "requeued"),
    [
        ("exit 0", 0, False),
        ("exit 75", 75, True),  # the time is nearly over, or a preemption: only the step knows
        ("kill -USR1 $$", 138, True),  # before there was a handler
        ("kill -TERM $PPID; exit 75", 75, False),  # scancel, or scontrol requeue: Slurm acts
        ("exit 2", 2, False),
    ],
)
def test_a_job_is_queued_again_if_it_was_stopped(
    project: Path, what_happens: str, status: int, requeued: bool
) -> None:
    found, _ = run(project, "one_node.sh", "--name", "x", SRUN=what_happens)
    assert found == status
    calls = project / "scontrol.txt"
    assert calls.exists() == requeued
    if requeued:
        assert calls.read_text() == "requeue 4567\n"


def test_a_task_of_an_array_is_queued_again_alone(project: Path) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "4567", "SLURM_ARRAY_TASK_ID": "3"}
    _, told = run(project, "array.sh", "--name", "a b", SRUN="exit 75", **array)
    assert (project / "scontrol.txt").read_text() == "requeue 4567_3\n"
    assert told[-6:] == ["--name", "a b", "--seed", "3", "--suffix", "seed{seed}"]


def test_an_array_takes_a_line_of_a_file(project: Path) -> None:
    (project / "runs.txt").write_text("--name a --lr 1\n--name b --note 'two words'\n--lr 3\n")
    array = {"SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "2"}
    _, told = run(project, "array.sh", "runs.txt", "--model", "pix2pix", **array)
    assert told[-7:] == ["train.py", "--model", "pix2pix", "--name", "b", "--note", "two words"]
    (project / "srun.txt").unlink()
    for task in ("3", "4"):  # no name, which would make runs meet in one folder; no such line
        found, told = run(project, "array.sh", "runs.txt", **{**array, "SLURM_ARRAY_TASK_ID": task})
        assert (found, told) == (2, [])


def test_several_processes_meet_on_the_first_node(project: Path) -> None:
    _, told = run(
        project,
        "many_nodes.sh",
        "--name",
        "x",
        SLURM_JOB_NUM_NODES="2",
        SLURM_GPUS_ON_NODE="4",
        SLURM_CPUS_PER_TASK="8",
    )
    flags = " ".join(told)
    assert "--ntasks=2 --ntasks-per-node=1 --cpus-per-task=8" in flags
    assert "--nnodes 2 --nproc_per_node 4 --rdzv_backend c10d --rdzv_endpoint node7:24567" in flags
    assert flags.endswith("train.py --name x")
    _, told = run(project, "one_node.sh", "--name", "x", SLURM_GPUS_ON_NODE="1")
    assert told[-3:] == ["train.py", "--name", "x"] and "torchrun" not in " ".join(told)


def test_a_second_start_goes_on_with_what_has_begun(project: Path) -> None:
    flags = ["--dataroot", ".", "--name", "x", "--suffix", "{model}", "--model", "pix2pix"]
    flags += ["--checkpoints_dir", str(project)]
    _, told = run(project, "one_node.sh", *flags, SLURM_RESTART_COUNT="1")
    assert told[-len(flags) :] == flags
    (project / "x_pix2pix").mkdir()
    (project / "x_pix2pix" / "train_opt.json").write_text("{}")
    _, told = run(project, "one_node.sh", *flags, SLURM_RESTART_COUNT="1")
    assert told[-1] == "--continue_train"


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ([75, 75], 75),
        ([75, 3], 3),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (([75, -15], 75), ([-9, 75], 137), ([0, 0], 0))
        ),
    ],
)
def test_torchrun_hands_on_how_its_processes_end(tmp_path: Path, statuses: list[int], status: int) -> None:
    ends = tmp_path / "ends.py"
    ends.write_text(
        "import os, signal, sys, time\n"
        f"status = {statuses}[int(os.environ['RANK'])]\n"
        "signal.signal(signal.SIGTERM, signal.SIG_DFL if status == -15 else signal.SIG_IGN)\n"
        "time.sleep(0.5 if status == 75 else 0)\n"
        "os.kill(os.getpid(), -status) if status < 0 else sys.exit(status)\n"
    )
    launcher = [sys.executable, str(SCRIPTS / "torchrun.py"), "--standalone", "--nproc_per_node", "2"]
    assert subprocess.run([*launcher, str(ends)], env=ONE_THREAD, check=False).returncode == status


EPOCHS = "40"
"""More than a minute: Slurm looks every 30 s whether a job's time is over."""


@pytest.fixture(scope="session")
def calm(cluster: Cluster) -> str:
    """The name of a run that nobody disturbed."""
    cluster.wait_for_end(cluster.submit("one_node.sh", "--name", "calm", "--n_epochs", EPOCHS))
    return "calm"


@pytest.mark.slow
def test_a_requeued_run_ends_with_the_same_weights(cluster: Cluster, calm: str) -> None:
    job = cluster.submit("one_node.sh", "--name", "requeued", "--n_epochs", EPOCHS)
    cluster.wait_for_start(job)
    cluster.call("scontrol", "requeue", job)
    cluster.wait_for_end(job)
    assert "Restarts=1" in cluster.job(job)
    log = cluster.log(job)
    assert "Stopped by SIGTERM" in log and "Going on in epoch" in log and "Done:" in log
    assert cluster.is_the_same(calm, "requeued")


@pytest.mark.slow
def test_the_end_of_the_time_leads_to_another_start(cluster: Cluster, calm: str) -> None:
    flags = ("--name", "out_of_time", "--n_epochs", EPOCHS)
    job = cluster.submit("one_node.sh", *flags, sbatch="--time=30 --signal=USR1@50")
    cluster.wait_for_start(job)
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=1")  # it is looked at every 30 s
    cluster.wait(job, lambda: "Restarts=1" in cluster.job(job) or "Done:" in cluster.log(job))
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    cluster.wait_for_end(job)
    assert "Restarts=1" in cluster.job(job)
    assert "Stopped by SIGUSR1" in cluster.log(job)
    assert cluster.is_the_same(calm, "out_of_time")


@pytest.mark.slow
def test_a_preempted_run_goes_on_after_what_was_more_urgent(cluster: Cluster, calm: str) -> None:
    job = cluster.submit("one_node.sh", "--name", "preempted", "--n_epochs", EPOCHS)
    cluster.wait_for_start(job)
    urgent = ["--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 2"]
    cluster.call("sbatch", "--parsable", *urgent)
    cluster.wait_for_end(job)
    assert "Restarts=1" in cluster.job(job)
    assert "Stopped by SIGTERM" in cluster.log(job)
    assert cluster.is_the_same(calm, "preempted")


@pytest.mark.slow
def test_a_cancelled_run_has_saved_and_does_not_come_back(cluster: Cluster) -> None:
    job = cluster.submit("one_node.sh", "--name", "cancelled", "--n_epochs", "50")
    cluster.wait_for_start(job)
    cluster.call("scancel", job)
    end = time.monotonic() + 60
    while "exit code 75" not in cluster.log(job):
        assert time.monotonic() < end, cluster.log(job)
        time.sleep(0.5)
    time.sleep(8)  # longer than a requeued job waits
    assert "JobState=CANCELLED" in cluster.job(job)
    assert (cluster.folder / "checkpoints" / "cancelled" / "latest_state.pth").exists()


@pytest.mark.slow
def test_an_array_trains_a_run_a_task(cluster: Cluster, tmp_path: Path) -> None:
    lines = [f"--name sweep_{seed} --seed {seed} --n_epochs 2" for seed in (1, 2, 2, 3)]
    lines[2] = lines[2].replace("sweep_2", "'sweep_again'")
    (tmp_path / "runs.txt").write_text("\n".join(lines))
    job = cluster.submit("array.sh", str(tmp_path / "runs.txt"), sbatch="--array=1-4")
    cluster.wait_for_end(job)
    assert not cluster.is_the_same("sweep_1", "sweep_2") and not cluster.is_the_same("sweep_1", "sweep_3")
    assert cluster.is_the_same("sweep_2", "sweep_again")


@pytest.mark.slow
def test_two_processes_are_stopped_and_go_on_together(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--n_epochs", "6", "--batch_size", "2")
    monkeypatch.setitem(cluster.environment, "PROCESSES", "2")
    cluster.wait_for_end(cluster.submit("one_node.sh", "--name", "two_calm", *flags))
    job = cluster.submit("one_node.sh", "--name", "two", *flags)
    cluster.wait_for_start(job)
    cluster.call("scancel", "--signal=USR1", job)  # as --signal does: all processes of the step
    cluster.wait_for_end(job)
    assert "Restarts=1" in cluster.job(job)
    assert "Stopped by SIGUSR1" in cluster.log(job)
    assert cluster.is_the_same("two_calm", "two")
