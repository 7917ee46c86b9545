"""Comparison pages in Chromium, used by mouse."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.comparison.page import write_comparison
from scripts.comparison.runs import Series, TrainedRun
from tests.support.chromium import (  # noqa: F401
    PHONE,
    Open,
    browser,
    enlarged,
    hidden_overflow,
    needs_chromium,
    open_page,
)
from util.image_io import save_image
from util.pages.page import STATIC

pytestmark = needs_chromium

PSNR = {"instance": (20.0, 21.0, 22.0), "batch": (24.0, 25.0, 26.0), "none": (10.0, 11.0, 12.0)}
SSIM = {"instance": (0.5, 0.6, 0.7), "batch": (0.55, 0.65, 0.75), "none": (0.1, 0.2, 0.3)}


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    """Three groups of three seeds with eight losses, two metrics and one sample."""
    runs = []
    for level, norm in enumerate(PSNR):
        for seed in range(3):
            epochs = [0.5, 1.0, 1.5, 2.0 - 0.5 * (seed == 2)]
            losses = {f"loss_{i}": Series(epochs, [4.0 - e + i + seed for e in epochs]) for i in range(8)}
            images = {}
            for label, value in (("real_A", 0), ("fake_B", 50 + 50 * level), ("real_B", 255)):
                images[label] = tmp_path / f"{norm}{seed}" / f"a_{label}.png"
                images[label].parent.mkdir(exist_ok=True)
                save_image(np.full((16, 16, 3), value, np.uint8), images[label])
            runs.append(
                TrainedRun(
                    f"run_{norm}_{seed}",
                    {"norm": norm, "dataroot": f"a/long/path/to/{norm}", "seed": seed},
                    losses,
                    {"grad_G": Series(epochs, epochs)},
                    {"psnr": Series([1.0, 2.0], [10.0, 20.0 + seed])},
                    {"psnr": PSNR[norm][seed], "ssim": SSIM[norm][seed]},
                    {"a": images},
                    True,
                )
            )
    return write_comparison(runs, tmp_path / "page", "Comparison of runs")


def lines(page: Any, chart: str, kind: str) -> list[str]:
    paths = page.locator(f"{chart} .plot > svg path.{kind}")
    return paths.evaluate_all("paths => paths.map((path) => path.getAttribute('d'))")


def test_charts_have_runs_and_means(comparison: Path, open_page: Open) -> None:
    page = open_page(comparison)
    headings = page.locator("section > h2").all_inner_texts()
    assert headings == ["Metrics", "Validation", "Losses", "Diagnostics", "Images"]
    assert page.locator("#losses .charts").first.locator("figure").count() == 6
    assert page.locator("#losses .further summary").inner_text() == "2 more charts"
    first = "#losses > .charts figure:nth-child(1)"
    assert page.locator(f"{first} figcaption").inner_text() == "loss_0"
    assert len(lines(page, first, "thin")) == 9 and len(lines(page, first, "thick")) == 3
    # A mean ends where the first of its runs does; the run of seed 2 ends at epoch 1.5 of 2.
    ends = [float(d.replace("h0", "").split("L")[-1].split()[0]) for d in lines(page, first, "thick")]
    longest = max(float(d.split("L")[-1].split()[0]) for d in lines(page, first, "thin"))
    assert all(end < longest for end in ends)
    assert page.locator("#validation figcaption").inner_text() == "psnr ↑"


def test_a_legend_hides_a_group_in_all_charts_of_its_section(comparison: Path, open_page: Open) -> None:
    page = open_page(comparison)
    page.locator("#losses .entry").first.click()
    for number in (1, 6):
        chart = f"#losses > .charts figure:nth-child({number})"
        assert len(lines(page, chart, "thin")) == 6 and len(lines(page, chart, "thick")) == 2
    assert len(lines(page, "#diagnostics", "thick")) == 3
    page.reload()
    assert page.locator("#losses .entry").first.get_attribute("aria-pressed") == "false"
    assert len(lines(page, "#losses > .charts figure:nth-child(1)", "thick")) == 2


def test_lines_of_a_group_look_alike_everywhere(comparison: Path, open_page: Open) -> None:
    page = open_page(comparison)
    look = "paths => paths.map(getComputedStyle).map((style) => [style.stroke, style.strokeDasharray])"
    in_table = page.locator("#metrics .swatch path").evaluate_all(look)
    in_legend = page.locator("#losses .legend .swatch path").evaluate_all(look)
    in_chart = page.locator("#losses > .charts figure:nth-child(1) .plot > svg path.thick").evaluate_all(look)
    assert in_table == in_legend == in_chart and len({tuple(pair) for pair in in_table}) == 3


def test_only_means_outside_the_noise_are_bold(comparison: Path, open_page: Open) -> None:
    page = open_page(comparison)
    assert page.locator("#metrics td b").all_inner_texts() == ["25.0"]  # psnr; ssim is within the noise
    assert "2 standard errors" in page.locator("#metrics .note").first.inner_text()


def test_tables_are_sorted_by_a_click(comparison: Path, open_page: Open) -> None:
    page = open_page(comparison)
    norms = page.locator("#metrics tbody td:first-child")
    assert norms.all_inner_texts() == ["instance", "batch", "none"]
    page.locator("#metrics th button", has_text="psnr").click()
    assert norms.all_inner_texts() == ["none", "instance", "batch"]
    page.locator("#metrics th button", has_text="psnr").click()
    assert norms.all_inner_texts() == ["batch", "instance", "none"]


def test_compare_begins_with_a_result_beside_the_truth(comparison: Path, open_page: Open) -> None:
    page = open_page(comparison)
    page.locator("a.image").first.click()
    page.keyboard.press("c")
    assert enlarged(page).startswith("a, fake_B: norm instance") and enlarged(page).endswith("| real_B")


def test_what_is_cut_on_a_phone_has_a_shadow(comparison: Path, open_page: Open) -> None:
    page = open_page(comparison, PHONE)
    for summary in page.locator("summary").all():
        summary.click()
    assert hidden_overflow(page) == []
    table = page.locator("#metrics .scroller")
    assert table.evaluate("element => element.scrollWidth > element.clientWidth")
    assert table.evaluate("element => getComputedStyle(element).backgroundAttachment").count("local") == 2


TICKS = "([source, low, high]) => new Function(`${source}; return linearTicks(${low}, ${high}, 6)`)()"


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3.2, 17), (0.1, 0.92), (1e-7, 2e-7), (0, 30000), (99.99, 100.01)]
)
def test_ticks_are_few_and_inside(browser: Any, low: float, high: float) -> None:
    page = browser.new_page()
    ticks = page.evaluate(TICKS, [(STATIC / "curves.js").read_text(), low, high])
    page.close()
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
