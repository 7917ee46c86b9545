"""Divide samples among train, val and test so that what belongs together ends on one side."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.doctor.layout import MIN_SHARED, PARTS
from data.doctor.pixels import grey, shrink, to_levels
from data.image_folder import files_in, name_in
from util.errors import UserError
from util.formats import entries, is_image_file, read, stem
from util.perceptual_hash import SIDE, connected, near_duplicates
from util.seeding import numpy_rng

BARE = re.compile(r"[AB]\d*|M|label|img|inst")
"""Names of folders of a sample's parts without a phase."""

NOT_IMAGES = ("M", "_label", "_inst")
"""Parts of which different samples may have the same."""


@dataclass(frozen=True)
class Item:
    """Files that belong together.

    Attributes:
        name: relative to the folders, without extension.
        side: the part, for unpaired data; "" otherwise.
        files: the paths by what follows the phase in the folder's name, such as ``A`` or ``_label``.
    """

    name: str
    side: str
    files: Mapping[str, str]


def find_folders(dataroot: Path, phase: str) -> dict[str, Path]:
    """Return the folders to divide by what follows the phase in their names: "", ``A``, ``_img``.

    They are ``train``, ``trainA``, ``trainB`` and so on; else ``A``, ``B``, ``label``, ...; else `dataroot`.

    Raises:
        UserError: There is no such folder.
    """
    if not dataroot.is_dir():
        raise UserError(f"--dataroot {dataroot}: there is no such folder")
    names = sorted(path.name for path in dataroot.iterdir() if path.is_dir())
    pattern = re.compile(re.escape(phase) + r"([AB]\d+|" + "|".join(PARTS) + r")?")
    found = {match[1] or "": dataroot / name for name in names if (match := pattern.fullmatch(name))}
    if not found:
        bare = [name for name in names if BARE.fullmatch(name)]
        found = {name if name[0] in "ABM" else f"_{name}": dataroot / name for name in bare}
    if len(found) > 1:
        found.pop("", None)
    return found or {"": dataroot}


def find_items(folders: Mapping[str, Path]) -> list[Item]:
    """Return the samples in folders: of equal names, or each file if few names are the same in all.

    Raises:
        UserError: A file has no partner, two have the same name, or there are no images.
    """
    named: dict[str, dict[str, str]] = {}
    for suffix, folder in folders.items():
        named[suffix] = {}
        for path in sorted(file.path for file in files_in(folder) if is_image_file(file.path)):
            name = stem(name_in(folder, path))
            if name in named[suffix]:
                first = named[suffix][name]
                raise UserError(f"{first} and {path}: two images of the same name; rename or remove one")
            named[suffix][name] = path
    if not any(named.values()):
        raise UserError(f"{', '.join(map(str, folders.values()))}: no images")
    every = [set(files) for files in named.values()]
    shared = set.intersection(*every)
    if len(shared) < MIN_SHARED * min(map(len, every)):
        return [
            Item(name, side, {side: path}) for side, files in named.items() for name, path in files.items()
        ]
    if unpaired := sorted(set.union(*every) - shared):
        raise UserError(
            f"{len(unpaired)} images have no partner in {', '.join(map(str, folders.values()))}, such as"
            f" {', '.join(unpaired[:3])}; add the partners, or remove them"
        )
    return [Item(name, "", {suffix: named[suffix][name] for suffix in named}) for name in sorted(shared)]


def thumbnail(path: str) -> NDArray[np.uint8]:
    """Return a small grey version of an image; of a file that holds several, of the one in the middle."""
    images = entries([path])
    image = read(images[len(images) // 2])
    small = shrink(image, SIDE, SIDE)
    if image.dtype == np.uint8:
        low, high = 0.0, 255.0
    else:
        low, high = float(small.min()), float(small.max())
    return grey(to_levels(small[:3] if len(small) > 3 else small, low, high).astype(np.float32)).astype(
        np.uint8
    )


def find_groups(
    items: Sequence[Item], pattern: str, thumbnails: Mapping[str, NDArray[np.uint8]]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the number of each item's group, and the near-duplicates as pairs of positions.

    Args:
        pattern: a regular expression that is searched in names; items belong together if its groups, or what
            it matches if it has none, are the same. "" for none.
        thumbnails: by path, of the images to compare.

    Raises:
        UserError: It is no regular expression, or does not match a name.
    """
    edges: list[tuple[int, int]] = []
    first: dict[tuple[str, ...], int] = {}
    for position, item in enumerate(items) if pattern else ():
        try:
            match = re.search(pattern, item.name)
        except re.error as error:
            raise UserError(f"--group {pattern}: no regular expression ({error})") from None
        if not match:
            raise UserError(
                f"--group {pattern}: does not match {item.name}; every name must belong to a group"
            )
        key = tuple(part or "" for part in match.groups()) or (match[0],)
        edges.append((first.setdefault(key, position), position))
    owners = [
        (position, path)
        for position, item in enumerate(items)
        for path in item.files.values()
        if path in thumbnails
    ]
    alike: list[tuple[int, int]] = []
    if owners:
        found = near_duplicates(np.stack([thumbnails[path] for _, path in owners]))
        pairs = {tuple(sorted((owners[one][0], owners[other][0]))) for one, other in found}
        alike = sorted((one, other) for one, other in pairs if one != other)
    return connected(len(items), [*edges, *alike]), alike


def divide(items: Sequence[Item], groups: Sequence[int], shares: Mapping[str, float], seed: int) -> list[str]:
    """Return the phase of each item: groups in random order fill val, then test; all others are train.

    Args:
        shares: of val and test, fractions below 1 or numbers of samples; of each side of unpaired data.

    Raises:
        UserError: A phase would be empty, because groups are too large or there are too few samples.
    """
    totals = Counter(item.side for item in items)
    free = {
        phase: {side: round(share * total if share < 1 else share) for side, total in totals.items()}
        for phase, share in shares.items()
    }
    members: dict[int, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group].append(position)
    order = list(members.values())
    phases = ["train"] * len(items)
    for k in numpy_rng("split", seed).permutation(len(order)).tolist():
        sizes = Counter(items[position].side for position in order[k])
        fitting = (p for p, left in free.items() if all(left[side] >= n for side, n in sizes.items()))
        if phase := next(fitting, ""):
            for side, count in sizes.items():
                free[phase][side] -= count
            for position in order[k]:
                phases[position] = phase
    counts = Counter(phases)
    for phase in ("train", *(phase for phase, share in shares.items() if share)):
        if not counts[phase]:
            raise UserError(
                f"{phase} would be empty: {len(items)} samples in {len(order)} groups, the largest of"
                f" {max(map(len, order))}; change --val and --test, or --group"
            )
    return phases
