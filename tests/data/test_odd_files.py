"""Folders with files of every kind: checked, trained on, tested."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.commands import load_command
from tests.support.environment import ODD, ONE_THREAD, ROOT, Command, needs_odd
from util.errors import UserError

doctor = load_command("datasets/doctor.py")

MODEL = "--model pix2pix --dataset_mode template --gpu_ids -1 --netG unet_64 --ngf 8 --ndf 8 --crop_size 64"
TRAIN = f"{MODEL} --load_size 72 --n_epochs 1 --n_epochs_decay 1 --print_freq 1000"


def mixed_folder(folder: Path) -> Path:
    """Write five good images, three bad ones, and files that are ignored."""
    (folder / ".cache").mkdir(parents=True)
    for i in range(5):
        Image.new("RGB", (80, 70 + i), (40 * i, 0, 0)).save(folder / f"{i}.png")
    Image.new("RGB", (9, 9)).save(folder / ".cache" / "thumb.png")
    for name in ("0a.png", "1a.jpg", "9.tif", ".hidden.png", "notes.txt", "Thumbs.db"):
        (folder / name).write_bytes(b"not an image")
    return folder


def peak_of(argv: list[str]) -> int:
    """The peak memory of a process in MB."""
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(argv, env=ONE_THREAD, stdout=nowhere)
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_maxrss // 1024


def test_bad_images_are_replaced_in_training_and_skipped_in_testing(command: Command, tmp_path: Path) -> None:
    mixed_folder(tmp_path / "data" / "train")
    common = ["--dataroot", tmp_path / "data", "--name", "run", *TRAIN.split()]
    output = command("train.py", *common, "--num_threads", 2).stdout
    assert "8 training images" in output
    for name in ("0a.png", "1a.jpg", "9.tif"):
        assert output.count(f"{name}: cannot be read as an image") == 1
    assert ".hidden" not in output and "Thumbs" not in output and "thumb" not in output
    error = command("train.py", *common, "--bad_images", "error", status=2).stderr
    assert "cannot be read as an image" in error and error.count("\n") == 1

    arguments = ["--dataroot", tmp_path / "data", "--name", "run", *MODEL.split(), "--phase", "train"]
    for batch_size in (1, 3):
        # An image that is left out is counted and changes the status, unless that was asked for.
        flags = [["--bad_images", "skip"], []][batch_size == 3]
        output = command("test.py", *arguments, *flags, "--batch_size", batch_size, status=not flags).stdout
        assert output.count(": skipped") == 3 and "5 images: " in output
        assert output.splitlines()[-1].endswith("index.html (3 left out, see the warnings above)")
        results = tmp_path / "results" / "run" / "train_latest"
        page = (results / "index.html").read_text()
        assert re.findall(r"<h2>(\w+)</h2>", page) == ["0", "1", "2", "3", "4"]
        assert len(list((results / "images").iterdir())) == 15
    assert "0a.png" in command("test.py", *arguments, "--bad_images", "error", status=2).stderr


def test_a_folder_of_bad_images_is_an_error(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"not an image")
    common = ["--dataroot", tmp_path / "data", "--name", "run", *TRAIN.split()]
    assert "None of these 2 images can be used" in command("train.py", *common, status=2).stderr


def test_a_folder_can_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = mixed_folder(tmp_path / "data")
    assert doctor.main(["--list", str(folder)]) == 1
    output = capsys.readouterr().out
    assert "6 loaded, 3 bad, 3 ignored" in output
    assert re.search(r"4\.png +loaded +80 x 74\n", output)
    assert re.search(r"9\.tif +bad +cannot be read as an image \(", output)
    assert re.search(r"\.hidden\.png +ignored +hidden\n", output)
    for path in folder.iterdir():
        if path.is_file() and (path.suffix != ".png" or path.name == "0a.png"):
            path.unlink()
    assert doctor.main(["--list", str(folder)]) == 0
    with pytest.raises(UserError):
        doctor.main(["--list", str(tmp_path / "absent")])


@needs_odd
def test_all_odd_files_run_through_training_and_testing(command: Command, tmp_path: Path) -> None:
    for name, files in (("all", ODD.glob("*/*")), ("one", [ODD / "valid" / "hopper.jpg"])):
        folder = tmp_path / name / "train"
        folder.mkdir(parents=True)
        for path in files:
            (folder / path.name).symlink_to(path)
    peaks = {}
    for name in ("one", "all"):
        flags = [*TRAIN.split(), "--checkpoints_dir", str(tmp_path / "checkpoints"), "--num_threads", "0"]
        argv = [sys.executable, str(ROOT / "train.py"), "--dataroot", str(tmp_path / name), "--name", name]
        peaks[name] = peak_of([*argv, *flags])
    assert peaks["all"] - peaks["one"] < 400

    bad = {path.name for folder in ("broken", "clutter") for path in (ODD / folder).iterdir()}
    bad -= {"Thumbs.db", "pngtest_bad.png.bin"}  # not named like images
    arguments = ["--dataroot", tmp_path / "all", *MODEL.split(), "--phase", "train"]
    output = command("test.py", "--name", "all", *arguments, "--num_threads", 2, status=1).stdout
    named = re.findall(r"/([^/\n]+): cannot be read as an image .*: skipped", output)
    assert sorted(named) == sorted(bad)
    assert f"{len(list((ODD / 'valid').iterdir()))} images: " in output
