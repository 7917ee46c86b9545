"""Everything a training step may change: find it, save it, restore it, compare it."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from math import inf, isnan, sqrt
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from util.batch import Step

STATE_TOLERANCE = 0.25
"""Relative difference of the change that a step makes to a state, by its L2 norm.

It is large because Adam turns the rounding error of a gradient that should be 0 into a full step.
"""

ROUNDING = 1e-5
"""Relative difference of a state, by its L2 norm, that counts as rounding."""

RANDOM_STATE = "random state"
NO_STATE = (type, ModuleType, FunctionType, MethodType, BuiltinFunctionType)
MODULE_DICTS = ("_parameters", "_buffers", "_modules")


class Snapshot:
    """Copies of all tensors that are reachable from `owners`, and of torch's random state, on the CPU.

    Args:
        owners: networks, optimizers and other objects by the name to report; optimizers come first.
    """

    def __init__(self, owners: Mapping[str, object]):
        self.owners = owners
        self.values = {
            name: [tensor.detach().to("cpu", copy=True) for tensor in live]
            for name, live in tensors(owners).items()
        }
        self.values[RANDOM_STATE] = [torch.get_rng_state()]
        if torch.cuda.is_initialized():
            self.values[RANDOM_STATE].append(torch.cuda.get_rng_state())

    @torch.no_grad()
    def restore(self) -> None:
        """Write the copies back in place, where a captured step reads them; constants are not written to."""
        for name, live in tensors(self.owners).items():
            for tensor, value in zip(live, self.values.get(name, []), strict=False):
                if tensor.shape == value.shape and not torch.equal(tensor.cpu(), value):
                    tensor.copy_(value)
        torch.set_rng_state(self.values[RANDOM_STATE][0])
        for state in self.values[RANDOM_STATE][1:]:
            torch.cuda.set_rng_state(state)

    def differences(self, other: "Snapshot", before: "Snapshot") -> list[str]:
        """Return the names of what differs from `other` beyond float tolerance; both come from `before`."""
        return [
            name
            for name in dict.fromkeys((*before.values, *self.values))
            if not _same_change(*(each.values.get(name) for each in (before, self, other)))
        ]


def step_differences(step: Step, other: Step, tolerance: float) -> list[str]:
    """Return the names of losses and visuals whose relative difference (L2) is beyond `tolerance`."""
    pairs = {
        f"{kind} {name}": (ours, theirs.get(name))
        for kind, mine, theirs in zip(("loss", "visual"), step, other, strict=True)
        for name, ours in mine.items()
    }
    return [
        name
        for name, (ours, theirs) in pairs.items()
        if theirs is None
        or not _distance([ours], [theirs]) <= tolerance * _norm([ours]) + 1e-6 * sqrt(ours.numel())
    ]


def numbers(owners: Mapping[str, object]) -> dict[str, float]:
    """Return the Python numbers that are reachable from `owners` by name, except optimizers' and NaN."""
    others = {name: owner for name, owner in owners.items() if name != "optimizers"}
    return {name: value for name, value in _leaves(others) if not (isinstance(value, Tensor) or isnan(value))}


def tensors(owners: Mapping[str, object]) -> dict[str, list[Tensor]]:
    """Return the tensors that are reachable from `owners` by name; an optimizer's have one name per kind."""
    by_name: dict[str, list[Tensor]] = {}
    for name, value in _leaves(owners):
        if isinstance(value, Tensor):
            by_name.setdefault(name, []).append(value)
    return by_name


def _leaves(root: object) -> Iterator[tuple[str, Tensor | float]]:
    """Yield all tensors and numbers that are reachable from `root` with their paths; each tensor once."""
    seen: set[int] = set()

    def walk(value: object, path: str) -> Iterator[tuple[str, Tensor | float]]:
        if isinstance(value, int | float):
            yield path, value
        elif id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Tensor):
                yield path, value
            else:
                for name, item in _items(value):
                    yield from walk(item, f"{path}.{name}" if path and name else path or name)

    yield from walk(root, "")


def _items(value: object) -> Iterable[tuple[str, object]]:
    """Return the items of a container or the attributes of an object, each with its part of the path."""
    if isinstance(value, Optimizer):
        return _optimizer_items(value)
    if isinstance(value, Mapping):
        return [(str(name), item) for name, item in value.items()]
    if isinstance(value, list | tuple | deque):
        return [(str(index), item) for index, item in enumerate(value)]
    if isinstance(value, NO_STATE) or not hasattr(value, "__dict__"):
        return []
    hidden = MODULE_DICTS if isinstance(value, nn.Module) else ()
    return [("" if name in hidden else name, item) for name, item in vars(value).items()]


def _optimizer_items(optimizer: Optimizer) -> Iterator[tuple[str, object]]:
    for group in optimizer.param_groups:
        yield from (("weights", parameter) for parameter in group["params"])
        yield "lr", group["lr"]
    for entries in optimizer.state.values():
        yield from entries.items()


def _same_change(before: list[Tensor] | None, ours: list[Tensor] | None, theirs: list[Tensor] | None) -> bool:
    """Return whether two steps have changed the state `before` in the same way, to float tolerance."""
    if before is None or ours is None or theirs is None:
        return False  # a captured step cannot create state
    error = _distance(ours, theirs)
    if error == 0 or not ours[0].is_floating_point():
        return error == 0
    return error <= max(STATE_TOLERANCE * _distance(before, ours), ROUNDING * _norm(ours))


def _distance(some: list[Tensor], others: list[Tensor]) -> float:
    """Return the L2 norm of the difference, in which equal infinities and NaNs count as 0."""
    if [tensor.shape for tensor in some] != [tensor.shape for tensor in others]:
        return inf
    total = 0.0
    for one, other in zip(some, others, strict=True):
        same = (one == other) | (one.isnan() & other.isnan())
        total += (one.double() - other.double()).masked_fill(same, 0).square().sum().item()
    return sqrt(total)


def _norm(tensors: list[Tensor]) -> float:
    return sqrt(sum(tensor.double().square().sum().item() for tensor in tensors))
