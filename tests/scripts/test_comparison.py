"""Comparison of runs: the numbers of the table, the files, the data of the page."""

import csv
import json
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scripts.comparison.curves import resample
from scripts.comparison.page import write_comparison
from scripts.comparison.runs import (
    RunGroup,
    Series,
    TrainedRun,
    best_group,
    group_runs,
    read_images,
    read_losses,
    read_metrics,
    read_run,
    read_validation,
)
from scripts.comparison.tables import groups_csv, groups_latex, latex, runs_csv
from tests.support.environment import ONE_THREAD, ROOT
from util.errors import UserError
from util.pages.gallery import About, Gallery
from util.text import csv_text, printable

FLAGS = {"norm": "instance", "lr": 0.0002, "note": "", "seed": 0, "num_threads": 4, "no_dropout": False}
METRICS = [{"psnr": 20.25 + i, "fid": 100.0 - 3 * i**2, "l1": 0.125 * i} for i in range(6)]


def make_run(folder: Path, name: str, metrics: dict[str, Any] | None, **flags: object) -> TrainedRun:
    """Write and read a run with two images per sample, of which one differs between runs."""
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
    runs = []
    for i, metrics in enumerate(METRICS):
        norm = "instance" if i < 3 else "batch"
        given = None if i == 5 else metrics
        runs.append(make_run(tmp_path, f"run{'x' * (i > 2)}{i}", given, norm=norm, seed=i % 3, num_threads=i))
    return runs


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
    assert best_group(groups, "psnr") == 1
    assert best_group(groups, "l1") == 0
    assert best_group(groups, "unheard_of") is None
    assert best_group(groups[:1], "psnr") is None


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([(20.0, 21.0, 22.0), (24.0, 25.0, 26.0)], 1),  # 4 apart; 2 standard errors are 1.63
        ([(20.0, 21.0, 22.0), (21.0, 22.5, 24.0)], None),  # 1.5 apart; 2 standard errors are 2.08
        ([(20.0, 21.0, 22.0), (30.0,)], None),  # a single seed shows no noise
        ([(20.0,), (30.0,)], None),
        ([(20.0, 21.0), (24.0, 25.0), (10.0, 30.0)], None),  # within the noise of the third group
        ([(20.0, 20.0), (20.0, 20.0)], None),
        ([(0.1, 0.1, 0.1), (0.1 + 1e-17, 0.1, 0.1 + 3e-17)], None),  # rounding errors
        ([(20.0, 20.0), (20.5, 20.5)], 1),
        ([(20.0, 21.0), (float("inf"), 30.0)], None),
    ],
)
def test_best_is_marked_only_outside_the_noise(values: list[tuple[float, ...]], best: int | None) -> None:
    groups = [
        RunGroup(str(i), {}, tuple(TrainedRun("", {}, metrics={"psnr": value, "l1": -value}) for value in of))
        for i, of in enumerate(values)
    ]
    assert best_group(groups, "psnr") == best_group(groups, "l1") == best
    assert ("\\textbf" in groups_latex(groups)) == (best is not None)


def unescaped(text: str) -> str:
    for plain, escaped in (("~", "textasciitilde{}"), ("^", "textasciicircum{}")):
        text = text.replace(f"\\{escaped}", plain)
    text = re.sub(r"\\([&%$#_{}])", r"\1", text.replace(r"\textbackslash{}", "\0"))
    return text.replace("\0", "\\")


def test_latex_and_csv_give_odd_values_back(tmp_path: Path) -> None:
    odd = ["50%_#1 & {more}", 'a\\b~c^d,"quoted"\nline $x$']
    runs = [make_run(tmp_path, f"run{i}", METRICS[i], note=note) for i, note in enumerate(odd)]
    groups = group_runs(runs)
    assert [csv_text(row["note"]) for row in csv.DictReader(groups_csv(groups).splitlines())] == odd
    assert [unescaped(latex(note)) for note in odd] == [printable(note) for note in odd]
    table = groups_latex(groups)
    body = table.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    cells = [re.split(r" (?<!\\)& ", line.removesuffix(r" \\")) for line in body]
    assert [unescaped(row[0]) for row in cells] == [printable(note) for note in odd]
    assert [row[1] for row in cells] == ["1", "1"]
    assert cells[1][2] == "21.25" and cells[0][2] == "20.25"  # single seeds: none is marked


def test_formulas_in_values_and_names_are_texts(tmp_path: Path) -> None:
    odd = ["=cmd|' /C calc'!A0", "+1;=2", "@x", "-2", "\t=1", "caf\udce9\x1b[2J"]
    runs = [make_run(tmp_path, f"=run{i}", METRICS[i], note=note) for i, note in enumerate(odd)]
    groups = group_runs(runs)
    for table in (groups_csv(groups), runs_csv(groups)):
        table.encode("utf-8")
        cells = [row["note"] for row in csv.DictReader(table.splitlines())]
        assert [csv_text(cell) for cell in cells] == odd
        assert cells[3] == "-2" and not any(cell.startswith(("=", "+", "@", "\t")) for cell in cells)
    page = write_comparison(runs, tmp_path / "out", "x").read_text("utf-8")
    assert "\x1b" not in page and r"caf\udce9\x1b[2J" in page


@pytest.mark.parametrize("number", ["1e999", "NaN", "0", "-5", f"1{'0' * 400}"])
def test_epochs_without_a_place_on_a_chart_are_refused(tmp_path: Path, number: str) -> None:
    path = tmp_path / "losses.jsonl"
    path.write_text(f'{{"epoch": {number}, "losses": {{"G": 1}}}}\n')
    with pytest.raises(UserError, match=r"losses\.jsonl: line 1: epoch: expected the number of an epoch"):
        read_losses(path)
    path.write_text(f'{{"epoch": 1, "losses": {{"G": 1{"0" * 400}}}}}\n')
    with pytest.raises(UserError, match=r"losses\.G: expected a number or null, found a number of 1329 bits"):
        read_losses(path)


def test_a_run_alone_with_an_overview_of_other_labels(tmp_path: Path) -> None:
    run, results = make_run(tmp_path, "run", METRICS[0]), tmp_path / "results" / "run" / "test_latest"
    image = np.zeros((8, 8, 3), np.uint8)
    with Gallery(results, "run") as gallery:
        gallery.add("overview", {"palette": image})
        gallery.add("1", {"real_A": image, "fake_B": image})
    run = read_run("run", tmp_path / "checkpoints" / "run", results, run.flags)
    page = write_comparison([run], tmp_path / "out", "x").read_text("utf-8")
    copied = {path.name for path in (tmp_path / "out" / "images").iterdir()}
    assert copied == {"overview_palette.png", "1_real_A.png", "1_fake_B.png"} and page.count("<figure") == 3


def test_only_images_of_the_gallery_are_copied(tmp_path: Path) -> None:
    run = make_run(tmp_path, "run", METRICS[0])
    results, out = tmp_path / "results" / "run" / "test_latest", tmp_path / "out"
    content = (results / "gallery.json").read_text()
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    link = results / "images" / "2_fake_B.png"
    outside = json.dumps("../../../secret.png"), json.dumps(str(secret)), json.dumps("images/\0")
    for file in outside:
        (results / "gallery.json").write_text(content.replace('"images/2_fake_B.png"', file))
        with pytest.raises(UserError, match="outside of the gallery's folder"):
            read_images(results)
    (results / "gallery.json").write_text(content)
    link.unlink()
    link.symlink_to(secret)
    with pytest.raises(UserError, match="outside of the gallery's folder"):
        read_images(results)
    link.unlink()
    bomb = b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 1 << 16, 1 << 16, 1, 24, 0, 0, 0, 0, 0, 0)
    for damaged in (None, b"no image", bomb):
        if damaged:
            link.write_bytes(damaged)
        with pytest.raises(UserError, match=r"2_fake_B\.png: .*; run test\.py again"):
            write_comparison([run], out, "x")
    (out / "images" / "1 &b_fake_B.png").unlink()
    (out / "images" / "1 &b_fake_B.png").symlink_to(secret)
    Image.new("RGB", (8, 8)).save(link)
    write_comparison([run], out, "x")
    assert not (out / "images" / "1 &b_fake_B.png").is_symlink()
    write_comparison([run], out, "x", samples=1)
    assert {path.name[:1] for path in (out / "images").iterdir()} == {"1"}  # those of the first page are gone


def test_results_that_test_py_is_writing_are_missing(tmp_path: Path) -> None:
    make_run(tmp_path, "run", METRICS[0])
    results = tmp_path / "results" / "run" / "test_latest"
    (results / "metrics.json").unlink()
    Gallery(results, "x").add("1", {"real_A": np.zeros((4, 4, 3), np.uint8)})
    run = read_run("run", tmp_path / "checkpoints" / "run", results, FLAGS)
    assert not run.images and "has not finished" in run.missing


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
    assert 'id="losses"' in page and 'id="validation"' not in page
    [content] = [json.loads(text) for text in re.findall(r'class="curves"[^>]*>(.*?)</script>', page)]
    assert content["groups"] == ["norm instance (3)", "norm batch (3)"]
    [chart] = content["charts"]
    assert chart["name"] == "G_L1" and chart["end"] == 2 and chart["count"] == 4
    assert chart["runs"]["0"] == [[8, 7, 7, 6], [9, 8, 8, 7], [10, 9, 9, 8]]
    assert len(chart["runs"]["1"]) == 3
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
    (tmp_path / "metrics.json").write_text(json.dumps({"mean": {"mae": 2.0, "mae[4]": 3.0, "psnr": None}}))
    assert read_metrics(tmp_path / "metrics.json") == {"mae": 2.0}  # not by channel


def test_validation_curves_are_read(tmp_path: Path) -> None:
    lines = [{"epoch": 2 * i, "total_iters": i, "metrics": {"psnr": 20 + i}} for i in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert read_validation(tmp_path / "metrics.jsonl") == {"psnr": Series([2, 4], [21, 22])}


def test_diagnostics_are_apart_from_losses_in_old_files_too(tmp_path: Path) -> None:
    path = tmp_path / "losses.jsonl"
    old = {"G_GAN": 1.0, "grad_G": 2.0, "D_acc_real": 0.5, "diversity": 0.7, "G_A_light": 0.1}
    new = {"losses": {"G_GAN": 3.0}, "diagnostics": {"grad_G": 4.0}}
    records = [{"epoch": 1, "losses": old}, {"epoch": 2, **new}]
    path.write_text(json.dumps(records[0]) + "\n")
    losses, diagnostics = read_losses(path)
    assert list(losses) == ["G_GAN"]
    assert list(diagnostics) == ["grad_G", "D_acc_real", "diversity", "G_A_light"]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))  # an old run that was resumed
    losses, diagnostics = read_losses(path)
    assert losses == {"G_GAN": Series([1, 2], [1, 3])}
    assert diagnostics["grad_G"] == Series([1, 2], [2, 4])


def test_images_come_from_gallery_json(tmp_path: Path) -> None:
    with Gallery(tmp_path, "x", about=About(paired=True)) as gallery:
        for name in ("b_real_A", "a"):
            gallery.add(name, {label: np.zeros((4, 4, 3), np.uint8) for label in ("real_A", "odd_label")})
    (tmp_path / "images" / "left_fake_B.png").touch()  # of an earlier test
    images, paired = read_images(tmp_path)
    assert paired is True and list(images) == ["b_real_A", "a"]
    assert images["b_real_A"] == {
        "real_A": tmp_path / "images" / "b_real_A_real_A.png",
        "odd_label": tmp_path / "images" / "b_real_A_odd_label.png",
    }
    (tmp_path / "gallery.json").write_text('{"rows": [3]}')
    with pytest.raises(UserError, match=r"gallery\.json"):
        read_images(tmp_path)


def test_images_of_a_gallery_without_gallery_json(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    rows = {
        "1_2": ["real_A", "fake_B", "real_B"],
        "cat_fake_A": ["rec_A", "idt_B"],
        "x": ["real_B_rgb", "fake_B_rgb", "fake_B_rgb_2", "style", "fake_style"],
        "dog": ["real", "fake"],
        "overview": ["samples"],
    }
    for name, labels in rows.items():
        for label in labels:
            (folder / f"{name}_{label}.png").touch()
    images, paired = read_images(tmp_path)
    assert paired is None
    assert {name: sorted(files) for name, files in images.items()} == {
        name: sorted(labels) for name, labels in rows.items()
    }
    assert images["dog"]["fake"] == folder / "dog_fake.png"
    assert read_images(tmp_path / "absent") == ({}, None)


def test_results_of_older_versions_stay_comparable(tmp_path: Path, runs: list[TrainedRun]) -> None:
    for path in tmp_path.glob("results/*/*/gallery.json"):
        path.unlink()
    results = tmp_path / "results" / "run0" / "test_latest"
    again = read_run("run0", tmp_path / "checkpoints" / "run0", results, runs[0].flags)
    assert again.images == runs[0].images and not again.missing


def test_a_curve_is_means_between_places() -> None:
    series = Series([0.5, 1.0, 1.5, 2.0, 4.0], [1.0, 3.0, 5.0, float("nan"), 9.0])
    assert resample(series, 4.0, 4) == pytest.approx([2, 5, 7, 9], nan_ok=True)
    assert resample(series, 5.0, 5)[4] != resample(series, 5.0, 5)[4]  # not got so far: NaN
    assert np.isnan(resample(Series([1.0, 2.0], [float("nan"), 1.0]), 2.0, 2)[0])


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
