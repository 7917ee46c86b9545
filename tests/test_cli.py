"""The commands as users run them: processes, files, exit statuses."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.environment import ONE_THREAD, ROOT, Command
from training.loggers.base import MEASURED

SMALL = ["--model", "pix2pix", "--gpu_ids", "-1", "--netG", "unet_32", "--ngf", "4", "--crop_size", "32"]
TRAINING = [*SMALL, "--ndf", "4", "--load_size", "36", "--n_epochs_decay", "0", "--print_freq", "2"]


def records(folder: Path) -> list[dict[str, Any]]:
    """The logged losses without their timings."""
    lines = (folder / "losses.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in MEASURED} for line in lines]


def test_frequencies_count_images_and_act_when_crossed(command: Command, pairs: Path, tmp_path: Path) -> None:
    flags = ["--n_epochs", "2", "--batch_size", "4", "--save_latest_freq", "5", "--save_by_iter"]
    command("train.py", "--dataroot", pairs, "--name", "run", *TRAINING, *flags, "--save_epoch_freq", "2")
    folder = tmp_path / "checkpoints" / "run"
    # Steps end after 4, 6 (a batch of the two that are left), 10 and 12 images.
    assert [record["total_iters"] for record in records(folder)] == [4, 6, 10, 12]
    assert [record["iters"] for record in records(folder)] == [4, 6, 4, 6]
    tags = {path.name.removesuffix("_state.pth") for path in folder.glob("*_state.pth")}
    assert tags == {"latest", "2", "iter_6", "iter_10"}
    for tag in tags:
        assert (folder / f"{tag}_net_G.pth").exists() and (folder / f"{tag}_net_D.pth").exists()
    images = {path.name for path in (folder / "web" / "images").iterdir()}
    assert {"epoch001_fake_B.png", "epoch002_real_A.png", "epoch002_real_B_3.png"} <= images

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
        assert re.search(r"Mean l1 \(0 to 2\): 0\.\d+", found.stdout)
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
    for name, image in alone.items():
        assert np.abs(together[name] - image).max() <= 1, name
    evaluated = images(*size, "--eval")
    assert np.abs(evaluated["0001_fake_B.png"] - alone["0001_fake_B.png"]).max() > 5
    assert len(images(*size, "--num_test", 2, "--phase", "val")) == 6
    page = (results / "val_latest" / "index.html").read_text()
    assert page.index("0001_fake_B.png") < page.index("0002_fake_B.png")
    gallery = json.loads((results / "val_latest" / "gallery.json").read_text())
    assert [row["name"] for row in gallery["rows"]] == ["0001", "0002"] and gallery["paired"]
    assert all(row["metrics"].keys() == {"psnr", "ssim", "l1"} for row in gallery["rows"])
    assert gallery["flags"]["train.py"]["n_epochs"] == "2" and gallery["flags"]["test.py"]["phase"] == "val"
    training_page = (tmp_path / "checkpoints" / "run" / "web" / "index.html").read_text()
    assert '"address":"../../../results/run/val_latest/index.html"' in training_page
    assert "python train.py" in training_page and "<span>--n_epochs 2</span>" in training_page


def test_a_folder_of_the_peers_with_weights_alone_can_be_continued(
    command: Command, pairs: Path, tmp_path: Path
) -> None:
    arguments = ["--dataroot", pairs, "--name", "run", *TRAINING, "--n_epochs", 2]
    command("train.py", *arguments)
    folder = tmp_path / "checkpoints" / "run"
    weights = torch.load(folder / "latest_net_G.pth", weights_only=True)
    for path in [*folder.glob("*_state*.pth"), folder / "train_opt.json"]:  # the peer writes neither
        path.unlink()
    other = ["--model", "template", "--continue_train"]
    assert "no such checkpoint" in command("train.py", *arguments, *other, "--epoch", 7, status=2).stderr
    result = command("train.py", *arguments, "--continue_train", "--epoch_count", 2, "--lr", 1e-30)
    assert "weights without a training state; optimizers start fresh, at epoch 2" in result.stdout
    again = torch.load(folder / "latest_net_G.pth", weights_only=True)
    learned = [name for name in weights if name.endswith(("weight", "bias"))]
    assert all(torch.allclose(again[name], weights[name], atol=1e-20) for name in learned)


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

    # test.py's default model finds the architecture by itself and makes the same images.
    shutil.move(both, tmp_path / "both")
    single = data["unaligned"] / "testA"
    command("test.py", "--dataroot", single, *common, "--no_dropout", "--model_suffix", "_A")
    alone = {path.name: np.array(Image.open(path)).astype(int) for path in both.iterdir()}
    assert len(alone) == 2 * len(list(single.iterdir()))
    for name, image in alone.items():
        expected = name.replace("_fake.", "_fake_B.").replace("_real.", "_real_A.")
        assert np.abs(image - np.array(Image.open(tmp_path / "both" / expected))).max() <= 1, name


def test_a_limit_on_disk_space_ends_a_run_and_leaves_its_last_good_state(
    command: Command, pairs: Path, tmp_path: Path
) -> None:
    common = ["--dataroot", pairs, "--name", "run", *TRAINING, "--num_threads", 0]
    command("train.py", *common, "--n_epochs", 1)
    folder = tmp_path / "checkpoints" / "run"
    before = {path.name: path.read_bytes() for path in folder.glob("latest_*.pth")}
    full = ["bash", "-c", 'ulimit -f 200; exec "$@"', "-", sys.executable, str(ROOT / "train.py")]
    argv = [*full, *map(str, common), "--checkpoints_dir", str(folder.parent)]
    argv += ["--continue_train", "--n_epochs", "2", "--save_latest_freq", "1"]
    result = subprocess.run(argv, capture_output=True, text=True, env=ONE_THREAD, timeout=120)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "File too large" in result.stderr and "--continue_train" in result.stderr
    assert result.stderr.count("\n") == 1
    assert all((folder / name).read_bytes() == content for name, content in before.items())
    assert not list(folder.glob("*.tmp"))
    command("train.py", *common, "--n_epochs", 2, "--continue_train")
    assert records(folder)[-1]["total_iters"] == 12


def test_a_limit_on_disk_space_ends_testing_with_a_message(
    command: Command, pairs: Path, tmp_path: Path
) -> None:
    command("train.py", "--dataroot", pairs, "--name", "run", *TRAINING, "--n_epochs", 1)
    common = [
        "--dataroot",
        pairs,
        "--name",
        "run",
        "--model",
        "pix2pix",
        "--png_level",
        0,
        "--num_threads",
        0,
    ]
    places = ["--checkpoints_dir", tmp_path / "checkpoints", "--results_dir", tmp_path / "results"]
    # The page and the options have less than 64 kB; an image of 160 x 160 pixels has 75.
    full = ["bash", "-c", 'ulimit -f 64; exec "$@"', "-", sys.executable, str(ROOT / "test.py")]
    argv = [*full, *map(str, [*common, *places, "--crop_size", 160])]
    result = subprocess.run(argv, capture_output=True, text=True, env=ONE_THREAD, timeout=120)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "File too large" in result.stderr and result.stderr.count("\n") == 1


def test_checkpoints_that_are_damaged_or_run_code(command: Command, pairs: Path, tmp_path: Path) -> None:
    common = ["--dataroot", pairs, "--name", "run", *TRAINING, "--num_threads", 0, "--n_epochs", 1]
    command("train.py", *common)
    folder = tmp_path / "checkpoints" / "run"
    (folder / "latest_state.pth").write_bytes((folder / "latest_state.pth").read_bytes()[:-1])
    torch.save({"w": Malicious()}, folder / "latest_state.prev.pth")
    result = command("train.py", *common, "--continue_train", status=2)
    assert "latest_state.pth: damaged" in result.stdout and "latest_state.prev.pth: damaged" in result.stdout
    assert "no undamaged state is left" in result.stderr
    torch.save({"w": Malicious()}, folder / "latest_net_G.pth")
    test = ["--dataroot", pairs, "--name", "run", *SMALL]
    assert "it could run code" in command("test.py", *test, status=2).stderr
    initial = ["--name", "other", "--init_from", folder]
    assert "it could run code" in command("train.py", *common, *initial, status=2).stderr
    assert not (tmp_path / "executed").exists()


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


def test_an_error_in_mid_run_loses_nothing(command: Command, data: dict[str, Path], tmp_path: Path) -> None:
    dataroot = tmp_path / "data"
    shutil.copytree(data["aligned"], dataroot)
    common = ["--dataroot", dataroot, "--name", "run", *TRAINING, "--n_epochs", 1, "--num_threads", 0]
    common += ["--bad_images", "error", "--serial_batches", "--print_freq", 1]
    (dataroot / "train" / "0006.png").write_bytes(b"no image")
    error = command("train.py", *common, status=2).stderr
    assert "0006.png: cannot be read as an image" in error
    shutil.copy(dataroot / "train" / "0001.png", dataroot / "train" / "0006.png")
    command("train.py", *common, "--continue_train")
    assert [record["iters"] for record in records(tmp_path / "checkpoints" / "run")] == [1, 2, 3, 4, 5, 6]


def test_fine_tuning_saving_by_the_clock_and_keeping_few(
    command: Command, pairs: Path, tmp_path: Path
) -> None:
    common = ["--dataroot", pairs, *TRAINING, "--num_threads", 0]
    command("train.py", *common, "--name", "first", "--n_epochs", 3, "--save_epoch_freq", 1, "--keep_last", 2)
    first = tmp_path / "checkpoints" / "first"
    assert {path.name for path in first.glob("*_state.pth")} == {
        "2_state.pth",
        "3_state.pth",
        "latest_state.pth",
    }
    (first / "latest_net_D.pth").unlink()
    fine = ["--name", "fine", "--n_epochs", 1, "--init_from", first, "--lr", 1e-30, "--deterministic"]
    output = command("train.py", *common, *fine, "--save_latest_minutes", 1e-9, "--save_by_iter").stdout
    assert f"Network G starts from {first / 'latest_net_G.pth'}" in output and "start fresh: D" in output
    tuned = tmp_path / "checkpoints" / "fine"
    weights = [torch.load(folder / "latest_net_G.pth", weights_only=True) for folder in (first, tuned)]
    assert all(
        torch.equal(weights[1][k], t) for k, t in weights[0].items() if "running" not in k and "num" not in k
    )
    assert (tuned / "latest_state.prev.pth").exists()  # the clock saved before the end did

    # A new run under the old name keeps the earlier one at hand.
    output = command("train.py", *common, "--name", "fine", "--n_epochs", 1).stdout
    assert "--epoch replaced" in output
    kept = torch.load(tuned / "replaced_net_G.pth", weights_only=True)
    assert all(torch.equal(kept[name], tensor) for name, tensor in weights[1].items())
    for path in tuned.glob("latest_*"):
        path.unlink()  # as if it had been killed before its first save
    output = command("train.py", *common, "--name", "fine", "--n_epochs", 1, "--continue_train").stdout
    assert "nothing was saved yet; starting from the beginning" in output
