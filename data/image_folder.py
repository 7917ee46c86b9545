"""Find the images in a folder."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.shards import Folder, ShardFolder
from util import formats
from util.errors import UserError
from util.image_io import EXTENSIONS

log = logging.getLogger(__name__)


class FoundFile(NamedTuple):
    """A file in a folder.

    Attributes:
        linked: whether it, or a folder on the way to it, is a symbolic link.
    """

    path: str
    name: str
    linked: bool


def find_images(folder: Folder, extensions: tuple[str, ...] = EXTENSIONS) -> list[str]:
    """Return the paths of all images in `folder` and its subfolders, in the order of their names.

    Hidden files and folders are ignored, and files without one of the extensions.

    Raises:
        UserError: There is no such folder, or no image in it, or one of its folders cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; --dataroot and --phase say where the images are")
    paths = sorted(_images_in(folder, extensions))
    if not paths:
        others = _others(folder, extensions)
        raise UserError(f"{folder}: no images in it (files that end in {', '.join(extensions)}){others}")
    return paths


def has_images(folder: Folder, extensions: tuple[str, ...] = EXTENSIONS) -> bool:
    """Return whether there is such a folder with at least one image in it."""
    return folder.is_dir() and bool(_images_in(folder, extensions))


def files_in(folder: Path, *, hidden: bool = False) -> list[FoundFile]:
    """Return all files in a folder and its subfolders, in any order.

    Every folder is listed once, whatever symbolic links lead to it: links are followed after all folders that
    are reached without one, in the order of their paths. A link to a folder that contains it is a loop and is
    not followed.

    Args:
        hidden: include hidden files and folders.

    Raises:
        UserError: A folder cannot be read.
    """
    files: list[FoundFile] = []
    folders, links = [(str(folder), False)], list[str]()
    root, listed = os.path.realpath(folder), set[tuple[int, int]]()
    while folders or links:
        path, linked = folders.pop() if folders else (links.pop(), True)
        try:
            status = os.stat(os.path.join(path, "."))  # fails without permission to open the files in it
            if (status.st_dev, status.st_ino) in listed:
                continue
            listed.add((status.st_dev, status.st_ino))
            with os.scandir(path) as opened:
                entries = [entry for entry in opened if hidden or not _is_hidden(entry.name)]
            for entry in entries:
                is_link = entry.is_symlink()
                if _is_special(entry):
                    if has_image_suffix(entry.name):
                        log.warning("%s: not a regular file; left out", entry.path)
                elif not _is_folder(entry):
                    files.append(FoundFile(entry.path, entry.name, linked or is_link))
                elif not is_link:
                    folders.append((entry.path, linked))
                elif not _contains(os.path.realpath(entry.path), (os.path.realpath(path), root)):
                    links = sorted([*links, entry.path], reverse=True)
        except OSError as error:
            reason = str(error.strerror or error)
            if isinstance(error, PermissionError):
                reason = f"no permission to read it ({reason})"
            name = str(error.filename or path).removesuffix("/.")
            raise UserError(
                f"{name}: {reason}; without it images would be missing: make it readable or remove it"
            ) from error
    return files


def name_in(folder: Folder, path: str) -> str:
    """Return the path, relative to `folder`, of a file in it."""
    if isinstance(folder, ShardFolder):
        return path.removeprefix(f"{folder}/")
    return os.path.relpath(path, folder)


def _is_hidden(name: str) -> bool:
    # The root of a disk has a lost+found that only its administrator may read.
    return name.startswith(".") or name == "lost+found"


def has_image_suffix(name: str) -> bool:
    """Return whether a file with this name counts as an image."""
    return _is_named_like(name, EXTENSIONS)


def _images_in(folder: Folder, extensions: tuple[str, ...]) -> Sequence[str]:
    if isinstance(folder, ShardFolder):
        return [file for file in folder.members if _is_named_like(os.path.basename(file), extensions)]
    files = files_in(folder)
    native = extensions == formats.EXTENSIONS  # which includes DICOM files without an extension
    images = [
        file
        for file in files
        if _is_named_like(file.name, extensions) or (native and formats.is_image_file(file.path))
    ]
    for file in files:
        named = _is_named_like(file.name, extensions)
        if file.linked and not named and not os.path.exists(file.path):
            log.warning("%s: its target does not exist; images in it are left out", file.path)
    if linked := sum(file.linked for file in images):
        log.info("%s: %d images through symbolic links", folder, linked)
    return [file.path for file in images]


def _is_named_like(name: str, extensions: tuple[str, ...]) -> bool:
    return name.lower().endswith(extensions) and not name.startswith(".")


def _others(folder: Folder, extensions: tuple[str, ...]) -> str:
    """Return what to do if a folder has images that only other flags read, else ""."""
    others = [
        path for path in _images_in(folder, formats.EXTENSIONS) if not path.lower().endswith(extensions)
    ]
    if not others:
        return ""
    return f"; it has files such as {others[0]}, which --input_range and --output_range other than 8bit read"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one.

    Raises:
        PermissionError: It is a link to something that may not be looked at, and may be a folder.
    """
    try:
        return entry.is_dir()
    except OSError as error:
        if isinstance(error, PermissionError) and not has_image_suffix(entry.name):
            raise
        return False  # links that lead to each other; an image is reported when it is read


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is, or links to, a FIFO, a socket or a device: opening one may block."""
    try:
        return not (entry.is_file() or entry.is_dir()) and bool(entry.stat())
    except OSError:
        return False  # a link without a target


def _contains(folder: str, others: tuple[str, ...]) -> bool:
    return any(other == folder or other.startswith(os.path.join(folder, "")) for other in others)
