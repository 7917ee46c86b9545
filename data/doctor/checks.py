"""What is wrong with a data set, found from what is known of its files."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from data.doctor.layout import Layout, Part, similar_name
from data.doctor.probe import MAX_COLOURS, Facts, Probe
from util.parts import full_range
from util.perceptual_hash import near_duplicates

Level = Literal["fault", "warning", "note"]
LEVELS: tuple[Level, ...] = ("fault", "warning", "note")
"""A fault ends training or teaches something wrong; a warning is to be looked at; a note is to be known."""

T = TypeVar("T", bound=Hashable)

MOST = 0.75
"""Share of a part's files from which the others are exceptions."""

LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")

UNREAD_IMAGES = (
    *(".heic", ".heif", ".psd", ".svg", ".jp2", ".j2k", ".jxl", ".exr", ".hdr", ".pdf", ".eps", ".raw"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".czi", ".lif", ".nd2", ".svs", ".h5", ".hdf5", ".mat", ".mha"),
    *(".mhd", ".nrrd", ".mp4", ".avi", ".mov", ".zip", ".gz"),
)
"""Extensions of files that have images, but in formats that no data set reads."""

EXTENSIONS_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
}


class Finding(NamedTuple):
    """One thing that is wrong, or worth knowing.

    Attributes:
        kind: names what is wrong, for headings.
        where: the path of the file or folder.
        what: what is wrong.
        advice: what to do; "" for nothing.
        files: the images to look at, `where` first.
    """

    level: Level
    kind: str
    where: str
    what: str
    advice: str = ""
    files: tuple[str, ...] = ()


@dataclass
class Survey:
    """All that is known of a data set.

    Attributes:
        label_nc: the number of classes, 0 if it is not given.
        label_colors: the colours of the classes as 0xRRGGBB.
        crop_size: height and width that images should have at least.
    """

    layout: Layout
    probes: Sequence[Probe]
    label_nc: int = 0
    label_ignore: int | None = None
    label_colors: frozenset[int] = frozenset()
    crop_size: int = 256
    facts: list[Facts] = field(init=False)

    def __post_init__(self) -> None:
        self.facts = [facts for probe in self.probes for facts in probe.facts]

    @cached_property
    def by_part(self) -> dict[str, list[Facts]]:
        """The readable images of every part, in all phases."""
        parts: dict[str, list[Facts]] = defaultdict(list)
        for facts in self.facts:
            if not facts.error:
                parts[facts.part].append(facts)
        return dict(parts)

    @cached_property
    def images(self) -> dict[str, list[Facts]]:
        """Those of `by_part` that are images, not labels or masks."""
        return {part: facts for part, facts in self.by_part.items() if facts[0].kind == "image"}


Check = Callable[[Survey], Iterator[Finding]]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    CHECKS.append(function)
    return function


def find(survey: Survey) -> list[Finding]:
    """Return all findings, the worst first, those of a kind together."""
    findings: dict[tuple[str, str], Finding] = {}
    for function in CHECKS:
        for finding in function(survey):
            # Both halves of a file are often wrong in the same way.
            findings.setdefault((finding.kind, finding.where), finding)
    return sorted(findings.values(), key=lambda finding: LEVELS.index(finding.level))


def count_levels(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each level."""
    counts = Counter(finding.level for finding in findings)
    return ", ".join(_count(counts[level], level) for level in LEVELS)


def usual(values: Iterable[T]) -> tuple[T, float]:
    """Return the most frequent value and its share."""
    counts = Counter(values)
    value, count = counts.most_common(1)[0]
    return value, count / counts.total()


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
                "note", "ignored", str(part.folder), f"{_count(len(others), 'other file')}, ignored: {shown}"
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
def unequal_sizes(survey: Survey) -> Iterator[Finding]:
    if survey.layout.mode != "aligned":
        return
    for probe in survey.probes:
        good = [facts for facts in probe.facts if not facts.error]
        for other in good[1:]:
            if other.size != good[0].size:
                yield Finding(
                    "fault",
                    "unequal sizes",
                    other.path,
                    f"{_size(other)}, but its partner {good[0].path} is {_size(good[0])}",
                    "scale or crop one to the size of the other",
                    (good[0].path, other.path),
                )


@check
def halves(survey: Survey) -> Iterator[Finding]:
    both = {part.name for part in survey.layout.parts if part.kind == "both"}
    files = [probe.facts[0] for probe in survey.probes if both and not probe.facts[0].error]
    if not files:
        return
    ratio = float(np.median([facts.width / facts.height for facts in files]))
    for facts in files:
        own = facts.width / facts.height
        if not 0.8 < own / ratio < 1.25:
            yield Finding(
                "fault",
                "half of one image",
                facts.path,
                f"its halves are {_size(facts)} pixels, {own:.2f} as wide as high, those of others"
                f" {ratio:.2f}: A and B are not side by side in it?",
                "put A on the left, B on the right, both of one size",
                (facts.path,),
            )


@check
def misaligned(survey: Survey) -> Iterator[Finding]:
    pairs = [(probe, probe.alignment) for probe in survey.probes if probe.alignment]
    if survey.layout.mode != "aligned" or not pairs:
        return
    root = str(survey.layout.dataroot)
    shifted = [(probe, found) for probe, found in pairs if any(found.shift)]
    changed = [(probe, found) for probe, found in pairs if found.change]
    correlations = np.array([found.correlation for _, found in pairs])
    middle = float(np.median(correlations))
    if len(pairs) >= 4 and len(shifted) > len(pairs) / 2:
        right, down = np.median([found.shift for _, found in shifted], axis=0)
        alike = [f for _, f in shifted if abs(f.shift[0] - right) < 0.02 and abs(f.shift[1] - down) < 0.02]
        if len(alike) > len(shifted) / 2:
            probe = shifted[0][0]
            yield Finding(
                "fault",
                "misaligned",
                root,
                f"B is shifted against A in {len(alike)} of {len(pairs)} pairs:"
                f" {_shift((right, down), probe.facts[0])}",
                "register the images, or crop both sides",
                tuple(facts.path for facts in probe.facts),
            )
            return
    unsure = len(pairs) >= 4 and len(shifted) + len(changed) > len(pairs) / 4
    level: Level = "warning" if unsure else "fault"
    for probe, found in shifted:
        yield Finding(
            level,
            "misaligned",
            probe.facts[-1].path,
            f"B is shifted against A by {_shift(found.shift, probe.facts[0])}",
            "register the two images, or remove them",
            _paths(probe),
        )
    for probe, found in changed:
        yield Finding(
            level,
            "misaligned",
            probe.facts[-1].path,
            f"B is {found.change} against A",
            "undo that, or remove the pair",
            _paths(probe),
        )
    if len(pairs) >= 10 and np.quantile(correlations, 0.15) > 0.5 * middle and middle > 0.1:
        for probe, found in pairs:
            if found.correlation < 0.2 * middle and not any(found.shift) and not found.change:
                yield Finding(
                    "fault",
                    "not a pair",
                    probe.facts[-1].path,
                    "the edges in B are not where those in A are, unlike in other pairs: of different pairs?",
                    "give them their own partners",
                    _paths(probe),
                )
    elif len(pairs) >= 10 and middle < 0.03:
        yield Finding(
            "warning",
            "not a pair",
            root,
            "the edges of A and B are not at the same places in most pairs",
            "if files of one name do not belong together, use --dataset_mode unaligned",
        )


@check
def swapped(survey: Survey) -> Iterator[Finding]:
    """Find pairs whose A looks like the others' B, and whose B like their A."""
    pairs = [
        (probe, A, B)
        for probe in survey.probes
        for A, B in [_sides(probe)]
        if A and B and A.features and B.features and not (A.is_constant or B.is_constant)
    ]
    if survey.layout.mode != "aligned" or len(pairs) < 8:
        return
    differences = np.array([np.subtract(A.features, B.features) for _, A, B in pairs])
    middle = np.median(differences, 0)
    spread = np.median(np.abs(differences - middle), 0) + 1
    scores = np.clip(differences / spread, -10, 10) @ (middle / spread)
    typical = float(np.median(np.abs(scores)))
    ordered = scores[scores > 0]
    if len(ordered) < 0.85 * len(scores) or np.quantile(ordered, 0.1) < 0.3 * typical:
        return  # A and B look too much alike to tell them apart
    for (probe, _, _), score in zip(pairs, scores, strict=True):
        if score < -0.3 * typical:
            yield Finding(
                "fault",
                "swapped",
                probe.facts[0].path,
                "its A looks like the B of other pairs, and its B like their A",
                "exchange the two images",
                _paths(probe),
            )


@check
def duplicates(survey: Survey) -> Iterator[Finding]:
    if survey.layout.mode == "aligned":
        yield from _duplicate_samples(survey)
        return
    files = [facts for part in survey.images.values() for facts in part]
    for one, other in _alike(files):
        yield from _duplicate(files[one], files[other], files[one].part != files[other].part)


def _duplicate_samples(survey: Survey) -> Iterator[Finding]:
    """Yield samples of which all images are near-duplicates, and those of which one is."""
    alike: dict[tuple[int, int], list[str]] = defaultdict(list)
    by_sample = [
        {facts.part: facts for facts in probe.facts if facts.kind == "image" and not facts.error}
        for probe in survey.probes
    ]
    for part in survey.images:
        positions = [k for k, facts in enumerate(by_sample) if part in facts]
        for one, other in _alike([by_sample[k][part] for k in positions]):
            alike[positions[one], positions[other]].append(part)
    for (one, other), parts in alike.items():
        first, second = by_sample[one], by_sample[other]
        detailed = sum(facts.thumb.std() >= 6 for facts in second.values())
        yield from _duplicate(first[parts[0]], second[parts[0]], len(parts) < detailed)


def _alike(files: Sequence[Facts]) -> Iterator[tuple[int, int]]:
    if not files:
        return
    for one, other in near_duplicates(np.stack([facts.thumb for facts in files])):
        # Slices of one volume resemble each other.
        if getattr(files[one].path, "file", one) != getattr(files[other].path, "file", other):
            yield one, other


def _duplicate(one: Facts, other: Facts, partly: bool) -> Iterator[Finding]:
    order = {"train": 0, "val": 1, "test": 2}
    one, other = sorted((one, other), key=lambda facts: order.get(facts.phase, 3))
    between = one.phase != other.phase
    alone = f" (its {other.part} alone)" if partly and one.part == other.part else ""
    yield Finding(
        "fault" if between and not alone else "warning",
        "near-duplicate between splits" if between else "near-duplicate",
        other.path,
        f"nearly the same image as {one.path}{alone}",
        f"remove one: what is in {one.phase} says nothing about {other.phase}" if between else "remove one",
        (other.path, one.path),
    )


@check
def types(survey: Survey) -> Iterator[Finding]:
    for part, files in survey.by_part.items():
        dtype, share = usual(facts.dtype for facts in files)
        if MOST <= share < 1:
            for facts in files:
                if facts.dtype != dtype:
                    yield Finding(
                        "fault",
                        "another type",
                        facts.path,
                        f"{facts.dtype} values, other files of {part} have {dtype}",
                        f"convert it to {dtype}",
                        (facts.path,),
                    )
        elif share < 1:
            counts = Counter(facts.dtype for facts in files)
            yield _mixed(survey, "another type", "fault", part, counts, files, lambda facts: facts.dtype)
        if files[0].kind == "image":
            yield from _channels(survey, part, [facts for facts in files if facts.dtype == dtype])


def _channels(survey: Survey, part: str, files: Sequence[Facts]) -> Iterator[Finding]:
    channels, share = usual(facts.channels for facts in files)
    counts = Counter(facts.channels for facts in files)
    eight_bits = files[0].dtype == "uint8"
    if share < MOST:
        level: Level = "warning" if eight_bits and counts.keys() <= {1, 3} else "fault"
        yield _mixed(
            survey, "another number of channels", level, part, counts, files, lambda facts: facts.channels
        )
        return
    for facts in files:
        if facts.channels == channels:
            continue
        if eight_bits and {facts.channels, channels} == {1, 3}:
            what = "a grey image among colour" if channels == 3 else "a colour image among grey ones"
            yield Finding("warning", "grey and colour", facts.path, what, "", (facts.path,))
        else:
            yield Finding(
                "fault",
                "another number of channels",
                facts.path,
                f"{_count(facts.channels, 'channel')}, other files of {part} have {channels}",
                "convert it, or remove it",
                (facts.path,),
            )


def _mixed(
    survey: Survey,
    kind: str,
    level: Level,
    part: str,
    counts: Counter[T],
    files: Sequence[Facts],
    key: Callable[[Facts], T],
) -> Finding:
    examples = {value: next(facts.path for facts in files if key(facts) == value) for value in counts}
    listed = ", ".join(f"{count} of {value} ({examples[value]})" for value, count in counts.most_common())
    where = str(
        next((each.folder for each in survey.layout.parts if each.name == part), survey.layout.dataroot)
    )
    return Finding(
        level, kind, where, f"{part}: files of different kinds: {listed}", "convert them to one kind",
        tuple(examples.values()),
    )  # fmt: skip


@check
def grey_in_colour(survey: Survey) -> Iterator[Finding]:
    for files in survey.images.values():
        coloured = [facts for facts in files if facts.channels == 3]
        grey = [facts for facts in coloured if facts.colourless]
        if grey and len(grey) <= (1 - MOST) * len(coloured):
            for facts in grey:
                yield Finding(
                    "warning",
                    "grey and colour",
                    facts.path,
                    "its three channels are equal: a grey image among colour",
                    "",
                    (facts.path,),
                )


@check
def transparency(survey: Survey) -> Iterator[Finding]:
    for part, files in survey.images.items():
        with_alpha = [facts for facts in files if facts.alpha]
        few = len(with_alpha) <= (1 - MOST) * len(files)
        for facts in with_alpha:
            if facts.transparent > 0:
                yield Finding(
                    "warning",
                    "transparency",
                    facts.path,
                    f"{facts.transparent:.0%} of its pixels are transparent",
                    "they become white: blend it over the background that it should have",
                    (facts.path,),
                )
            elif few:
                yield Finding(
                    "warning",
                    "transparency",
                    facts.path,
                    f"has an alpha channel, other files of {part} have none",
                    "save it without",
                    (facts.path,),
                )
        opaque = [facts for facts in with_alpha if facts.transparent == 0]
        if opaque and not few:
            yield Finding(
                "note", "transparency", opaque[0].path, f"and {len(opaque) - 1} more have alpha, all opaque"
            )


@check
def sizes(survey: Survey) -> Iterator[Finding]:
    for part, files in survey.images.items():
        shapes = [facts.size for facts in files]
        size, share = usual(shapes)
        ratio = float(np.median([width / height for width, height in shapes]))
        short = float(np.median([min(shape) for shape in shapes]))
        for facts in files:
            own, aspect = min(facts.size), facts.width / facts.height
            others = f"{size[0]} x {size[1]}" if share > MOST else f"about {short:.0f}"
            if own < survey.crop_size <= short or own < 0.25 * short:
                cropped = own < survey.crop_size
                yield Finding(
                    "fault" if own < survey.crop_size / 2 or share > MOST else "warning",
                    "too small",
                    facts.path,
                    f"{_size(facts)} pixels, other files of {part} {others}"
                    + f": smaller than a crop of {survey.crop_size}" * cropped,
                    "get it in full size, or remove it",
                    (facts.path,),
                )
            elif not 1 / 2.5 < aspect / ratio < 2.5:
                yield Finding(
                    "warning",
                    "odd size",
                    facts.path,
                    f"{_size(facts)} pixels, {aspect:.2f} as wide as high, other files of {part} {ratio:.2f}",
                    "crop it: --preprocess resize_and_crop would distort it",
                    (facts.path,),
                )
            elif share > 0.9 and facts.size != size:
                yield Finding(
                    "warning",
                    "odd size",
                    facts.path,
                    f"{_size(facts)} pixels, other files of {part} {others}",
                    "",
                    (facts.path,),
                )


@check
def constant(survey: Survey) -> Iterator[Finding]:
    for files in survey.images.values():
        uniform = [facts for facts in files if facts.is_constant]
        for facts in uniform:
            # Slices at the ends of a volume show nothing, and maps of labels may have one class.
            natural = hasattr(facts.path, "key") or is_map(files)
            yield Finding(
                "note" if natural else "fault",
                "one colour",
                facts.path,
                f"{_side(facts)}all pixels are {facts.low:g}" if facts.high == facts.low else "one colour",
                "" if natural else "remove it",
                (facts.path,),
            )


@check
def not_finite(survey: Survey) -> Iterator[Finding]:
    for facts in survey.facts:
        if facts.not_finite:
            total = facts.width * facts.height * facts.channels
            yield Finding(
                "fault",
                "NaN or infinite",
                facts.path,
                f"{facts.not_finite} of its {total} values are NaN or infinite",
                "correct it, or say what to use in their place: --nan_value",
                (facts.path,),
            )


@check
def ranges(survey: Survey) -> Iterator[Finding]:
    for files in survey.images.values():
        dtype, _ = usual(facts.dtype for facts in files)
        alike = [facts for facts in files if facts.dtype == dtype and not facts.is_constant]
        if len(alike) < 4 or is_map(files):
            continue
        lows, highs = (np.array([facts.quantiles[k] for facts in alike]) for k in (1, -2))
        low, high = float(np.median(lows)), float(np.median(highs))
        span = (high - low) or 1.0
        for facts, own_low, own_high in zip(alike, lows, highs, strict=True):
            what = f"values from {facts.low:g} to {facts.high:g}, most of other files {low:g} to {high:g}"
            if own_high > high + 10 * span or own_low < low - 10 * span:
                yield Finding("fault", "range", facts.path, what, "scale it like the others", (facts.path,))
            elif dtype == "uint8" and facts.high <= 1 < high / 10:
                yield Finding("fault", "range", facts.path, what, "multiply its values by 255", (facts.path,))
            elif own_high - own_low < span / 50 and dtype != "uint8":
                yield Finding("fault", "range", facts.path, what, "scale it like the others", (facts.path,))
            elif own_high - own_low < span / 12 and facts.high < low + span / 4:
                yield Finding("warning", "range", facts.path, f"very dark: {what}", "", (facts.path,))


@check
def formats(survey: Survey) -> Iterator[Finding]:
    for facts in {facts.path: facts for facts in survey.facts if facts.format}.values():
        expected = EXTENSIONS_OF.get(facts.format)
        if expected and not str(getattr(facts.path, "file", facts.path)).lower().endswith(expected):
            yield Finding(
                "note",
                "another format",
                facts.path,
                f"its content is {facts.format}",
                f"rename it to {expected[0]}",
            )


@check
def labels(survey: Survey) -> Iterator[Finding]:
    for files in survey.by_part.values():
        if files[0].kind == "labels":
            yield from _lossy_labels(files, "warning" if survey.label_colors else "fault")
            if survey.label_colors:
                yield from _colours(files, survey.label_colors)
            else:
                yield from _classes(files, survey.label_nc, survey.label_ignore)
        elif files[0].kind == "image" and is_map(files):
            if files[0].channels == 1:
                yield from _classes(files, 0, None)
            else:
                yield from _rare_colours(files)


def _lossy_labels(files: Sequence[Facts], level: Level) -> Iterator[Finding]:
    for facts in files:
        if facts.format in LOSSY:
            yield Finding(
                level,
                "lossy labels",
                facts.path,
                f"a label map as {facts.format}, which changes class numbers and colours",
                "make it again as PNG",
                (facts.path,),
            )


def class_count(files: Sequence[Facts]) -> int:
    """Return the number of classes in label maps; values far above those of all other files do not count."""
    highest = [max((value for value in facts.values or {} if value != 255), default=0) for facts in files]
    order = sorted(highest)
    if len(order) >= 5 and order[-1] > 2 * order[-2] + 1:
        return order[-2] + 1
    return order[-1] + 1


def _classes(files: Sequence[Facts], label_nc: int, ignore: int | None) -> Iterator[Finding]:
    given = label_nc > 0
    count = label_nc or class_count(files)
    allowed = {ignore} if ignore is not None else set() if given else {255}
    for facts in files:
        if facts.values is None:
            if facts.format in LOSSY:
                continue
            yield Finding(
                "fault",
                "no class numbers",
                facts.path,
                f"values from {facts.low:g} to {facts.high:g} in {_count(facts.channels, 'channel')} are no"
                " class numbers",
                "save class numbers, or name the colours of the classes: --label_colors",
                (facts.path,),
            )
            continue
        wrong = {
            value: found
            for value, found in facts.values.items()
            if not 0 <= value < count and value not in allowed
        }
        if wrong:
            value, (pixels, (x, y)) = next(iter(wrong.items()))
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            yield Finding(
                "fault",
                "class number",
                facts.path,
                f"class number {value} in {_count(pixels, 'pixel')}, first at ({x}, {y}){more};"
                + (f" --label_nc is {count}" if given else f" other files have 0 to {count - 1}"),
                "correct it, raise --label_nc, or name it as --label_ignore",
                (facts.path,),
            )


def _colours(files: Sequence[Facts], known: frozenset[int]) -> Iterator[Finding]:
    for facts in files:
        if facts.format in LOSSY:
            continue
        unknown = {value: found for value, found in (facts.values or {}).items() if value not in known}
        if facts.values is None or unknown:
            value, (pixels, (x, y)) = next(iter(unknown.items()), (0, (0, (0, 0))))
            yield Finding(
                "fault",
                "colour",
                facts.path,
                f"colour {_rgb(value)} in {_count(pixels, 'pixel')}, first at ({x}, {y}), is not among those"
                " of --label_colors"
                if unknown
                else "more colours than classes",
                "correct it, or add the colour",
                (facts.path,),
            )


def _rare_colours(files: Sequence[Facts]) -> Iterator[Finding]:
    """Yield the maps with a colour that no other map has, if the others have the same few colours."""
    holders: dict[int, list[Facts]] = defaultdict(list)
    for facts in files:
        for value in facts.values or {}:
            holders[value].append(facts)
    rare = {value: owners[0] for value, owners in holders.items() if len(owners) == 1}
    if len(files) < 5 or len(rare) > 0.25 * len(holders):
        return
    for value, facts in rare.items():
        pixels, (x, y) = (facts.values or {})[value]
        if pixels > 0.005 * facts.width * facts.height:
            continue  # a rare class
        yield Finding(
            "warning",
            "colour",
            facts.path,
            f"{_side(facts)}colour {_rgb(value)} in {_count(pixels, 'pixel')}, first at ({x}, {y}), is in no"
            f" other of {len(files)} maps of {len(holders) - len(rare)} colours",
            "correct it unless it is a class",
            (facts.path,),
        )
    for facts in files:
        if facts.values is None:
            yield Finding(
                "warning",
                "colour",
                facts.path,
                f"{_side(facts)}many colours, other maps have {len(holders) - len(rare)} in all",
                "make it again without smoothing and as PNG",
                (facts.path,),
            )


@check
def masks(survey: Survey) -> Iterator[Finding]:
    files = survey.by_part.get("M", [])
    for facts in files:
        full = full_range(facts.dtype)[1]
        if facts.high == 0:
            advice = "correct it, or remove the sample"
            yield Finding("fault", "mask", facts.path, "empty: no pixel has a weight", advice, (facts.path,))
        elif facts.low == full:
            yield Finding("note", "mask", facts.path, "full: every pixel has the full weight")
        elif facts.low < 0 or facts.not_finite or facts.high > full:
            yield Finding("fault", "mask", facts.path, f"values from {facts.low:g} to {facts.high:g}")
        if facts.channels > 1:
            what = f"has {facts.channels} channels, a mask one"
            yield Finding("fault", "mask", facts.path, what, "save it as grey", (facts.path,))


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


def is_map(files: Sequence[Facts]) -> bool:
    """Return whether images have so few colours, the same in most files, that they are maps of labels."""
    few = [facts.values for facts in files if facts.values]
    if len(files) < 3 or len(few) < 0.9 * len(files):
        return False
    colours = {value for values in few for value in values}
    if files[0].channels == 3:
        return 2 < len(colours) <= 2 * MAX_COLOURS
    highest = [max((value for value in values if value != 255), default=0) for values in few]
    return len(colours) > 2 and float(np.quantile(highest, 0.9)) < MAX_COLOURS


def _sides(probe: Probe) -> tuple[Facts | None, Facts | None]:
    """Return the first image of A and that of B."""
    images = [facts for facts in probe.facts if not facts.error and facts.kind == "image"]
    A, B = (next((f for f in images if f.part.startswith(side)), None) for side in "AB")
    return A, B


def _paths(probe: Probe) -> tuple[str, ...]:
    return tuple(dict.fromkeys(facts.path for facts in probe.facts if facts.kind != "mask"))


def _side(facts: Facts) -> str:
    return f"{facts.part}: " if facts.part in ("A", "B") else ""


def _shift(shift: tuple[float, float], facts: Facts) -> str:
    right, down = round(shift[0] * facts.width), round(shift[1] * facts.height)
    words = [f"{abs(right)} pixels to the {'right' if right > 0 else 'left'}"] if right else []
    words += [f"{abs(down)} pixels {'down' if down > 0 else 'up'}"] if down else []
    return " and ".join(words) or "less than a pixel"


def _size(facts: Facts) -> str:
    return f"{facts.width} x {facts.height}"


def _rgb(value: int) -> str:
    return f"{value >> 16} {value >> 8 & 255} {value & 255}"


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" + "s" * (number != 1)
