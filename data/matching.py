"""Which files of several folders belong together."""

import logging
import os
from collections.abc import Sequence

from data.base_dataset import Files
from data.image_folder import name_in
from data.shards import Folder
from util import formats
from util.errors import UserError

log = logging.getLogger(__name__)


def match_names(folders: Sequence[tuple[Folder, Sequence[str]]]) -> list[Files]:
    """Return the files of the same name in several folders, given each with its images.

    Raises:
        UserError: A file has no partner, or two in a folder have the same name.
    """
    named = [by_name(folder, paths) for folder, paths in folders]
    unpaired = sorted({name for files in named for name in files if any(name not in each for each in named)})
    if unpaired:
        root = os.path.dirname(str(folders[0][0]))
        names = " and ".join(os.path.basename(str(folder)) for folder, _ in folders)
        raise UserError(
            f"{root}: {len(unpaired)} images are in only {'one' if len(folders) == 2 else 'some'} of {names},"
            f" such as {', '.join(unpaired[:3])}; the images of a sample need the same name"
        )
    return [tuple(files[name] for files in named) for name in named[0]]


def match_in_order(folders: Sequence[tuple[Folder, Sequence[str]]]) -> list[Files]:
    """Return the files that belong together in folders: those of the same name, else of the same position.

    Raises:
        UserError: Some names are in all folders, others are not, or there are not as many files in all.
    """
    if set.intersection(*({*by_name(folder, paths)} for folder, paths in folders)):
        return match_names(folders)
    counts = [f"{folder} has {len(paths)}" for folder, paths in folders]
    if len({len(paths) for _, paths in folders}) > 1:
        raise UserError(
            f"{', '.join(counts)} images: as many as in the others are expected, because they belong together"
            " in their order (or by equal names)"
        )
    samples = list(zip(*(paths for _, paths in folders), strict=True))
    log.info("Files belong together in their order: %s", " and ".join(samples[0]))
    return samples


def match_masks(A: Folder, files_A: Sequence[str], M: Folder, masks: Sequence[str]) -> list[str]:
    """Return the mask of every image of A, which has its name.

    Args:
        A, M: the folders of the images and of the masks.

    Raises:
        UserError: An image has no mask.
    """
    named = by_name(M, masks)
    names = [formats.stem(name_in(A, path)) for path in files_A]
    if absent := [name for name in names if name not in named]:
        raise UserError(
            f"--mask: {len(absent)} images have no mask of the same name in {M}, such as"
            f" {', '.join(absent[:3])}"
        )
    return [named[name] for name in names]


def by_name(folder: Folder, paths: Sequence[str]) -> dict[str, str]:
    """Return the images in a folder by their names without extensions.

    Raises:
        UserError: Two have the same name.
    """
    named: dict[str, str] = {}
    for path in paths:
        name = formats.stem(name_in(folder, path))
        if name in named:
            raise UserError(f"{named[name]} and {path}: two images of the same name; rename or remove one")
        named[name] = path
    return named
