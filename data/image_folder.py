"""Find the images in a folder."""

import os

from data.shards import Folder, ShardFolder
from util.errors import UserError
from util.image_io import EXTENSIONS


def find_images(folder: Folder) -> list[str]:
    """Return the paths of all images in `folder` and its subfolders, in the order of their names.

    Hidden files and folders are ignored, and files without the extension of an image.

    Raises:
        UserError: There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; --dataroot and --phase say where the images are")
    paths: list[str] = []
    if isinstance(folder, ShardFolder):
        paths += folder.members
    else:
        for root, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            paths += [os.path.join(root, name) for name in names if has_image_suffix(name)]
    if not paths:
        raise UserError(f"{folder}: no images in it (files that end in {', '.join(EXTENSIONS)})")
    return sorted(paths)


def name_in(folder: Folder, path: str) -> str:
    """Return the path, relative to `folder`, of a file in it."""
    if isinstance(folder, ShardFolder):
        return path.removeprefix(f"{folder}/")
    return os.path.relpath(path, folder)


def has_image_suffix(name: str) -> bool:
    """Return whether a file with this name counts as an image."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")
