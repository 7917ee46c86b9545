"""Validation: what is measured of a model on images that it is not trained on, and which was the best."""

from collections.abc import Mapping
from typing import Any, Self

import torch

from data import DATASETS, Loader, create_loader
from data.prefetch import on_device
from models import MODELS
from models.base_model import BaseModel
from options.parse import as_test_options
from options.train_options import TrainOptions
from util import distributed
from util.errors import UserError
from util.metrics.measure import Metrics
from util.metrics.names import HIGHER_IS_BETTER


class Validation:
    """Measures a model on fixed images as test.py does, and remembers the best value.

    Attributes:
        best: the best value of the metric `watched` so far.
        best_epoch: when that was; 0: not yet.
        stale: how many measurements have come since.
    """

    def __init__(
        self, loader: Loader, metrics: Metrics, every: int, watched: str = "", patience: int | None = None
    ):
        """Measure after each `every` epochs; have had enough after `patience` values that are no better.

        Args:
            watched: the metric of which the best value counts; none is the empty text.
        """
        self.loader, self.metrics, self.every = loader, metrics, every
        self.watched, self.patience = watched, patience
        self.best, self.best_epoch, self.stale = 0.0, 0, 0

    @classmethod
    def from_options(cls, options: TrainOptions, device: torch.device) -> Self | None:
        """Return what ``--val_freq`` asks for.

        Raises:
            UserError: there are no such images, or the metric that ``--best`` names cannot be had.
        """
        asked = options.validation
        if not asked.val_freq:
            return None
        changes = {"phase": asked.val_phase, "num_test": asked.val_size}
        loader = create_loader(as_test_options(options, MODELS, DATASETS, changes), device)
        names = {*options.metrics.names, *([asked.best] if asked.best else [])}
        metrics = Metrics.load(names, device, options.metrics.weights)
        if asked.best in metrics.left_out:
            raise UserError(f"--best {asked.best}: it {metrics.left_out[asked.best]}")
        return cls(loader, metrics, asked.val_freq, asked.best, asked.patience)

    def is_due(self, epoch: int) -> bool:
        """Return whether to measure at the end of this epoch."""
        return epoch % self.every == 0

    @property
    def is_over(self) -> bool:
        """Whether there has been no better value for so long that training should end."""
        return self.patience is not None and self.stale >= self.patience

    def measure(self, model: BaseModel) -> tuple[dict[str, float], dict[str, str]]:
        """Return the means by metric, and why some are missing; the same in every process."""
        for batch in on_device(self.loader.epoch(0), model.device, model.dtype):
            self.metrics.update_visuals(batch, model.translate(batch), self.loader.dataset.paired)
        summary = self.metrics.compute()
        return distributed.broadcast_object((summary.mean, summary.left_out))

    def is_best(self, means: Mapping[str, float], epoch: int) -> bool:
        """Return whether what was measured after `epoch` is the best so far, and remember it."""
        if not self.watched:
            return False
        value = means[self.watched]
        improved = value > self.best if HIGHER_IS_BETTER[self.watched] else value < self.best
        if self.best_epoch and not improved:
            self.stale += 1
            return False
        self.best, self.best_epoch, self.stale = value, epoch, 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run has to know."""
        return {"watched": self.watched, "best": self.best, "epoch": self.best_epoch, "stale": self.stale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, if it is of the same metric."""
        if state["watched"] == self.watched:
            self.best, self.best_epoch, self.stale = state["best"], state["epoch"], state["stale"]
