"""Several processes compute what one does, stop together, and go on in another number."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ONE_THREAD, ROOT
from rank_worker import train
from test_models import arguments
from torch import Tensor

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
"""Six pictures: full batches are shared out, and the smaller one at the end is computed by all."""

PROCESSES = {2: list(FLAGS), 3: ["pix2pix", "cycle_gan", "memory_colorization", "dcgan"]}


def torchrun(count: int, *command: object) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    return [sys.executable, *launcher, *map(str, command)]


def tensors(value: object, path: str = "") -> dict[str, Tensor]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in tensors(item, f"{path}.{key}").items()}
    if isinstance(value, list | tuple):
        return tensors(dict(enumerate(value)), path)
    return {path: value} if isinstance(value, Tensor) and value.is_floating_point() else {}


@pytest.mark.parametrize("count", PROCESSES)
def test_processes_compute_what_one_does(count: int, data: dict[str, Path], tmp_path: Path) -> None:
    jobs = {}
    for case in PROCESSES[count]:
        if "parts" in case and count == 3:
            continue
        dropout = [] if case in ("dcgan", "unified") else ["--no_dropout"]
        argv = arguments(case.split(",")[0], data, *FLAGS[case], *dropout, "--precision=fp64", "--gpu_ids=-1")
        jobs[case] = {"argv": argv, "steps": 20, "out": str(tmp_path / f"{len(jobs)}.pt")}
    (tmp_path / "jobs.json").write_text(json.dumps(list(jobs.values())))
    ran = subprocess.run(
        torchrun(count, ROOT / "tests" / "rank_worker.py", tmp_path / "jobs.json"),
        capture_output=True,
        text=True,
        env=ONE_THREAD,
    )
    assert ran.returncode == 0, ran.stderr
    for case, job in jobs.items():
        expected, found = train(job["argv"], 20), torch.load(job["out"], weights_only=True)
        for loss, value in expected["losses"].items():
            torch.testing.assert_close(
                found["losses"][loss], value, rtol=1e-7, atol=1e-9, msg=f"{case} {loss}"
            )
        for net, state in expected["state"]["nets"].items():
            ours, theirs = (
                torch.cat([each.flatten() for each in tensors(side).values()])
                for side in (state, found["state"]["nets"][net])
            )
            assert (ours - theirs).norm() <= 1e-8 * ours.norm(), (case, net)
