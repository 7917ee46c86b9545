"""Find the partner of every file of a folder in another folder, and name the files without one."""

import logging
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from data.image_folder import files_in, name_in
from util.formats import EXTENSIONS, stem

log = logging.getLogger(__name__)

Names = dict[str, str]
"""Paths by name."""


class Pairs(NamedTuple):
    """The files of pairs by the name of A's, and what is wrong with the files that are left out."""

    files: dict[str, tuple[str, str]]
    problems: list[str]


def list_images(folder: Path) -> Names:
    """Return the paths of all images in a folder and its subfolders by their names in it, in order.

    Other files are logged; a folder that does not exist has no images.
    """
    files = sorted(file.path for file in files_in(folder)) if folder.is_dir() else []
    images = [path for path in files if path.lower().endswith(EXTENSIONS)]
    if len(images) < len(files):
        other = next(path for path in files if not path.lower().endswith(EXTENSIONS))
        log.info(
            "%s: %d files are no images by their names, such as %s", folder, len(files) - len(images), other
        )
    return {name_in(folder, path): path for path in images}


def pair_by_name(A: Names, B: Names, places: tuple[Path, Path]) -> Pairs:
    """Pair files of the same name; where only one in each folder is left, whatever their extensions.

    Args:
        A, B: paths by name.
        places: the two folders, for messages.
    """
    partners = {name: name for name in A.keys() & B.keys()}
    rest_A = {name: stem(name) for name in A if name not in partners}
    rest_B = {name: stem(name) for name in B if name not in partners}
    count_A, count_B = Counter(rest_A.values()), Counter(rest_B.values())
    by_stem = {stem: name for name, stem in rest_B.items()}
    problems = []
    for name, key in rest_A.items():
        if count_A[key] == count_B[key] == 1:
            partners[name] = by_stem[key]
        else:
            problems.append(_problem(A[name], places[1], count_A[key], count_B[key]))
    problems += [
        _problem(B[name], places[0], count_B[key], count_A[key])
        for name, key in rest_B.items()
        if not count_A[key] == count_B[key] == 1
    ]
    return Pairs({name: (A[name], B[partners[name]]) for name in A if name in partners}, problems)


def pair_in_order(A: Names, B: Names, places: tuple[Path, Path]) -> Pairs:
    """Pair files of the same name; if no name is in both folders, those of the same position.

    Different names are logged. Without a common name, folders with unequal numbers of files have no pairs.
    """
    by_name = pair_by_name(A, B, places)
    if by_name.files or not (A and B):
        return by_name
    if len(A) != len(B):
        counts = (
            f"{places[0]} has {len(A)} images and {places[1]} {len(B)}, and none of the same name: none is"
            " joined, because pairs are then images of one position"
        )
        return Pairs({}, [counts])
    files = dict(zip(A, zip(A.values(), B.values(), strict=True), strict=True))
    log.warning(
        "%s and %s: no names are the same; files of the same position are joined, such as %s and %s",
        *(*places, *next(iter(files.values()))),
    )
    return Pairs(files, [])


def _problem(path: str, other: Path, here: int, there: int) -> str:
    if not there:
        return f"{path}: has no partner in {other}; left out"
    return (
        f"{path}: its partner in {other} is not clear: there are {here} and {there} files of this name with"
        " other extensions; left out"
    )
