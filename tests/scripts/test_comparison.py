"""Runs side by side: the numbers of the table, what is written to files, what the page shows."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scripts.comparison.charts import resample, ticks
from scripts.comparison.page import write_comparison
from scripts.comparison.runs import (
    Series,
    TrainedRun,
    best_groups,
    group_runs,
    read_metrics,
    read_run,
    read_series,
)
from scripts.comparison.tables import groups_csv, groups_latex, latex, runs_csv
from tests.support.environment import ONE_THREAD, ROOT
from util.errors import UserError
from util.pages.gallery import Gallery

FLAGS = {"norm": "instance", "lr": 0.0002, "note": "", "seed": 0, "num_threads": 4, "no_dropout": False}
METRICS = [{"psnr": 20.25 + i, "fid": 100.0 - 3 * i**2, "l1": 0.125 * i} for i in range(6)]


def make_run(folder: Path, name: str, metrics: dict[str, Any] | None, **flags: object) -> TrainedRun:
    """A run as train.py and test.py leave it, with two images of which one is its own."""
    run, results = folder / "checkpoints" / name, folder / "results" / name / "test_latest"
    run.mkdir(parents=True)
    given = {**FLAGS, "name": name, **flags}
    (run / "train_opt.json").write_text(json.dumps(given))
    number = int(str(flags.get("seed", 0)))
    records = [
        {"epoch": epoch, "epoch_fraction": part / 2, "losses": {"G_L1": 10 - epoch - part + number}}
        for epoch in (1, 2)
        for part in (1, 2)
    ]
    (run / "losses.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + '{"epo')
    if metrics is not None:
        shade = 40 * len(name) % 256
        with Gallery(results, name) as gallery:
            for sample in ("1 <b>", "2"):
                images = {"real_A": np.full((8, 16, 3), 9, np.uint8), "fake_B": np.full((8, 16, 3), shade)}
                gallery.add(sample.replace("<b>", "&b"), {k: v.astype(np.uint8) for k, v in images.items()})
        (results / "metrics.json").write_text(json.dumps({"pictures": [], "mean": metrics}))
    return read_run(name, run, results, given)


@pytest.fixture
def runs(tmp_path: Path) -> list[TrainedRun]:
    """Two groups of three seeds; the last run has no results."""
    found = []
    for i, metrics in enumerate(METRICS):
        norm = "instance" if i < 3 else "batch"
        given = None if i == 5 else metrics
        found.append(
            make_run(tmp_path, f"run{'x' * (i > 2)}{i}", given, norm=norm, seed=i % 3, num_threads=i)
        )
    return found


def test_groups_differ_in_flags_that_matter(runs: list[TrainedRun]) -> None:
    groups = group_runs(runs)
    assert [group.label for group in groups] == ["norm instance", "norm batch"]
    assert [len(group.runs) for group in groups] == [3, 3]
    (alone,) = group_runs(runs[:3])
    assert alone.differing == {} and alone.label == "run0"


def test_the_numbers_are_those_of_the_runs_files(runs: list[TrainedRun]) -> None:
    groups = group_runs(runs)
    for row in csv.DictReader(groups_csv(groups).splitlines()):
        own = METRICS[:3] if row["norm"] == "instance" else METRICS[3:5]
        for name in ("psnr", "fid", "l1"):
            values = np.array([metrics[name] for metrics in own])
            assert float(row[f"{name}_mean"]) == pytest.approx(values.mean(), abs=1e-12)
            assert float(row[f"{name}_deviation"]) == pytest.approx(values.std(ddof=1), abs=1e-12)
            assert int(row[f"{name}_n"]) == len(values)
    listed = list(csv.DictReader(runs_csv(groups).splitlines()))
    assert [row["psnr"] for row in listed[:5]] == [str(metrics["psnr"]) for metrics in METRICS[:5]]
    assert listed[5]["psnr"] == "" and "no test results" in listed[5]["missing"]


def test_best_is_highest_or_lowest(runs: list[TrainedRun]) -> None:
    groups = group_runs(runs)
    assert best_groups(groups, "psnr") == {1}
    assert best_groups(groups, "l1") == {0}
    assert best_groups(groups, "unheard_of") == set()
    assert best_groups(groups[:1], "psnr") == set()


def unescaped(text: str) -> str:
    for plain, escaped in (("~", "textasciitilde{}"), ("^", "textasciicircum{}")):
        text = text.replace(f"\\{escaped}", plain)
    text = re.sub(r"\\([&%$#_{}])", r"\1", text.replace(r"\textbackslash{}", "\0"))
    return text.replace("\0", "\\")


def test_latex_and_csv_give_odd_values_back(tmp_path: Path) -> None:
    odd = ["50%_#1 & {more}", 'a\\b~c^d,"quoted"\nline $x$']
    runs = [make_run(tmp_path, f"run{i}", METRICS[i], note=note) for i, note in enumerate(odd)]
    groups = group_runs(runs)
    assert [row["note"] for row in csv.DictReader(groups_csv(groups).splitlines(keepends=True))] == odd
    assert [unescaped(latex(note)) for note in odd] == odd
    table = groups_latex(groups)
    body = table.replace("\nline", " line").split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    cells = [re.split(r" (?<!\\)& ", line.removesuffix(r" \\")) for line in body]
    assert [unescaped(row[0]) for row in cells] == [note.replace("\n", " ") for note in odd]
    assert [row[1] for row in cells] == ["1", "1"]
    assert cells[1][2] == r"\textbf{21.25}" and cells[0][2] == "20.25"


def test_latex_shows_mean_and_deviation(runs: list[TrainedRun]) -> None:
    table = groups_latex(group_runs(runs))
    assert r"psnr $\uparrow$" in table and r"fid $\downarrow$" in table
    # Of 20.25, 21.25, 22.25 the deviation is 1; of 23.25, 24.25 it is the square root of a half.
    assert "instance & 3 & 21.25 $\\pm$ 1.00 &" in table
    assert "batch & 2 & \\textbf{23.75} $\\pm$ 0.71 &" in table


def test_the_page_shows_each_input_once_and_every_group(tmp_path: Path, runs: list[TrainedRun]) -> None:
    out = tmp_path / "out"
    page = write_comparison(runs, out, "A & <B>", samples=1).read_text()
    assert "A &amp; &lt;B&gt;" in page and "<B>" not in page
    assert page.count('data-key="real_A"') == 1 and page.count('data-key="fake_B: norm batch"') == 1
    for address in re.findall(r'src="(images/[^"]+)"', page):
        name = address.replace("%20", " ").replace("%26", "&")
        assert (out / name).exists(), address
    assert np.array(Image.open(out / "images" / "1 &b_real_A.png")).max() == 9
    assert page.count('class="run ') == 6 and page.count('class="mean group-0') >= 1
    assert "Missing: 1 of 6 runs" in page and "<b>runx5</b>" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    write_comparison(runs, out, "again")  # over its own page


def test_a_page_of_another_kind_is_not_overwritten(tmp_path: Path, runs: list[TrainedRun]) -> None:
    with pytest.raises(UserError, match="another kind"):
        write_comparison(runs, tmp_path / "results" / "run0" / "test_latest", "x")


def test_a_damaged_metrics_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json"):
        read_metrics(tmp_path / "metrics.json")
    assert read_metrics(tmp_path / "absent.json") == {}


def test_validation_curves_are_read(tmp_path: Path) -> None:
    lines = [{"epoch": 2 * i, "total_iters": i, "metrics": {"psnr": 20 + i}} for i in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert read_series(tmp_path / "metrics.jsonl", "metrics") == {"psnr": Series([2, 4], [21, 22])}


def test_a_curve_is_means_between_places() -> None:
    series = Series([0.5, 1.0, 1.5, 2.0, 4.0], [1.0, 3.0, 5.0, float("nan"), 9.0])
    assert resample(series, 4.0, 4) == pytest.approx([2, 5, 7, 9], nan_ok=True)
    assert resample(series, 5.0, 5)[4] != resample(series, 5.0, 5)[4]  # not got so far: NaN
    assert np.isnan(resample(Series([1.0, 2.0], [float("nan"), 1.0]), 2.0, 2)[0])


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3.2, 17), (0.1, 0.92), (1e-7, 2e-7), (0, 30000), (99.99, 100.01)]
)
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high, 6)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def compare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command: Sequence[str] = [sys.executable, str(ROOT / "scripts" / "compare.py"), *arguments]
    return subprocess.run(command, cwd=folder, env=ONE_THREAD, capture_output=True, text=True)


def test_compare_finds_runs_and_their_results(tmp_path: Path, runs: list[TrainedRun]) -> None:
    done = compare(tmp_path, "run0", "checkpoints/run1", "checkpoints", "--out", "page")
    assert done.returncode == 0, done.stderr
    assert "6 runs: page/index.html" in done.stdout and "runx5: no test results" in done.stdout
    rows = list(csv.DictReader((tmp_path / "page" / "table.csv").open()))
    assert [row["norm"] for row in rows] == ["instance", "batch"]
    assert float(rows[0]["psnr_mean"]) == 21.25
    done = compare(tmp_path, "run0", "rum1", "--out", "page")
    assert done.returncode == 2 and "rum1: there is no run" in done.stderr
