"""Files that cannot be read, lack a partner or have unfit names, and phases that are missing."""

import os
from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches

from data.doctor.findings import Finding, Survey, check, counted
from data.doctor.layout import Part, similar_name

UNREAD_IMAGES = (
    *(".heic", ".heif", ".psd", ".svg", ".jp2", ".j2k", ".jxl", ".exr", ".hdr", ".pdf", ".eps", ".raw"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".czi", ".lif", ".nd2", ".svs", ".h5", ".hdf5", ".mat", ".mha"),
    *(".mhd", ".nrrd", ".mp4", ".avi", ".mov", ".zip", ".gz"),
)
"""Extensions of files that have images, but in formats that no data set reads."""


@check
def unreadable(survey: Survey) -> Iterator[Finding]:
    for facts in survey.facts:
        if facts.error:
            yield Finding(
                "fault", "cannot be read", facts.path, facts.error, "get the file again, or remove it"
            )


@check
def names(survey: Survey) -> Iterator[Finding]:
    paired = survey.layout.mode == "aligned"
    for part in survey.layout.parts:
        for path, other in part.twins:
            yield Finding(
                "fault" if paired else "warning",
                "same name",
                path,
                f"has the name of {other} but for the extension",
                "rename or remove one: files belong together by their names" if paired else "",
                (path, other),
            )
        by_name: dict[str, str] = {}
        for name, path in part.files.items():
            other = by_name.setdefault(similar_name(name), path)
            if other != path:
                yield Finding(
                    "warning",
                    "same name",
                    path,
                    f"differs from {other} in case or in the form of Unicode alone",
                    "rename one: on macOS and Windows one replaces the other",
                    (path, other),
                )


@check
def clutter(survey: Survey) -> Iterator[Finding]:
    for part in survey.layout.parts:
        if not part.clutter:
            continue
        unread = [path for path in part.clutter if path.lower().endswith(UNREAD_IMAGES)]
        for path in unread:
            extension = os.path.splitext(path)[1]
            yield Finding(
                "warning", "not read", path, f"{extension} is not read", "convert it to PNG or TIFF"
            )
        others = [os.path.basename(path) for path in part.clutter if path not in unread]
        if others:
            shown = ", ".join(others[:4]) + (", ..." if len(others) > 4 else "")
            yield Finding(
                "note", "ignored", str(part.folder), f"{counted(len(others), 'other file')}, ignored: {shown}"
            )


@check
def partners(survey: Survey) -> Iterator[Finding]:
    layout = survey.layout
    if layout.mode != "aligned":
        return
    for phase in layout.phases:
        parts = layout.of(phase)
        every = {name for part in parts for name in part.files}
        for part in parts:
            for name in sorted(every - part.files.keys()) if not layout.by_order else ():
                owner = next(other for other in parts if name in other.files)
                path = owner.files[name]
                yield Finding(
                    "fault",
                    "no partner",
                    path,
                    f"{part.folder} has no file of this name{_similar(name, part)}",
                    "add it, or remove this file",
                    (path,),
                )
    several = {part.name for part in layout.parts}
    for phase in layout.phases:
        absent = several - {part.name for part in layout.of(phase)}
        for name in sorted(absent):
            yield Finding(
                "warning", "no partner", f"{layout.dataroot}", f"{phase} has no folder for {name}, others do"
            )


def _similar(name: str, part: Part) -> str:
    same = [other for other in part.files if similar_name(other) == similar_name(name)]
    close = same or get_close_matches(name, list(part.files)[:2000], 1, 0.8)
    if same:
        return f", but {part.files[same[0]]}, which differs in case or in the form of Unicode"
    return f" (there is {os.path.basename(part.files[close[0]])})" if close else ""


@check
def phases(survey: Survey) -> Iterator[Finding]:
    counts = Counter(probe.sample.phase for probe in survey.probes)
    root = str(survey.layout.dataroot)
    if survey.layout.others:
        listed = ", ".join(survey.layout.others[:8])
        yield Finding("note", "other folders", root, f"folders of no phase, not looked at: {listed}")
    if "" not in counts:
        if "train" not in counts:
            yield Finding("warning", "phases", root, f"no train folder; there are {', '.join(counts)}")
        elif not {"val", "test"} & counts.keys():
            yield Finding(
                "note",
                "phases",
                root,
                "only train: nothing to validate and test on",
                "datasets/split.py divides it",
            )
