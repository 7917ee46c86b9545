"""Several ranks compute the same as one, stop together, and resume as another number of ranks."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support.environment import ONE_THREAD, ROOT
from tests.support.models import arguments
from tests.support.rank_worker import train
from util import distributed
from util.device import processes_to_launch
from util.errors import UserError
from util.metrics import __main__ as compare_folders

FLAGS = {
    "pix2pix": ["--norm=batch", "--batch_size=4", "--mask=true"],
    "pix2pix, instance norm": ["--norm=instance", "--batch_size=4", "--clip_grad=1", "--ema_decay=0.9"],
    "cycle_gan": ["--netG=resnet_6blocks", "--pool_size=8", "--batch_size=4", "--gan_mode=wgangp"],
    "memory_colorization": ["--batch_size=3", "--memory_size=8"],
    "colorization": ["--batch_size=5", "--rebalance"],
    "style_transfer": ["--batch_size=3", "--netG=resnet_6blocks"],
    "unified": ["--batch_size=6"],
    "dcgan": ["--batch_size=4", "--lambda_r1=1", "--r1_every=2", "--norm=none", "--diffaug=color,cutout"],
    "cycle_gan, in parts": ["--netG=resnet_6blocks", "--pool_size=12", "--batch_size=6", "--accumulate=3"],
}
"""Of six images, full batches are split over ranks; every rank computes the smaller last one."""

SHORT = {2: ["pix2pix", "cycle_gan"], 3: ["dcgan"]}
LONG = {2: list(FLAGS), 3: ["pix2pix", "cycle_gan", "memory_colorization", "dcgan"]}

RUN = ["--model=pix2pix", "--netG=unet_32", "--ngf=4", "--ndf=4", "--norm=instance", "--load_size=36"]
RUN += ["--crop_size=32", "--gpu_ids=-1", "--no_dropout", "--num_threads=0", "--no_html", "--precision=fp64"]
RUN += ["--batch_size=4", "--print_freq=4", "--no_flip", "--name=run", "--val_freq=1", "--best=psnr"]
RUN += ["--ema_decay=0.9"]  # validation judges the averages
"""Of six images, an epoch has one full batch and a smaller one."""


def torchrun(count: int, *command: object) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    return [sys.executable, *launcher, *map(str, command)]


def call(*command: object, cwd: Path, status: int | None = 0) -> str:
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=ONE_THREAD, timeout=300
    )
    assert status is None or result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


def tensors(value: object, path: str = "") -> dict[str, Tensor]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in tensors(item, f"{path}.{key}").items()}
    if isinstance(value, list | tuple):
        return tensors(dict(enumerate(value)), path)
    return {path: value} if isinstance(value, Tensor) and value.is_floating_point() else {}


def assert_close(expected: object, actual: object, case: object, rtol: float = 1e-8) -> None:
    """Compare all tensors as one: gradients of biases before a norm are rounding, which Adam amplifies."""
    x, y = (
        torch.cat([tensor.flatten().double() for tensor in tensors(side).values()])
        for side in (expected, actual)
    )
    assert (x - y).norm() <= rtol * x.norm(), case


@pytest.mark.parametrize(
    ("count", "cases", "steps"),
    [(count, cases, 5) for count, cases in SHORT.items()]
    + [pytest.param(count, cases, 20, marks=pytest.mark.slow) for count, cases in LONG.items()],
)
def test_ranks_compute_the_same_as_one(
    count: int, cases: list[str], steps: int, data: dict[str, Path], tmp_path: Path
) -> None:
    masked = shutil.copytree(data["aligned"], tmp_path / "masked")
    for number, path in enumerate((masked / "train").iterdir()):
        (masked / "trainM").mkdir(exist_ok=True)
        Image.linear_gradient("L").resize((32, 32)).rotate(90 * number).save(masked / "trainM" / path.name)
    data = {**data, "aligned": masked}
    jobs = {case: job(case, data, tmp_path, "fp64", steps) for case in cases}
    jobs |= {f"{case}, first gradients": job(case, data, tmp_path, "fp32", 1) for case in cases[:1]}
    (tmp_path / "jobs.json").write_text(json.dumps(list(jobs.values())))
    call(
        *torchrun(count, ROOT / "tests" / "support" / "rank_worker.py", tmp_path / "jobs.json"), cwd=tmp_path
    )
    for case, settings in jobs.items():
        expected = train(settings["argv"], settings["steps"])
        actual = torch.load(settings["out"], weights_only=True)
        if "first gradients" in case:  # Adam's first moments are proportional to them
            assert_close(expected["state"]["optimizers"], actual["state"]["optimizers"], case, rtol=1e-5)
            continue
        for loss, value in expected["losses"].items():
            torch.testing.assert_close(actual["losses"][loss], value, rtol=1e-7, atol=1e-9)
        for net, state in expected["state"]["nets"].items():
            assert_close(state, actual["state"]["nets"][net], (case, net))
        expected_pools, pools = (
            [part["images"] for part in side["state"]["state"].values() if "images" in part]
            for side in (expected, actual)
        )
        if expected_pools:
            assert expected_pools[0].abs().sum((2, 3, 4)).all()  # the pool of every position is full
            assert_close(expected_pools, pools, (case, "pools"))


def job(case: str, data: dict[str, Path], folder: Path, precision: str, steps: int) -> dict[str, Any]:
    dropout = [] if case in ("dcgan", "unified") else ["--no_dropout"]
    name, flags = case.split(",")[0], [*FLAGS[case], *dropout, "--gpu_ids=-1", f"--precision={precision}"]
    out = folder / f"{case} {precision}.pt"
    return {"argv": arguments(name, data, *flags), "steps": steps, "out": str(out)}


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "checkpoints" / "run" / "latest_net_G.pth", weights_only=True)


def test_a_run_and_its_test_on_two_ranks(pairs: Path, tmp_path: Path) -> None:
    """Two ranks train, one process resumes; test.py on two ranks writes the same files as on one."""
    single, double = tmp_path / "single", tmp_path / "double"
    for folder in (single, double):
        folder.mkdir()
    flags = [f"--dataroot={pairs}", *RUN]
    call(sys.executable, ROOT / "train.py", *flags, "--n_epochs=3", "--n_epochs_decay=0", cwd=single)
    output = call(*torchrun(2, ROOT / "train.py", *flags, "--n_epochs=2", "--n_epochs_decay=0"), cwd=double)
    assert output.count("(epoch: 2, iters: 4") == 1, output  # rank 0 alone logs
    assert "2 ranks share each batch of 4" in output
    more = ["--n_epochs=3", "--n_epochs_decay=0", "--continue_train"]
    call(sys.executable, ROOT / "train.py", *flags, *more, cwd=double)
    assert_close(weights(single), weights(double), "two ranks, then one")
    logs = [
        [json.loads(line) for line in (folder / "checkpoints/run" / name).read_text().splitlines()]
        for name in ("losses.jsonl", "metrics.jsonl")
        for folder in (single, double)
    ]
    assert len(logs[0]) == len(logs[1])
    for expected, actual in zip(*logs[2:], strict=True):
        assert actual["metrics"] == pytest.approx(expected["metrics"], rel=1e-6)

    test = [f"--dataroot={pairs}", "--model=pix2pix", "--name=run", "--crop_size=32", "--gpu_ids=-1"]
    test += ["--num_threads=0", "--batch_size=2", "--precision=fp64"]
    outputs = [
        call(sys.executable, ROOT / "test.py", *test, "--results_dir=one", cwd=double),
        call(*torchrun(2, ROOT / "test.py", *test, "--results_dir=two"), cwd=double),
    ]
    means = [re.findall(r"Mean .*", text) for text in outputs]
    assert means[0] and means[0] == means[1]
    # Pages contain the date and the flags: --results_dir is another one.
    own = re.compile(rb"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?|two|one")
    files = [
        {
            path.relative_to(double / name): own.sub(b"", content) if path.suffix != ".png" else content
            for path in (double / name).rglob("*.*")
            for content in [path.read_bytes()]
        }
        for name in ("one", "two")
    ]
    assert len(files[0]) > 9 and files[0].keys() == files[1].keys()
    assert not [path for path, content in files[0].items() if content != files[1][path]]
    check_metrics_of_the_files(double / "two" / "run" / "test_latest", double / "measured")


def check_metrics_of_the_files(gallery: Path, out: Path) -> None:
    """Check that test.py's metrics equal those of `python -m util.metrics` on the files that it wrote."""
    suffixes = ["--suffix_a=_fake_B", "--suffix_b=_real_B", "--gpu_ids=-1"]
    assert compare_folders.main([*[str(gallery / "images")] * 2, *suffixes, f"--out={out}"]) == 0
    written, measured = (json.loads((folder / "metrics.json").read_text()) for folder in (gallery, out))
    assert written.keys() == {"pictures", "mean", "reference", "protocol", "left_out"}
    assert [row["name"] for row in written["pictures"]] == ["0001", "0002", "0003"]
    assert written["mean"].keys() == {"psnr", "ssim", "l1"} == written["protocol"].keys()
    for metric, mean in written["mean"].items():
        assert mean == pytest.approx(measured["mean"][metric], rel=1e-9)
        values, expected = ([row[metric] for row in side["pictures"]] for side in (written, measured))
        assert values == pytest.approx(expected, rel=1e-9) and len(set(values)) == 3
    table = [line.split(",") for line in (gallery / "metrics.csv").read_text().splitlines()]
    assert table[0] == ["name", "psnr", "ssim", "l1"] and len(table) == 5
    assert table[-1] == ["mean", *(str(written["mean"][name]) for name in table[0][1:])]


@pytest.mark.slow
def test_torchrun_restarts_a_run_after_a_killed_rank(pairs: Path, tmp_path: Path) -> None:
    """SIGKILL restarts all ranks from the last checkpoint, SIGTERM to one stops all; three ranks resume."""
    flags = [f"--dataroot={pairs}", *RUN, "--save_latest_freq=24", "--n_epochs_decay=0"]
    checkpoint, log = tmp_path / "checkpoints" / "run" / "latest_state.pth", tmp_path / "log"
    command = torchrun(2, "--max_restarts=1", ROOT / "train.py", *flags, "--n_epochs=5000")
    with log.open("w") as file:
        run = subprocess.Popen(command, stdout=file, stderr=file, cwd=tmp_path, env=ONE_THREAD)
    try:
        wait_for(lambda: checkpoint.exists())
        os.kill(process_of(run.pid, rank=1), signal.SIGKILL)
        start = time.monotonic()
        wait_for(lambda: "Resuming in epoch" in log.read_text())
        assert time.monotonic() - start < 60
        assert "lost the connection to another rank" in log.read_text()
        written = checkpoint.stat().st_mtime_ns
        wait_for(lambda: checkpoint.stat().st_mtime_ns > written)
        # A signal to one rank: all stop in the same step, and save.
        os.kill(process_of(run.pid, rank=1), signal.SIGTERM)
        wait_for(lambda: "Stopped by" in log.read_text())
    finally:
        run.kill()
        run.wait()
    state = torch.load(checkpoint, weights_only=True)
    epochs = state["progress"]["epoch"] + 1
    more = [*flags, f"--n_epochs={epochs}", "--continue_train"]
    call(*torchrun(3, ROOT / "train.py", *more), cwd=tmp_path)
    single = tmp_path / "single"
    single.mkdir()
    call(sys.executable, ROOT / "train.py", *flags, f"--n_epochs={epochs}", cwd=single)
    assert_close(weights(single), weights(tmp_path), "two ranks, killed, stopped, then three")


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.2)


def process_of(launcher: int, rank: int) -> int:
    """Return the process id of a rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    pids = [pid for pid in children if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text()]
    return int(pids[0])


def test_one_rank_is_launched_for_each_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """torch's launcher returns how the ranks end."""
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


def test_batches_smaller_than_the_number_of_ranks_are_refused(pairs: Path, tmp_path: Path) -> None:
    flags = [f"--dataroot={pairs}", *RUN, "--batch_size=1"]
    output = call(*torchrun(2, ROOT / "train.py", *flags), cwd=tmp_path, status=None)
    assert "--batch_size 1 is the size of the whole batch" in output and "raise it to 2" in output
