"""The scripts for Slurm: with stand-ins for its commands, and (slow) as jobs of a local Slurm."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.cluster import SCRIPTS, Cluster
from tests.support.environment import ONE_THREAD, ROOT

# srun records its arguments and runs $SRUN; scontrol records its arguments.
STAND_INS = {
    "srun": 'printf "%s\\n" "$@" > srun.txt; eval "$SRUN"',
    "scontrol": 'if [ "$1" = show ]; then echo node7; else echo "$@" >> scontrol.txt; fi',
}
JOB = {"SLURM_JOB_ID": "4567", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "node7", "SRUN": "exit 0"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the scripts and stand-ins for the commands that they call."""
    for name, content in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{content}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "scripts" / "slurm").mkdir(parents=True)
    for file in SCRIPTS.iterdir():
        (tmp_path / "scripts" / "slurm" / file.name).symlink_to(file)
    return tmp_path


def run(project: Path, script: str, *arguments: str, **environment: str) -> tuple[int, list[str]]:
    """Run a job script, and return its status and the arguments of srun."""
    clean = {name: value for name, value in ONE_THREAD.items() if not name.startswith("SLURM")}
    path = {"PATH": f"{project}:{os.environ['PATH']}", "PYTHON": sys.executable}
    job = ["bash", str(SCRIPTS / script), *arguments]
    with (project / "job.log").open("w") as log:
        done = subprocess.run(job, cwd=project, env={**clean, **path, **JOB, **environment}, stderr=log)
    recorded = project / "srun.txt"
    return done.returncode, recorded.read_text().splitlines() if recorded.exists() else []


def error_of(project: Path) -> str:
    """Return what the last job wrote to stderr."""
    return (project / "job.log").read_text()


@pytest.mark.parametrize(
    ("command", "status", "requeued"),
    [
        ("exit 0", 0, False),
        ("exit 75", 75, True),  # time limit or preemption: only the step is signalled
        ("kill -USR1 $$", 138, True),  # before the handler was set
        ("kill -TERM $PPID; exit 75", 75, False),  # scancel, or scontrol requeue: Slurm acts
        ("exit 2", 2, False),
    ],
)
def test_a_stopped_job_is_requeued(project: Path, command: str, status: int, requeued: bool) -> None:
    result, _ = run(project, "one_node.sh", "--name", "x", SRUN=command)
    assert result == status
    calls = project / "scontrol.txt"
    assert calls.exists() == requeued
    if requeued:
        assert calls.read_text() == "requeue 4567\n"


def test_a_refused_requeue_says_how_to_go_on(project: Path) -> None:
    (project / "scontrol").write_text(
        "#!/bin/sh\necho Requested operation is presently disabled >&2; exit 1\n"
    )
    assert run(project, "one_node.sh", "--name", "x", SRUN="exit 75")[0] == 75
    *_, last = error_of(project).splitlines()
    assert last == (
        "Slurm refused to requeue job 4567. Its run is saved: submit it again with --continue_train"
    )


@pytest.mark.parametrize("script", ["one_node.sh", "many_nodes.sh", "array.sh", "test.sh"])
def test_a_job_in_another_folder_names_the_way_out(project: Path, script: str) -> None:
    shutil.rmtree(project / "scripts")
    status, arguments = run(project, script, "--name", "x")
    assert (status, arguments) == (2, [])
    assert error_of(project) == (
        f"{project} is not the project's folder: submit there, or with sbatch --chdir=FOLDER\n"
    )


def test_python_may_be_a_container_or_have_blanks_in_its_path(project: Path) -> None:
    (project / "apptainer").write_text('#!/bin/bash\n[ "$1 $2" = "exec a b.sif" ] && exec "${@:3}"\n')
    (project / "apptainer").chmod(0o755)
    container = f"apptainer exec 'a b.sif' {sys.executable}"
    flags = ["--dataroot", ".", "--name", "x", "--model", "pix2pix", "--checkpoints_dir", str(project)]
    (project / "x").mkdir()
    (project / "x" / "train_opt.json").write_text("{}")
    _, arguments = run(project, "one_node.sh", *flags, PYTHON=container, SLURM_RESTART_COUNT="1")
    command = ["apptainer", "exec", "a b.sif", sys.executable, "train.py", *flags, "--continue_train"]
    assert arguments[-len(command) :] == command
    python = project / "with blanks" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    _, arguments = run(project, "one_node.sh", "--name", "x", PYTHON=str(python))
    assert arguments[-4:] == [str(python), "train.py", "--name", "x"]


def test_a_missing_python_is_named(project: Path) -> None:
    assert run(project, "one_node.sh", PYTHON="nowhere exec image python") == (2, [])
    assert error_of(project).startswith("PYTHON='nowhere exec image python': there is no command nowhere on ")


def test_a_setup_file_prepares_the_job(project: Path) -> None:
    setup = project / "scripts" / "slurm" / "setup.sh"
    setup.write_text(f'PYTHON={sys.executable}\nset -- "$@" --dataroot /scratch/data\n')
    _, arguments = run(project, "one_node.sh", "--name", "a b", PYTHON="nowhere")
    assert arguments[-6:] == [sys.executable, "train.py", "--name", "a b", "--dataroot", "/scratch/data"]
    setup.write_text("false\n")
    (project / "srun.txt").unlink()
    assert run(project, "one_node.sh", "--name", "x") == (2, [])
    assert error_of(project) == "scripts/slurm/setup.sh ended with status 1\n"


def test_a_test_job_translates_an_epoch_per_task(project: Path) -> None:
    status, arguments = run(project, "test.sh", "--name", "a b", SRUN="exit 3")
    assert (status, arguments[-3:]) == (3, ["test.py", "--name", "a b"])
    _, arguments = run(project, "test.sh", "--name", "x", SLURM_ARRAY_TASK_ID="50", SLURM_GPUS_ON_NODE="2")
    assert arguments[-5:] == ["test.py", "--name", "x", "--epoch", "50"]
    assert any(argument.endswith("torchrun.py") for argument in arguments)
    assert not (project / "scontrol.txt").exists()


def test_a_task_of_an_array_is_requeued_alone(project: Path) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "4567", "SLURM_ARRAY_TASK_ID": "3"}
    _, arguments = run(project, "array.sh", "--name", "a b", SRUN="exit 75", **array)
    assert (project / "scontrol.txt").read_text() == "requeue 4567_3\n"
    assert arguments[-6:] == ["--name", "a b", "--seed", "3", "--suffix", "seed{seed}"]


def test_an_array_takes_a_line_of_a_file(project: Path) -> None:
    (project / "runs.txt").write_text("--name a --lr 1\n--name b --note 'two words'\n--lr 3\n")
    array = {"SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "2"}
    _, arguments = run(project, "array.sh", "runs.txt", "--model", "pix2pix", **array)
    assert arguments[-7:] == ["train.py", "--model", "pix2pix", "--name", "b", "--note", "two words"]
    (project / "srun.txt").unlink()
    for task in ("3", "4"):  # a line without a name, and no line
        status, arguments = run(project, "array.sh", "runs.txt", **{**array, "SLURM_ARRAY_TASK_ID": task})
        assert (status, arguments) == (2, [])


def test_the_rendezvous_of_several_processes_is_on_the_first_node(project: Path) -> None:
    _, arguments = run(
        project,
        "many_nodes.sh",
        "--name",
        "x",
        SLURM_JOB_NUM_NODES="2",
        SLURM_GPUS_ON_NODE="4",
        SLURM_CPUS_PER_TASK="8",
    )
    flags = " ".join(arguments)
    assert "--ntasks=2 --ntasks-per-node=1 --cpus-per-task=8" in flags
    assert "--nnodes 2 --nproc_per_node 4 --rdzv_backend c10d --rdzv_endpoint node7:24567" in flags
    assert flags.endswith("train.py --name x")
    _, arguments = run(project, "one_node.sh", "--name", "x", SLURM_GPUS_ON_NODE="1")
    assert arguments[-3:] == ["train.py", "--name", "x"] and "torchrun" not in " ".join(arguments)


def test_a_second_start_resumes_the_run(project: Path) -> None:
    flags = ["--dataroot", ".", "--name", "x", "--suffix", "{model}", "--model", "pix2pix"]
    flags += ["--checkpoints_dir", str(project)]
    _, arguments = run(project, "one_node.sh", *flags, SLURM_RESTART_COUNT="1")
    assert arguments[-len(flags) :] == flags
    (project / "x_pix2pix").mkdir()
    (project / "x_pix2pix" / "train_opt.json").write_text("{}")
    _, arguments = run(project, "one_node.sh", *flags, SLURM_RESTART_COUNT="1")
    assert arguments[-1] == "--continue_train"


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
def test_torchrun_exits_with_the_status_of_its_processes(
    tmp_path: Path, statuses: list[int], status: int
) -> None:
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

LONGER_THAN_LIMIT = 180
"""Seconds: the limit of a minute, and the 30 s in which Slurm notices, twice for runs of varying speed."""


@pytest.fixture(scope="session")
def uninterrupted(cluster: Cluster) -> str:
    """The job of an uninterrupted run with this name."""
    job = cluster.submit("one_node.sh", "--name", "uninterrupted", "--n_epochs", EPOCHS)
    cluster.wait_for_end(job)
    return job


@pytest.mark.slow
def test_a_requeued_run_ends_with_the_same_weights(cluster: Cluster, uninterrupted: str) -> None:
    job = cluster.submit("one_node.sh", "--name", "requeued", "--n_epochs", EPOCHS)
    cluster.wait_for_start(job)
    cluster.call("scontrol", "requeue", job)
    cluster.wait_for_end(job)
    assert "Restarts=1" in cluster.job(job)
    log = cluster.log(job)
    assert "Stopped by SIGTERM" in log and "Resuming in epoch" in log and "Done:" in log
    assert cluster.is_the_same("uninterrupted", "requeued")


@pytest.mark.slow
def test_the_time_limit_leads_to_another_start(cluster: Cluster, uninterrupted: str) -> None:
    epochs = str(int(EPOCHS) * LONGER_THAN_LIMIT // cluster.seconds(uninterrupted))
    cluster.wait_for_end(cluster.submit("one_node.sh", "--name", "long", "--n_epochs", epochs))
    flags = ("--name", "out_of_time", "--n_epochs", epochs)
    job = cluster.submit("one_node.sh", *flags, sbatch="--time=30 --signal=USR1@50")
    cluster.wait_for_start(job)
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=1")  # checked every 30 s
    cluster.wait(job, lambda: "Restarts=1" in cluster.job(job) or "Done:" in cluster.log(job))
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    cluster.wait_for_end(job)
    assert "Restarts=1" in cluster.job(job)
    assert "Stopped by SIGUSR1" in cluster.log(job)
    assert cluster.is_the_same("long", "out_of_time")


@pytest.mark.slow
def test_a_preempted_run_resumes_after_the_urgent_job(cluster: Cluster, uninterrupted: str) -> None:
    job = cluster.submit("one_node.sh", "--name", "preempted", "--n_epochs", EPOCHS)
    cluster.wait_for_start(job)
    urgent = ["--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 2"]
    cluster.call("sbatch", "--parsable", *urgent)
    cluster.wait_for_end(job)
    assert "Restarts=1" in cluster.job(job)
    assert "Stopped by SIGTERM" in cluster.log(job)
    assert cluster.is_the_same("uninterrupted", "preempted")


@pytest.mark.slow
def test_a_cancelled_run_has_saved_and_is_not_requeued(cluster: Cluster) -> None:
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
def test_jobs_without_the_environment_without_requeueing_and_in_another_folder(cluster: Cluster) -> None:
    """--export=NONE leaves only what the option names; --no-requeue makes Slurm refuse to requeue."""
    variables = f"PYTHON={cluster.environment['PYTHON']}"
    flags = ("--name", "bare", "--n_epochs", "50")
    options = f"--export={variables} --no-requeue --chdir={ROOT}"
    job = cluster.submit("one_node.sh", *flags, sbatch=options, folder=cluster.folder)
    cluster.wait_for_start(job)
    cluster.call("scancel", "--signal=USR1", job)
    cluster.wait(job, lambda: "Slurm refused to requeue" in cluster.log(job), states="CANCELLED")
    lost = cluster.submit("one_node.sh", *flags, folder=cluster.folder)
    cluster.wait(lost, lambda: "is not the project's folder" in cluster.log(lost), states="CANCELLED")

    results = ("--results_dir", str(cluster.folder / "results"), "--model", "pix2pix", "--gpu_ids", "-1")
    options = f"--parsable --cpus-per-task=1 --output={cluster.folder}/%j.log --export={variables}"
    places = ("--dataroot", str(cluster.data), "--checkpoints_dir", str(cluster.folder / "checkpoints"))
    script = str(SCRIPTS / "test.sh")
    job = cluster.call("sbatch", *options.split(), script, *places, *results, "--name", "bare")
    cluster.wait_for_end(job)
    assert (cluster.folder / "results" / "bare" / "test_latest" / "index.html").exists(), cluster.log(job)


@pytest.mark.slow
def test_an_array_trains_one_run_per_task(cluster: Cluster, tmp_path: Path) -> None:
    lines = [f"--name sweep_{seed} --seed {seed} --n_epochs 2" for seed in (1, 2, 2, 3)]
    lines[2] = lines[2].replace("sweep_2", "'sweep_again'")
    (tmp_path / "runs.txt").write_text("\n".join(lines))
    job = cluster.submit("array.sh", str(tmp_path / "runs.txt"), sbatch="--array=1-4")
    cluster.wait_for_end(job)
    assert not cluster.is_the_same("sweep_1", "sweep_2") and not cluster.is_the_same("sweep_1", "sweep_3")
    assert cluster.is_the_same("sweep_2", "sweep_again")


@pytest.mark.slow
def test_two_processes_stop_and_resume_together(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--n_epochs", "6", "--batch_size", "2")
    monkeypatch.setitem(cluster.environment, "PROCESSES", "2")
    cluster.wait_for_end(cluster.submit("one_node.sh", "--name", "two_uninterrupted", *flags))
    job = cluster.submit("one_node.sh", "--name", "two", *flags)
    cluster.wait_for_start(job)
    cluster.call("scancel", "--signal=USR1", job)  # as --signal does: all processes of the step
    cluster.wait_for_end(job)
    assert "Restarts=1" in cluster.job(job)
    assert "Stopped by SIGUSR1" in cluster.log(job)
    assert cluster.is_the_same("two_uninterrupted", "two")
