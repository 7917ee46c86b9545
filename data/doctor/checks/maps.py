"""Label maps and masks."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from data.doctor.findings import (
    Finding,
    Level,
    Survey,
    check,
    class_count,
    counted,
    is_map,
    rgb_text,
    side_of,
)
from data.doctor.probe import Facts
from util.parts import full_range

LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")


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
            yield Finding.of(
                level,
                "lossy labels",
                facts,
                f"a label map as {facts.format}, which changes class numbers and colours",
                "make it again as PNG",
            )


def _classes(files: Sequence[Facts], label_nc: int, ignore: int | None) -> Iterator[Finding]:
    given = label_nc > 0
    count = label_nc or class_count(files)
    allowed = {ignore} if ignore is not None else set() if given else {255}
    for facts in files:
        if facts.values is None:
            if facts.format in LOSSY:
                continue
            yield Finding.of(
                "fault",
                "no class numbers",
                facts,
                f"values from {facts.low:g} to {facts.high:g} in {counted(facts.channels, 'channel')} are no"
                " class numbers",
                "save class numbers, or name the colours of the classes: --label_colors",
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
            yield Finding.of(
                "fault",
                "class number",
                facts,
                f"class number {value} in {counted(pixels, 'pixel')}, first at ({x}, {y}){more};"
                + (f" --label_nc is {count}" if given else f" other files have 0 to {count - 1}"),
                "correct it, raise --label_nc, or name it as --label_ignore",
            )


def _colours(files: Sequence[Facts], known: frozenset[int]) -> Iterator[Finding]:
    for facts in files:
        if facts.format in LOSSY:
            continue
        unknown = {value: found for value, found in (facts.values or {}).items() if value not in known}
        if facts.values is None or unknown:
            value, (pixels, (x, y)) = next(iter(unknown.items()), (0, (0, (0, 0))))
            yield Finding.of(
                "fault",
                "colour",
                facts,
                f"colour {rgb_text(value)} in {counted(pixels, 'pixel')}, first at ({x}, {y}), is not among"
                " those of --label_colors"
                if unknown
                else "more colours than classes",
                "correct it, or add the colour",
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
        yield Finding.of(
            "warning",
            "colour",
            facts,
            f"{side_of(facts)}colour {rgb_text(value)} in {counted(pixels, 'pixel')}, first at ({x}, {y}),"
            f" is in no other of {len(files)} maps of {len(holders) - len(rare)} colours",
            "correct it unless it is a class",
        )
    for facts in files:
        if facts.values is None:
            yield Finding.of(
                "warning",
                "colour",
                facts,
                f"{side_of(facts)}many colours, other maps have {len(holders) - len(rare)} in all",
                "make it again without smoothing and as PNG",
            )


@check
def masks(survey: Survey) -> Iterator[Finding]:
    files = survey.by_part.get("M", [])
    for facts in files:
        full = full_range(facts.dtype)[1]
        if facts.high == 0:
            advice = "correct it, or remove the sample"
            yield Finding.of("fault", "mask", facts, "empty: no pixel has a weight", advice)
        elif facts.low == full:
            yield Finding("note", "mask", facts.path, "full: every pixel has the full weight")
        elif facts.low < 0 or facts.not_finite or facts.high > full:
            yield Finding("fault", "mask", facts.path, f"values from {facts.low:g} to {facts.high:g}")
        if facts.channels > 1:
            what = f"has {facts.channels} channels, a mask one"
            yield Finding.of("fault", "mask", facts, what, "save it as grey")
