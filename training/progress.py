"""The progress of a run, and its speed."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

WARM_UP, MEASURED = 10, 40
"""Steps of a process before `FirstSteps` measures, and steps that it measures."""

STATE_KEYS = {"images": "pictures"}
"""Keys in saved states that differ from the names of attributes."""


@dataclass
class Progress:
    """The position of a run; its frequencies count images.

    Attributes:
        epoch: the current epoch, from 1.
        position: images seen in this epoch.
        images: images seen in the whole run.
        watched: sum over the epoch's images of the losses that the plateau policy watches.
        last: images of the last step.
    """

    epoch: int = 1
    position: int = 0
    images: int = 0
    watched: "float | Tensor" = 0.0
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
        """Return whether a step of `images` images will reach or pass a multiple of `frequency`."""
        return (self.images + images) // frequency > self.images // frequency

    def next_epoch(self) -> None:
        """Advance to the start of the next epoch."""
        self.epoch += 1
        self.position, self.watched = 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the attributes as Python numbers."""
        state = asdict(self) | {"watched": float(self.watched)}
        return {STATE_KEYS.get(name, name): value for name, value in state.items()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return the progress of a state returned by `state_dict`."""
        names = {key: name for name, key in STATE_KEYS.items()}
        return cls(**{names.get(key, key): value for key, value in state.items()})


class Stopwatch:
    """Measures the time per image, and the part of it that is waiting for data.

    Args:
        images: images seen in the whole run so far.

    Attributes:
        waited: seconds of waiting for data since the start.
    """

    def __init__(self, images: int):
        self.waited = 0.0
        self._last = time.monotonic(), images, 0.0

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield from `batches`, and measure the time of waiting for each."""
        iterator = iter(batches)
        while True:
            asked = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += time.monotonic() - asked
            yield batch

    def per_image(self, images: int) -> tuple[float, float]:
        """Return the seconds of computing and of waiting per image since the last call.

        Args:
            images: images seen in the whole run.
        """
        began, images_then, waited_then = self._last
        now = time.monotonic()
        self._last = now, images, self.waited
        count, waited = images - images_then, self.waited - waited_then
        return (now - began - waited) / count, waited / count


class FirstSteps:
    """Measures the speed of the first steps of a process, after a warm-up."""

    def __init__(self) -> None:
        self.steps = 0
        self._began = 0.0, 0, 0.0

    def done(self, images: int, waited: float) -> bool:
        """Count a step; return whether it was the last measured one.

        Args:
            images: images seen in the whole run.
            waited: seconds of waiting for data since the start.
        """
        self.steps += 1
        if self.steps == WARM_UP:
            self._began = time.monotonic(), images, waited
        return self.steps == WARM_UP + MEASURED

    def report(self, images: int, waited: float) -> str:
        """Return the speed since the warm-up; for the arguments see `done`."""
        began, images_then, waited_then = self._began
        seconds = time.monotonic() - began
        return (
            f"{1000 * seconds / MEASURED:.0f} ms per step, {(images - images_then) / seconds:.1f} images/s,"
            f" {(waited - waited_then) / seconds:.0%} of the time waiting for data"
        )
