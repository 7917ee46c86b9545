"""The display of a training run in a visdom server, in the peer's windows."""

import html
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from options.train_options import TrainOptions
from training.loggers.base import (
    LossRecord,
    MetricRecord,
    Sink,
    as_rgb,
    named_images,
    read_records,
)
from training.progress import Progress
from util.image_io import Visuals

TIMEOUTS = 2.0, 10.0
"""Seconds to wait for a connection, and for an answer."""

MAX_POINTS = 400
"""Points of a curve; when it is full, every second point is dropped."""

MARKED_POINTS = 30
"""Curves with fewer points show them: a single one makes no line."""

GAP = 2
"""Pixels between images."""

TABLE = '<table style="border-collapse: separate; border-spacing: 1em 0.2em; white-space: nowrap">'
"""The page's style sheet leaves no space between the cells of a table."""


def connect(server: str, port: int, env: str) -> Any:
    """Return a client of a visdom server that times out and raises an error when the server refuses.

    Raises:
        ConnectionError: no server answers.
    """
    import visdom

    class Client(visdom.Visdom):
        session: Any

        def _handle_post(self, url: str, data: Any = None) -> str:
            answer = self.session.post(url, data=data or {}, timeout=TIMEOUTS)
            answer.raise_for_status()
            return str(answer.text)

    logging.getLogger("visdom").setLevel(logging.ERROR)  # it logs every session
    try:
        return Client(server=server, port=port, env=env, raise_exceptions=True, use_incoming_socket=False)
    except ConnectionError:
        raise ConnectionError(
            f"no server at {server}:{port}; python scripts/start_visdom.py --port {port} starts one here"
        ) from None


class Curves:
    """A window of curves, sent as a whole each time: a window that the user closed comes back.

    Args:
        small: values are far below 1, as learning rates are. Without a range the page would show a constant
            one as a line at 0, from -1 to 1, and 0.0002 as 200µ.
    """

    def __init__(self, client: Any, window: str, title: str, ylabel: str, *, small: bool = False):
        self.client, self.window, self.title, self.ylabel, self.small = client, window, title, ylabel, small
        self.points: list[tuple[float, Mapping[str, float]]] = []
        self.every = 1
        self.count = 0

    def add(self, epochs: float, values: Mapping[str, float]) -> None:
        """Add one point to every curve, at a position in completed epochs."""
        if len(self.points) >= MAX_POINTS:
            self.points, self.every = self.points[::2], 2 * self.every
        if self.count % self.every == 0:
            self.points.append((epochs, values))
        self.count += 1

    def send(self) -> None:
        """Draw all points; without any, no window is made."""
        names = list(dict.fromkeys(name for _, values in self.points for name in values))
        if not names:
            return
        heights = [[values.get(name, np.nan) for name in names] for _, values in self.points]
        epochs = [[epoch] * len(names) for epoch, _ in self.points]
        opts = {
            "title": self.title,
            "legend": names,
            "markers": len(self.points) < MARKED_POINTS,
            "markersize": 5,
            "layoutopts": {"plotly": {"xaxis": self._xaxis(), "yaxis": self._yaxis(np.array(heights))}},
        }
        self.client.line(X=np.array(epochs), Y=np.array(heights), win=self.window, opts=opts)

    def _xaxis(self) -> dict[str, Any]:
        return {"title": {"text": "epoch"}, "rangemode": "tozero"}

    def _yaxis(self, heights: NDArray[np.float64]) -> dict[str, Any]:
        # The title stands off the ticks' labels, however long they are.
        axis: dict[str, Any] = {"title": {"text": self.ylabel, "standoff": 8}, "automargin": True}
        highest = np.nanmax(heights, initial=0.0)
        if self.small and highest > 0:
            axis |= {"range": [0.0, 1.1 * float(highest)], "exponentformat": "e", "showexponent": "all"}
        return axis


class VisdomDisplay(Sink):
    """Windows of losses (number `first`), images (`first` + 1) and their labels (`first` + 2).

    With `columns` 0 each image has its own window, from `first` + 1 on. The windows that the peer does not
    have are named ``<first>_metrics`` and so on.

    Args:
        name: the run's name, for titles.
        columns: images in a row.
        width: width of an image, in pixels of the page.
    """

    package: ClassVar[str | None] = "visdom"
    flags: ClassVar[tuple[str, ...]] = ("display_ncols", "display_server", "display_env", "display_port")
    live: ClassVar[bool] = True

    def __init__(self, client: Any, first: int, name: str, *, columns: int, width: int):
        self.client, self.first, self.name, self.columns, self.width = client, first, name, columns, width
        self.losses = Curves(client, f"{first}", f"{name} loss over time", "loss")
        self.metrics = self._extra("metrics", "metric")
        self.diagnostics = self._extra("diagnostics", "diagnostics")
        self.rates = self._extra("learning_rate", "learning rate", small=True)
        self.speed = self._extra("speed", "images per second")
        self.memory = self._extra("memory", "peak memory in GiB")

    @classmethod
    def start(cls, options: TrainOptions, progress: Progress) -> Self:
        logs = options.logging
        display = cls(
            connect(logs.display_server, logs.display_port, logs.display_env),
            max(1, logs.display_id),
            options.run_name,
            columns=logs.display_ncols,
            width=options.display.display_winsize,
        )
        display.show_flags(options.values())
        display.restore(options.run_folder, progress.images)
        return display

    def show_flags(self, flags: Mapping[str, object]) -> None:
        """Show the run's flags as a table."""
        rows = "".join(
            f"<tr><td>--{name}</td><td>{html.escape(str(value))}</td></tr>" for name, value in flags.items()
        )
        opts = {"title": f"{self.name} options"}
        self.client.text(f"{TABLE}{rows}</table>", win=f"{self.first}_options", opts=opts)

    def restore(self, folder: Path, images: int) -> None:
        """Draw the curves of a resumed run, from the files in `folder`, up to `images` images seen."""
        if not images:
            return
        for record in read_records(folder / "losses.jsonl", LossRecord):
            if record.total_iters <= images:
                self._add(record)
        for metric in read_records(folder / "metrics.jsonl", MetricRecord):
            if metric.total_iters <= images:
                self.metrics.add(metric.epoch, metric.metrics)
        self._send()
        self.metrics.send()

    def log_losses(self, record: LossRecord) -> None:
        self._add(record)
        self._send()

    def log_metrics(self, record: MetricRecord) -> None:
        self.metrics.add(record.epoch, record.metrics)
        self.metrics.send()

    def log_visuals(self, epoch: int, samples: list[Visuals]) -> None:
        if not self.columns:
            for number, (name, image) in enumerate(named_images(samples), self.first + 1):
                self._show(image, str(number), name, self.width)
            return
        columns = min(self.columns, max(len(visuals) for visuals in samples))
        images, labels = table(samples, columns)
        self._show(images, f"{self.first + 1}", f"{self.name} images", columns * self.width)
        opts = {"title": f"{self.name} labels, epoch {epoch}"}
        self.client.text(labels, win=f"{self.first + 2}", opts=opts)

    def _add(self, record: LossRecord) -> None:
        epochs = record.epoch - 1 + record.epoch_fraction
        self.losses.add(epochs, record.losses)
        self.diagnostics.add(epochs, record.diagnostics)
        self.rates.add(epochs, record.learning_rates)
        self.speed.add(epochs, {"images per second": record.images_per_second})
        self.memory.add(epochs, {"GiB": record.peak_memory})

    def _send(self) -> None:
        for curves in (self.losses, self.diagnostics, self.rates, self.speed, self.memory):
            curves.send()

    def _extra(self, window: str, ylabel: str, *, small: bool = False) -> Curves:
        title = f"{self.name} {ylabel}"
        return Curves(self.client, f"{self.first}_{window}", title, ylabel, small=small)

    def _show(self, image: NDArray[np.uint8], window: str, title: str, width: int) -> None:
        opts = {"title": title, "width": width, "height": width * image.shape[0] // image.shape[1]}
        self.client.image(image.transpose(2, 0, 1), win=window, opts=opts)


def table(samples: list[Visuals], columns: int) -> tuple[NDArray[np.uint8], str]:
    """Return images in rows of `columns` as one image, (H, W, 3), and their labels as an HTML table.

    Every sample starts a row. All cells have the size of the largest image; smaller ones are top left.
    """
    rows = [
        list(visuals.items())[start : start + columns]
        for visuals in samples
        for start in range(0, len(visuals), columns)
    ]
    height = max(image.shape[0] for row in rows for _, image in row) + GAP
    width = max(image.shape[1] for row in rows for _, image in row) + GAP
    grid = np.full((len(rows) * height, columns * width, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, (_, image) in enumerate(row):
            cell = grid[y * height :, x * width :]
            cell[: image.shape[0], : image.shape[1]] = as_rgb(image)
    lines = ("".join(f"<td>{html.escape(label)}</td>" for label, _ in row) for row in rows)
    return grid, f"{TABLE}{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
