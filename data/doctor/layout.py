"""How the files of a data set are arranged: which folders it has, and which files belong together."""

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data.image_folder import files_in, name_in
from data.shards import Folder, ShardFolder
from util.errors import UserError
from util.formats import EXTENSIONS, entries, stem

PHASES = ("train", "val", "test")
OTHER_PHASES = ("valid", "validation", "dev", "trainval", "eval")

PARTS = ("_label", "_inst", "_img", "_A", "_B", "A", "B", "M")
NUMBERED = re.compile(r"(.+?)([AB]\d+)")

MIN_SHARED = 0.5
"""Share of names in both folders, of the smaller folder, from which A and B count as pairs."""

Kind = Literal["image", "both", "labels", "instances", "mask"]
"""What a part's files hold; ``both``: A and B side by side."""


@dataclass(frozen=True)
class Part:
    """The files of one folder.

    Attributes:
        name: ``A``, ``B1``, ``label``, ``M``; ``images`` where there is only one.
        files: the paths by name, that is relative to the folder and without extension.
        twins: files that have the name of another file in `files`, with that file.
        clutter: files that are not read.
    """

    phase: str
    name: str
    kind: Kind
    folder: Folder
    files: dict[str, str] = field(default_factory=dict)
    twins: list[tuple[str, str]] = field(default_factory=list)
    clutter: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sample:
    """Files that belong together: their paths by the name of their part."""

    phase: str
    name: str
    paths: dict[str, str]


@dataclass(frozen=True)
class Layout:
    """The parts of a data set, by phase.

    Attributes:
        mode: the ``--dataset_mode`` that reads it: aligned, unaligned or, for one image per file, single.
        others: names of folders that belong to no phase.
        by_order: whether files belong together by their order, as pix2pixHD's may, instead of by name.
    """

    dataroot: Folder
    mode: str
    parts: list[Part]
    by_order: bool = False
    others: tuple[str, ...] = ()

    @property
    def phases(self) -> list[str]:
        return list(dict.fromkeys(part.phase for part in self.parts))

    def of(self, phase: str) -> list[Part]:
        return [part for part in self.parts if part.phase == phase]

    def samples(self) -> list[Sample]:
        """Return all samples in the order of their names; those of unpaired data have one file."""
        found = []
        for phase in self.phases:
            parts = self.of(phase)
            if self.mode == "unaligned":
                found += [
                    Sample(phase, name, {p.name: path}) for p in parts for name, path in p.files.items()
                ]
            elif self.by_order:
                rows = zip(*(part.files.items() for part in parts), strict=False)
                for row in rows:
                    paths = {part.name: path for part, (_, path) in zip(parts, row, strict=True)}
                    found.append(Sample(phase, row[0][0], paths))
            else:
                names = sorted({name for part in parts for name in part.files})
                found += [
                    Sample(phase, name, {p.name: p.files[name] for p in parts if name in p.files})
                    for name in names
                ]
        return found


def find_layout(
    dataroot: Folder,
    *,
    phases: Sequence[str] = (),
    mode: str = "",
    parts: Sequence[str] = (),
    labels: bool = False,
    tiff_pages: str = "samples",
    slice_axis: int = 2,
) -> Layout:
    """Return how a data set is arranged, as far as the names of folders and files tell.

    Args:
        phases: those to look at; by default all.
        mode: ``--dataset_mode``, "" to find it.
        parts: the folders that ``--inputs`` and ``--outputs`` name.
        labels: whether A is a label map.

    Raises:
        UserError: There is no such folder, or none with images.
    """
    if not dataroot.is_dir():
        raise UserError(f"--dataroot {dataroot}: there is no such folder")
    names = _children(dataroot)
    known = list(phases or _phases(names))
    list_part = _Lister(dataroot, tiff_pages, slice_axis)
    found: list[Part] = []
    for phase in known:
        suffixes = parts or _suffixes(names, phase)
        wanted = [suffix for suffix in suffixes if parts or f"{phase}{suffix}" in names]
        if parts and f"{phase}M" in names:
            wanted.append("M")
        if mode in ("", "aligned", "unaligned"):
            found += [list_part(phase, suffix, _kind(suffix, labels)) for suffix in wanted]
        if phase in names and not wanted:
            found.append(list_part(phase, "", "image"))
    found = [part for part in found if part.files or part.clutter]
    if not found and phases:
        raise UserError(
            f"--dataroot {dataroot}: no images in it for --phase {' '.join(phases)}; its folders:"
            f" {', '.join(names) or 'none'}"
        )
    if not any(part.files for part in found):
        advice = _advice_on_folders(dataroot, names)
        found = [list_part("", "", "image")]
        if advice or not found[0].files:
            raise UserError(f"--dataroot {dataroot}: {advice or 'no images in it'}")
    by_order = False
    if all(part.name == "images" for part in found):
        mode = mode or "single"
    else:
        mode = mode or ("aligned" if _is_paired(found) else "unaligned")
        by_order = mode == "aligned" and _by_order(found)
    used = {os.path.basename(str(part.folder)) for part in found}
    others = tuple(name for name in names if name not in used) if found[0].phase and not phases else ()
    return Layout(dataroot, mode, found, by_order, others)


@dataclass(frozen=True)
class _Lister:
    dataroot: Folder
    tiff_pages: str
    slice_axis: int

    def __call__(self, phase: str, suffix: str, kind: Kind) -> Part:
        """Return the files of a folder."""
        folder = self.dataroot / f"{phase}{suffix}" if phase else self.dataroot
        part = Part(phase, suffix.removeprefix("_") or "images", kind, folder)
        paths = []
        for path, name in sorted(_files(folder)):
            if name.lower().endswith(EXTENSIONS) and not _is_hidden(name):
                paths.append(path)
            else:
                part.clutter.append(path)
        for path in entries(paths, tiff_pages=self.tiff_pages, slice_axis=self.slice_axis):
            name = stem(name_in(folder, path))
            if name in part.files:
                part.twins.append((path, part.files[name]))
            else:
                part.files[name] = path
        return part


def similar_name(name: str) -> str:
    """Return a name as a file system without case and with one form of Unicode would compare it."""
    return unicodedata.normalize("NFC", name).casefold()


def _files(folder: Folder) -> Iterator[tuple[str, str]]:
    if isinstance(folder, ShardFolder):
        yield from ((member, os.path.basename(member)) for member in folder.members)
    elif folder.is_dir():
        yield from ((file.path, name_in(folder, file.path)) for file in files_in(folder, hidden=True))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)


def _children(dataroot: Folder) -> list[str]:
    if isinstance(dataroot, ShardFolder):
        names = {name_in(dataroot, member).split("/")[0] for member in dataroot.members}
        return sorted(name for name in names if (dataroot / name).is_dir())
    return sorted(path.name for path in dataroot.iterdir() if path.is_dir() and path.name[0] != ".")


def _phases(names: Sequence[str]) -> list[str]:
    present = set(names)
    main = any(name.startswith(PHASES) for name in names)
    found = [
        phase
        for phase in (*PHASES, *(OTHER_PHASES if main else ()))
        if any(f"{phase}{suffix}" in present for suffix in ("", *PARTS)) or _suffixes(names, phase)
    ]
    for name in names:
        for one, other in (("A", "B"), ("_A", "_B"), ("_label", "_img"), ("A1", "B"), ("A1", "B1")):
            phase = name.removesuffix(one)
            if name.endswith(one) and phase and f"{phase}{other}" in present and phase not in found:
                found.append(phase)
    return found


def _suffixes(names: Sequence[str], phase: str) -> list[str]:
    """Return what follows the phase in the names of its folders."""
    numbered = [match[2] for name in names if (match := NUMBERED.fullmatch(name)) and match[1] == phase]
    fixed = [suffix for suffix in PARTS if f"{phase}{suffix}" in names]
    order = ("_label", "_inst", "_A", "A", *numbered, "_img", "_B", "B", "M")
    found = [suffix for suffix in order if suffix in fixed or suffix in numbered]
    return sorted(found, key=lambda suffix: (suffix == "M", "B" in suffix or suffix == "_img"))


def _kind(suffix: str, labels: bool) -> Kind:
    if suffix == "_label" or (labels and suffix in ("A", "_A")):
        return "labels"
    return {"_inst": "instances", "M": "mask"}.get(suffix, "image")  # type: ignore[return-value]


def _is_paired(parts: Sequence[Part]) -> bool:
    """Return whether enough names are the same in all folders of a phase."""
    shared = smallest = 0
    for phase in {part.phase for part in parts}:
        images = [set(part.files) for part in parts if part.phase == phase and part.kind != "mask"]
        if len(images) == 1:
            continue
        shared += len(set.intersection(*images))
        smallest += min(map(len, images))
    return any(part.kind in ("labels", "instances") for part in parts) or shared >= MIN_SHARED * smallest > 0


def _by_order(parts: Sequence[Part]) -> bool:
    """Return whether files of pix2pixHD's folders have different names, and so belong together by order."""
    hd = [part for part in parts if part.name in ("label", "img", "inst")]
    names = [set(part.files) for part in hd if part.phase == hd[0].phase]
    return len(names) > 1 and not set.intersection(*names) and len({len(each) for each in names}) == 1


def _advice_on_folders(dataroot: Folder, names: Sequence[str]) -> str:
    for phase in PHASES:
        if "A" in names and "B" in names and (dataroot / "A" / phase).is_dir():
            return (
                f"its folders A/{phase} and B/{phase} are not read: rename them to {phase}A and {phase}B, or"
                " join them with datasets/combine_A_and_B.py"
            )
    return ""
