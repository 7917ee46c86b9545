"""The gallery of results that a test run writes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from util.image_io import save_image
from util.page import Page, picture_tag, sample_tag


class Gallery:
    """A folder with index.html and images/: one row per sample, its pictures side by side.

    Attributes:
        count: rows so far.
    """

    def __init__(
        self, folder: Path, title: str, *, width: int = 256, aspect_ratio: float = 1.0, warning: str = ""
    ) -> None:
        """Start the page anew; pictures of an earlier run are overwritten only where names agree.

        `width` is the largest width of a picture on the page in CSS pixels. `aspect_ratio` stretches the
        saved pictures: above 1 they get wider by it, below 1 taller. `warning` stands at the page's top.

        Raises:
            ValueError: the width is below 1 or the aspect ratio not positive.
        """
        if not 0 < aspect_ratio < float("inf"):
            raise ValueError(f"The aspect ratio must be a positive number, not {aspect_ratio}.")
        self.images = folder / "images"
        self.images.mkdir(parents=True, exist_ok=True)
        self.width = width
        self.aspect_ratio = aspect_ratio
        self.page = Page(folder / "index.html", title, width=width, kind="gallery", warning=warning)
        self.count = 0
        self._names: set[str] = set()
        self._files: set[str] = set()

    def add(
        self, name: str, visuals: dict[str, NDArray[np.uint8]], captions: Mapping[str, str] | None = None
    ) -> None:
        """Save images/{name}_{label}.png for every label and append a row with them.

        The pictures are (H, W, 3) or (H, W). A name that is taken becomes {name}_2, {name}_3 and so on.
        `captions` say more than the label of some pictures does.

        Raises:
            ValueError: the name or a label is no plain file name.
        """
        name = self._free_name(name, list(visuals))
        figures = []
        for label, picture in visuals.items():
            picture = stretch(picture, self.aspect_ratio)
            file_name = _file_name(name, label)
            save_image(picture, self.images / file_name)
            caption = (captions or {}).get(label, label)
            figures.append(
                picture_tag(
                    file_name, caption, f"{name} – {caption}", picture.shape[:2], self.width, key=label
                )
            )
        self.page.append(sample_tag(figures, heading=name))
        self.count += 1

    def _free_name(self, name: str, labels: list[str]) -> str:
        candidate = name
        number = 1
        while not self._is_free(candidate, labels):
            number += 1
            candidate = f"{name}_{number}"
        self._names.add(candidate)
        self._files.update(_file_name(candidate, label) for label in labels)
        return candidate

    def _is_free(self, name: str, labels: list[str]) -> bool:
        # Files count too: sample "a" with label "b_c" and sample "a_b" with label "c" share one file name.
        files = {_file_name(name, label) for label in labels}
        return name not in self._names and self._files.isdisjoint(files)


def stretch(picture: NDArray[np.uint8], aspect_ratio: float) -> NDArray[np.uint8]:
    """Return the (H, W, 3) or (H, W) picture wider by a ratio above 1 or taller by one below 1."""
    height, width = picture.shape[:2]
    if aspect_ratio > 1:
        width = int(width * aspect_ratio)
    elif aspect_ratio < 1:
        height = int(height / aspect_ratio)
    else:
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def _file_name(name: str, label: str) -> str:
    file_name = f"{name}_{label}.png"
    if Path(file_name).name != file_name:
        raise ValueError(f"A picture cannot be saved as {file_name!r}: it must be a plain file name.")
    return file_name
