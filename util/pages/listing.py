"""The images of a page, so that the next page in its folder can remove them."""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from util.files import NAME_MAX, append_text, native_name, read_text, write_text
from util.pages.page import ROWS_FILE

PARTIAL_FILE = "images.list"
"""The images of a gallery that is being written, or that was when its process was killed: a list per line."""

PLACES = ("images", "native")
"""The folders of a gallery whose files are listed."""

log = logging.getLogger(__name__)


class Listing:
    """The images that a page is going to have, on disk before they are.

    Args:
        folder: that of the page; what the previous page listed is removed from its images/, thumbs/ and
            native/.
    """

    def __init__(self, folder: Path):
        self.path = folder / PARTIAL_FILE
        previous = sorted({*_listed(folder / ROWS_FILE), *_listed(self.path)})
        # The list stays until all its files are removed, as this process may be killed meanwhile.
        write_text(self.path, f"{json.dumps(previous)}\n")
        (folder / ROWS_FILE).unlink(missing_ok=True)
        for file in previous:
            remove_file(folder, file)

    def add(self, files: Iterable[str]) -> None:
        """List the files of a row, such as ``images/a_fake_B.png`` or ``native/a_fake_B.tif``."""
        append_text(self.path, f"{json.dumps(list(files))}\n")

    def end(self) -> None:
        """Remove the list: the page is complete, and gallery.json lists its images."""
        self.path.unlink(missing_ok=True)


def listed_file(file: object) -> str | None:
    """Return a path in a gallery's folder if it is that of a file in images/ or native/, else None."""
    parts = PurePosixPath(file).parts if isinstance(file, str) else ()
    if len(parts) != 2 or parts[0] not in PLACES or parts[1] == ".." or "\0" in parts[1]:
        return None
    name = native_name(parts[1])
    return f"{parts[0]}/{name}" if len(os.fsencode(name)) <= NAME_MAX else None


def remove_file(folder: Path, file: str) -> None:
    """Remove a file of a gallery, and the thumbnail of an image; nothing outside of the gallery's folder."""
    place, name = file.split("/")
    thumbnail = [("thumbs", f"{os.path.splitext(name)[0]}.jpg")] if place == "images" else []
    for path in (folder / at / file_name for at, file_name in [(place, name), *thumbnail]):
        if not path.parent.is_symlink() and not (path.is_dir() and not path.is_symlink()):
            path.unlink(missing_ok=True)


def _listed(path: Path) -> Iterator[str]:
    """Yield the files that a gallery.json or a `PARTIAL_FILE` lists, such as ``images/a_fake_B.png``."""
    if path.is_symlink() or not path.is_file():
        return
    lines = [read_text(path)] if path.name == ROWS_FILE else read_text(path).splitlines()
    files: list[object] = []
    for line in lines:
        try:
            content = json.loads(line)
            files += content if isinstance(content, list) else _files(content)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            if line != lines[-1] or path.name == ROWS_FILE:  # the last line may be incomplete
                log.warning("%s: not the file of a gallery; images of an earlier one may stay", path)
    yield from (path for path in map(listed_file, files) if path)


def _files(content: Any) -> list[object]:
    rows = content["rows"]
    return [file for row in rows for file in (*row["images"].values(), *row.get("native", {}).values())]
