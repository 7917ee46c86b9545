"""The display of a training run in a visdom server, in the peer's windows."""

import html
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import visdom
from numpy.typing import NDArray

from training.loggers.base import LossRecord, MetricRecord, Sink, Visuals, by_name, in_colour, read_records

PATIENCE = 2.0, 10.0
"""Seconds to wait for a connection, and for an answer."""

MOST_POINTS = 400
"""A curve has at most so many points; then every second of them goes."""

GAP = 2
"""Pixels between images."""


class Client(visdom.Visdom):
    """visdom's client, except that it does not wait for ever, and takes a refusal for an error."""

    session: Any  # which its stub forgets

    def _handle_post(self, url: str, data: Any = None) -> str:
        answer = self.session.post(url, data=data or {}, timeout=PATIENCE)
        answer.raise_for_status()
        return str(answer.text)


def connect(server: str, port: int, env: str) -> Client:
    """Return the client of a visdom server.

    Raises:
        ConnectionError: there is none.
    """
    logging.getLogger("visdom").setLevel(logging.ERROR)  # or it announces each session on the screen
    try:
        return Client(server=server, port=port, env=env, raise_exceptions=True, use_incoming_socket=False)
    except ConnectionError:
        raise ConnectionError(
            f"no server at {server}:{port}; python scripts/start_visdom.py --port {port} starts one here"
        ) from None


class Curves:
    """A window with curves, which is sent as a whole each time, so that one that was closed comes back."""

    def __init__(self, client: Client, window: str, title: str, ylabel: str):
        self.client, self.window, self.title, self.ylabel = client, window, title, ylabel
        self.points: list[tuple[float, Mapping[str, float]]] = []
        self.every = 1
        self.seen = 0

    def add(self, epochs: float, values: Mapping[str, float]) -> None:
        """Take the values after so many epochs."""
        if len(self.points) >= MOST_POINTS:
            self.points, self.every = self.points[::2], 2 * self.every
        if self.seen % self.every == 0:
            self.points.append((epochs, values))
        self.seen += 1

    def send(self) -> None:
        """Show all points."""
        names = list(dict.fromkeys(name for _, values in self.points for name in values))
        if not names:
            return
        heights = [[values.get(name, np.nan) for name in names] for _, values in self.points]
        epochs = [[epoch] * len(names) for epoch, _ in self.points]
        opts = {"title": self.title, "legend": names, "xlabel": "epoch", "ylabel": self.ylabel}
        self.client.line(X=np.array(epochs), Y=np.array(heights), win=self.window, opts=opts)


class VisdomDisplay(Sink):
    """Windows with losses (number `first`), images (the next) and their labels (the one after it).

    Where each image has a window of its own, these are the numbers after the first. Windows for what the
    peer does not show have names.
    """

    live = True

    def __init__(self, client: Client, first: int, name: str, *, columns: int, width: int):
        """Show the run of this `name`.

        Args:
            columns: images in a row, 0 for a window each.
            width: of an image, in pixels of the page.
        """
        self.client, self.first, self.name, self.columns, self.width = client, first, name, columns, width
        self.losses = Curves(client, f"{first}", f"{name} loss over time", "loss")
        self.metrics = self._extra("metrics", "metric")
        self.rates = self._extra("learning_rate", "learning rate")
        self.speed = self._extra("speed", "images per second")
        self.memory = self._extra("memory", "peak memory in GiB")

    def start(self, flags: Mapping[str, object], folder: Path, images: int) -> None:
        """Show the run's flags, and all that its `folder` tells of its first `images` images."""
        rows = "".join(
            f"<tr><td>--{name}</td><td>{html.escape(str(value))}</td></tr>" for name, value in flags.items()
        )
        opts = {"title": f"{self.name} options"}
        self.client.text(f"<table>{rows}</table>", win=f"{self.first}_options", opts=opts)
        if not images:
            return
        for loss in read_records(folder / "losses.jsonl", LossRecord):
            if loss.total_iters <= images:
                self._take(loss)
        for metric in read_records(folder / "metrics.jsonl", MetricRecord):
            if metric.total_iters <= images:
                self.metrics.add(metric.epoch, metric.metrics)
        for curves in (self.losses, self.rates, self.speed, self.memory, self.metrics):
            curves.send()

    def log_losses(self, record: LossRecord) -> None:
        self._take(record)
        for curves in (self.losses, self.rates, self.speed, self.memory):
            curves.send()

    def log_metrics(self, record: MetricRecord) -> None:
        self.metrics.add(record.epoch, record.metrics)
        self.metrics.send()

    def log_visuals(self, epoch: int, samples: list[Visuals]) -> None:
        if not self.columns:
            for number, (name, image) in enumerate(by_name(samples), self.first + 1):
                self._show(image, str(number), name, self.width)
            return
        columns = min(self.columns, max(len(visuals) for visuals in samples))
        images, labels = table(samples, columns)
        self._show(images, f"{self.first + 1}", f"{self.name} images", columns * self.width)
        opts = {"title": f"{self.name} labels, epoch {epoch}"}
        self.client.text(labels, win=f"{self.first + 2}", opts=opts)

    def _take(self, record: LossRecord) -> None:
        epochs = record.epoch + record.epoch_fraction
        self.losses.add(epochs, record.losses)
        self.rates.add(epochs, record.learning_rates)
        self.speed.add(epochs, {"images per second": record.images_per_second})
        self.memory.add(epochs, {"GiB": record.peak_memory})

    def _extra(self, window: str, ylabel: str) -> Curves:
        return Curves(self.client, f"{self.first}_{window}", f"{self.name} {ylabel}", ylabel)

    def _show(self, image: NDArray[np.uint8], window: str, title: str, width: int) -> None:
        opts = {"title": title, "width": width, "height": width * image.shape[0] // image.shape[1]}
        self.client.image(image.transpose(2, 0, 1), win=window, opts=opts)


def table(samples: list[Visuals], columns: int) -> tuple[NDArray[np.uint8], str]:
    """Return images in rows of so many `columns` as one image, and their labels as an HTML table.

    Every sample begins a row; images are in the upper left of places that have the size of the largest.
    """
    rows = [
        list(visuals.items())[start : start + columns]
        for visuals in samples
        for start in range(0, len(visuals), columns)
    ]
    height = max(image.shape[0] for row in rows for _, image in row) + GAP
    width = max(image.shape[1] for row in rows for _, image in row) + GAP
    whole = np.full((len(rows) * height, columns * width, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, (_, image) in enumerate(row):
            place = whole[y * height :, x * width :]
            place[: image.shape[0], : image.shape[1]] = in_colour(image)
    lines = ("".join(f"<td>{html.escape(label)}</td>" for label, _ in row) for row in rows)
    return whole, f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
