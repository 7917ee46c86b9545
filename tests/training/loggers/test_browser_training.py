"""Training pages as a person uses them: in Chromium, by mouse, keyboard and touch."""

from pathlib import Path
from typing import Any

from tests.support.chromium import PHONE, Open, browser, drag, enlarged, needs_chromium, open_page, run  # noqa: F401

pytestmark = needs_chromium


def last_label(page: Any, chart: str) -> float:
    return float(page.locator(f"{chart} svg text[text-anchor=middle]").all_text_contents()[-1])


def first_label(page: Any, chart: str) -> float:
    text = page.locator(f"{chart} svg text[text-anchor=middle]").all_text_contents()[0]
    return float(text.removeprefix("epoch "))


def test_charts_zoom(run: Path, open_page: Open) -> None:
    page = open_page(run)
    assert (first_label(page, "#losses"), last_label(page, "#losses")) == (0, 10)
    box = page.locator("#losses svg").bounding_box()
    y = box["y"] + 60
    page.mouse.move(box["x"] + 0.5 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], y, steps=5)
    assert page.locator("svg .selection").count() == 1
    page.mouse.up()
    # All charts show the same epochs.
    for chart in ("#losses", "#metrics .metric:first-child", "#metrics .metric:last-child"):
        assert 4 < first_label(page, chart) < 6 and 7 < last_label(page, chart) < 8.5
    page.reload()  # as the page does by itself
    assert 4 < first_label(page, "#losses") < 6
    page.keyboard.press("Escape")
    assert last_label(page, "#losses") == 10
    page.locator("#losses svg").focus()
    page.keyboard.press("+")
    assert first_label(page, "#losses") >= 2.5 and last_label(page, "#losses") <= 7.5
    page.locator("#losses svg").dblclick()
    assert last_label(page, "#losses") == 10 and not page.locator("#losses .reset").is_visible()
    page.mouse.move(box["x"] + 0.5 * box["width"], y)
    assert "epoch 5.00" in page.locator("#losses .readout").inner_text().replace("4.75", "5.00")


def test_charts_zoom_by_touch(run: Path, open_page: Open) -> None:
    page = open_page(run, PHONE, has_touch=True, is_mobile=True)
    drag(page, "#losses svg", 0.3, 0.7)
    assert first_label(page, "#losses") > 1 and last_label(page, "#losses") < 8
    page.locator("#losses .reset").click()  # a tap right after a drag may only stop its momentum
    page.locator("#losses .reset").wait_for(state="hidden")
    assert last_label(page, "#losses") == 10
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_curves_of_metrics(run: Path, open_page: Open) -> None:
    page = open_page(run)
    texts = page.locator("#metrics h2").all_inner_texts()
    assert texts == ["psnr 17 now · best 20 in epoch 7", "lpips 1 now · best 0.3 in epoch 3"]
    assert page.locator("#metrics .metric").nth(0).locator("circle").count() == 10
    assert page.locator("#metrics .metric").nth(1).locator("circle").count() == 8  # two were not finite


def test_epoch_slider(run: Path, open_page: Open) -> None:
    page = open_page(run)
    slider, images = page.locator("#epoch-slider"), page.locator("#epochs .image img")
    assert slider.input_value() == "9" and images.count() == 4
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 1, box["y"] + box["height"] / 2, steps=6)
    page.mouse.up()
    assert page.locator("#epochs output").inner_text() == "1 of 10"
    sources = images.evaluate_all("images => images.map((image) => image.getAttribute('src'))")
    assert sources == [
        f"images/epoch001_{label}.png" for label in ("real_A", "fake_B", "real_A_1", "fake_B_1")
    ]
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "epoch 2"
    page.wait_for_function("document.querySelector('#epochs img').naturalWidth === 32")
    page.locator("#epochs a.picture").nth(1).click()
    assert enlarged(page) == "epoch 2 – sample 1 – fake_B"
    page.keyboard.press("Escape")
    page.reload()
    assert page.locator("#epochs output").inner_text() == "2 of 10"


def test_a_page_may_end_anywhere(run: Path, tmp_path: Path, open_page: Open) -> None:
    text = run.read_bytes()
    start = text.index(b'<main id="content">')
    for share in (0.3, 0.6, 0.9):
        path = tmp_path / f"{share}.html"
        path.write_bytes(text[: start + int(share * (len(text) - start))])
        page = open_page(path)
        assert page.locator("#losses svg path").count() == 4
