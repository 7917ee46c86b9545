"""Training pages as a person uses them: in Chromium, by mouse, keyboard and touch."""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.chromium import (  # noqa: F401
    PHONE,
    Open,
    browser,
    drag,
    enlarged,
    hidden_overflow,
    image,
    needs_chromium,
    open_page,
    run,
)
from tests.support.environment import ROOT
from training.loggers.base import LossRecord, MetricRecord
from training.loggers.html_sink import TrainingPage
from util.metrics.summary import Summary
from util.pages.gallery import About, Gallery

pytestmark = needs_chromium


def last_label(page: Any, chart: str) -> float:
    return float(page.locator(f"{chart} .plot > svg text[text-anchor=middle]").all_text_contents()[-1])


def first_label(page: Any, chart: str) -> float:
    text = page.locator(f"{chart} .plot > svg text[text-anchor=middle]").all_text_contents()[0]
    return float(text.removeprefix("epoch "))


def test_charts_zoom(run: Path, open_page: Open) -> None:
    page = open_page(run)
    assert (first_label(page, "#losses"), last_label(page, "#losses")) == (0, 10)
    box = page.locator("#losses .plot > svg").bounding_box()
    y = box["y"] + 60
    page.mouse.move(box["x"] + 0.5 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], y, steps=5)
    assert page.locator("svg .selection").count() == 1
    page.mouse.up()
    # All charts show the same epochs.
    for chart in ("#losses", "#diagnostics", *(f"#metrics .small:nth-child({n})" for n in (1, 2, 3))):
        assert 4 < first_label(page, chart) < 6 and 7 <= last_label(page, chart) < 8.5
    page.reload()  # as the page does by itself
    assert 4 < first_label(page, "#losses") < 6
    page.keyboard.press("Escape")
    assert last_label(page, "#losses") == 10
    page.locator("#losses .plot > svg").focus()
    page.keyboard.press("+")
    assert first_label(page, "#losses") >= 2.5 and last_label(page, "#losses") <= 7.5
    page.locator("#losses .plot > svg").dblclick()
    assert last_label(page, "#losses") == 10 and not page.locator("#losses .reset").is_visible()
    page.mouse.move(box["x"] + 0.5 * box["width"], y)
    assert "epoch 5.00" in page.locator("#losses .readout").inner_text().replace("4.75", "5.00")


def test_charts_zoom_by_touch(run: Path, open_page: Open) -> None:
    page = open_page(run, PHONE, has_touch=True, is_mobile=True)
    drag(page, "#losses .plot > svg", 0.3, 0.7)
    assert first_label(page, "#losses") > 1 and last_label(page, "#losses") < 8
    page.locator("#losses .reset").click()  # a tap right after a drag may only stop its momentum
    page.locator("#losses .reset").wait_for(state="hidden")
    assert last_label(page, "#losses") == 10
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_curves_of_metrics(run: Path, open_page: Open) -> None:
    page = open_page(run)
    texts = page.locator("#metrics .metric h2").all_inner_texts()
    assert [" ".join(text.split()) for text in texts] == [
        "psnr ↑ 17 now · best 20 in epoch 7",
        "lpips ↓ 1 now · best 0.3 in epoch 3",
    ]
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
    page.locator("#epochs a.image").nth(1).click()
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
        assert page.locator("#losses .plot > svg path").count() == 4


def shown(page: Any, chart: str) -> list[str]:
    return page.locator(f"{chart} .legend .entry[aria-pressed=true]").all_inner_texts()


def lines(page: Any, chart: str) -> int:
    return page.locator(f"{chart} .plot > svg path.thick").count()


def test_losses_and_diagnostics_are_apart(run: Path, open_page: Open) -> None:
    page = open_page(run)
    assert shown(page, "#losses") == ["G_GAN", "D"]
    assert shown(page, "#diagnostics") == ["grad_G", "D_acc_real", "G_light"]
    # Gradient norms do not flatten fractions, and a negative correlation is visible.
    plots = page.locator("#diagnostics .plot > svg")
    assert [plots.nth(number).locator("path.thick").count() for number in (0, 1)] == [1, 2]
    assert all(
        "L" in d
        for d in plots.nth(1).locator("path.thick").evaluate_all("ps => ps.map(p => p.getAttribute('d'))")
    )


def test_a_click_in_the_legend_hides_a_curve(run: Path, open_page: Open) -> None:
    page = open_page(run)
    assert lines(page, "#losses") == 2
    page.locator("#losses .entry", has_text="G_GAN").click()
    assert shown(page, "#losses") == ["D"] and lines(page, "#losses") == 1
    assert len(shown(page, "#diagnostics")) == 3  # the other chart stays as it is
    page.reload()
    assert shown(page, "#losses") == ["D"] and lines(page, "#losses") == 1
    page.locator("#losses .entry", has_text="G_GAN").click()
    assert lines(page, "#losses") == 2


def test_every_curve_has_its_own_colour_and_dash(tmp_path: Path, open_page: Open) -> None:
    page = TrainingPage(tmp_path, "run")
    for part in (1, 2):
        losses = {f"loss_{number}": float(number + 1) for number in range(24)}
        page.log_losses(LossRecord(1, part / 2, part, part, 0.1, 0.0, 2e-4, losses))
    opened = open_page(page.files[0])
    looks = opened.locator("#losses .plot > svg path.thick").evaluate_all(
        "paths => paths.map(getComputedStyle).map((style) => [style.stroke, style.strokeDasharray])"
    )
    assert len({tuple(look) for look in looks}) == 24
    assert len({color for color, _ in looks[:12]}) == 12 and len({dash for _, dash in looks[:7]}) == 7
    swatches = opened.locator("#losses .swatch path").evaluate_all(
        "paths => paths.map(getComputedStyle).map((style) => [style.stroke, style.strokeDasharray])"
    )
    assert swatches == looks


def test_learning_rates_have_a_small_chart(tmp_path: Path, run: Path, open_page: Open) -> None:
    one = open_page(run).locator("#metrics .rate")
    assert one.locator("h2").inner_text().split() == ["learning", "rate", "2e-4", "now"]
    page = TrainingPage(tmp_path, "run")
    for part in (1, 2):
        rates = {"G": 2e-4, "D": 1e-4}
        page.log_losses(LossRecord(1, part / 2, part, part, 0.1, 0.0, 2e-4, {"G": 1.0}, rates))
    two = open_page(page.files[0]).locator("#metrics .rate")
    assert two.locator("h2").inner_text().split() == ["learning", "rate", "G", "2e-4", "D", "1e-4"]
    assert two.locator("path.thick").count() == 4  # two in the heading, two in the chart


def test_links_to_command_flags_and_results(tmp_path: Path, open_page: Open) -> None:
    flags = {"dataroot": "my data", "model": "pix2pix", "no_flip": "true"}
    page = TrainingPage(tmp_path / "checkpoints" / "a run", "run", flags=flags)
    page.log_losses(LossRecord(1, 1.0, 1, 1, 0.1, 0.0, 2e-4, {"G": 1.0}))
    page.close()
    for epoch, psnr in (("5", 19.0), ("latest", 20.0), ("latest", 21.5)):
        folder = tmp_path / "results" / "a run" / f"test_{epoch}"
        with Gallery(folder, "results", about=About("a run", "test", epoch)) as gallery:
            gallery.add("a", {"fake_B": image(9)})
        gallery.link_from(page.files[0], Summary({"psnr": psnr, "l1": 0.25}, {}, {}, {}))
    opened = open_page(page.files[0])
    assert "finished" in opened.locator("#status").inner_text()  # results do not hide the end of the run
    about = opened.locator(".about")
    texts = [" ".join(text.split()) for text in about.locator(".test").all_inner_texts()]
    assert [text[:-17] for text in texts] == [
        "Results: test, epoch latest psnr ↑ 21.5 l1 ↓ 0.25",
        "Results: test, epoch 5 psnr ↑ 19 l1 ↓ 0.25",
    ]
    links = about.locator(".links a").evaluate_all("links => links.map((link) => link.getAttribute('href'))")
    assert "../train_opt.txt" in links and "../train_opt.json" in links
    about.locator("summary").click()
    command = about.locator("pre").inner_text()
    assert command == "python train.py --dataroot 'my data' --model pix2pix --no_flip"
    about.locator(".test a").first.click()
    opened.wait_for_url("**/results/a%20run/test_latest/index.html")


def test_a_page_of_an_earlier_version_is_continued(tmp_path: Path, open_page: Open) -> None:
    """Its own script looks for the class names of that version, and shows diagnostics among the losses."""
    path = tmp_path / "web" / "index.html"
    path.parent.mkdir()
    old = gzip.decompress((ROOT / "tests" / "support" / "old_training_page.html.gz").read_bytes())
    path.write_bytes(old)
    page = TrainingPage(tmp_path, "run", resume=True)
    record = LossRecord(3, 1.0, 100, 300, 0.1, 0.0, 2e-4, {"G_GAN": 0.5, "G_L1": 2.0}, {"G": 2e-4, "D": 1e-4})
    page.log_losses(replace(record, diagnostics={"D_doubt": 0.25, "grad_G": 2.0}))
    page.log_metrics(MetricRecord(3, 300, {"psnr": 24.0}))
    page.log_visuals(3, [{label: image(99) for label in ("real_A", "fake_B", "real_B")}])
    page.close()
    assert path.read_bytes().startswith(old)
    opened = open_page(path)
    assert opened.locator("#status").inner_text().startswith("epoch 3")
    assert opened.locator("#losses .loss").all_inner_texts() == ["G_GAN", "G_L1", "D_doubt", "grad_G"]
    ends = opened.locator("#losses path.raw").evaluate_all(
        "ps => ps.map(p => p.getAttribute('d').split('L').length)"
    )
    assert ends == [9, 9, 9, 9]  # all four curves reach the third epoch
    assert opened.locator("#epochs output").inner_text() == "3 of 3"
    opened.locator("#epoch-3 a").nth(1).click()
    assert enlarged(opened) == "epoch 3 – fake_B"
    columns = opened.locator("#epoch-3 .pictures").evaluate("e => getComputedStyle(e).gridTemplateColumns")
    assert len(columns.split()) == 3
    # test.py leaves it alone: its script takes what follows the end marker for a run that goes on.
    with Gallery(tmp_path / "results", "results") as gallery:
        pass
    before = path.read_bytes()
    gallery.link_from(path, Summary({"psnr": 20.0}, {}, {}, {}))
    assert path.read_bytes() == before


def test_compare_keeps_its_pair_over_samples(run: Path, open_page: Open) -> None:
    page = open_page(run)
    page.locator("#epoch-10 a.image").first.click()
    page.keyboard.press("c")
    assert enlarged(page) == "epoch 10 – sample 1 – fake_B | real_A"
    page.locator("select[aria-label='Right image']").select_option(label="fake_B")
    page.keyboard.press("Escape")
    page.locator("#epoch-9 a.image").nth(2).click()
    page.keyboard.press("c")
    assert enlarged(page) == "epoch 9 – sample 2 – fake_B | fake_B"


def test_nothing_is_cut_on_a_phone(run: Path, open_page: Open) -> None:
    page = open_page(run, PHONE)
    page.locator("summary").click()
    assert hidden_overflow(page) == []
