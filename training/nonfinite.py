"""Keeps non-finite losses and gradients out of the weights, without host synchronisation in a step."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

PATIENCE = 50
"""After this many consecutive steps left out, training ends: it will not recover."""

UPDATE = "update of "
"""Prefix of the entries for updates, which are recorded beside the losses."""


@dataclass(frozen=True)
class NonFiniteReport:
    """What was not finite since the last report.

    Attributes:
        iteration: the first training step concerned.
        losses: the losses of that step that were not finite, by name.
        optimizers: the optimizers whose loss or gradient was not finite in that step.
        steps: number of steps concerned.
        fatal: training cannot continue.
    """

    iteration: int
    losses: Mapping[str, float]
    optimizers: list[str]
    steps: int
    fatal: bool


class NonFiniteGuard:
    """Decides on the device, for every update, whether it is made.

    Args:
        policy: ``stop``: no update is made after the first loss that is not finite, so that the weights stay
            as they were before it; ``skip``: only updates whose loss or gradient is not finite are left out.
        device: of the losses.
    """

    def __init__(self, policy: str = "stop", device: torch.device | str = "cpu"):
        self.policy = policy
        self._updates: dict[str, Tensor] = {}
        # State is changed in place, so that a captured step finds it where it was.
        self._blocking, self._steps, self._consecutive = torch.zeros(3, device=device).unbind()
        self._first: dict[tuple[str, ...], Tensor] = {}

    def blocks(self, name: str, loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Return 1 if the update of optimizer `name` must not be made, else 0: 0-d float32 on the device."""
        bad = ~loss.detach().isfinite()
        if self.policy == "skip":
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            bad = bad | ~get_total_norm(gradients, torch.inf).isfinite()
        self._updates[name] = torch.where(bad, torch.nan, 0.0)
        blocking = torch.clamp(bad + self._blocking, max=1.0)
        if self.policy == "stop":
            self._blocking.copy_(blocking)
        return blocking

    def end_step(self, iteration: Tensor, losses: Mapping[str, Tensor]) -> Tensor:
        """Record the losses of a training step after its updates; return whether one is not finite.

        Args:
            iteration: number of the step, from 1, 0-d float64 on the device.
        """
        names = (*losses, *(UPDATE + name for name in self._updates))
        values = torch.stack([loss.detach().double() for loss in (*losses.values(), *self._updates.values())])
        self._updates = {}
        bad = ~values.isfinite().all()
        self._steps += bad
        self._consecutive.add_(1).mul_(bad)
        # Iteration and values of the first bad step, zeros until there is one. Steps may have different
        # losses: each set of names has its own record.
        record = torch.cat([iteration.view(1), values])
        first = self._first.setdefault(names, torch.zeros_like(record))
        first.copy_(torch.where(bad & (first[0] == 0), record, first))
        return bad

    def pop_report(self) -> NonFiniteReport | None:
        """Return what was not finite since the last call, or None; this waits for the device."""
        steps, consecutive = int(self._steps), int(self._consecutive)
        if not steps:
            return None
        records = [(names, record.tolist()) for names, record in self._first.items()]
        bad_records = [record for record in records if record[1][0]]
        names, (iteration, *values) = min(bad_records, key=lambda record: record[1][0])
        bad = {name: value for name, value in zip(names, values, strict=True) if not isfinite(value)}
        for record in (*self._first.values(), self._steps):
            record.zero_()
        return NonFiniteReport(
            iteration=int(iteration),
            losses={name: value for name, value in bad.items() if not name.startswith(UPDATE)},
            optimizers=[name.removeprefix(UPDATE) for name in bad if name.startswith(UPDATE)],
            steps=steps,
            fatal=self.policy == "stop" or consecutive >= PATIENCE,
        )
