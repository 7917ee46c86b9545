"""Data-parallel training on several ranks: collectives, rendezvous and launching.

Launched by torchrun, a process reads its rank from the environment; without torchrun there is one rank, for
which every function here does nothing or returns its input. Ranks compute together what one process computes
with the whole batch: each takes its rows of it, and gradients and statistics are all-reduced.
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
from util.stopping import STOPPED_STATUS, Stopped, stop_signals

log = logging.getLogger(__name__)

RENDEZVOUS_SECONDS = 600

BUCKET_BYTES = 25_000_000
"""Largest size of a bucket of several tensors; a larger tensor is a bucket of its own."""

T = TypeVar("T")

_data_parallel = False


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def launched_by_torchrun() -> bool:
    """Return whether torchrun launched this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_restart() -> bool:
    """Return whether torchrun restarted the ranks after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def init_process_group(device: torch.device) -> None:
    """Join the other ranks, if torchrun launched several; ranks other than 0 log warnings only."""
    if not launched_by_torchrun() or os.environ["WORLD_SIZE"] == "1":
        return
    store, this_rank, ranks = next(dist.rendezvous("env://"))
    dist.init_process_group(
        # gloo beside NCCL: decisions on the host need no GPU synchronisation
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore(rendezvous_prefix(store, this_rank, ranks), store),
        rank=this_rank,
        world_size=ranks,
    )
    if rank():
        logging.getLogger().setLevel(logging.WARNING)


def rendezvous_prefix(store: dist.Store, this_rank: int, ranks: int) -> str:
    """Return a key prefix that all ranks agree on and that no earlier launch has used.

    After a restart by torchrun the store still holds the keys and addresses of the earlier launch, and
    restart counts differ between machines, so they cannot serve as the prefix.

    Raises:
        UserError: a rank did not arrive within `RENDEZVOUS_SECONDS`.
    """
    token, deadline = secrets.token_hex(8), time.monotonic() + RENDEZVOUS_SECONDS
    store.set(f"token/{this_rank}", token)
    while time.monotonic() < deadline:
        if this_rank == 0:
            tokens = [store.get(f"token/{other}").decode() for other in range(ranks)]
            store.set("tokens", " ".join(tokens))
            # A token read from an earlier launch is replaced once its rank arrives.
            if all(store.check([f"agreed/{token}/{other}"]) for other in range(1, ranks)):
                return token
        else:
            tokens = store.get("tokens").decode().split()
            if tokens[this_rank] == token:
                store.set(f"agreed/{tokens[0]}/{this_rank}", token)
                if store.get("tokens").decode().split() == tokens:
                    return tokens[0]
        time.sleep(0.05)
    raise UserError(
        f"rank {this_rank} of {ranks}: rendezvous timed out after {RENDEZVOUS_SECONDS} s; check that torchrun"
        " was started on every machine with the same --nnodes and --rdzv_endpoint"
    )


def shutdown() -> None:
    """Leave the process group after all ranks are done: torchrun kills ranks that outlive the first."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


@contextmanager
def data_parallel(enabled: bool) -> Iterator[None]:
    """Declare that ranks hold different rows of one batch within this context, not copies of it."""
    global _data_parallel
    _data_parallel = enabled
    try:
        yield
    finally:
        _data_parallel = False


def is_data_parallel() -> bool:
    """Return whether ranks currently hold different rows of one batch."""
    return _data_parallel


def rank_slice(total: int, ranks: int, rank: int) -> slice:
    """Return the rows of `rank` when `total` rows are split over `ranks`, as evenly as possible."""
    return slice(total * rank // ranks, total * (rank + 1) // ranks)


class AsyncAllReduce:
    """Sum tensors over all ranks as one bucket, asynchronously.

    Args:
        tensors: of one type and device; `wait` replaces their values by the sums.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        self.tensors = list(tensors)
        if tensors:
            self._flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            self._work = dist.all_reduce(self._flat, async_op=True)

    def wait(self) -> None:
        """Wait for the sums and copy them into the tensors."""
        if not self.tensors:
            return
        self._work.wait()
        parts = self._flat.split([tensor.numel() for tensor in self.tensors])
        sums = [part.view(tensor.shape) for part, tensor in zip(parts, self.tensors, strict=True)]
        torch._foreach_copy_(self.tensors, sums)


def all_reduce_sum(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all ranks, in buckets."""
    for bucket in buckets(tensors):
        AsyncAllReduce(bucket).wait()


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors in order, in groups of one type and of at most `BUCKET_BYTES`."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.nbytes > BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


def all_gather_rows(rows: Tensor, total: int) -> Tensor:
    """Return all rows of a batch on every rank, (total, ...).

    Args:
        rows: this rank's rows by `rank_slice`, (N, ...), or already all of them.
    """
    if len(rows) == total:
        return rows
    ranks = world_size()
    padded = rows.new_zeros(-(-total // ranks), *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(gathered, padded)
    slices = [rank_slice(total, ranks, number) for number in range(ranks)]
    return torch.cat([part[: s.stop - s.start] for part, s in zip(gathered, slices, strict=True)])


def gather_objects(value: T) -> list[T]:
    """Return the values of all ranks, in order, on rank 0; an empty list on the others."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, values)
    return values or []


def broadcast_object(value: T) -> T:
    """Return rank 0's value on every rank."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def lockstep(items: Iterable[T]) -> Iterator[T | None]:
    """Yield this rank's items, then None until every rank has yielded all of its own."""
    iterator = iter(items)
    while True:
        item = next(iterator, None)
        remaining = torch.tensor(item is not None, dtype=torch.uint8)
        if world_size() > 1:
            dist.all_reduce(remaining, dist.ReduceOp.MAX)
        if not remaining:
            return
        yield item


class SharedFlags:
    """Let all ranks act, in the same step, on a flag that any of them has raised.

    The all-reduce is asynchronous: with several ranks, `any` returns the flags of its previous call.
    """

    def __init__(self) -> None:
        self._pending: tuple[Any, Tensor] | None = None

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether some rank has raised it."""
        if world_size() == 1:
            return flags
        raised: tuple[bool, ...] = (False,) * len(flags)
        if self._pending is not None:
            work, reduced = self._pending
            work.wait()
            raised = tuple(bool(flag) for flag in reduced.tolist())
        reduced = torch.tensor(flags, dtype=torch.uint8)
        self._pending = dist.all_reduce(reduced, dist.ReduceOp.MAX, async_op=True), reduced
        return raised


class AllReduceSum(torch.autograd.Function):
    """The differentiable sum of a tensor over all ranks."""

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


def launch(ranks: int, script: str, argv: Sequence[str], expected: int | None = None) -> int:
    """Run a script as `ranks` processes of this machine, as torchrun does; return the exit status.

    Args:
        expected: a status that is returned without an error, like 2, with which a rank has printed what is
            wrong.

    Raises:
        UserError: a rank failed without reporting an error of the user's.
        Stopped: a stop signal came, and was passed to the ranks, which have ended.
    """
    # These imports are slow, and a single process needs none of them.
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle=",".join(number.name for number in stop_signals()),
    )
    try:
        elastic_launch(config, sys.executable)("-u", script, *argv)
    except SignalException as stopped:
        raise Stopped(stopped.sigval.name) from None
    except ChildFailedError as error:
        statuses = {failure.exitcode for failure in error.failures.values()}
        if statuses == {STOPPED_STATUS}:
            return STOPPED_STATUS
        failed_rank, failure = error.get_first_failure()
        status = failure.exitcode
        if status not in (2, expected):
            raise UserError(
                f"rank {failed_rank} ended with status {status}"
                f"{f' ({failure.signal_name()})' if status < 0 else ''}, and the other ranks were stopped;"
                " resume from the last checkpoint with --continue_train"
            ) from error
        return status
    return 0
