"""Learning-rate policies: the factor on the initial learning rate, by epoch (from 1)."""

from dataclasses import asdict, dataclass
from math import cos, inf, pi
from typing import Any, Self

from options.train_options import OptimizationOptions

PLATEAU_FACTOR, PLATEAU_THRESHOLD, PLATEAU_PATIENCE = 0.2, 0.01, 5


def linear(epoch: int, n_epochs: int, n_epochs_decay: int) -> float:
    """Return 1 for `n_epochs`, then a linear decay that would reach 0 one epoch after the last."""
    return 1 - max(0, epoch - n_epochs) / (n_epochs_decay + 1)


def step(epoch: int, every: int) -> float:
    """Return a factor that falls to a tenth after each `every` epochs."""
    return 0.1 ** ((epoch - 1) // every)


def cosine(epoch: int, total: int) -> float:
    """Return a half cosine from 1 in the first epoch that would reach 0 one epoch after the last, `total`."""
    return (1 + cos(pi * (epoch - 1) / total)) / 2


@dataclass(frozen=True)
class Plateau:
    """State of the plateau policy: the factor, the best value, and the epochs since it improved."""

    factor: float = 1.0
    best: float = inf
    bad_epochs: int = 0

    def after(self, value: float) -> "Plateau":
        """Return the state after an epoch with `value`.

        An epoch improves if it lowers the best value by 1 %; after more than five others in a row the factor
        is multiplied by 0.2.
        """
        # Relative to |best|, so that negative losses (hinge, wgangp) improve when they fall.
        if self.best == inf or value < self.best - PLATEAU_THRESHOLD * abs(self.best):
            return Plateau(self.factor, value, 0)
        if self.bad_epochs < PLATEAU_PATIENCE:
            return Plateau(self.factor, self.best, self.bad_epochs + 1)
        return Plateau(self.factor * PLATEAU_FACTOR, self.best, 0)


class LearningRate:
    """The factor on the initial learning rate that ``--lr_policy`` gives every epoch."""

    def __init__(self, policy: str, n_epochs: int, n_epochs_decay: int, lr_decay_iters: int):
        self.policy, self.n_epochs, self.n_epochs_decay = policy, n_epochs, n_epochs_decay
        self.lr_decay_iters = lr_decay_iters
        self.plateau = Plateau()

    @classmethod
    def from_options(cls, options: OptimizationOptions) -> Self:
        return cls(options.lr_policy, options.n_epochs, options.n_epochs_decay, options.lr_decay_iters)

    @property
    def watches(self) -> bool:
        """Whether the factor depends on the values given to `end_epoch`."""
        return self.policy == "plateau"

    def factor(self, epoch: int) -> float:
        """Return the factor for an epoch, from 1."""
        if self.policy == "linear":
            return linear(epoch, self.n_epochs, self.n_epochs_decay)
        if self.policy == "step":
            return step(epoch, self.lr_decay_iters)
        if self.policy == "cosine":
            return cosine(epoch, self.n_epochs + self.n_epochs_decay)
        return self.plateau.factor

    def end_epoch(self, value: float) -> None:
        """Record the watched value, a mean over the epoch that ends."""
        if self.watches:
            self.plateau = self.plateau.after(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that does not follow from the epoch."""
        return asdict(self.plateau)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict`."""
        self.plateau = Plateau(**state)
