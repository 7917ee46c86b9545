"""The page that shows what is wrong with a data set: histograms, findings and their images."""

import base64
import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from dominate import tags
from dominate.util import raw
from PIL import Image

from data.doctor.advice import Flag, command
from data.doctor.findings import Finding, Survey, count_levels, usual
from data.doctor.pixels import shrink, to_levels
from data.doctor.probe import Facts
from util.errors import UserError
from util.formats import read
from util.pages.page import Page
from util.text import printable

BINS = 48

THUMBNAIL = 224
"""Largest height and width of an image on the page."""

SHOWN = 24
"""Findings of one kind that are shown with images; all are listed."""


def summary(files: Sequence[Facts]) -> str:
    """Return how many images a part has, their sizes, channels, types, values and formats."""
    size, share = usual(facts.size for facts in files)
    sides = sorted(facts.size for facts in files)
    sizes = f"{size[0]} x {size[1]}" if share == 1 else (
        f"{sides[0][0]} to {sides[-1][0]} wide, {min(f.height for f in files)} to"
        f" {max(f.height for f in files)} high ({share:.0%} {size[0]} x {size[1]})"
    )  # fmt: skip
    channels = _shares([str(facts.channels) for facts in files])
    dtypes = _shares([facts.dtype for facts in files])
    formats = _shares([facts.format for facts in files if facts.format])
    low, high = min(facts.low for facts in files), max(facts.high for facts in files)
    parts = [
        f"{len(files)} {_kind(files[0])}",
        sizes,
        f"channels {channels}",
        f"{dtypes} from {low:g} to {high:g}",
    ]
    return ", ".join([*parts, *([formats] if formats else [])])


def histogram(files: Sequence[Facts]) -> tuple[float, float, list[int]]:
    """Return both ends and the counts of a histogram of the images of the usual type, with equal weights."""
    dtype, _ = usual(facts.dtype for facts in files)
    values = np.concatenate([facts.quantiles for facts in files if facts.dtype == dtype])
    if dtype == "uint8":
        low, high = 0.0, 255.0
    else:
        low, high = float(values.min()), float(values.max())
    counts, _ = np.histogram(values, BINS, (low, high if high > low else low + 1))
    return low, high, counts.tolist()


def write_sheet(path: Path, survey: Survey, findings: Sequence[Finding], flags: Sequence[Flag]) -> None:
    """Write the page, one file with all its images in it.

    Raises:
        OSError: It cannot be written.
    """
    title = f"{Path(str(survey.layout.dataroot)).name}: {count_levels(findings)}"
    page = Page(path, title, kind="doctor", width=THUMBNAIL)
    page.append(tags.section(tags.h2("Images"), *_parts(survey)))
    for (level, kind), group in groupby(findings, lambda finding: (finding.level, finding.kind)):
        alike = list(group)
        section = tags.section(
            tags.h2(
                tags.span(level, cls=f"level {level}"), f" {kind} ", tags.span(str(len(alike)), cls="count")
            )
        )
        for number, finding in enumerate(alike):
            section.add(_finding(finding, with_images=number < SHOWN))
        page.append(section)
    page.append(tags.section(tags.h2("Flags that fit"), *_flags(survey, flags)))


def _parts(survey: Survey) -> Iterator[tags.html_tag]:
    for part, files in survey.by_part.items():
        low, high, counts = histogram(files)
        text = tags.p(tags.b(part), f" {summary(files)}")
        samples = [facts.path for facts in files[:: max(1, len(files) // 6)]][:6]
        yield tags.article(
            text,
            tags.figure(raw(_chart(counts)), tags.figcaption(f"{low:g} … {high:g}"), cls="histogram"),
            tags.div(*(_image(sample) for sample in samples), cls="row"),
        )


def _finding(finding: Finding, with_images: bool) -> tags.html_tag:
    advice = [tags.span(f" {finding.advice}", cls="advice")] if finding.advice else []
    article = tags.article(tags.p(tags.code(printable(finding.where)), f" {finding.what}", *advice))
    if with_images and finding.files:
        article.add(tags.div(*(_image(path) for path in finding.files[:4]), cls="row"))
    return article


def _flags(survey: Survey, flags: Sequence[Flag]) -> Iterator[tags.html_tag]:
    yield tags.pre(command(flags, str(survey.layout.dataroot)))
    rows = [
        tags.tr(
            tags.td(tags.code(f"--{flag.name} {flag.value}")),
            tags.td(flag.reason + " (default)" * flag.default),
        )
        for flag in flags
    ]
    yield tags.table(*rows)


def _image(path: str) -> tags.html_tag:
    """Return an image with its name, as part of the page."""
    name = tags.figcaption(printable("/".join(Path(path).parts[-2:])))
    try:
        image = read(path)
    except UserError:
        return tags.figure(tags.div("cannot be read", cls="unreadable"), name)
    height, width = image.shape[1:]
    scale = min(1.0, THUMBNAIL / max(height, width / 2))
    small = shrink(
        image[:3] if len(image) >= 3 else image[:1], round(height * scale) or 1, round(width * scale) or 1
    )
    if image.dtype == np.uint8 and image.max() > 1:
        low, high = 0.0, 255.0
    else:
        low, high = (float(end) for end in np.nanquantile(small, (0.005, 0.995)))
    levels = to_levels(small, low, high)
    preview = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    file = io.BytesIO()
    preview.save(file, "PNG" if min(height, width) < 64 else "JPEG", quality=85)
    kind = "png" if min(height, width) < 64 else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
    return tags.figure(
        tags.img(src=source, alt=printable(path), width=preview.width, height=preview.height), name
    )


def _chart(counts: Sequence[int]) -> str:
    """Return a histogram as SVG; heights are square roots, so that rare values are seen."""
    peak = max(counts) or 1
    bars = "".join(
        f'<rect x="{4 * k}" y="{60 - 60 * (count / peak) ** 0.5:.1f}" width="3.4"'
        f' height="{60 * (count / peak) ** 0.5:.1f}"/>'
        for k, count in enumerate(counts)
    )
    box = f'viewBox="0 0 {4 * len(counts)} 60" preserveAspectRatio="none"'
    return f'<svg {box} role="img" aria-label="histogram">{bars}</svg>'


def _shares(values: Sequence[str]) -> str:
    return " or ".join(dict.fromkeys(sorted(values, key=values.count, reverse=True)))


def _kind(facts: Facts) -> str:
    return {"labels": "label maps", "instances": "instance maps", "mask": "masks"}.get(facts.kind, "images")
