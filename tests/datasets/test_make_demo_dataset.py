"""The command that draws a data set of façades."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.facades import LABEL_COLOURS
from tests.support.commands import load_command

demo = load_command("datasets/make_demo_dataset.py")

SIZE = 64


def write(out: Path, train: int = 2, val: int = 1, test: int = 1, size: int = SIZE, seed: int = 0) -> int:
    counts = {"train": train, "val": val, "test": test, "size": size, "seed": seed}
    return demo.main(["--out", str(out), *(word for k, v in counts.items() for word in (f"--{k}", str(v)))])


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.png"))}


def test_same_command_writes_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a") == write(tmp_path / "b") == 0
    first = contents(tmp_path / "a")
    assert list(first) == ["test/0001.png", "train/0001.png", "train/0002.png", "val/0001.png"]
    assert first == contents(tmp_path / "b")


def test_rerun_replaces_files_of_the_same_name(tmp_path: Path) -> None:
    assert write(tmp_path) == 0
    before = contents(tmp_path)
    (tmp_path / "train" / "0001.png").write_bytes(b"stale")
    assert write(tmp_path) == 0
    assert contents(tmp_path) == before


def test_asking_for_more_keeps_the_earlier_images(tmp_path: Path) -> None:
    write(tmp_path / "few", train=1)
    write(tmp_path / "many", train=3)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    assert len(many) == len(few) + 2
    assert few.items() <= many.items()


@pytest.mark.parametrize("size", [32, 50, 128])
def test_file_is_an_rgb_pair_side_by_side(tmp_path: Path, size: int) -> None:
    assert write(tmp_path, train=1, val=0, test=0, size=size) == 0
    with Image.open(tmp_path / "train" / "0001.png") as pair:
        assert (pair.mode, pair.size) == ("RGB", (2 * size, size))
        pixels = np.asarray(pair)
    colours = [len(np.unique(half.reshape(-1, 3), axis=0)) for half in (pixels[:, :size], pixels[:, size:])]
    assert colours[0] > 200 and colours[1] <= len(LABEL_COLOURS)


@pytest.mark.parametrize(
    "values", [{"size": 31}, {"size": 30}, {"size": 65}, {"train": -1}, {"test": -2}, {"seed": -1}]
)
def test_bad_values_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: dict[str, int]
) -> None:
    assert write(tmp_path / "out", **values) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and f"--{next(iter(values))}" in message
    assert not (tmp_path / "out").exists()


def test_out_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "file"
    out.write_text("kept")
    assert write(out) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert out.read_text() == "kept"


def test_training_command_is_suggested(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert write(tmp_path / "my set", train=1, val=0, test=0) == 0
    assert f"--dataroot '{tmp_path / 'my set'}' --name demo --model pix2pix --direction BtoA" in caplog.text
