"""How far training has come."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar

from torch import Tensor

T = TypeVar("T")

WARM_UP, MEASURED = 10, 40
"""The first steps, which are slower than others, and how many are measured after them."""

STATE_KEYS = {"images": "pictures"}
"""Keys of saved states that differ from the attributes' names."""


@dataclass
class Progress:
    """Where a run is; images are what frequencies count.

    Attributes:
        epoch: the epoch in course, from 1.
        position: images of it already seen.
        images: images seen in the whole run.
        watched: sum over the epoch's images of the value that the plateau policy watches.
        last: images of the last step.
    """

    epoch: int = 1
    position: int = 0
    images: int = 0
    watched: float | Tensor = 0.0
    last: int = 0

    def advance(self, images: int) -> None:
        """Count the images of one training step."""
        self.last = images
        self.position += images
        self.images += images

    def crossed(self, frequency: int) -> bool:
        """Return whether the last step reached or passed a multiple of `frequency` images."""
        return self.images // frequency > (self.images - self.last) // frequency

    def will_cross(self, frequency: int, images: int) -> bool:
        """Return whether a step of so many images will reach or pass a multiple of `frequency`."""
        return (self.images + images) // frequency > self.images // frequency

    def next_epoch(self) -> None:
        """Go to the start of the next epoch."""
        self.epoch += 1
        self.position, self.watched = 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the attributes as plain numbers."""
        state = asdict(self) | {"watched": float(self.watched)}
        return {STATE_KEYS.get(name, name): value for name, value in state.items()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return the progress that `state_dict` saved."""
        names = {key: name for name, key in STATE_KEYS.items()}
        return cls(**{names.get(key, key): value for key, value in state.items()})


class Stopwatch:
    """Tells how long an image takes, and how much of that is waiting for data.

    Args:
        images: images seen before it starts.

    Attributes:
        waited_in_all: seconds of waiting for data since it started.
    """

    def __init__(self, images: int):
        self.began, self.waited, self.images = time.monotonic(), 0.0, images
        self.waited_in_all = 0.0

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield from `batches`, counting the time that each takes to come."""
        iterator = iter(batches)
        while True:
            asked = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            waited = time.monotonic() - asked
            self.waited += waited
            self.waited_in_all += waited
            yield batch

    def per_image(self, images: int) -> tuple[float, float]:
        """Return the seconds of computing and of waiting for each image since the last call.

        Args:
            images: images seen in the whole run.
        """
        count, now = images - self.images, time.monotonic()
        seconds, waited = now - self.began - self.waited, self.waited
        self.began, self.waited, self.images = now, 0.0, images
        return seconds / count, waited / count


class FirstSteps:
    """Measures the first steps of a process, and tells from them how long the run will take."""

    def __init__(self) -> None:
        self.steps, self.images = 0, 0
        self.began = self.waited = self.latest = 0.0

    def done(self, images: int, waited: float) -> bool:
        """Count a step; return whether it was the last one that is measured.

        Args:
            waited: seconds of waiting for data since the start.
        """
        self.steps += 1
        if WARM_UP < self.steps <= WARM_UP + MEASURED:
            self.images += images
        if self.steps == WARM_UP:
            self.began, self.waited = time.monotonic(), waited
        self.latest = waited
        return self.steps == WARM_UP + MEASURED

    def report(self, left: int) -> str:
        """Return what was measured, with what it means for so many images that are `left`."""
        seconds = time.monotonic() - self.began
        share = (self.latest - self.waited) / seconds
        to_go = timedelta(seconds=seconds / self.images * left)
        end = datetime.now() + to_go
        return (
            f"{1000 * seconds / MEASURED:.0f} ms a step, {self.images / seconds:.1f} images/s, {share:.0%}"
            f" of the time waiting for data; about {in_words(to_go)} to go, until {end:%Y-%m-%d %H:%M}"
        )


def in_words(duration: timedelta) -> str:
    """Return a duration in days, hours and minutes, such as ``2 d 3 h 5 min``."""
    minutes = round(duration.total_seconds() / 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{days} d"] * (days > 0) + [f"{hours} h"] * (days + hours > 0) + [f"{minutes} min"]
    return " ".join(parts)
