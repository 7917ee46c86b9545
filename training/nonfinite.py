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
class NonFiniteReport:
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


class NonFiniteGuard:
    """Decides on the device, for every update, whether it is made.

    Args:
        policy: ``stop``: after the first loss that is not finite no update is made any more, so that the
            weights stay what they were; ``skip``: only the updates whose loss or gradient is not finite are
            left out.
        device: where the losses are.
    """

    def __init__(self, policy: str = "stop", device: torch.device | str = "cpu"):
        self.policy = policy
        self._updates: dict[str, Tensor] = {}
        # All that outlasts a step is changed in place, so that a captured step finds it where it was.
        self._blocking, self._steps, self._in_a_row = torch.zeros(3, device=device).unbind()
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
        """Take the losses of a training step after its updates; return whether one is not finite.

        Args:
            iteration: the step's number, from 1, 0-d float64 on the device.
        """
        names = (*losses, *(UPDATE + name for name in self._updates))
        values = torch.stack([loss.detach().double() for loss in (*losses.values(), *self._updates.values())])
        self._updates = {}
        bad = ~values.isfinite().all()
        self._steps += bad
        self._in_a_row.add_(1).mul_(bad)
        # The iteration and the values of the first bad step; 0 until there is one. Steps may differ in the
        # losses that they have: each set of names has its own record.
        record = torch.cat([iteration.view(1), values])
        first = self._first.setdefault(names, torch.zeros_like(record))
        first.copy_(torch.where(bad & (first[0] == 0), record, first))
        return bad

    def pop_report(self) -> NonFiniteReport | None:
        """Return what was not finite since the last look, if anything was; this waits for the device."""
        steps, in_a_row = int(self._steps), int(self._in_a_row)
        if not steps:
            return None
        records = [(names, record.tolist()) for names, record in self._first.items()]
        names, (iteration, *values) = min((r for r in records if r[1][0]), key=lambda r: r[1][0])
        found = {name: value for name, value in zip(names, values, strict=True) if not isfinite(value)}
        for record in (*self._first.values(), self._steps):
            record.zero_()
        return NonFiniteReport(
            iteration=int(iteration),
            losses={name: value for name, value in found.items() if not name.startswith(UPDATE)},
            networks=[name.removeprefix(UPDATE) for name in found if name.startswith(UPDATE)],
            steps=steps,
            fatal=self.policy == "stop" or in_a_row >= PATIENCE,
        )
