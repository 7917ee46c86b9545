"""The commands as users run them: processes, files, exit statuses."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ONE_THREAD, ROOT, Command
from PIL import Image

SMALL = ["--model", "pix2pix", "--gpu_ids", "-1", "--netG", "unet_32", "--ngf", "4", "--crop_size", "32"]
TRAINING = [*SMALL, "--ndf", "4", "--load_size", "36", "--n_epochs_decay", "0", "--print_freq", "2"]


def records(folder: Path) -> list[dict[str, Any]]:
    """The logged losses without their timings."""
    lines = (folder / "losses.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("time", "data")} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    assert records(one) == records(other)
    texts = [re.sub(r"time: .*?\) ", "", (folder / "loss_log.txt").read_text()) for folder in (one, other)]
    assert texts[0].splitlines()[1:] == texts[1].splitlines()[1:]
    states = [torch.load(folder / "latest_state.pth", weights_only=True) for folder in (one, other)]
    assert states[0]["progress"] == states[1]["progress"]
    for part in ("nets", "optimizers"):
        left, right = (flat(state["model"][part]) for state in states)
        assert left.keys() == right.keys()
        for key, value in left.items():
            same = torch.equal(value, right[key]) if isinstance(value, torch.Tensor) else value == right[key]
            assert same, key


def flat(value: Any, path: str = "") -> dict[str, Any]:
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if items is None:
        return {path: value}
    return {k: v for key, item in items for k, v in flat(item, f"{path}.{key}").items()}


def test_a_run_killed_in_mid_epoch_goes_on_as_if_nothing_had_happened(
    command: Command, pairs: Path, tmp_path: Path
) -> None:
    common = ["--dataroot", str(pairs), *TRAINING, "--n_epochs", "10", "--save_latest_freq", "4"]
    runs = tmp_path / "checkpoints"
    command("train.py", *common, "--name", "whole", "--num_threads", "0")

    argv = [sys.executable, str(ROOT / "train.py"), *common, "--checkpoints_dir", str(runs)]
    argv += ["--name", "killed", "--num_threads", "1"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=ONE_THREAD)
    state, deadline = runs / "killed" / "latest_state.pth", time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    at_kill = torch.load(state, weights_only=True)["progress"]["pictures"]
    assert 0 < at_kill < 60, "the run was over before it could be killed"

    resumed = command("train.py", *common, "--name", "killed", "--continue_train", "--num_threads", "2")
    assert f"Going on in epoch {1 + at_kill // 6}" in resumed.stdout
    assert_same_run(runs / "whole", runs / "killed")
    page = (runs / "killed" / "web" / "index.html").read_text()
    assert re.findall(r'data-epoch="(\d+)"', page) == [str(epoch) for epoch in range(1, 11)]

    # A finished run has nothing left to do, and a longer one goes on.
    command("train.py", *common, "--name", "killed", "--continue_train")
    assert_same_run(runs / "whole", runs / "killed")
    command("train.py", *common, "--name", "killed", "--continue_train", "--n_epochs", "11")
    assert records(runs / "killed")[-1]["epoch"] == 11
    another = ["--name", "killed", "--continue_train", "--model", "template", "--pool_size", "0"]
    assert "was trained with --model pix2pix" in command("train.py", *common, *another, status=2).stderr


def test_frequencies_count_pictures_and_act_when_crossed(
    command: Command, pairs: Path, tmp_path: Path
) -> None:
    flags = ["--n_epochs", "2", "--batch_size", "4", "--save_latest_freq", "5", "--save_by_iter"]
    command("train.py", "--dataroot", pairs, "--name", "run", *TRAINING, *flags, "--save_epoch_freq", "2")
    folder = tmp_path / "checkpoints" / "run"
    # Steps end after 4, 6 (a batch of the two that are left), 10 and 12 pictures.
    assert [record["total_iters"] for record in records(folder)] == [4, 6, 10, 12]
    assert [record["iters"] for record in records(folder)] == [4, 6, 4, 6]
    tags = {path.name.removesuffix("_state.pth") for path in folder.glob("*_state.pth")}
    assert tags == {"latest", "2", "iter_6", "iter_10"}
    for tag in tags:
        assert (folder / f"{tag}_net_G.pth").exists() and (folder / f"{tag}_net_D.pth").exists()
    pictures = {path.name for path in (folder / "web" / "images").iterdir()}
    assert {"epoch001_fake_B.png", "epoch002_real_A.png", "epoch002_real_B_3.png"} <= pictures

    command("test.py", "--dataroot", pairs, "--name", "run", *SMALL, "--load_iter", 10)
    assert (tmp_path / "results" / "run" / "test_latest_iter10" / "index.html").exists()


def test_results_do_not_depend_on_batch_size_or_workers(
    command: Command, pairs: Path, tmp_path: Path
) -> None:
    command("train.py", "--dataroot", pairs, "--name", "run", *TRAINING, "--n_epochs", 2)
    results = tmp_path / "results" / "run"

    def images(*flags: object) -> dict[str, np.ndarray]:
        shutil.rmtree(results, ignore_errors=True)
        found = command("test.py", "--dataroot", pairs, "--name", "run", "--model", "pix2pix", *flags)
        assert "netG unet_32, ngf 4" in " ".join(found.stdout.split())  # from the checkpoint's options
        assert re.search(r"Mean L1 between fake_B and real_B: 0\.\d+", found.stdout)
        (folder,) = results.iterdir()
        return {path.name: np.array(Image.open(path)).astype(int) for path in (folder / "images").iterdir()}

    size = ["--crop_size", 32]
    alone = images(*size, "--batch_size", 1, "--num_threads", 0)
    names = [
        f"{stem}_{label}.png" for stem in ("0001", "0002", "0003") for label in ("fake_B", "real_A", "real_B")
    ]
    assert sorted(alone) == names
    together = images(*size, "--batch_size", 3, "--num_threads", 2)
    assert together.keys() == alone.keys()
    for name, picture in alone.items():
        assert np.abs(together[name] - picture).max() <= 1, name
    evaluated = images(*size, "--eval")
    assert np.abs(evaluated["0001_fake_B.png"] - alone["0001_fake_B.png"]).max() > 5
    assert len(images(*size, "--num_test", 2, "--phase", "val")) == 6
    page = (results / "val_latest" / "index.html").read_text()
    assert page.index("0001_fake_B.png") < page.index("0002_fake_B.png")


def test_a_folder_of_the_peers_with_weights_alone_can_be_continued(
    command: Command, pairs: Path, tmp_path: Path
) -> None:
    arguments = ["--dataroot", pairs, "--name", "run", *TRAINING, "--n_epochs", 2]
    command("train.py", *arguments)
    folder = tmp_path / "checkpoints" / "run"
    weights = torch.load(folder / "latest_net_G.pth", weights_only=True)
    for path in folder.glob("*_state*.pth"):
        path.unlink()
    other = ["--model", "template", "--continue_train"]
    assert "no such checkpoint" in command("train.py", *arguments, *other, "--epoch", 7, status=2).stderr
    result = command("train.py", *arguments, "--continue_train", "--epoch_count", 3)
    assert "weights without a training state; optimizers start fresh, at epoch 3" in result.stdout
    again = torch.load(folder / "latest_net_G.pth", weights_only=True)
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("train.py", ["--lamda_L1", "5"], "did you mean --lambda_L1?"),
        ("train.py", ["--dataroot", "{tmp}/absent"], "there is no such folder"),
        ("train.py", ["--dataroot", "{tmp}"], "neither a folder train"),
        (
            "train.py",
            ["--dataroot", "{pairs}", "--preprocess", "crop", "--crop_size", "64"],
            "--crop_size 64 is larger",
        ),
        ("train.py", ["--dataroot", "{pairs}", "--gpu_ids", "99"], "--gpu_ids 99"),
        ("train.py", ["--dataroot", "{pairs}", "--continue_train"], "no such checkpoint"),
        ("test.py", ["--dataroot", "{pairs}"], "no such checkpoint"),
    ],
)
def test_a_mistake_is_one_line_and_a_status(
    command: Command, pairs: Path, tmp_path: Path, script: str, flags: list[str], message: str
) -> None:
    flags = [flag.format(tmp=tmp_path, pairs=pairs) for flag in flags]
    result = command(script, *(SMALL if script == "test.py" else TRAINING), *flags, status=2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


def test_cycle_gan_in_both_directions_and_one_generator_alone(
    command: Command, data: dict[str, Path], tmp_path: Path
) -> None:
    small = [*TRAINING[2:], "--n_epochs", 2, "--name", "run", "--upsample", "nearest", "--attention", 8]
    command("train.py", "--dataroot", data["unaligned"], "--model", "cycle_gan", *small, "--pool_size", 2)
    folder = tmp_path / "checkpoints" / "run"
    names = {path.name for path in folder.glob("latest_net_*.pth")}
    assert names == {f"latest_net_{net}.pth" for net in ("G_A", "G_B", "D_A", "D_B")}
    common = ["--name", "run", "--gpu_ids", -1, "--crop_size", 32]
    result = command("test.py", "--dataroot", data["unaligned"], "--model", "cycle_gan", *common)
    assert "Mean L1" not in result.stdout  # there is no ground truth
    both = tmp_path / "results" / "run" / "test_latest" / "images"
    labels = {path.stem.split("_", 1)[1] for path in both.iterdir()}
    assert labels == {"real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B"}

    # test.py's default model finds the architecture by itself and makes the same pictures.
    shutil.move(both, tmp_path / "both")
    single = data["unaligned"] / "testA"
    command("test.py", "--dataroot", single, *common, "--no_dropout", "--model_suffix", "_A")
    alone = {path.name: np.array(Image.open(path)).astype(int) for path in both.iterdir()}
    assert len(alone) == 2 * len(list(single.iterdir()))
    for name, picture in alone.items():
        expected = name.replace("_fake.", "_fake_B.").replace("_real.", "_real_A.")
        assert np.abs(picture - np.array(Image.open(tmp_path / "both" / expected))).max() <= 1, name
