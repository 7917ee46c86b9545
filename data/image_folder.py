"""Find the pictures in a folder."""

import os
from pathlib import Path

from util.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".tif", ".tiff", ".webp")


def find_images(folder: Path) -> list[str]:
    """Return the paths of all pictures in `folder` and its subfolders, in the order of their names.

    Raises:
        UserError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: there is no such folder; --dataroot and --phase say where the pictures are"
        )
    paths = sorted(
        os.path.join(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
    )
    if not paths:
        raise UserError(f"{folder}: no pictures in it (files that end in {', '.join(EXTENSIONS)})")
    return paths
