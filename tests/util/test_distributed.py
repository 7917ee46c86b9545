"""Several processes compute what one does, stop together, and go on in another number."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.environment import ONE_THREAD, ROOT
from tests.support.models import arguments
from tests.support.rank_worker import train
from util import distributed
from util.device import processes_to_launch
from util.errors import UserError
from util.metrics import __main__ as compare_folders

FLAGS = {
    "pix2pix": ["--norm=batch", "--batch_size=4"],
    "pix2pix, instance norm": ["--norm=instance", "--batch_size=4", "--clip_grad=1", "--ema_decay=0.9"],
    "cycle_gan": ["--netG=resnet_6blocks", "--pool_size=8", "--batch_size=4", "--gan_mode=wgangp"],
    "memory_colorization": ["--batch_size=3", "--memory_size=8"],
    "colorization": ["--batch_size=5", "--rebalance"],
    "style_transfer": ["--batch_size=3", "--netG=resnet_6blocks"],
    "unified": ["--batch_size=6"],
    "dcgan": ["--batch_size=4", "--lambda_r1=1", "--r1_every=2", "--norm=none", "--diffaug=color,cutout"],
    "cycle_gan, in parts": ["--netG=resnet_6blocks", "--pool_size=12", "--batch_size=6", "--accumulate=3"],
}
"""Six images: full batches are shared out, and the smaller one at the end is computed by all."""

SHORT = {2: ["pix2pix", "cycle_gan"], 3: ["dcgan"]}
LONG = {2: list(FLAGS), 3: ["pix2pix", "cycle_gan", "memory_colorization", "dcgan"]}

RUN = ["--model=pix2pix", "--netG=unet_32", "--ngf=4", "--ndf=4", "--norm=instance", "--load_size=36"]
RUN += ["--crop_size=32", "--gpu_ids=-1", "--no_dropout", "--num_threads=0", "--no_html", "--precision=fp64"]
RUN += ["--batch_size=4", "--print_freq=4", "--no_flip", "--name=run", "--val_freq=1", "--best=psnr"]
"""Six images: a full batch an epoch, and a smaller one."""


def torchrun(count: int, *command: object) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    return [sys.executable, *launcher, *map(str, command)]


def call(*command: object, cwd: Path, status: int | None = 0) -> str:
    ran = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=ONE_THREAD, timeout=300
    )
    assert status is None or ran.returncode == status, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def tensors(value: object, path: str = "") -> dict[str, Tensor]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in tensors(item, f"{path}.{key}").items()}
    if isinstance(value, list | tuple):
        return tensors(dict(enumerate(value)), path)
    return {path: value} if isinstance(value, Tensor) and value.is_floating_point() else {}


def assert_close(expected: object, found: object, what: object, within: float = 1e-8) -> None:
    """Of the whole: biases before a norm, of no true gradient, are rounding that Adam enlarges."""
    ours, theirs = (
        torch.cat([each.flatten().double() for each in tensors(side).values()]) for side in (expected, found)
    )
    assert (ours - theirs).norm() <= within * ours.norm(), what


@pytest.mark.parametrize(
    ("count", "cases", "steps"),
    [(count, cases, 5) for count, cases in SHORT.items()]
    + [pytest.param(count, cases, 20, marks=pytest.mark.slow) for count, cases in LONG.items()],
)
def test_processes_compute_what_one_does(
    count: int, cases: list[str], steps: int, data: dict[str, Path], tmp_path: Path
) -> None:
    jobs = {case: job(case, data, tmp_path, "fp64", steps) for case in cases}
    jobs |= {f"{case}, first gradients": job(case, data, tmp_path, "fp32", 1) for case in cases[:1]}
    (tmp_path / "jobs.json").write_text(json.dumps(list(jobs.values())))
    call(
        *torchrun(count, ROOT / "tests" / "support" / "rank_worker.py", tmp_path / "jobs.json"), cwd=tmp_path
    )
    for case, done in jobs.items():
        expected, found = train(done["argv"], done["steps"]), torch.load(done["out"], weights_only=True)
        if "first gradients" in case:  # of which Adam's mean is a part now
            assert_close(expected["state"]["optimizers"], found["state"]["optimizers"], case, within=1e-5)
            continue
        for loss, value in expected["losses"].items():
            torch.testing.assert_close(found["losses"][loss], value, rtol=1e-7, atol=1e-9)
        for net, state in expected["state"]["nets"].items():
            assert_close(state, found["state"]["nets"][net], (case, net))
        ours, theirs = (
            [part["images"] for part in side["state"]["state"].values() if "images" in part]
            for side in (expected, found)
        )
        if ours:
            assert ours[0].abs().sum((2, 3, 4)).all()  # every position's share has been filled
            assert_close(ours, theirs, (case, "pools"))


def job(case: str, data: dict[str, Path], folder: Path, precision: str, steps: int) -> dict[str, Any]:
    dropout = [] if case in ("dcgan", "unified") else ["--no_dropout"]
    name, flags = case.split(",")[0], [*FLAGS[case], *dropout, "--gpu_ids=-1", f"--precision={precision}"]
    out = folder / f"{case} {precision}.pt"
    return {"argv": arguments(name, data, *flags), "steps": steps, "out": str(out)}


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "checkpoints" / "run" / "latest_net_G.pth", weights_only=True)


def test_a_run_and_its_test_on_two_processes(pairs: Path, tmp_path: Path) -> None:
    """Two processes train two epochs, one goes on; test.py on two writes what it writes on one."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder in (alone, together):
        folder.mkdir()
    flags = [f"--dataroot={pairs}", *RUN]
    call(sys.executable, ROOT / "train.py", *flags, "--n_epochs=3", "--n_epochs_decay=0", cwd=alone)
    begun = call(*torchrun(2, ROOT / "train.py", *flags, "--n_epochs=2", "--n_epochs_decay=0"), cwd=together)
    assert begun.count("(epoch: 2, iters: 4") == 1, begun  # one of them tells
    assert "2 processes share each batch of 4" in begun
    more = ["--n_epochs=3", "--n_epochs_decay=0", "--continue_train"]
    call(sys.executable, ROOT / "train.py", *flags, *more, cwd=together)
    assert_close(weights(alone), weights(together), "two processes, then one")
    logs = [
        [json.loads(line) for line in (folder / "checkpoints/run" / name).read_text().splitlines()]
        for name in ("losses.jsonl", "metrics.jsonl")
        for folder in (alone, together)
    ]
    assert len(logs[0]) == len(logs[1])
    for ours, theirs in zip(*logs[2:], strict=True):
        assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=1e-6)

    test = [f"--dataroot={pairs}", "--model=pix2pix", "--name=run", "--crop_size=32", "--gpu_ids=-1"]
    test += ["--num_threads=0", "--batch_size=2", "--precision=fp64"]
    told = [
        call(sys.executable, ROOT / "test.py", *test, "--results_dir=one", cwd=together),
        call(*torchrun(2, ROOT / "test.py", *test, "--results_dir=two"), cwd=together),
    ]
    means = [re.findall(r"Mean .*", text) for text in told]
    assert means[0] and means[0] == means[1]
    files = [
        {path.relative_to(together / name): path.read_bytes() for path in (together / name).rglob("*.*")}
        for name in ("one", "two")
    ]
    assert len(files[0]) > 9 and files[0].keys() == files[1].keys()
    differ = [path for path, content in files[0].items() if content != files[1][path]]
    assert not differ
    gallery = together / "two" / "run" / "test_latest"
    measured_are_those_of_the_files(gallery, together / "measured")


def measured_are_those_of_the_files(gallery: Path, out: Path) -> None:
    """What test.py measured is what `python -m util.metrics` finds in the images that it has written."""
    suffixes = ["--suffix_a=_fake_B", "--suffix_b=_real_B", "--gpu_ids=-1"]
    assert compare_folders.main([*[str(gallery / "images")] * 2, *suffixes, f"--out={out}"]) == 0
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (gallery, out))
    assert ours.keys() == {"pictures", "mean", "reference", "protocol", "left_out"}
    assert [row["name"] for row in ours["pictures"]] == ["0001", "0002", "0003"]
    assert ours["mean"].keys() == {"psnr", "ssim", "l1"} == ours["protocol"].keys()
    for metric, mean in ours["mean"].items():
        assert mean == pytest.approx(theirs["mean"][metric], rel=1e-9)
        found, expected = ([row[metric] for row in each["pictures"]] for each in (ours, theirs))
        assert found == pytest.approx(expected, rel=1e-9) and len(set(found)) == 3
    table = [line.split(",") for line in (gallery / "metrics.csv").read_text().splitlines()]
    assert table[0] == ["name", "psnr", "ssim", "l1"] and len(table) == 5
    assert table[-1] == ["mean", *(str(ours["mean"][name]) for name in table[0][1:])]


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_the_run_comes_back(pairs: Path, tmp_path: Path) -> None:
    """SIGKILL: all end, and start again from the last state; then a signal to one of them; three go on."""
    flags = [f"--dataroot={pairs}", *RUN, "--save_latest_freq=24", "--n_epochs_decay=0"]
    checkpoint, log = tmp_path / "checkpoints" / "run" / "latest_state.pth", tmp_path / "log"
    command = torchrun(2, "--max_restarts=1", ROOT / "train.py", *flags, "--n_epochs=5000")
    with log.open("w") as file:
        run = subprocess.Popen(command, stdout=file, stderr=file, cwd=tmp_path, env=ONE_THREAD)
    try:
        wait_for(lambda: checkpoint.exists())
        os.kill(process_of(run.pid, rank=1), signal.SIGKILL)
        began = time.monotonic()
        wait_for(lambda: "Going on in epoch" in log.read_text())
        assert time.monotonic() - began < 60
        assert "lost the connection to another rank" in log.read_text()
        written = checkpoint.stat().st_mtime_ns
        wait_for(lambda: checkpoint.stat().st_mtime_ns > written)
        # A signal to a single one of them: all stop in the same step, and save.
        os.kill(process_of(run.pid, rank=1), signal.SIGTERM)
        wait_for(lambda: "Stopped by" in log.read_text())
    finally:
        run.kill()
        run.wait()
    state = torch.load(checkpoint, weights_only=True)
    epochs = state["progress"]["epoch"] + 1
    more = [*flags, f"--n_epochs={epochs}", "--continue_train"]
    call(*torchrun(3, ROOT / "train.py", *more), cwd=tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    call(sys.executable, ROOT / "train.py", *flags, f"--n_epochs={epochs}", cwd=alone)
    assert_close(weights(alone), weights(tmp_path), "two processes, killed, stopped, then three")


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def process_of(launcher: int, rank: int) -> int:
    """Return the process that a launcher has started as number `rank`."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    mine = [pid for pid in children if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text()]
    return int(mine[0])


def test_several_gpus_start_a_process_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By torch's launcher, which hands on how the processes end."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "print('process', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'], sys.argv[1])\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [processes_to_launch(ids) for ids in ("-1", "0", "0,1", "2,0,1")] == [1, 1, 2, 3]
    for status in (0, 75, 2):
        assert distributed.launch(2, str(script), [str(status)]) == status
    with pytest.raises(UserError, match="ended with status 3"):
        distributed.launch(2, str(script), ["3"])
    assert "process 1 of 2 0" in capfd.readouterr().out


def test_what_cannot_be_shared_out_is_refused(pairs: Path, tmp_path: Path) -> None:
    flags = [f"--dataroot={pairs}", *RUN, "--batch_size=1"]
    told = call(*torchrun(2, ROOT / "train.py", *flags), cwd=tmp_path, status=None)
    assert "--batch_size 1 is the size of the whole batch" in told and "raise it to 2" in told
