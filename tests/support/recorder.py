"""Stand-ins for what only a GPU does: capturing steps, and waiting for the device."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from util.batch import Step

WAITING = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2"}
"""Operators whose result the host has to know."""


class OperatorTape(TorchDispatchMode):
    """Keeps every operator that runs, with the very tensors that it read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], Mapping[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found


class CpuRecorder:
    """Records steps as a CUDA graph does: the host's numbers, and which tensor is where, are fixed for ever.

    Unlike a GPU, a CPU has computed the step when it is recorded, so that the first replay has nothing to do.
    """

    def __init__(self) -> None:
        self.replays = 0

    def warm_up(self, run: Callable[[], Step]) -> Step:
        return run()

    def rehearse(self, run: Callable[[], Step]) -> tuple[Step, str]:
        with Waits() as waits:
            step = run()
        return step, ", ".join(waits.found)

    def record(self, run: Callable[[], Step]) -> tuple[Step, Callable[[], None]]:
        with OperatorTape() as tape:
            step = run()
        fresh = [True]

        def replay() -> None:
            self.replays += 1
            if not fresh:
                play(tape)
            fresh.clear()

        return step, replay


@torch.no_grad()
def play(tape: OperatorTape) -> None:
    """Run all operators again, on the same tensors and into the same ones."""
    for func, args, kwargs, recorded in tape.calls:
        found = func(*args, **kwargs)
        for old, new in zip(tree_leaves(recorded), tree_leaves(found), strict=True):
            # Views, and what works in place, are where they were.
            if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                old.copy_(new)


class Waits(TorchDispatchMode):
    """Notes where a GPU's host would have to wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        masks = name.startswith("index") and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in tree_leaves(args[1:])
        )
        if name in WAITING or masks:
            self.found.append(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


class NoTraffic(TorchDispatchMode):
    """Raises where tensors of the host and of the device meet."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, found)) if isinstance(each, Tensor)]
        if len({each.device.type for each in tensors if each.dim()}) > 1:
            raise AssertionError(f"{func} copies between the host and the device")
        return found
