"""Keeps losses that are not finite out of the weights, without ever waiting for the device in a step."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

PATIENCE = 50
"""So many steps in a row left out, and training is over: leaving out more will not mend it."""

UPDATE = "update of "
"""Tells the entries for updates from those for losses."""


@dataclass(frozen=True)
class Sickness:
    """What was not finite since the last look.

    Attributes:
        iteration: the first training step that had it.
        losses: the losses of that step that were not finite, by name.
        networks: the names of the optimizers whose loss or gradient was not finite in it.
        steps: how many steps had it.
        fatal: whether training cannot go on.
    """

    iteration: int
    losses: Mapping[str, float]
    networks: list[str]
    steps: int
    fatal: bool


class LossGuard:
    """Decides on the device, for every update, whether it is made.

    Args:
        policy: ``stop``: after the first loss that is not finite no update is made any more, so that the
            weights stay what they were; ``skip``: only the updates whose loss or gradient is not finite are
            left out.
    """

    def __init__(self, policy: str = "stop"):
        self.policy = policy
        self._blocking: Tensor | float = 0.0
        self._updates: dict[str, Tensor] = {}
        self._first: dict[tuple[str, ...], Tensor] = {}
        self._steps: Tensor | int = 0
        self._in_a_row: Tensor | int = 0

    def blocks(self, name: str, loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Return 1 if the update of optimizer `name` must not be made, else 0: 0-d float32 on the device."""
        bad = ~loss.detach().isfinite()
        if self.policy == "skip":
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            bad = bad | ~get_total_norm(gradients, torch.inf).isfinite()
        self._updates[name] = torch.where(bad, torch.nan, 0.0)
        blocking = torch.clamp(bad + self._blocking, max=1.0)
        if self.policy == "stop":
            self._blocking = blocking
        return blocking

    def end_step(self, iteration: int, losses: Mapping[str, Tensor]) -> Tensor:
        """Take the losses of a training step, from 1, after its updates; return whether one is not finite."""
        names = (*losses, *(UPDATE + name for name in self._updates))
        values = torch.stack([loss.detach().double() for loss in (*losses.values(), *self._updates.values())])
        self._updates = {}
        bad = ~values.isfinite().all()
        self._steps = self._steps + bad
        self._in_a_row = (self._in_a_row + 1) * bad
        # The iteration and the values of the first bad step; 0 until there is one. Steps may differ in the
        # losses that they have: each set of names has its own record.
        record = nn.functional.pad(values, (1, 0), value=iteration)
        before = self._first.get(names, torch.zeros_like(record))
        self._first[names] = torch.where(bad & (before[0] == 0), record, before)
        return bad

    def look(self) -> Sickness | None:
        """Return what was not finite since the last look, if anything was; this waits for the device."""
        steps, in_a_row = int(self._steps), int(self._in_a_row)
        if not steps:
            return None
        records = [(names, record.tolist()) for names, record in self._first.items()]
        names, (iteration, *values) = min((r for r in records if r[1][0]), key=lambda r: r[1][0])
        found = {name: value for name, value in zip(names, values, strict=True) if not isfinite(value)}
        self._first, self._steps = {}, 0
        return Sickness(
            iteration=int(iteration),
            losses={name: value for name, value in found.items() if not name.startswith(UPDATE)},
            networks=[name.removeprefix(UPDATE) for name in found if name.startswith(UPDATE)],
            steps=steps,
            fatal=self.policy == "stop" or in_a_row >= PATIENCE,
        )
