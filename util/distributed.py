"""Several processes that train one model: their number, what they tell each other, and how they are started.

Started by torchrun, a process finds its number in the environment; without it there is one process, and every
function here does what is right for one. Each batch is spread over the processes; what they compute is added
up, so that together they do what one would do with the whole batch.
"""

import logging
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from util.errors import UserError
from util.stopping import SIGNALS, STOPPED_STATUS

log = logging.getLogger(__name__)

MEETING_SECONDS = 600

MESSAGE_BYTES = 25_000_000
"""Gradients go out in messages of at most so many bytes, or of a single larger one."""

T = TypeVar("T")

_spread = False


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def under_torchrun() -> bool:
    """Return whether torchrun has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_restart() -> bool:
    """Return whether torchrun has started the processes again after one of them had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def join(device: torch.device) -> None:
    """Meet the other processes, if torchrun has started several."""
    if not under_torchrun() or os.environ["WORLD_SIZE"] == "1":
        return
    store, number, count = next(dist.rendezvous("env://"))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",  # hosts decide without their GPUs
        store=dist.PrefixStore(meeting(store, number, count), store),
        rank=number,
        world_size=count,
    )
    if rank():
        logging.getLogger().setLevel(logging.WARNING)  # one process tells


def meeting(store: dist.Store, number: int, count: int) -> str:
    """Return a name that these processes have found for their meeting, and none before them.

    When torchrun starts processes again they find the store as those before them left it, with their
    addresses; and it does not tell them which start this is (their restart counts differ between machines).

    Raises:
        UserError: some process does not come.
    """
    mine, deadline = secrets.token_hex(8), time.monotonic() + MEETING_SECONDS
    store.set(f"here/{number}", mine)
    while time.monotonic() < deadline:
        if number == 0:
            present = [store.get(f"here/{other}").decode() for other in range(count)]
            store.set("meeting", " ".join(present))
            # Those who were read as they had been at an earlier start come again.
            if all(store.check([f"agreed/{mine}/{other}"]) for other in range(1, count)):
                return mine
        else:
            present = store.get("meeting").decode().split()
            if present[number] == mine:
                store.set(f"agreed/{present[0]}/{number}", mine)
                if store.get("meeting").decode().split() == present:
                    return present[0]
        time.sleep(0.05)
    raise UserError(f"process {number} of {count} has waited {MEETING_SECONDS} s for the others in vain")


def leave() -> None:
    """Part from the other processes, when all have done: torchrun ends those that outlast the first."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


@contextmanager
def spread(whether: bool) -> Iterator[None]:
    """Within it, processes work each on its part of a batch, or all of them on the same."""
    global _spread
    _spread = whether
    try:
        yield
    finally:
        _spread = False


def is_spread() -> bool:
    """Return whether each process works on its part of a batch."""
    return _spread


def bounds(count: int, of: int, number: int) -> slice:
    """Return the share of process `number` among `of` of so many things in a row."""
    return slice(count * number // of, count * (number + 1) // of)


class Sum:
    """The sum over all processes of each of some tensors, on its way to all of them as one message."""

    def __init__(self, tensors: Sequence[Tensor]):
        self.tensors = list(tensors)
        if tensors:
            self._flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            self._work = dist.all_reduce(self._flat, async_op=True)

    def finish(self) -> None:
        """Put the sums into the tensors."""
        if not self.tensors:
            return
        self._work.wait()
        parts = self._flat.split([tensor.numel() for tensor in self.tensors])
        sums = [part.view(tensor.shape) for part, tensor in zip(parts, self.tensors, strict=True)]
        torch._foreach_copy_(self.tensors, sums)


def add_up(tensors: Sequence[Tensor]) -> None:
    """Put the sum over all processes into each tensor; one message for many of them."""
    for group in messages(tensors):
        Sum(group).finish()


def messages(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors in groups, in their order, each of one type and about MESSAGE_BYTES at most."""
    group: list[Tensor] = []
    held = 0
    for tensor in tensors:
        if group and (held + tensor.nbytes > MESSAGE_BYTES or tensor.dtype != group[0].dtype):
            yield group
            group, held = [], 0
        group.append(tensor)
        held += tensor.nbytes
    if group:
        yield group


def gather_rows(rows: Tensor, total: int) -> Tensor:
    """Return what all processes have, (total, ...), of which each has its `bounds`, (N, ...), or all."""
    if len(rows) == total:
        return rows
    most = -(-total // size())
    padded = rows.new_zeros(most, *rows.shape[1:])
    padded[: len(rows)] = rows
    found = [torch.empty_like(padded) for _ in range(size())]
    dist.all_gather(found, padded)
    shares = [bounds(total, size(), number) for number in range(size())]
    return torch.cat([part[: each.stop - each.start] for part, each in zip(found, shares, strict=True)])


def gather_objects(mine: T) -> list[T]:
    """Return what the processes hand in, in their order, on process 0; elsewhere nothing."""
    if size() == 1:
        return [mine]
    found: list[Any] | None = [None] * size() if rank() == 0 else None
    dist.gather_object(mine, found)
    return found or []


def from_first(mine: T) -> T:
    """Return what process 0 has handed in."""
    if size() == 1:
        return mine
    held = [mine]
    dist.broadcast_object_list(held)
    return held[0]


def rounds(items: Iterable[T]) -> Iterator[T | None]:
    """Yield the items of this process, and then None as long as another one has some left."""
    iterator = iter(items)
    while True:
        item = next(iterator, None)
        some = torch.tensor(item is not None, dtype=torch.uint8)
        if size() > 1:
            dist.all_reduce(some, dist.ReduceOp.MAX)
        if not some:
            return
        yield item


class Agreement:
    """Lets the processes act on what one of them knows, all in the same step, without waiting for each other.

    With several processes the answer to a question comes with the next one.
    """

    def __init__(self) -> None:
        self._asked: tuple[Any, Tensor] | None = None

    def any(self, *mine: bool) -> tuple[bool, ...]:
        """Return for each question whether some process has said yes."""
        if size() == 1:
            return mine
        found: tuple[bool, ...] = (False,) * len(mine)
        if self._asked is not None:
            work, answers = self._asked
            work.wait()
            found = tuple(bool(answer) for answer in answers.tolist())
        answers = torch.tensor(mine, dtype=torch.uint8)
        self._asked = dist.all_reduce(answers, dist.ReduceOp.MAX, async_op=True), answers
        return found


class AddUp(torch.autograd.Function):
    """The sum over all processes of a tensor, through which gradients flow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def launch(count: int, script: str, argv: Sequence[str]) -> int:
    """Run a script in `count` processes as torchrun does on one machine; return the exit status."""
    # Imported here, because it takes time that one process need not spend.
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle=",".join(number.name for number in SIGNALS),
    )
    try:
        elastic_launch(config, sys.executable)("-u", script, *argv)
    except SignalException:
        return STOPPED_STATUS
    except ChildFailedError as error:
        statuses = {failure.exitcode for failure in error.failures.values()}
        if statuses == {STOPPED_STATUS}:
            return STOPPED_STATUS
        number, first = error.get_first_failure()
        status = first.exitcode
        if status != 2:  # else the process has said what is wrong
            raise UserError(
                f"process {number} ended with status {status}"
                f"{f' ({first.signal_name()})' if status < 0 else ''}; the others were ended too."
                " --continue_train goes on from the last saved state"
            ) from error
        return status
    return 0
