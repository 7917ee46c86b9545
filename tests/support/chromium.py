"""What tests of pages share: Chromium, pages in it, and a training page."""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from training.loggers.base import LossRecord, MetricRecord
from training.loggers.html_sink import TrainingPage

playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
DESKTOP, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # It creates a temporary profile and removes it.
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Open a page file; the test fails if the page's script raises an error or requests anything by HTTP."""
    contexts, errors = [], []

    def open_file(path: Path, size: dict[str, int] = DESKTOP, fragment: str = "", **settings: Any) -> Any:
        context = browser.new_context(viewport=size, **settings)
        context.set_default_timeout(60_000)  # the machine may be busy
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: request.url.startswith("http") and errors.append(request.url))
        page.goto(path.as_uri() + fragment)
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert not errors


def image(level: int, width: int = 32) -> NDArray[np.uint8]:
    return np.full((width, width, 3), level, np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = {"dataroot": "my data", "name": "run", "no_flip": "true", "attention": "32,64"}
    page = TrainingPage(tmp_path_factory.mktemp("run"), "run", flags=flags)
    for epoch in range(1, 11):
        for part in (1, 2, 3, 4):
            seen = 100 * epoch - 100 + 25 * part
            losses = {"G_GAN": 2.0 / epoch, "D": 1.0}
            diagnostics = {"grad_G": 10.0 * epoch, "D_acc_real": 0.5, "G_light": -0.1}
            page.log_losses(
                LossRecord(epoch, part / 4, 25 * part, seen, 0.1, 0.0, 2e-4, losses, diagnostics=diagnostics)
            )
        metrics = {"psnr": 20.0 - abs(epoch - 7), "lpips": math.nan if epoch < 3 else 0.1 * epoch}
        page.log_metrics(MetricRecord(epoch, 100 * epoch, metrics))
        page.log_visuals(epoch, [{label: image(epoch) for label in ("real_A", "fake_B")}] * 2)
    page.close()
    return page.files[0]


def drag(page: Any, selector: str, start: float, end: float) -> None:
    """Drag a finger across an element, from one fraction of its width to another."""
    box = page.locator(selector).first.bounding_box()
    session = page.context.new_cdp_session(page)
    y = box["y"] + box["height"] / 2
    places = [
        {"x": box["x"] + box["width"] * (start + (end - start) * part / 8), "y": y} for part in range(9)
    ]
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": places[:1]})
    for place in places[1:]:
        session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [place]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def names(page: Any) -> list[str]:
    return page.locator(".sample h2").all_text_contents()


def enlarged(page: Any) -> str:
    return page.locator("dialog .caption").inner_text()


HIDDEN_OVERFLOW = """() => [...document.querySelectorAll("body *")].filter((element) => {
  const box = element.getBoundingClientRect();
  if (!box.width || element.closest("svg, dialog, .scroller")) return false;
  const { overflowX, textOverflow } = getComputedStyle(element);
  const cut = overflowX !== "visible" && element.scrollWidth > element.clientWidth + 1;
  return box.right > innerWidth + 1 || box.left < -1 || cut || textOverflow === "ellipsis";
}).map((element) => element.outerHTML.slice(0, 200))"""
"""Elements that are cut off or stand outside the window; what is in a .scroller has shadows as a hint."""


def hidden_overflow(page: Any) -> list[str]:
    return page.evaluate(HIDDEN_OVERFLOW)
