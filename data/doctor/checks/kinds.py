"""Types, channels and formats of files that differ from those of the others."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from data.doctor.findings import MOST, Finding, Level, Survey, T, check, counted, usual
from data.doctor.probe import Facts

EXTENSIONS_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
}


@check
def types(survey: Survey) -> Iterator[Finding]:
    for part, files in survey.by_part.items():
        dtype, share = usual(facts.dtype for facts in files)
        if MOST <= share < 1:
            for facts in files:
                if facts.dtype != dtype:
                    yield Finding.of(
                        "fault",
                        "another type",
                        facts,
                        f"{facts.dtype} values, other files of {part} have {dtype}",
                        f"convert it to {dtype}",
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
            yield Finding.of("warning", "grey and colour", facts, what, "")
        else:
            yield Finding.of(
                "fault",
                "another number of channels",
                facts,
                f"{counted(facts.channels, 'channel')}, other files of {part} have {channels}",
                "convert it, or remove it",
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
                yield Finding.of(
                    "warning",
                    "grey and colour",
                    facts,
                    "its three channels are equal: a grey image among colour",
                    "",
                )


@check
def transparency(survey: Survey) -> Iterator[Finding]:
    for part, files in survey.images.items():
        with_alpha = [facts for facts in files if facts.alpha]
        few = len(with_alpha) <= (1 - MOST) * len(files)
        for facts in with_alpha:
            if facts.transparent > 0:
                yield Finding.of(
                    "warning",
                    "transparency",
                    facts,
                    f"{facts.transparent:.0%} of its pixels are transparent",
                    "they become white: blend it over the background that it should have",
                )
            elif few:
                yield Finding.of(
                    "warning",
                    "transparency",
                    facts,
                    f"has an alpha channel, other files of {part} have none",
                    "save it without",
                )
        opaque = [facts for facts in with_alpha if facts.transparent == 0]
        if opaque and not few:
            yield Finding(
                "note", "transparency", opaque[0].path, f"and {len(opaque) - 1} more have alpha, all opaque"
            )


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
