"""What tests of pages share: Chromium, pages in it, and a training page to look at."""

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
        # It makes an empty profile of its own and removes it.
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens a page file; a test fails where the page's script did, or where it asked the network."""
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
    page = TrainingPage(tmp_path_factory.mktemp("run"), "run")
    for epoch in range(1, 11):
        for part in (1, 2, 3, 4):
            losses = {"G_GAN": 2.0 / epoch, "D": 1.0}
            page.log_losses(
                LossRecord(epoch, part / 4, 25 * part, 100 * epoch - 100 + 25 * part, 0.1, 0.0, 2e-4, losses)
            )
        metrics = {"psnr": 20.0 - abs(epoch - 7), "lpips": math.nan if epoch < 3 else 0.1 * epoch}
        page.log_metrics(MetricRecord(epoch, 100 * epoch, metrics))
        page.log_visuals(epoch, [{label: image(epoch) for label in ("real_A", "fake_B")}] * 2)
    page.close()
    return page.files[0]


def drag(page: Any, selector: str, start: float, end: float) -> None:
    """Drag a finger across an element, from one share of its width to another."""
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
