"""The gallery of results that a test run writes."""

import json
import math
import os
import time
import unicodedata
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from dominate import tags
from numpy.typing import NDArray
from PIL import Image

from util.errors import UserError
from util.files import NAME_MAX, append_text, cut_name, is_case_insensitive, make_folder, write_text
from util.image_io import PNG_LEVEL, save_image
from util.metrics.summary import JSON_FILE, TABLE_FILE, Summary
from util.pages.listing import Listing
from util.pages.native import Native, NativeFolder
from util.pages.page import (
    ROWS_FILE,
    Page,
    address,
    arrow,
    command_tag,
    direction,
    image_tag,
    is_of_earlier_version,
    record_tag,
    sample_tag,
)
from util.text import printable

SAVERS = 2
"""Threads that save images."""

WAITING_BYTES = 1 << 26
"""Limit on the images that wait to be saved; a single row may exceed it."""

THUMBNAIL_SCALE = 2
"""Pixels of a thumbnail per CSS pixel of its width on the page, for screens of high resolution."""

MAX_ROWS = 9_999_999
"""The largest number of rows of one name, for which long names are cut."""

MAX_SIDES = {"jpg": 65_500, "webp": 16_383}
"""The largest side in pixels that a format allows."""


class About(NamedTuple):
    """What a gallery shows.

    Attributes:
        run, phase, epoch: the run's name, the part of the data set, the checkpoint.
        paired: whether real_B is the ground truth for fake_B; None: unknown.
        flags: values of flags that differ from their defaults, as texts by command and name.
        options: the file with all flags of train.py.
        display: how images are shown that are not RGB or grey with 8 bits.
    """

    run: str = ""
    phase: str = ""
    epoch: str = ""
    paired: bool | None = None
    flags: Mapping[str, Mapping[str, str]] = {}
    options: Path | None = None
    display: Sequence[str] = ()


class Row(NamedTuple):
    """A row whose images are being saved: its tag, its record for gallery.json, its images' size in bytes."""

    tag: tags.article
    record: str
    size: int
    saving: list[Future[None]]


class Gallery:
    """A folder with index.html, gallery.json and images/: one row per sample, its images side by side.

    Generated images in the type and the units of their targets are in native/, see `util.pages.native`.

    Images much wider than they are shown have small copies in thumbs/ rather than images/, which programs
    may read as a whole folder. Threads save the images; a row is appended to the page when its images are
    saved. gallery.json lists the rows for programs. It is written by `finish`, which leaving the gallery's
    ``with`` block calls, so it is missing where a process was killed. The images that the previous gallery in
    the folder listed are removed first; other files stay.

    Attributes:
        folder, images: the folders of the page and of its images.
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
        about: About | None = None,
    ) -> None:
        """Remove the previous gallery's images and start the page.

        Args:
            width: the largest width of an image on the page in CSS pixels.
            aspect_ratio: stretches the saved images: wider if above 1, taller if below 1.
            file_format: png, jpg or webp.
            png_level: compression level of PNG files, 0 to 9.
            warning: a text at the top of the page.

        Raises:
            ValueError: the width is below 1 or the aspect ratio is not positive.
            OSError: the folder cannot be written to, or one in it is a link.
        """
        if not 0 < aspect_ratio < float("inf"):
            raise ValueError(f"The aspect ratio must be a positive number, not {aspect_ratio}.")
        self.folder, self.images = folder, folder / "images"
        make_folder(self.images)
        self.thumbnails = folder / "thumbs"
        self.width = width
        self.aspect_ratio = aspect_ratio
        self.file_format, self.png_level = file_format, png_level
        self.title, self.about, self.date = title, about or About(), time.strftime("%Y-%m-%d %H:%M")
        self.page = Page(
            folder / "index.html",
            title,
            width=width,
            kind="gallery",
            intro=(self._about_tag(),),
            warning=warning,
            paired=self.about.paired,
        )
        self.count = 0
        self._listing = Listing(folder)
        self._native = NativeFolder(folder)
        self._records: list[str] = []
        self._sizes: set[tuple[int, int]] = set()
        self._ignore_case = is_case_insensitive(self.images)
        self._numbers: dict[str, int] = {}
        self._names: set[str] = set()
        self._files: set[str] = set()
        self._savers = ThreadPoolExecutor(SAVERS)
        self._waiting: deque[Row] = deque()
        self._waiting_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._savers:
            self.finish()
            if error is None:
                self._native.finish()
        if error is None:
            self._listing.end()

    def add(
        self,
        name: str,
        visuals: dict[str, NDArray[np.uint8]],
        captions: Mapping[str, str] | None = None,
        measured: Mapping[str, float] | None = None,
        source: str = "",
        natives: Mapping[str, Native] | None = None,
    ) -> str:
        """Save images/{name}_{label}.png (or another format) for every label and append a row with them.

        Args:
            name: if a row has it already, {name}_2, {name}_3 and so on are tried; a name that leaves no space
                for the labels is cut.
            visuals: images by label, (H, W, 3) or (H, W).
            captions: texts by label, shown instead of the label.
            measured: values by metric, by which the page can sort the rows.
            source: the file that the row shows; the page has it if the row could not get the name.
            natives: some of the images as files in native/, by label.

        Returns:
            The row's name.

        Raises:
            ValueError: the name or a label is not a plain file name.
            UserError: an image is too large for the format.
            OSError: this or an earlier image cannot be saved.
        """
        natives = natives or {}
        endings = [f"_{label}{native.extension}" for label, native in natives.items()]
        given, name = name, self._free_name(name, list(visuals), endings)
        captions, measured = captions or {}, measured or {}
        stretched = {label: stretch(image, self.aspect_ratio) for label, image in visuals.items()}
        size = sum(image.nbytes for image in stretched.values())
        size += sum(native.image.nbytes for native in natives.values())
        while self._waiting and size + self._waiting_bytes > WAITING_BYTES:
            self._append_oldest()
        files = {label: self._file_name(name, label) for label in stretched}
        for label, image in stretched.items():
            self._check_sides(image, files[label])
        paths = {label: f"images/{file_name}" for label, file_name in files.items()}
        native_paths = {label: self._native.path(name, label, native) for label, native in natives.items()}
        self._listing.add([*paths.values(), *native_paths.values()])
        figures: list[tags.figure] = []
        saving: list[Future[None]] = []
        for label, image in stretched.items():
            caption = captions.get(label, label)
            figures.append(
                image_tag(
                    files[label],
                    caption,
                    f"{name} – {caption}",
                    image.shape[:2],
                    self.width,
                    key=label,
                    thumbnail=self._save(image, files[label], saving),
                )
            )
            self._sizes.add((image.shape[1], image.shape[0]))
        for label, native in natives.items():
            if write := self._native.add(native_paths[label], native):
                saving.append(self._savers.submit(write))
        record = {
            "name": name,
            **({"source": source} if source else {}),
            "images": paths,
            **({"native": native_paths} if native_paths else {}),
            "captions": {label: caption for label, caption in captions.items() if label in files},
            "metrics": {metric: v if math.isfinite(v) else None for metric, v in measured.items()},
        }
        shown = source if name != given else ""
        tag = sample_tag(
            figures, heading=name, measured=measured, source=shown, files=list(native_paths.values())
        )
        self._waiting.append(Row(tag, json.dumps(record), size, saving))
        self._waiting_bytes += size
        self.count += 1
        return name

    def summarize(self, summary: Summary) -> None:
        """Append the size of the images, the means and links to files; the page shows them at its top.

        Raises:
            OSError: an image cannot be saved.
        """
        self.finish()
        section = tags.section(cls="summary", aria_label="Summary")
        if means := {**summary.mean, **summary.reference}:
            cells = [
                tags.div(tags.dt(name + arrow(name), title=direction(name)), tags.dd(f"{value:.4g}"))
                for name, value in means.items()
            ]
            section.add(tags.dl(*cells, cls="means"))
        for name, reason in summary.left_out.items():
            section.add(tags.p(f"{name}: {reason}", cls="note"))
        files = [TABLE_FILE, JSON_FILE] if means or summary.left_out else []
        links = [tags.a(name, href=name) for name in (*files, ROWS_FILE)]
        section.add(tags.span(size_text(self._sizes)), *links)
        self.page.append(section)

    def link_from(self, training_page: Path, summary: Summary) -> None:
        """Append a link to this gallery, with the means, to the page of its training run, if there is one.

        Raises:
            OSError: the page cannot be written.
        """
        if not training_page.is_file() or is_of_earlier_version(training_page):
            return
        path = Path(os.path.relpath(self.page.path, training_page.parent)).as_posix()
        values = {
            "address": address(path),
            "title": f"{self.about.phase}, epoch {self.about.epoch}",
            "date": self.date,
            "metrics": {name: float(f"{value:.6g}") for name, value in summary.mean.items()},
        }
        append_text(training_page, record_tag("result", values).render(pretty=False) + "\n")

    def finish(self) -> None:
        """Wait until all images are saved and all rows are on the page; write gallery.json.

        Raises:
            OSError: an image cannot be saved; the page ends with the row before it.
        """
        while self._waiting:
            self._append_oldest()
        facts = {
            "title": self.title,
            "run": self.about.run,
            "phase": self.about.phase,
            "epoch": self.about.epoch,
            "date": self.date,
            "paired": self.about.paired,
            "flags": self.about.flags,
            **({"display": self.about.display} if self.about.display else {}),
        }
        rows = ",\n".join(self._records)
        write_text(self.folder / ROWS_FILE, f'{json.dumps(facts)[:-1]}, "rows": [\n{rows}\n]}}\n')

    def _save(self, image: NDArray[np.uint8], file_name: str, saving: list[Future[None]]) -> str | None:
        """Start to save an image; return the name of its thumbnail if it gets one."""
        saving.append(self._savers.submit(save_image, image, self.images / file_name, self.png_level))
        width = THUMBNAIL_SCALE * self.width
        if image.shape[1] <= width:
            return None
        thumbnail = Path(file_name).with_suffix(".jpg").name
        make_folder(self.thumbnails)
        saving.append(self._savers.submit(save_thumbnail, image, self.thumbnails / thumbnail, width))
        return thumbnail

    def _append_oldest(self) -> None:
        row = self._waiting.popleft()
        self._waiting_bytes -= row.size
        try:
            for saved in row.saving:
                saved.result()
        except BaseException:
            self._waiting.clear()
            self._waiting_bytes = 0
            raise
        self.page.append(row.tag)
        self._records.append(row.record)

    def _about_tag(self) -> tags.section:
        section = tags.section(tags.span(self.date), cls="panel about", aria_label="About")
        for note in self.about.display:
            section.add(tags.p(printable(note), cls="note"))
        if self.about.flags:
            commands = [command_tag(program, flags) for program, flags in self.about.flags.items()]
            section.add(tags.details(tags.summary("Flags that differ from their defaults"), *commands))
        if self.about.options and self.about.options.is_file():
            path = Path(os.path.relpath(self.about.options, self.folder)).as_posix()
            section.add(tags.a(self.about.options.name, href=address(path)))
        return section

    def _check_sides(self, image: NDArray[np.uint8], file_name: str) -> None:
        height, width = image.shape[:2]
        limit = MAX_SIDES.get(self.file_format)
        if limit and max(height, width) > limit:
            raise UserError(
                f"--format {self.file_format}: {file_name} would have {width} x {height} pixels;"
                f" the format allows {limit} a side; use --format png"
            )

    def _free_name(self, name: str, labels: list[str], endings: Sequence[str] = ()) -> str:
        """Return a name that no row has, cut if the file system does not allow it with what follows it.

        Args:
            endings: of the names of further files of the row.
        """
        endings = [*endings, *(f"_{label}.{self.file_format}" for label in labels)]
        longest = max((len(os.fsencode(ending)) for ending in endings), default=0)
        if len(os.fsencode(name)) + longest > NAME_MAX:
            name = cut_name(name, max(1, NAME_MAX - longest - len(f"_{MAX_ROWS}")))
        candidate = name
        number = self._numbers.get(self._key(name), 1)
        while not self._is_free(candidate, labels):
            number += 1
            candidate = f"{name}_{number}"
        self._numbers[self._key(name)] = number
        self._names.add(self._key(candidate))
        self._files.update(self._key(self._file_name(candidate, label)) for label in labels)
        return candidate

    def _is_free(self, name: str, labels: list[str]) -> bool:
        # Files count too: sample "a" with label "b_c" and sample "a_b" with label "c" have one file name.
        files = {self._key(self._file_name(name, label)) for label in labels}
        return self._key(name) not in self._names and self._files.isdisjoint(files)

    def _key(self, name: str) -> str:
        """Return what is equal for names that are one file."""
        return unicodedata.normalize("NFC", name).casefold() if self._ignore_case else name

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


def size_text(sizes: Collection[tuple[int, int]]) -> str:
    """Return the size of the images, or the smallest and the largest, given all (width, height)."""
    ordered = sorted(sizes, key=math.prod)
    ends = ordered[:1] if len(ordered) < 2 else [ordered[0], ordered[-1]]
    return " to ".join(f"{width} × {height}" for width, height in ends) + " pixels" * bool(ends)


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
