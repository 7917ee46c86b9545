"""The page of a training run: appended losses and images, and resuming."""

import json
import math
import os
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training.loggers.html_sink import TrainingPage


class Reader(HTMLParser):
    """Collects the images, sections, loss records and end markers of a training page."""

    def __init__(self, page: TrainingPage) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.epochs: list[str | None] = []
        self.records: list[dict[str, Any]] = []
        self.endings: list[str] = []
        self.inside: str | None = None
        self.feed(page.files[0].read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append(tag)
        self.inside = attributes.get("class")
        if tag == "img":
            self.sources.append(attributes["src"] or "")
        if "data-epoch" in attributes:
            self.epochs.append(attributes["data-epoch"])

    def handle_data(self, data: str) -> None:
        if self.inside == "loss":
            self.records.append(json.loads(data, parse_constant=pytest.fail))
        elif self.inside == "end":
            self.endings.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.inside = None


def draw_image(level: int = 0) -> NDArray[np.uint8]:
    return np.full((4, 4, 3), level, np.uint8)


def samples(count: int, level: int = 0) -> list[dict[str, NDArray[np.uint8]]]:
    return [{"real_A": draw_image(level), "fake_B": draw_image(level)} for _ in range(count)]


def record(epoch: int = 1, fraction: float = 0.5, **losses: float) -> Any:
    return SimpleNamespace(
        epoch=epoch,
        epoch_fraction=fraction,
        iters=100,
        total_iters=1000 * epoch,
        time=0.1,
        data=0.01,
        learning_rate=0.0002,
        losses=losses or {"G_GAN": 1.0},
        learning_rates={"G": 0.0002, "D": 0.0002},
        diagnostics={},
    )


def size(page: TrainingPage) -> int:
    return page.files[0].stat().st_size


def test_file_names_and_sources(tmp_path: Path) -> None:
    page = TrainingPage(tmp_path, "run")
    page.log_visuals(7, samples(3))
    page.log_visuals(1234, samples(1))
    names = [f"epoch007_{label}{number}.png" for number in ("", "_1", "_2") for label in ("real_A", "fake_B")]
    names += ["epoch1234_real_A.png", "epoch1234_fake_B.png"]
    assert {path.name for path in (tmp_path / "web" / "images").iterdir()} == set(names)
    assert Reader(page).sources == [f"images/{name}" for name in names]
    assert page.files == (tmp_path / "web" / "index.html",)


def test_odd_labels_are_safe(tmp_path: Path) -> None:
    plain = TrainingPage(tmp_path / "plain", "run")
    plain.log_visuals(1, [{"fake_B": draw_image()}])
    odd = TrainingPage(tmp_path / "odd", "</title><script>")
    odd.log_visuals(1, [{'<b>&"\'#% ü data-epoch="2"': draw_image()}])
    assert Reader(odd).tags == Reader(plain).tags
    [source] = Reader(odd).sources
    assert (tmp_path / "odd" / "web" / unquote(source)).is_file()
    odd.log_visuals(2, [{"fake_B": draw_image()}])
    assert Reader(odd).epochs == ["1", "2"]


def test_losses_come_back(tmp_path: Path) -> None:
    page = TrainingPage(tmp_path, "run")
    page.log_losses(record(2, 0.25, G_GAN=0.123456789, D=-1e-9))
    [values] = Reader(page).records
    assert values.pop("written") > 1e9
    assert values == {
        "epoch": 2,
        "epoch_fraction": 0.25,
        "iters": 100,
        "total_iters": 2000,
        "time": 0.1,
        "data": 0.01,
        "learning_rate": 0.0002,
        "losses": {"G_GAN": 0.123457, "D": -1e-9},
    }


def test_diagnostics_and_learning_rates_come_back(tmp_path: Path) -> None:
    page = TrainingPage(tmp_path, "run")
    values = record(G_GAN=1.0)
    values.diagnostics = {"D_acc_real": 0.5, "grad_G": math.nan}
    page.log_losses(values)
    values.learning_rates = {"G": 0.0002, "D": 0.0001}
    page.log_losses(values)
    first, second = Reader(page).records
    assert first["losses"] == {"G_GAN": 1.0}
    assert first["diagnostics"] == {"D_acc_real": 0.5, "grad_G": None}
    assert "learning_rates" not in first  # those that are equal are one number
    assert second["learning_rates"] == {"G": 0.0002, "D": 0.0001}


def test_losses_that_are_not_finite_are_gaps(tmp_path: Path) -> None:
    page = TrainingPage(tmp_path, "run")
    page.log_losses(record(a=math.nan, b=math.inf, c=-math.inf, d=0.0))
    assert Reader(page).records[0]["losses"] == {"a": None, "b": None, "c": None, "d": 0.0}


def test_losses_cannot_break_out(tmp_path: Path) -> None:
    page = TrainingPage(tmp_path, "run")
    plain = TrainingPage(tmp_path / "plain", "run")
    plain.log_losses(record())
    name = '</script><img src=x><!-- <script> ]]> \' " & data-epoch="1"'
    page.log_losses(record(**{name: 1.0}))
    assert Reader(page).tags == Reader(plain).tags
    assert Reader(page).records[0]["losses"] == {name: 1.0}
    page.log_visuals(1, samples(1))
    assert Reader(page).epochs == ["1"]


def test_same_epoch_twice_is_one_section_with_the_later_images(tmp_path: Path) -> None:
    page = TrainingPage(tmp_path, "run")
    page.log_visuals(11, samples(2))
    page.log_visuals(1, samples(2, level=1))
    before = page.files[0].read_bytes()
    page.log_visuals(1, samples(2, level=9))
    assert page.files[0].read_bytes() == before
    with Image.open(tmp_path / "web" / "images" / "epoch001_fake_B_1.png") as image:
        assert np.array_equal(np.asarray(image), draw_image(9))
    page.log_visuals(2, samples(2))
    page.log_visuals(1, samples(2))
    assert Reader(page).epochs == ["11", "1", "2"]


def test_page_only_grows_and_by_the_same_amount(tmp_path: Path) -> None:
    page = TrainingPage(tmp_path, "run")
    growth = set()
    for epoch in range(100, 110):
        before = page.files[0].read_bytes()
        page.log_visuals(epoch, samples(2))
        page.log_losses(record(epoch, 1.0))
        after = page.files[0].read_bytes()
        assert after.startswith(before)
        growth.add(len(after) - len(before) - len(str(1000 * epoch)))
    assert len(growth) == 1


@pytest.mark.parametrize("truncate_first", [True, False])
def test_resume_after_truncation(tmp_path: Path, truncate_first: bool) -> None:
    page = TrainingPage(tmp_path, "run")
    page.log_losses(record(1, 1.0))
    page.log_visuals(1, samples(1))
    checkpoint = size(page)
    kept = page.files[0].read_bytes()
    page.log_losses(record(2, 1.0))
    page.log_visuals(2, samples(1))
    # The file may be truncated before the page is opened again, or after it.
    if truncate_first:
        os.truncate(page.files[0], checkpoint)
    resumed = TrainingPage(tmp_path, "run", resume=True)
    if not truncate_first:
        os.truncate(page.files[0], checkpoint)
    resumed.log_visuals(1, samples(1))
    assert resumed.files[0].read_bytes() == kept
    resumed.log_losses(record(2, 1.0))
    resumed.log_visuals(2, samples(1))
    reader = Reader(resumed)
    assert reader.epochs == ["1", "2"]
    assert [values["epoch"] for values in reader.records] == [1, 2]
    assert reader.tags.count("title") == 1


def test_resume_without_a_page_starts_one(tmp_path: Path) -> None:
    page = TrainingPage(tmp_path, "run", resume=True)
    page.log_losses(record())
    assert Reader(page).tags.count("title") == 1
    os.truncate(page.files[0], 0)
    page.log_visuals(1, samples(1))
    assert Reader(page).tags.count("title") == 1 and Reader(page).epochs == ["1"]


def test_new_run_starts_the_page_anew(tmp_path: Path) -> None:
    TrainingPage(tmp_path, "run").log_visuals(1, samples(1))
    page = TrainingPage(tmp_path, "run")
    assert Reader(page).epochs == []
    page.log_visuals(1, samples(1))
    assert Reader(page).epochs == ["1"]


def test_how_images_are_shown_is_said_once(tmp_path: Path) -> None:
    notes = ["A: uint16, 0 to 4095 shown as black to white", "B: <b>"]
    for resume in (False, True):
        page = TrainingPage(tmp_path, "run", resume=resume)
        page.note_display(notes)
    content = page.page.path.read_text("utf-8")
    assert content.count(notes[0]) == 1 and content.count("B: &lt;b&gt;") == 1
    # With other flags, the later note counts.
    page.note_display(notes[:1])
    assert page.page.path.read_text("utf-8").count(notes[0]) == 2


def test_close_marks_the_end(tmp_path: Path) -> None:
    page = TrainingPage(tmp_path, "run")
    page.log_losses(record())
    assert Reader(page).endings == []
    page.close()
    assert Reader(page).endings == ["finished"]


def test_page_is_self_contained(tmp_path: Path) -> None:
    page = TrainingPage(tmp_path, "run")
    page.log_losses(record())
    page.log_visuals(1, samples(1))
    page.close()
    text = page.files[0].read_text("utf-8")
    assert "http://" not in text and "https://" not in text
