"""CPU stand-ins for a GPU: capturing steps, and noticing what waits for the device."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from util.batch import Step

SYNCHRONIZING = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2"}
"""Operators whose result the host has to know."""


class Call(NamedTuple):
    """An operator that ran, with the tensors that it read and wrote."""

    operator: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any

    @property
    def name(self) -> str:
        return self.operator.__name__.split(".")[0]

    def written(self) -> list[Tensor]:
        """Return the tensors that the operator changes in place."""
        if self.name == "native_batch_norm":  # whose schema does not mention its running statistics
            return [value for value in self.args[3:5] if value is not None]
        arguments = self.operator._schema.arguments
        values = (
            self.args[index] if index < len(self.args) else self.kwargs.get(argument.name)
            for index, argument in enumerate(arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        )
        return [leaf for value in values for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


class OperatorTape(TorchDispatchMode):
    """Records every operator, and what the tensors that it changes in place held before."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = Call(func, args, kwargs or {}, None)
        self.before += [(tensor, tensor.clone()) for tensor in call.written()]
        result = func(*args, **call.kwargs)
        self.calls.append(call._replace(result=result))
        return result

    @torch.no_grad()
    def undo(self) -> None:
        for tensor, value in reversed(self.before):
            tensor.copy_(value)


class CpuRecorder:
    """Captures steps as a CUDA graph does: Python's numbers and the places of tensors are fixed for ever.

    Attributes:
        replays: how many there were.
    """

    def __init__(self) -> None:
        self.replays = 0

    def run(self, compute: Callable[[], Step]) -> Step:
        return compute()

    def find_sync(self, compute: Callable[[], Step]) -> tuple[Step, str]:
        with SyncDetector() as syncs:
            step = compute()
        return step, ", ".join(syncs.found)

    def capture(self, compute: Callable[[], Step]) -> tuple[Step, Callable[[], None]]:
        random_state = torch.get_rng_state()
        try:
            with OperatorTape() as tape:
                step = compute()
        finally:  # a capture computes nothing
            tape.undo()
            torch.set_rng_state(random_state)

        def replay() -> None:
            self.replays += 1
            with torch.no_grad():
                for call in self.replayed(tape.calls):
                    play(call)

        return step, replay

    def replayed(self, calls: list[Call]) -> Iterator[Call]:
        """Yield the calls that a replay repeats."""
        yield from calls


def play(call: Call) -> None:
    """Run an operator again, on the same tensors and into the same ones."""
    result = call.operator(*call.args, **call.kwargs)
    for old, new in zip(tree_leaves(call.result), tree_leaves(result), strict=True):
        # Views, and results of operators that work in place, are where they were.
        if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
            old.copy_(new)


class SyncDetector(TorchDispatchMode):
    """Records the operators that make a GPU's host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        masks = name.startswith("index") and any(
            isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1:])
        )
        if name in SYNCHRONIZING or masks:
            self.found.append(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


class NoTraffic(TorchDispatchMode):
    """Raises where an operator has tensors of the host and of the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if len({tensor.device.type for tensor in tensors if tensor.dim()}) > 1:
            raise AssertionError(f"{func} copies between the host and the device")
        return result
