"""Batches on their way to the device, the next one while the device works on this one."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from util.batch import Batch

T = TypeVar("T")
R = TypeVar("R")


def on_device(batches: Iterable[Batch], device: torch.device, dtype: torch.dtype) -> Iterator[Batch]:
    """Yield the batches as `Batch.to` makes them; a GPU fetches the next one meanwhile."""
    if device.type != "cuda":
        return (batch.to(device, dtype) for batch in batches)
    stream = torch.cuda.Stream(device)
    return one_ahead(batches, lambda batch: _fetch(batch, device, dtype, stream))


def one_ahead(items: Iterable[T], begin: Callable[[T], Callable[[], R]]) -> Iterator[R]:
    """Yield ``begin(item)()`` for every item; the next one has begun before an item is handed out.

    What goes wrong with an item is raised in its place, when all before it have been handed out.
    """
    iterator = iter(items)
    begun: Callable[[], R] | None = None
    while True:
        end: Exception | None = None
        following: Callable[[], R] | None = None
        try:
            following = begin(next(iterator))
        except Exception as error:
            end = error
        if begun is not None:
            yield begun()
        if isinstance(end, StopIteration):
            return
        if end is not None:
            raise end
        begun = following


def _fetch(
    batch: Batch, device: torch.device, dtype: torch.dtype, stream: torch.cuda.Stream
) -> Callable[[], Batch]:
    """Begin to copy a batch from pinned memory on a stream of its own; return what hands it out."""
    # It may get the memory of a batch that steps which have only been launched have yet to read.
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        fetched = batch.to(device, dtype)
        arrived = stream.record_event()

    def hand_out() -> Batch:
        torch.cuda.current_stream(device).wait_event(arrived)
        return fetched

    return hand_out
