"""Results of test.py: those of this test alone, under any names, without a change of the run."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import test as test_command
from tests.support.training import training
from util.files import read_text
from util.text import csv_text

LONG = "n" * 251
ODD = ["=1+1", "a\nb\x1b[31m", "back\\slash", "caf\udce9", "日本", LONG]


@pytest.fixture
def odd_pairs(tmp_path: Path) -> Path:
    """A data set of pairs in a folder and with files of odd names, of which two are equal."""
    root = tmp_path / "d\udce9"
    image = Image.fromarray(np.arange(36 * 72 * 3, dtype=np.uint32).astype(np.uint8).reshape(36, 72, 3))
    for name in [*(f"test/{name}" for name in ODD), "test/y/x", "test/z\t/x", "train/caf\udce9"]:
        path = root / f"{name}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        except OSError:
            pytest.skip("this file system takes only Unicode names")
    return root


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "gallery.json").read_text("ascii"))["rows"]


def test_results_of_odd_names_in_a_run_that_cannot_be_written_to(
    odd_pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert training(odd_pairs, tmp_path / "ck\udcfe", "--n_epochs", 1) == 0
    run, results = tmp_path / "ck\udcfe" / "run", tmp_path / "results"
    options = read_text(run / "train_opt.txt")
    (run / "train_opt.json").unlink()
    # As the peer writes it on a computer with Chinese or French settings.
    (run / "train_opt.txt").write_bytes(f"{options}  extra: ".encode("gbk") + "数据 Faç\n".encode("gb18030"))
    page = run / "web" / "index.html"
    page.rename(run / "web" / "other.html")
    page.symlink_to("other.html")  # root may write to every folder, but nobody through a link
    before = contents(run)

    def test(phase: str) -> Path:
        flags = (
            f"--name run --model pix2pix --gpu_ids -1 --num_threads 0 --phase {phase} --metrics l1".split()
        )
        places = ["--checkpoints_dir", str(run.parent), "--results_dir", str(results)]
        assert test_command.main(["--dataroot", str(odd_pairs), *flags, *places]) == 0
        return results / "run" / f"{phase}_latest"

    folder = test("test")
    assert contents(run) == before
    assert "has no link to the gallery" in caplog.text
    rows = rows_of(folder)
    names = [*ODD[:-1], LONG[: len(rows[-4]["name"])], "x", "x_2"]
    assert sorted(row["name"] for row in rows) == sorted(names)
    assert {row["source"] for row in rows} == {
        *(f"test/{n}.png" for n in ODD),
        "test/y/x.png",
        "test/z\t/x.png",
    }
    files = {file for row in rows for file in row["images"].values()}
    assert files == {f"images/{name}" for name in os.listdir(folder / "images")} and len(files) == 24
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        cells = [row["name"] for row in csv.DictReader(file)]
    assert [csv_text(cell) for cell in cells[:-1]] == [row["name"] for row in rows]
    assert "'=1+1" in cells and r"caf\udce9" in cells
    shown = read_text(folder / "index.html")
    assert r"from test/z\t/x.png" in shown and r"a\nb\x1b[31m" in shown and "\x1b" not in shown
    assert r"d\udce9" in read_text(folder / "test_opt.txt")
    assert json.loads((folder / "test_opt.json").read_bytes())["dataroot"] == str(odd_pairs)

    for path in (odd_pairs / "test").glob("[!b]*.png"):
        path.unlink()
    test("test")
    left = {row["name"] for row in rows_of(folder)}
    assert left == {"back\\slash", "x", "x_2"}
    labels = ("fake_B", "real_A", "real_B")
    assert set(os.listdir(folder / "images")) == {f"{name}_{label}.png" for name in left for label in labels}
    assert test("train") != folder and len(list((folder / "images").iterdir())) == 9
