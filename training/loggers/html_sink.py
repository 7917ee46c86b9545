"""The page of a training run: its loss curves and fixed samples as they develop."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from dominate import tags
from dominate.util import raw

from models.objectives.backbones import untrained_backbones
from options.train_options import TrainOptions
from training.loggers.base import LossRecord, MetricRecord, Sink, Visuals
from training.progress import Progress
from util.image_io import save_image
from util.pages.page import Page, image_tag, sample_tag


class TrainingPage(Sink):
    """Keeps web/index.html and web/images/ of a training run."""

    @classmethod
    def start(cls, options: TrainOptions, progress: Progress) -> Self:
        return cls(
            options.run_folder,
            f"Experiment name = {options.run_name}",
            width=options.display.display_winsize,
            resume=options.saving.continue_train,
            warning=untrained_backbones(options),
        )

    def __init__(
        self, folder: Path, title: str, *, width: int = 256, resume: bool = False, warning: str = ""
    ) -> None:
        """Start the page in `folder`/web, or go on with the one that is there where `resume` is True.

        `width` is the largest width of an image on the page in CSS pixels. `warning` stands at its top.

        Raises:
            ValueError: the width is below 1.
            OSError: the files cannot be written.
        """
        self.images = folder / "web" / "images"
        self.images.mkdir(parents=True, exist_ok=True)
        self.width = width
        panels = (
            tags.section(id=name, cls="panel", aria_label=name, hidden=True)
            for name in ("losses", "metrics", "epochs")
        )
        self.page = Page(
            folder / "web" / "index.html",
            title,
            fresh=not resume,
            width=width,
            kind="training",
            intro=tuple(panels),
            warning=warning,
        )
        self.files = (self.page.path,)

    def log_losses(self, record: LossRecord) -> None:
        """Append one record of losses to the page; a value that is not finite leaves a gap in its curve."""
        values = {
            "epoch": record.epoch,
            "epoch_fraction": _number(record.epoch_fraction),
            "iters": record.iters,
            "total_iters": record.total_iters,
            "time": _number(record.time),
            "data": _number(record.data),
            "learning_rate": _number(record.learning_rate),
            "written": round(time.time()),
            "losses": {
                name: _number(value) for name, value in {**record.losses, **record.diagnostics}.items()
            },
        }
        self._append_record("loss", values)

    def log_metrics(self, record: MetricRecord) -> None:
        """Append what validation has found; a value that is not finite leaves a gap in its curve."""
        values = {
            "epoch": record.epoch,
            "total_iters": record.total_iters,
            "metrics": {name: _number(value) for name, value in record.metrics.items()},
        }
        self._append_record("metric", values)

    def log_visuals(self, epoch: int, samples: list[Visuals]) -> None:
        """Save the images of the fixed samples and append a section where the epoch has none yet.

        Every sample maps labels to (H, W, 3) or (H, W) images. Within one epoch later images replace
        earlier ones.
        """
        articles = []
        for number, visuals in enumerate(samples):
            figures = []
            for label, image in visuals.items():
                file_name = _file_name(epoch, label, number)
                save_image(image, self.images / file_name)
                description = _description(epoch, label, number, len(samples))
                figures.append(
                    image_tag(
                        file_name, label, description, image.shape[:2], self.width, key=f"{label} {number}"
                    )
                )
            articles.append(sample_tag(figures))
        # The file decides, not a memory of what was written: it may have been truncated since.
        if not self._has_section(epoch):
            self.page.append(
                tags.section(
                    tags.h2(f"epoch {epoch}"),
                    tags.div(*articles, cls="samples"),
                    cls="epoch",
                    id=f"epoch-{epoch}",
                    data_epoch=str(epoch),
                )
            )

    def close(self) -> None:
        """Mark the run as finished, so that the page no longer reloads itself."""
        self.page.append(tags.p("finished", cls="end", hidden=True))

    def _append_record(self, kind: str, values: Mapping[str, object]) -> None:
        # Inside a script only "<" could end or change the element, and JSON may spell it as an escape.
        data = json.dumps(values, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        self.page.append(tags.script(raw(data), type="application/json", cls=kind))

    def _has_section(self, epoch: int) -> bool:
        # Quotes in texts and in JSON are escaped, so only an attribute can read like this.
        return self.page.path.exists() and f'data-epoch="{epoch}"'.encode() in self.page.path.read_bytes()


def _number(value: float) -> float | None:
    """Six digits are more than a plot shows and keep the page small."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _file_name(epoch: int, label: str, number: int) -> str:
    return f"epoch{epoch:03d}_{label}.png" if number == 0 else f"epoch{epoch:03d}_{label}_{number}.png"


def _description(epoch: int, label: str, number: int, count: int) -> str:
    sample = f" – sample {number + 1}" if count > 1 else ""
    return f"epoch {epoch}{sample} – {label}"
