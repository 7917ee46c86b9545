"""Ablations: combinations, invalid flags, scheduling (mostly with stand-ins for train.py and test.py)."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts import ablate
from scripts.ablation import run as ablate_run
from scripts.ablation import slurm as ablate_slurm
from scripts.ablation.plan import is_trained, parse_vary, plan, run_names
from tests.support.cluster import Cluster
from tests.support.environment import ONE_THREAD, ROOT
from training.run_lock import RunLock
from util.errors import UserError
from util.stopping import STOPPED_STATUS, StopSignals

TRAIN = [
    *("--model", "pix2pix", "--gpu_ids", "-1", "--netG", "unet_32", "--ngf", "4", "--ndf", "4"),
    *("--crop_size", "32", "--load_size", "36", "--n_epochs_decay", "0", "--num_threads", "0"),
]

# ways.json says how each run goes: to the end ("done"), with an exit status, or until it is stopped ("slow").
STAND_IN_TRAIN = """
import json, os, shutil, signal, sys, time
from pathlib import Path
flags = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
folder = Path(flags["checkpoints_dir"]) / flags["name"]
with Path("calls.txt").open("a") as calls:
    calls.write(f"train {flags['name']} {flags['continue_train']} {flags.get('gpu_ids', '')}\\n")
(folder / "train_opt.json").write_text(json.dumps({"norm": flags["norm"], "seed": int(flags["seed"])}))
way = json.loads(Path("ways.json").read_text()).get(flags["name"], "done")
if way == "slow":
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    Path("ready").touch()
    while not stopped:
        time.sleep(0.02)
    shutil.copy("cut.pth", folder / "latest_state.pth")
    sys.exit(75)
if way != "done":
    print("training failed")
    sys.exit(int(way))
shutil.copyfile("end.pth", folder / "latest_state.pth")
"""
STAND_IN_TEST = """
import json, sys
from pathlib import Path
flags = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
folder = Path(flags["results_dir"]) / flags["name"] / f"{flags['phase']}_latest"
folder.mkdir(parents=True, exist_ok=True)
with Path("calls.txt").open("a") as calls:
    calls.write(f"test {flags['name']}\\n")
(folder / "index.html").write_text("")
(folder / "metrics.json").write_text(json.dumps({"mean": {"psnr": 20 + len(flags["name"])}}))
"""


def test_values_are_separated_by_commas_or_semicolons() -> None:
    assert parse_vary(["norm=instance,batch", "attention=none;32,64"]) == {
        "norm": ["instance", "batch"],
        "attention": ["none", "32,64"],
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["norm"], "expected FLAG=VALUE"),
        (["--norm=batch"], "without dashes"),
        (["norm=batch,"], "expected FLAG=VALUE"),
        (["norm=batch,batch"], "the same value twice"),
        (["norm=batch", "norm=none"], "the same flag twice"),
        (["seed=1,2"], "--seeds N"),
    ],
)
def test_invalid_values_are_named(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_vary(given)


def test_names_are_valid_and_distinct_on_every_file_system() -> None:
    long = "x" * 300
    values = ["none", "32,64", "1/8", "1-8", "a:b", "A:B", "ä", long, long + "y", ".."]
    names = run_names([{"attention": value} for value in values])
    assert len({name.casefold() for name in names}) == len(values)
    assert names[:2] == ["attention=none", "attention=32+64"]
    for name in names:
        assert len(name) <= 120 and not set(name) & set('/\\:*?"<>| ') and name.isascii()
    assert run_names([{"norm": "batch", "lr": "1e-4"}]) == ["norm=batch_lr=1e-4"]


def test_every_combination_has_every_seed(tmp_path: Path) -> None:
    flags = ["--dataroot", str(tmp_path), "--checkpoints_dir", str(tmp_path / "c"), *TRAIN]
    vary = {"norm": ["instance", "batch"], "attention": ["none", "8,16"]}
    runs = plan("abl", vary, 2, flags, ["--results_dir", str(tmp_path / "r"), "--num_test", "3"])
    assert len({run.folder for run in runs}) == len({run.results for run in runs}) == 8
    run = runs[3]
    assert run.folder == tmp_path / "c" / "abl" / "norm=instance_attention=8+16_seed1"
    assert run.results == tmp_path / "r" / "abl" / run.name / "test_latest"
    assert (run.values["attention"], run.values["seed"], run.values["norm"]) == ("1/4,1/2", 1, "instance")


@pytest.mark.parametrize(
    ("own", "train", "message"),
    [
        (["--vary", "norm=instance,bach"], [], "--norm bach: no such choice; did you mean batch?"),
        (["--vary", "nrm=instance,batch"], [], "did you mean --norm?"),
        (["--vary", "norm=instance,batch"], ["--lamda_L1", "3"], "did you mean --lambda_L1?"),
        (["--vary", "attention=none,7"], [], "--attention 7"),
        (["--vary", "attention=16,1/2"], [], "the same run"),
        (["--vary", "norm=batch,none", "--test_flags", "--num_tst 3"], [], "did you mean --num_test?"),
        (["--vary", "norm=batch,none", "--test_flags", "'"], [], "close the quotation"),
        (["--vary", "norm=batch,none"], ["--seed", "3"], "--seeds N"),
        (["--vary", "norm=batch,none"], ["--name=x"], "--name before the --"),
        (["--vary", "norm=batch,none", "--gpus", "0,1"], [], "--gpu_ids after the --"),
        (["--vary", "norm=batch,none", "--partition", "p"], [], "--slurm"),
        (["--vary", "norm=batch,none", "--name", "a/b"], [], "folder name without a path"),
        ([], [], "nothing to compare"),
    ],
)
def test_invalid_flags_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: list[str], train: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        ablate.main([*own, "--", "--dataroot", ".", *TRAIN, *train])
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs an ablation of two norms and two seeds with the stand-ins; for `ways` see `STAND_IN_TRAIN`."""
    (tmp_path / "train.py").write_text(STAND_IN_TRAIN)
    (tmp_path / "test.py").write_text(STAND_IN_TEST)
    for name, epoch in (("cut", 2), ("end", 6)):
        torch.save({"progress": {"epoch": epoch}}, tmp_path / f"{name}.pth")
    monkeypatch.setattr(ablate_run, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(*own: str, **ways: str) -> int:
        (tmp_path / "ways.json").write_text(
            json.dumps({key.replace("_", "=", 1): v for key, v in ways.items()})
        )
        vary = ["--vary", "norm=instance,batch", "--seeds", "2", *own]
        gpu = ["--gpu_ids", "-1"] if "--gpus" not in own else []
        train = [flag for flag in TRAIN if flag not in ("--gpu_ids", "-1")]
        return ablate.main([*vary, "--", "--dataroot", ".", "--n_epochs", "5", *train, *gpu])

    return run


def calls(folder: Path) -> list[str]:
    """Return the commands that ran since the last call."""
    path = folder / "calls.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def stop_when(true: Callable[[], bool], act: Callable[[], None]) -> None:
    """Call `act` in another thread as soon as `true` returns True."""

    def wait() -> None:
        while not true():
            time.sleep(0.02)
        act()

    threading.Thread(target=wait, daemon=True).start()


def has_begun(folder: Path) -> bool:
    """Return whether a run has reached its second epoch."""
    return any('"epoch": 2' in path.read_text() for path in folder.glob("checkpoints/*/*/losses.jsonl"))


def table(folder: Path) -> list[dict[str, str]]:
    text = (folder / "results" / "ablation" / "table.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


def test_complete_runs_are_skipped_and_outdated_ones_are_not(
    tmp_path: Path, call: Callable[..., int]
) -> None:
    assert call() == 0
    done = calls(tmp_path)
    assert [line.split()[0] for line in done] == ["train", "test"] * 4
    rows = table(tmp_path)
    assert [row["norm"] for row in rows] == ["instance", "batch"]
    assert float(rows[0]["psnr_mean"]) == 20 + len("norm=instance_seed0")

    assert call() == 0 and calls(tmp_path) == []
    checkpoints = tmp_path / "checkpoints" / "ablation"
    weights = checkpoints / "norm=batch_seed1" / "latest_state.pth"
    for path in (weights, weights.with_name("tested.json")):
        os.utime(path, (0, 0))  # times of a copy say nothing
    assert call() == 0 and calls(tmp_path) == []
    torch.save({"progress": {"epoch": 6}, "more": torch.ones(2)}, weights)  # trained again since
    assert call() == 0 and calls(tmp_path) == ["test norm=batch_seed1"]
    flags = ["--test_flags", "--num_test 1"]
    assert call(*flags) == 0
    assert [line.split()[0] for line in calls(tmp_path)] == ["test"] * 4
    weights.unlink()
    assert call(*flags) == 0
    assert calls(tmp_path) == ["train norm=batch_seed1 true ", "test norm=batch_seed1"]


def test_a_run_that_patience_ended_counts_as_trained(tmp_path: Path) -> None:
    early = ["--val_freq=1", "--best=psnr", "--patience=3", "--n_epochs=9"]
    flags = [*TRAIN, *early, "--dataroot=x", f"--checkpoints_dir={tmp_path}"]
    (run,) = plan("group", {"norm": ["instance"]}, 1, flags, [])
    run.folder.mkdir(parents=True)
    for stale, ended in ((2, False), (3, True)):
        torch.save(
            {"progress": {"epoch": 6}, "validation": {"stale": stale}}, run.folder / "latest_state.pth"
        )
        assert is_trained(run) == ended


def test_a_run_with_other_flags_in_the_folder_is_refused(tmp_path: Path, call: Callable[..., int]) -> None:
    folder = tmp_path / "checkpoints" / "ablation" / "norm=batch_seed1"
    folder.mkdir(parents=True)
    (folder / "train_opt.json").write_text(json.dumps({"lr": 0.5, "norm": "batch", "num_threads": 77}))
    with pytest.raises(UserError, match=r"norm=batch_seed1: holds .*--lr 0\.0002 \(there: 0\.5\)\. Use"):
        call()
    assert calls(tmp_path) == []


def test_a_failed_run_is_named_and_the_others_continue(
    tmp_path: Path, call: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    assert call(norm_instance_seed1="3") == 1
    log = Path("checkpoints/ablation/norm=instance_seed1/ablation.log")
    assert f"norm=instance_seed1: train.py ended with status 3, see {log}" in caplog.text
    assert log.read_text() == "training failed\n"
    assert sum(line.startswith("test") for line in calls(tmp_path)) == 3
    page = (tmp_path / "results" / "ablation" / "index.html").read_text()
    assert "Missing: 1 of 4 runs" in page and "ended with status 3" in page
    assert table(tmp_path)[0]["psnr_n"] == "1"
    assert call() == 0
    assert calls(tmp_path)[0].startswith("train norm=instance_seed1")
    assert "Missing" not in (tmp_path / "results" / "ablation" / "index.html").read_text()


def test_a_second_ablation_of_the_same_name_is_refused(
    tmp_path: Path, call: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    with (
        RunLock(tmp_path / "checkpoints" / "ablation"),
        pytest.raises(UserError, match=f"process {os.getpid()} on .* is running an ablation|is training"),
    ):
        call()
    assert calls(tmp_path) == []
    tested = tmp_path / "checkpoints" / "ablation" / "norm=batch_seed1" / "tested.json"
    assert call() == 0 and calls(tmp_path)
    assert not (tmp_path / "checkpoints" / "ablation" / "run.lock").exists()
    for content in (
        "",
        "[",
        '["--phase=test"]',
        '{"state": 1, "flags": []}',
    ):  # damaged, or an earlier version's
        tested.write_text(content)
        assert call() == 0 and calls(tmp_path) == ["test norm=batch_seed1"]


def test_a_signal_stops_the_run_and_the_same_command_continues(
    tmp_path: Path, call: Callable[..., int]
) -> None:
    ready = tmp_path / "ready"
    stop_when(ready.exists, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert call(norm_instance_seed1="slow") == STOPPED_STATUS
    assert [line.split()[:2] for line in calls(tmp_path)] == [
        ["train", "norm=instance_seed0"],
        ["test", "norm=instance_seed0"],
        ["train", "norm=instance_seed1"],
    ]
    assert call() == 0
    left = calls(tmp_path)
    assert left[0] == "train norm=instance_seed1 true " and len(left) == 6


def test_runs_are_spread_over_gpus(tmp_path: Path, call: Callable[..., int]) -> None:
    assert call("--gpus", "4,7") == 0
    used = [line.split()[3] for line in calls(tmp_path) if line.startswith("train")]
    assert sorted(used) == ["4", "4", "7", "7"]


def test_a_stopped_job_saves_and_is_resumed_by_another(
    tmp_path: Path, call: Callable[..., int], pairs: Path
) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "ways.json").write_text(json.dumps({"norm=batch_seed0": "slow"}))
    run = plan(
        "a", {"norm": ["batch"]}, 1, ["--dataroot", str(pairs), *TRAIN, "--n_epochs", "5"], ["--phase=test"]
    )[0]
    job = ablate_slurm.RunJob(run)
    job.worker.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "SIGUSR1", signal.SIGTERM)  # the stand-in handles this one
        again = job.checkpoint().function
    assert job.worker.state == "stopped"
    (tmp_path / "ways.json").write_text("{}")
    assert again() == ("done", "")
    assert (run.results / "metrics.json").exists()


def test_runs_are_submitted_with_submitit(tmp_path: Path, call: Callable[..., int]) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "ways.json").write_text(json.dumps({"norm=none_seed0": "3"}))
    flags = ["--dataroot", ".", *TRAIN, "--n_epochs", "5"]
    runs = plan("a", {"norm": ["batch", "none"]}, 1, flags, ["--phase=test"])
    given = dict.fromkeys(("jobs", "gpus_per_node", "partition", "sbatch"))
    settings = Namespace(name="a", time=5, cpus_per_task=1, **given)
    with StopSignals() as stop:
        good, bad = ablate_slurm.run_on_slurm(runs, settings, stop, cluster="local")
    assert (good.state, good.reason) == ("done", "") and (runs[0].results / "metrics.json").exists()
    assert bad.state == "failed" and "train.py ended with status 3" in bad.reason


def command(pairs: Path, *own: str, epochs: int) -> list[str]:
    train = ["--dataroot", str(pairs), *TRAIN, "--n_epochs", str(epochs), "--print_freq", "2"]
    return [sys.executable, str(ROOT / "scripts" / "ablate.py"), *own, "--", *train]


def test_a_real_ablation_is_stopped_and_continues(
    tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    own = ["--name", "small", "--vary", "norm=instance,batch", "--test_flags", "--num_test 2"]
    argv = command(pairs, *own, epochs=6)[2:]
    stop_when(lambda: has_begun(tmp_path), lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert ablate.main(argv) == STOPPED_STATUS
    assert ablate.main(argv) == 0
    logs = [path.read_text() for path in sorted(tmp_path.glob("checkpoints/small/*/ablation.log"))]
    assert len(logs) == 2 and sum("Resuming in epoch" in log for log in logs) == 1
    for path in tmp_path.glob("checkpoints/small/*/losses.jsonl"):
        seen = [json.loads(line)["total_iters"] for line in path.read_text().splitlines()]
        assert seen == list(range(2, 6 * 6 + 1, 2))  # no step is missing or repeated
    out = tmp_path / "results" / "small"
    page = (out / "index.html").read_text()
    assert page.count('data-key="real_A"') == page.count('data-key="fake_B: norm batch"') == 2
    assert len(list((out / "images").iterdir())) == 2 * 4
    with (out / "table.csv").open() as file:
        assert [row["norm"] for row in csv.DictReader(file)] == ["instance", "batch"]


@pytest.mark.slow
def test_an_interrupted_ablation_equals_an_uninterrupted_one(tmp_path: Path, pairs: Path) -> None:
    vary = ["--vary", "norm=instance,batch", "--vary", "attention=none,8", "--seeds", "2"]
    argv = command(pairs, "--name", "interrupted", *vary, epochs=12)
    with subprocess.Popen(argv, cwd=tmp_path, env=ONE_THREAD) as process:
        stop_when(lambda: has_begun(tmp_path), lambda: process.send_signal(signal.SIGINT))
        assert process.wait(timeout=300) == STOPPED_STATUS
    assert subprocess.run(argv, cwd=tmp_path, env=ONE_THREAD).returncode == 0
    calm = command(pairs, "--name", "calm", *vary, "--jobs", "2", epochs=12)
    assert subprocess.run(calm, cwd=tmp_path, env=ONE_THREAD).returncode == 0
    paths = sorted((tmp_path / "checkpoints" / "calm").glob("*/latest_net_G.pth"))
    assert len(paths) == 8
    for path in paths:
        interrupted = tmp_path / "checkpoints" / "interrupted" / path.parent.name / path.name
        expected, weights = (torch.load(file, weights_only=True) for file in (path, interrupted))
        assert all(np.array_equal(expected[name].numpy(), weights[name].numpy()) for name in expected), path


@pytest.mark.slow
def test_runs_are_submitted_to_slurm(cluster: Cluster, tmp_path: Path, pairs: Path) -> None:
    slurm = ["--slurm", "--partition", "main", "--time", "10", "--cpus_per_task", "1"]
    argv = command(pairs, "--name", "jobs", "--vary", "norm=instance,batch", *slurm, epochs=2)
    done = subprocess.run(argv, cwd=tmp_path, env=cluster.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "results" / "jobs" / "index.html").exists()
