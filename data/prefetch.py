"""Copy the next batch to the device while the device computes."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from util.batch import Batch

T = TypeVar("T")
R = TypeVar("R")


def on_device(batches: Iterable[Batch], device: torch.device, dtype: torch.dtype) -> Iterator[Batch]:
    """Yield the batches on `device`, see `Batch.to`; to a GPU each is copied one step ahead."""
    if device.type != "cuda":
        return (batch.to(device, dtype) for batch in batches)
    stream = torch.cuda.Stream(device)
    return one_ahead(batches, lambda batch: _fetch(batch, device, dtype, stream))


def one_ahead(items: Iterable[T], begin: Callable[[T], Callable[[], R]]) -> Iterator[R]:
    """Yield ``begin(item)()`` for every item, with ``begin`` called for the next item before.

    An error of an item is raised after the items before it have been yielded.
    """
    iterator = iter(items)
    pending: Callable[[], R] | None = None
    while True:
        error: Exception | None = None
        following: Callable[[], R] | None = None
        try:
            following = begin(next(iterator))
        except Exception as raised:
            error = raised
        if pending is not None:
            yield pending()
        if isinstance(error, StopIteration):
            return
        if error is not None:
            raise error
        pending = following


def _fetch(
    batch: Batch, device: torch.device, dtype: torch.dtype, stream: torch.cuda.Stream
) -> Callable[[], Batch]:
    """Begin to copy a batch from pinned memory on `stream`; return a function that waits for the copy."""
    # The allocator may reuse the memory of a batch that launched steps have yet to read.
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        copied = batch.to(device, dtype)
        done = stream.record_event()

    def wait() -> Batch:
        torch.cuda.current_stream(device).wait_event(done)
        return copied

    return wait
