"""Validation during training: metrics on held-out images and the best value so far."""

import logging
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
from util.metrics.names import HIGHER_IS_BETTER, METRICS
from util.metrics.target import Target

NO_TRUTH = "the results of this model have no truth to compare with"

log = logging.getLogger(__name__)


class Validation:
    """Measure a model on fixed images as test.py does, and keep the best value.

    Attributes:
        best: best value of the metric `watched` so far.
        best_epoch: its epoch; 0 before the first measurement.
        stale: number of measurements since then.
    """

    def __init__(
        self,
        loader: Loader,
        metrics: Metrics,
        every: int,
        watched: str = "",
        patience: int | None = None,
        averaged: bool = False,
    ):
        """Measure every `every` epochs.

        Args:
            watched: the metric whose best value is kept; empty for none.
            patience: number of measurements without a better value after which training ends.
            averaged: whether the model that is measured has averaged weights.
        """
        self.loader, self.metrics, self.every = loader, metrics, every
        self.watched, self.patience, self.averaged = watched, patience, averaged
        self.best, self.best_epoch, self.stale = 0.0, 0, 0

    @classmethod
    def from_options(cls, options: TrainOptions, device: torch.device) -> Self | None:
        """Return the validation of the options; None without ``--val_freq``.

        Raises:
            UserError: there are no images, or the metric of ``--best`` is not available.
        """
        validation = options.validation
        if not validation.val_freq:
            return None
        changes = {"phase": validation.val_phase, "num_test": validation.val_size}
        loader = create_loader(as_test_options(options, MODELS, DATASETS, changes), device)
        names = {*options.metric_names, *([validation.best] if validation.best else [])}
        target = Target(loader.dataset.sides.B, options.files.mask)
        metrics = Metrics.load(names, device, options.metrics.weights, target)
        if validation.best in metrics.left_out:
            raise UserError(f"--best {validation.best}: it {metrics.left_out[validation.best]}")
        averaged = options.optimization.ema_decay > 0
        return cls(loader, metrics, validation.val_freq, validation.best, validation.patience, averaged)

    def check(self, model: BaseModel) -> None:
        """Raise a `UserError` if `model` has no results with the watched metric, before it is trained."""
        if not self.watched:
            return
        if METRICS[self.watched].per == "set" and len(self.loader) < 2:
            raise UserError(f"--best {self.watched}: it needs two images for validation at least")
        for sample in self.loader.first(1):
            labels = model.translate(sample.to(model.device, model.dtype)).keys()
            # Colour results are compared with the photo itself; only a grey one is no truth.
            if "fake_B_rgb" not in labels and not self.metrics.measures(
                self.watched, labels, self.loader.dataset.paired
            ):
                raise UserError(f"--best {self.watched}: not found in validation: {NO_TRUTH}")

    def is_due(self, epoch: int) -> bool:
        """Return whether to measure after this epoch."""
        return epoch % self.every == 0

    @property
    def is_over(self) -> bool:
        """Whether training should end because `patience` measurements were no better."""
        return self.patience is not None and self.stale >= self.patience

    def measure(self, model: BaseModel) -> tuple[dict[str, float], dict[str, str]]:
        """Return the means by metric and the reasons of missing ones, the same on every rank."""
        for batch in on_device(self.loader.epoch(0), model.device, model.dtype):
            self.metrics.update_visuals(batch, model.translate(batch), self.loader.dataset.paired)
        summary = self.metrics.compute()
        return distributed.broadcast_object((summary.mean, summary.left_out))

    def is_best(self, means: Mapping[str, float], epoch: int) -> bool:
        """Return whether the values after `epoch` are the best so far, and record them."""
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
        """Return the best value and its epoch, to resume with."""
        return {
            "watched": self.watched,
            "averaged": self.averaged,
            "best": self.best,
            "epoch": self.best_epoch,
            "stale": self.stale,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state_dict`, if it is of the same metric and the same kind of weights."""
        # Older versions measured the plain weights, also with averages.
        if (state["watched"], state.get("averaged", False)) == (self.watched, self.averaged):
            self.best, self.best_epoch, self.stale = state["best"], state["epoch"], state["stale"]
        elif state["watched"] and self.watched:
            log.warning(
                "--best %s: the best value so far is forgotten, as it is %s of the %s weights",
                self.watched,
                state["watched"],
                "averaged" if state.get("averaged") else "plain",
            )
