"""Learning-rate policies: the factor on the initial rate as a pure function of progress; epochs from 1."""

from dataclasses import asdict, dataclass
from math import cos, inf, pi

PLATEAU_FACTOR, PLATEAU_THRESHOLD, PLATEAU_PATIENCE = 0.2, 0.01, 5


def linear(epoch: int, n_epochs: int, n_epochs_decay: int) -> float:
    """Return 1 for the first `n_epochs`, then a line that would reach 0 one epoch after the last."""
    return 1 - max(0, epoch - n_epochs) / (n_epochs_decay + 1)


def step(epoch: int, every: int) -> float:
    """Return a tenth more often after each `every` epochs."""
    return 0.1 ** ((epoch - 1) // every)


def cosine(epoch: int, total: int) -> float:
    """Return half a wave from 1 at the first epoch that would reach 0 one epoch after the last, `total`."""
    return (1 + cos(pi * (epoch - 1) / total)) / 2


@dataclass(frozen=True)
class Plateau:
    """How a watched value has developed, and the factor that follows from it."""

    factor: float = 1.0
    best: float = inf
    bad_epochs: int = 0

    def after(self, value: float) -> "Plateau":
        """Return the state after an epoch with `value`.

        An epoch is good if it lowers the best value by 1 %; after more than five others in a row the factor
        falls to a fifth.
        """
        # A share of |best|, so that losses below zero (hinge, wgangp) count as better when they fall.
        if self.best == inf or value < self.best - PLATEAU_THRESHOLD * abs(self.best):
            return Plateau(self.factor, value, 0)
        if self.bad_epochs < PLATEAU_PATIENCE:
            return Plateau(self.factor, self.best, self.bad_epochs + 1)
        return Plateau(self.factor * PLATEAU_FACTOR, self.best, 0)

    def state_dict(self) -> dict[str, float]:
        """Return the attributes as plain numbers."""
        return asdict(self)
