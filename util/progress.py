"""How far training has come."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass
class Progress:
    """Where a run is; pictures are what frequencies count.

    Attributes:
        epoch: the epoch in course, from 1.
        position: pictures of it already seen.
        pictures: pictures seen in the whole run.
        watched: sum over the epoch's pictures of the value that the plateau policy watches.
        last: pictures of the last step.
    """

    epoch: int = 1
    position: int = 0
    pictures: int = 0
    watched: float | Tensor = 0.0
    last: int = 0

    def advance(self, pictures: int) -> None:
        """Count the pictures of one training step."""
        self.last = pictures
        self.position += pictures
        self.pictures += pictures

    def crossed(self, frequency: int) -> bool:
        """Return whether the last step reached or passed a multiple of `frequency` pictures."""
        return self.pictures // frequency > (self.pictures - self.last) // frequency

    def will_cross(self, frequency: int, pictures: int) -> bool:
        """Return whether a step of so many pictures will reach or pass a multiple of `frequency`."""
        return (self.pictures + pictures) // frequency > self.pictures // frequency

    def next_epoch(self) -> None:
        """Go to the start of the next epoch."""
        self.epoch += 1
        self.position, self.watched = 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the attributes as plain numbers."""
        return asdict(self) | {"watched": float(self.watched)}


class Stopwatch:
    """Tells how long a picture takes, and how much of that is waiting for data.

    Args:
        pictures: pictures seen before it starts.
    """

    def __init__(self, pictures: int):
        self.began, self.waited, self.pictures = time.monotonic(), 0.0, pictures

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield from `batches`, counting the time that each takes to come."""
        iterator = iter(batches)
        while True:
            asked = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += time.monotonic() - asked
            yield batch

    def per_picture(self, pictures: int) -> tuple[float, float]:
        """Return the seconds of computing and of waiting for each picture since the last call.

        Args:
            pictures: pictures seen in the whole run.
        """
        count, now = pictures - self.pictures, time.monotonic()
        seconds, waited = now - self.began - self.waited, self.waited
        self.began, self.waited, self.pictures = now, 0.0, pictures
        return seconds / count, waited / count
