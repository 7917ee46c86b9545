"""The page of a training run: its losses and fixed samples as they develop."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from dominate import tags

from data import DATASETS
from models.objectives.backbones import untrained_backbones
from options.parse import argument_text
from options.train_options import TrainOptions
from training.loggers.base import LossRecord, MetricRecord, Sink
from training.progress import Progress
from util.files import make_folder
from util.image_io import Visuals, save_image
from util.pages.page import Page, command_tag, image_tag, record_tag, sample_tag
from util.text import printable

FILES = ("train_opt.txt", "train_opt.json", "loss_log.txt", "losses.jsonl")
"""Files of the run's folder to which the page links."""


class TrainingPage(Sink):
    """The files web/index.html and web/images/ of a training run."""

    @classmethod
    def start(cls, options: TrainOptions, progress: Progress) -> Self:
        given = options.explicit - {"continue_train"}
        return cls(
            options.run_folder,
            f"Experiment name = {options.run_name}",
            width=options.display.display_winsize,
            resume=options.saving.continue_train,
            warning=untrained_backbones(options),
            flags={k: argument_text(v) for k, v in options.values().items() if k in given},
            paired=DATASETS.get(options.data.dataset_mode).paired,
            averaged=options.optimization.ema_decay > 0,
        )

    def __init__(
        self,
        folder: Path,
        title: str,
        *,
        width: int = 256,
        resume: bool = False,
        warning: str = "",
        flags: Mapping[str, str] | None = None,
        paired: bool | None = None,
        averaged: bool = False,
    ) -> None:
        """Start the page in `folder`/web, or continue it if `resume` is True and it exists.

        Args:
            width: the largest width of an image on the page in CSS pixels.
            warning: a text at the top of the page.
            flags: the flags of the command that started the run, by name.
            paired: whether real_B is the ground truth for fake_B; None: unknown.
            averaged: whether the samples are made with the averaged weights of ``--ema_decay``.

        Raises:
            ValueError: the width is below 1.
            OSError: the files cannot be written.
        """
        self.images = folder / "web" / "images"
        make_folder(self.images.parent)
        make_folder(self.images)
        self.width, self.averaged = width, averaged
        self.page = Page(
            folder / "web" / "index.html",
            title,
            fresh=not resume,
            width=width,
            kind="training",
            intro=(
                _about_tag(flags or {}),
                tags.div(_panel("losses"), _panel("diagnostics"), cls="charts"),
                _panel("metrics"),
                _panel("epochs"),
            ),
            warning=warning,
            paired=paired,
        )
        self.files = (self.page.path,)

    def log_losses(self, record: LossRecord) -> None:
        """Append the losses of a step; a value that is not finite leaves a gap in its curve."""
        losses, diagnostics = record.losses, record.diagnostics
        if self.page.image_class == "picture":  # its script shows diagnostics among the losses
            losses, diagnostics = {**losses, **diagnostics}, {}
        rates = record.learning_rates if len(set(record.learning_rates.values())) > 1 else {}
        values = {
            "epoch": record.epoch,
            "epoch_fraction": _number(record.epoch_fraction),
            "iters": record.iters,
            "total_iters": record.total_iters,
            "time": _number(record.time),
            "data": _number(record.data),
            "learning_rate": _number(record.learning_rate),
            "written": round(time.time()),
            "losses": _numbers(losses),
            **({"diagnostics": _numbers(diagnostics)} if diagnostics else {}),
            **({"learning_rates": _numbers(rates)} if rates else {}),
        }
        self.page.append(record_tag("loss", values))

    def log_metrics(self, record: MetricRecord) -> None:
        """Append the means of a validation; a value that is not finite leaves a gap in its curve."""
        values = {
            "epoch": record.epoch,
            "total_iters": record.total_iters,
            "metrics": _numbers(record.metrics),
        }
        self.page.append(record_tag("metric", values))

    def note_display(self, notes: Sequence[str]) -> None:
        tag = tags.div(*(tags.p(printable(note)) for note in notes), cls="note display")
        # A resumed run has it already.
        if not self.page.contains(tag.render(pretty=False)):
            self.page.append(tag)

    def log_visuals(self, epoch: int, samples: list[Visuals]) -> None:
        """Save the images of the fixed samples and append a section if the epoch has none yet.

        Within one epoch later images replace earlier ones.

        Args:
            samples: for each sample its images by label, (H, W, 3) or (H, W).
        """
        cls = self.page.image_class
        articles = []
        for number, visuals in enumerate(samples):
            figures = []
            for label, image in visuals.items():
                file_name = _file_name(epoch, label, number)
                save_image(image, self.images / file_name)
                description = _description(epoch, label, number, len(samples))
                key = f"{label} {number}"
                figures.append(
                    image_tag(file_name, label, description, image.shape[:2], self.width, key, cls=cls)
                )
            articles.append(sample_tag(figures, cls=cls))
        # The file is read, because it may have been truncated since the last append.
        if not self._has_section(epoch):
            self.page.append(
                tags.section(
                    tags.h2(f"epoch {epoch}{', averaged weights' if self.averaged else ''}"),
                    tags.div(*articles, cls="samples"),
                    cls="epoch",
                    id=f"epoch-{epoch}",
                    data_epoch=str(epoch),
                )
            )

    def close(self) -> None:
        """Mark the run as finished, so that the page no longer reloads itself."""
        self.page.append(tags.p("finished", cls="end", hidden=True))

    def _has_section(self, epoch: int) -> bool:
        # Quotes in texts and in JSON are escaped, so only an attribute can match.
        return self.page.contains(f'data-epoch="{epoch}"')


def _about_tag(flags: Mapping[str, str]) -> tags.section:
    links = (tags.a(name, href=f"../{name}") for name in FILES)
    section = tags.section(tags.p(*links, cls="links"), cls="panel about", aria_label="About")
    if flags:
        command = command_tag("python train.py", flags)
        note = tags.p("train_opt.json has all flags, for --config.", cls="note")
        section.add(tags.details(tags.summary("Command"), command, note))
    return section


def _panel(name: str) -> tags.section:
    return tags.section(id=name, cls="panel", aria_label=name, hidden=True)


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: float) -> float | None:
    """Return a value with six digits, more than a chart shows, to keep the page small."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _file_name(epoch: int, label: str, number: int) -> str:
    return f"epoch{epoch:03d}_{label}.png" if number == 0 else f"epoch{epoch:03d}_{label}_{number}.png"


def _description(epoch: int, label: str, number: int, count: int) -> str:
    sample = f" – sample {number + 1}" if count > 1 else ""
    return f"epoch {epoch}{sample} – {label}"
