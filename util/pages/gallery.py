"""The gallery of results that a test run writes."""

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from dominate import tags
from numpy.typing import NDArray
from PIL import Image

from util.errors import UserError
from util.image_io import PNG_LEVEL, save_image
from util.pages.page import Page, image_tag, sample_tag

SAVERS = 2
"""Threads that save images."""

WAITING_BYTES = 1 << 26
"""So much may wait to be saved, or one row if it has more."""

THUMBNAIL_SCALE = 2
"""Pixels of a thumbnail for each pixel of its width on the page, as screens of high resolution have them."""

MAX_SIDES = {"jpg": 65_500, "webp": 16_383}
"""The most pixels that a side can have in some formats."""


class Row(NamedTuple):
    """A row that is being saved: its tag for the page, its images' size in bytes."""

    tag: tags.article
    size: int
    saving: list[Future[None]]


class Gallery:
    """A folder with index.html and images/: one row per sample, its images side by side.

    Images much wider than they are shown have small copies in thumbs/, not among the images, which
    programs may want to read as a whole folder.

    Threads save the images while others are made; a row is on the page when its images are whole. All is
    there after `finish`, which leaving the gallery's ``with`` block calls.

    Attributes:
        folder, images: where the page and its images are.
        count: rows so far.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        *,
        width: int = 256,
        aspect_ratio: float = 1.0,
        file_format: str = "png",
        png_level: int = PNG_LEVEL,
        warning: str = "",
    ) -> None:
        """Start the page anew; images of an earlier run are overwritten only where names agree.

        `width` is the largest width of an image on the page in CSS pixels. `aspect_ratio` stretches the
        saved images: above 1 they get wider by it, below 1 taller. `file_format` is png, compressed with
        zlib's `png_level`, jpg or webp. `warning` stands at the page's top.

        Raises:
            ValueError: the width is below 1 or the aspect ratio not positive.
        """
        if not 0 < aspect_ratio < float("inf"):
            raise ValueError(f"The aspect ratio must be a positive number, not {aspect_ratio}.")
        self.folder, self.images = folder, folder / "images"
        self.images.mkdir(parents=True, exist_ok=True)
        self.thumbnails = folder / "thumbs"
        self.width = width
        self.aspect_ratio = aspect_ratio
        self.file_format, self.png_level = file_format, png_level
        self.page = Page(folder / "index.html", title, width=width, kind="gallery", warning=warning)
        self.count = 0
        self._names: set[str] = set()
        self._files: set[str] = set()
        self._savers = ThreadPoolExecutor(SAVERS)
        self._waiting: deque[Row] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._savers:
            self.finish()

    def add(
        self,
        name: str,
        visuals: dict[str, NDArray[np.uint8]],
        captions: Mapping[str, str] | None = None,
        measured: Mapping[str, float] | None = None,
    ) -> str:
        """Save images/{name}_{label}.png, or another format, for every label and append a row with them.

        The images are (H, W, 3) or (H, W). A name that is taken becomes {name}_2, {name}_3 and so on; the
        row's name is returned. `captions` say more than the label of some images does. `measured` are
        values by the metric's name, by which a reader can sort the rows.

        Raises:
            ValueError: the name or a label is no plain file name.
            UserError: an image is too large for the format.
            OSError: this or an earlier image cannot be saved.
        """
        name = self._free_name(name, list(visuals))
        stretched = {label: stretch(image, self.aspect_ratio) for label, image in visuals.items()}
        size = sum(image.nbytes for image in stretched.values())
        while self._waiting and size + sum(row.size for row in self._waiting) > WAITING_BYTES:
            self._append_oldest()
        for label, image in stretched.items():
            self._check_sides(image, self._file_name(name, label))
        figures: list[tags.figure] = []
        saving: list[Future[None]] = []
        for label, image in stretched.items():
            file_name = self._file_name(name, label)
            caption = (captions or {}).get(label, label)
            figures.append(
                image_tag(
                    file_name,
                    caption,
                    f"{name} – {caption}",
                    image.shape[:2],
                    self.width,
                    key=label,
                    thumbnail=self._save(image, file_name, saving),
                )
            )
        self._waiting.append(Row(sample_tag(figures, heading=name, measured=measured), size, saving))
        self.count += 1
        return name

    def finish(self) -> None:
        """Wait until every image is saved and every row on the page.

        Raises:
            OSError: an image cannot be saved; the page ends with the row before it.
        """
        while self._waiting:
            self._append_oldest()

    def _save(self, image: NDArray[np.uint8], file_name: str, saving: list[Future[None]]) -> str | None:
        """Start to save an image; return the name of its thumbnail where it gets one."""
        saving.append(self._savers.submit(save_image, image, self.images / file_name, self.png_level))
        width = THUMBNAIL_SCALE * self.width
        if image.shape[1] <= width:
            return None
        thumbnail = Path(file_name).with_suffix(".jpg").name
        self.thumbnails.mkdir(exist_ok=True)
        saving.append(self._savers.submit(save_thumbnail, image, self.thumbnails / thumbnail, width))
        return thumbnail

    def _append_oldest(self) -> None:
        row = self._waiting.popleft()
        try:
            for saved in row.saving:
                saved.result()
        except BaseException:
            self._waiting.clear()
            raise
        self.page.append(row.tag)

    def _check_sides(self, image: NDArray[np.uint8], file_name: str) -> None:
        height, width = image.shape[:2]
        most = MAX_SIDES.get(self.file_format)
        if most and max(height, width) > most:
            raise UserError(
                f"--format {self.file_format}: {file_name} would have {width} x {height} pixels, and {most} a"
                " side is the most that such a file can have; use --format png"
            )

    def _free_name(self, name: str, labels: list[str]) -> str:
        candidate = name
        number = 1
        while not self._is_free(candidate, labels):
            number += 1
            candidate = f"{name}_{number}"
        self._names.add(candidate)
        self._files.update(self._file_name(candidate, label) for label in labels)
        return candidate

    def _is_free(self, name: str, labels: list[str]) -> bool:
        # Files count too: sample "a" with label "b_c" and sample "a_b" with label "c" share one file name.
        files = {self._file_name(name, label) for label in labels}
        return name not in self._names and self._files.isdisjoint(files)

    def _file_name(self, name: str, label: str) -> str:
        file_name = f"{name}_{label}.{self.file_format}"
        if Path(file_name).name != file_name:
            raise ValueError(f"An image cannot be saved as {file_name!r}: it must be a plain file name.")
        return file_name


def save_thumbnail(image: NDArray[np.uint8], path: Path, width: int) -> None:
    """Write the (H, W, 3) or (H, W) image as a JPEG file that is `width` pixels wide or narrower."""
    thumbnail = Image.fromarray(image)
    # "reducing_gap" averages whole pixels first, which is several times as fast for large images.
    thumbnail.thumbnail((width, MAX_SIDES["jpg"]), Image.Resampling.BICUBIC, reducing_gap=2.0)
    save_image(np.asarray(thumbnail), path)


def stretch(image: NDArray[np.uint8], aspect_ratio: float) -> NDArray[np.uint8]:
    """Return the (H, W, 3) or (H, W) image wider by a ratio above 1 or taller by one below 1."""
    height, width = image.shape[:2]
    if aspect_ratio > 1:
        width = int(width * aspect_ratio)
    elif aspect_ratio < 1:
        height = int(height / aspect_ratio)
    else:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
