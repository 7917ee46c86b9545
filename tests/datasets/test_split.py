"""The command that divides a data set: what belongs together ends on one side, and nothing is lost."""

import csv
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import load_command
from util.errors import UserError
from util.seeding import numpy_rng

split = load_command("datasets/split.py")

PHASES = ("train", "val", "test")


def draw(path: Path, seed: int) -> None:
    coarse = numpy_rng("split image", seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC).save(path)


def run(dataroot: Path, out: Path, *flags: str) -> int:
    return split.main(["--dataroot", str(dataroot), "--out", str(out), "--num_threads", "1", *flags])


def names(out: Path, part: str = "") -> dict[str, set[str]]:
    return {phase: {path.name for path in (out / f"{phase}{part}").rglob("*.png")} for phase in PHASES}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twenty pairs of ten patients in D/A and D/B."""
    for number in range(20):
        for k, side in enumerate("AB"):
            draw(tmp_path / "D" / side / f"p{number // 2:02d}_{number}.png", 2 * number + k)
    return tmp_path / "D"


def test_parts_and_groups_stay_together(pairs: Path, tmp_path: Path) -> None:
    flags = ("--val", "0.2", "--test", "4", "--group", r"^p\d+")
    assert run(pairs, tmp_path / "S", *flags) == 0
    A, B = names(tmp_path / "S", "A"), names(tmp_path / "S", "B")
    assert A == B and [len(A[phase]) for phase in PHASES] == [12, 4, 4]
    patients = [{name[:3] for name in A[phase]} for phase in PHASES]
    assert len(set.union(*patients)) == sum(map(len, patients)) == 10
    source = pairs / "A" / min(A["val"])
    assert (tmp_path / "S" / "valA" / source.name).read_bytes() == source.read_bytes()
    rows = list(csv.DictReader((tmp_path / "S" / "split.csv").open()))
    assert {row["sample"] + ".png" for row in rows if row["phase"] == "val"} == A["val"]


def test_seed_decides(pairs: Path, tmp_path: Path) -> None:
    for out, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        run(pairs, tmp_path / out, "--ratio", "6,2,2", "--seed", seed)
    a, b, c = (names(tmp_path / out, "A") for out in "abc")
    assert a == b != c and [len(c[phase]) for phase in PHASES] == [12, 4, 4]


def test_near_duplicates_end_on_one_side(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(24):
        draw(tmp_path / "D" / f"{number:02d}.png", number)
    for number in range(6):
        image = Image.open(tmp_path / "D" / f"{number:02d}.png")
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((70, 60)).save(
            tmp_path / "D" / f"{number:02d}x.png"
        )
    with caplog.at_level(logging.INFO):
        run(tmp_path / "D", tmp_path / "S", "--val", "0.3", "--test", "0.3", "--how", "link")
    assert caplog.text.count("nearly the same, kept together") == 6
    found = names(tmp_path / "S")
    for number in range(6):
        assert [f"{number:02d}.png" in found[p] for p in PHASES] == [
            f"{number:02d}x.png" in found[p] for p in PHASES
        ]
    assert sum(map(len, found.values())) == 30
    assert (tmp_path / "S" / "train" / min(found["train"])).stat().st_nlink == 2


def test_train_is_divided_in_place(tmp_path: Path) -> None:
    for number in range(10):
        draw(tmp_path / "train" / f"{number}.png", number)
    with pytest.raises(UserError, match="--how move"):
        run(tmp_path, tmp_path)
    assert run(tmp_path, tmp_path, "--how", "move", "--test", "0", "--val", "3") == 0
    found = names(tmp_path)
    assert [len(found[phase]) for phase in PHASES] == [7, 3, 0]
    assert sorted(set.union(*found.values())) == [f"{number}.png" for number in range(10)]


def test_unpaired_sides_are_divided_alike(tmp_path: Path) -> None:
    for number in range(10):
        draw(tmp_path / "D" / "A" / f"a{number}.png", number)
    for number in range(20):
        draw(tmp_path / "D" / "B" / f"b{number}.png", 100 + number)
    run(tmp_path / "D", tmp_path / "S", "--val", "0.2", "--test", "0.1")
    assert [len(names(tmp_path / "S", "A")[phase]) for phase in PHASES] == [7, 2, 1]
    assert [len(names(tmp_path / "S", "B")[phase]) for phase in PHASES] == [14, 4, 2]


def test_nothing_is_overwritten_or_lost(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "S"
    assert run(pairs, out, "--dry_run") == 0 and not out.exists()
    run(pairs, out)
    for flags, message in (
        ((), "exists, and is not overwritten"),
        (("--group", "x"), "does not match p00_0"),
        (("--group", "("), "no regular expression"),
        (("--group", "^p"), "would be empty"),
        (("--val", "0.6", "--test", "0.5"), "nothing would be left"),
        (("--ratio", "8;1"), "expected parts"),
    ):
        with pytest.raises(UserError, match=message):
            run(pairs, out, *flags)
    (pairs / "B" / "p00_1.png").unlink()
    with pytest.raises(UserError, match=r"1 images have no partner .* such as p00_1"):
        run(pairs, tmp_path / "T")
    assert not (tmp_path / "T").exists()
