"""Small data sets in the folder layouts that data sets read, for tests and first steps."""

from functools import cache
from pathlib import Path
from typing import Literal

from PIL import Image

from data.facades import draw_pair

Layout = Literal["phase", "pairs", "sides", "folder"]
"""How the image files of a data set are arranged:

- ``phase``: ``dataroot/<phase>/``;
- ``pairs``: ``dataroot/<phase>/`` with A and B side by side in one file, or ``dataroot/<phase>A/`` and
  ``dataroot/<phase>B/`` with files of the same name;
- ``sides``: ``dataroot/<phase>A/`` and ``dataroot/<phase>B/``, unpaired;
- ``folder``: ``dataroot/`` itself, whatever the phase.
"""

COUNTS = {"train": 6, "val": 2, "test": 3}
SIZE = 32


def write_example(folder: Path, layout: Layout) -> None:
    """Write small façades, photos as A and label maps as B: 6 for training, 2 for validation, 3 for testing.

    ``sides`` has one image less in B; ``folder`` has the photos for testing.
    """
    for phase, count in COUNTS.items():
        for number in range(1, count + 1):
            pair, name = _pair(phase, number), f"{number:04d}.png"
            if layout in ("phase", "pairs"):
                _save(pair, folder / phase / name)
            elif layout == "folder":
                if phase == "test":
                    _save(pair.crop((0, 0, SIZE, SIZE)), folder / name)
            else:
                _save(pair.crop((0, 0, SIZE, SIZE)), folder / f"{phase}A" / name)
                if number > 1:
                    _save(pair.crop((SIZE, 0, 2 * SIZE, SIZE)), folder / f"{phase}B" / name)


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@cache
def _pair(phase: str, number: int) -> Image.Image:
    return draw_pair(SIZE, 0, phase, number)
