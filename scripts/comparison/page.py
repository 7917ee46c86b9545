"""The page that shows runs side by side: metrics, curves, images, flags; and its tables as files."""

import filecmp
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import IO

from dominate import tags
from PIL import Image, UnidentifiedImageError

from scripts.comparison.curves import chart, curve_names
from scripts.comparison.runs import (
    NOISE,
    RunGroup,
    Series,
    Statistic,
    TrainedRun,
    best_group,
    group_runs,
    metric_names,
)
from scripts.comparison.tables import decimals, groups_csv, groups_latex, runs_csv
from util.errors import UserError
from util.files import NAME_MAX, make_folder, write_in_place, write_text
from util.image_io import FORMATS
from util.pages.listing import Listing
from util.pages.page import Page, arrow, direction, image_tag, record_tag
from util.text import escape

TABLE, RUNS, LATEX = "table.csv", "runs.csv", "table.tex"


def write_comparison(
    runs: Sequence[TrainedRun], folder: Path, title: str, *, samples: int = 8, width: int = 256
) -> Path:
    """Write the page with its tables and copies of its images into `folder`; return its path.

    Args:
        samples: number of inputs that are shown with the results of all groups.
        width: the largest width of an image on the page in CSS pixels.

    Raises:
        UserError: the folder has another page.
    """
    path = folder / "index.html"
    if path.exists() and not (folder / RUNS).exists():
        raise UserError(f"{path}: there is a page of another kind; choose another folder")
    groups = group_runs(runs)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RUNS, runs_csv(groups))
    write_text(folder / TABLE, groups_csv(groups))
    write_text(folder / LATEX, groups_latex(groups))
    paired = next((run.paired for run in runs if run.paired is not None), None)
    page = Page(path, title, width=width, kind="comparison", paired=paired)
    sections = [
        _missing(runs),
        _table(groups),
        _curves(groups, "Validation", lambda run: run.validation),
        _curves(groups, "Losses", lambda run: run.losses),
        _curves(groups, "Diagnostics", lambda run: run.diagnostics),
        _images(groups, folder / "images", samples, width),
        _all_runs(groups),
    ]
    page.append(*(section for section in sections if section))
    return path


def _missing(runs: Sequence[TrainedRun]) -> tags.section | None:
    incomplete = [run for run in runs if run.missing]
    if not incomplete:
        return None
    lines = [tags.li(tags.b(run.name), ": ", run.missing) for run in incomplete]
    head = tags.h2(f"Missing: {len(incomplete)} of {len(runs)} runs")
    return tags.section(head, tags.ul(*lines), cls="panel missing")


def _table(groups: Sequence[RunGroup]) -> tags.section:
    metrics, flags = metric_names(groups), list(groups[0].differing)
    section = tags.section(tags.h2("Metrics"), cls="panel", id="metrics")
    if not metrics:
        section.add(
            tags.p("Nothing was measured: test.py writes metrics.json if there is a truth.", cls="note")
        )
    head = [_head(name) for name in flags or ["run"]] + [_head("n", "runs with metrics", "number")]
    head += [_head(name + arrow(name), direction(name), "number") for name in metrics]
    columns = {}
    for name in metrics:
        statistics = [group.statistic(name) for group in groups]
        columns[name] = (statistics, decimals(statistics), best_group(groups, name))
    body = []
    for row, group in enumerate(groups):
        values = list(group.differing.values()) or [group.label]
        first = tags.td(_swatch(row), values[0] or "–", data_value=values[0])
        cells = [first, *(tags.td(value or "–", data_value=value) for value in values[1:])]
        n, count = len(group.measured), len(group.runs)
        number = str(n) if n == count else f"{n} of {count}"
        cells.append(tags.td(number, cls="number", data_value=str(n)))
        for statistics, places, best in columns.values():
            cells.append(_cell(statistics[row], places, row == best, n))
        body.append(tags.tr(*cells))
    table = tags.table(tags.thead(tags.tr(*head)), tags.tbody(*body), cls="sortable")
    section.add(tags.div(table, cls="scroller"))
    section.add(
        tags.p(
            "Means over n seeds ± sample standard deviation. A mean is bold if it is better than all others"
            f" by more than {NOISE:g} standard errors of the difference; a single seed shows no noise, so"
            " nothing is bold.",
            cls="note",
        )
    )
    links = [tags.a(name, href=name) for name in (TABLE, LATEX, RUNS)]
    section.add(tags.p(*links, cls="note links"))
    return section


def _head(name: str, title: str = "", cls: str = "") -> tags.th:
    cell = tags.th(tags.button(name, type="button"), cls=cls, scope="col")
    if title:
        cell["title"] = title
    return cell


def _cell(statistic: Statistic | None, places: int, best: bool, n: int) -> tags.td:
    if statistic is None:
        return tags.td("–", cls="number", data_value="")
    mean = "∞" if math.isinf(statistic.mean) else f"{statistic.mean:.{places}f}"
    cell = tags.td(tags.b(mean) if best else mean, cls="number", data_value=repr(statistic.mean))
    if statistic.deviation is not None and math.isfinite(statistic.deviation):
        cell.add(tags.span(f" ± {statistic.deviation:.{places}f}", cls="deviation"))
    if statistic.n != n:
        cell.add(tags.span(f" (n = {statistic.n})", cls="deviation"))
    return cell


def _swatch(group: int) -> tags.span:
    """Return the place where the page's script draws the line style of a group."""
    return tags.span(cls="swatch", data_group=str(group))


def _curves(
    groups: Sequence[RunGroup], heading: str, curves_of: Callable[[TrainedRun], Mapping[str, Series]]
) -> tags.section | None:
    """Return the data of a chart for every curve of the runs; None if there are none."""
    curves = [[curves_of(run) for run in group.runs] for group in groups]
    names = curve_names([run for runs in curves for run in runs])
    if not names:
        return None
    content = {
        "groups": [f"{group.label} ({len(group.runs)})" for group in groups],
        "charts": [chart(name, curves) for name in names],
    }
    section = tags.section(tags.h2(heading), cls="panel", id=heading.lower())
    section.add(tags.noscript(tags.p("Charts need JavaScript.", cls="note")))
    section.add(record_tag("curves", content))
    return section


def _images(groups: Sequence[RunGroup], images: Path, samples: int, width: int) -> tags.section | None:
    """Return the same inputs with the results of each group's first run; the files are copied.

    An image that is the same file in all of them, such as an input, is shown once.
    """
    first_runs = [(group.label, next((run for run in group.runs if run.images), None)) for group in groups]
    present = [(number, label, run) for number, (label, run) in enumerate(first_runs) if run]
    all_names = dict.fromkeys(name for _, _, run in present for name in run.images)
    names = [name for name in all_names if all(name in run.images for _, _, run in present)][:samples]
    listing = Listing(images.parent)  # removes the previous page's images, and stays for the next page
    if not names:
        return None
    make_folder(images)
    shared = _shared_labels([run for _, _, run in present], names)
    articles = []
    for name in names:
        figures = [
            _copied(present[0][2].images[name][label], images, listing, "", name, label, width)
            for label in shared
            if label in present[0][2].images[name]
        ]
        for label in dict.fromkeys(label for _, _, run in present for label in run.images[name]):
            for number, group, run in present:
                if label in run.images[name] and label not in shared:
                    file, prefix = run.images[name][label], f"group{number}_"
                    caption = f"{label}: {group}"
                    figures.append(_copied(file, images, listing, prefix, name, caption, width))
        articles.append(tags.article(tags.h3(escape(name)), tags.div(*figures, cls="strip"), cls="sample"))
    lines = [tags.li(_swatch(number), f"{label}: {run.name}") for number, label, run in present]
    note = tags.details(tags.summary("Runs that are shown"), tags.ul(*lines), cls="note")
    return tags.section(tags.h2("Images"), note, *articles, cls="panel")


def _shared_labels(runs: Sequence[TrainedRun], names: Sequence[str]) -> list[str]:
    """Return the labels whose images are equal, byte by byte, in all runs."""
    labels = dict.fromkeys(label for name in names for label in runs[0].images[name])
    if len(runs) == 1:
        return list(labels)

    def is_shared(label: str) -> bool:
        files = [[run.images[name].get(label) for name in names] for run in runs]
        return all(
            one is not None and other is not None and filecmp.cmp(one, other, shallow=False)
            for others in files[1:]
            for one, other in zip(files[0], others, strict=True)
        )

    return [label for label in labels if is_shared(label)]


def _copied(
    file: Path, images: Path, listing: Listing, prefix: str, name: str, label: str, width: int
) -> tags.figure:
    """Copy an image of a gallery into the folder `images`, and return it for the page."""
    copied = f"{prefix}{file.name}"
    if len(os.fsencode(copied)) > NAME_MAX:
        copied = f"{prefix}{sha256(os.fsencode(file.name)).hexdigest()[:16]}{file.suffix}"
    target = images / copied
    listing.add([f"{images.name}/{copied}"])
    if not file.is_file():
        raise UserError(f"{file}: there is no such image; run test.py again")
    with file.open("rb") as source:
        size = _size(source, file)
        source.seek(0)
        write_in_place(target, lambda opened: shutil.copyfileobj(source, opened))
    return image_tag(target.name, label, f"{name}, {label}", size, width, key=label)


def _size(source: IO[bytes], file: Path) -> tuple[int, int]:
    """Return height and width of the image in an open file."""
    try:
        with Image.open(source, formats=FORMATS) as image:
            return image.height, image.width
    # For damaged files Pillow's decoders raise SyntaxError, ValueError, struct.error and others.
    except Exception as error:
        reason = type(error).__name__ if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"{file}: cannot be read as an image ({reason}); run test.py again") from None


def _all_runs(groups: Sequence[RunGroup]) -> tags.section:
    """Return a table with a line for every run, folded in."""
    metrics = metric_names(groups)
    head = [_head(name) for name in ("run", *groups[0].differing, "seed")]
    head += [_head(name, cls="number") for name in metrics]
    body = []
    for group in groups:
        for run in group.runs:
            values = [run.name, *group.differing.values(), str(run.flags.get("seed", ""))]
            cells = [tags.td(value or "–", data_value=value) for value in values]
            for name in metrics:
                value = run.metrics.get(name)
                text = "–" if value is None else f"{value:.5g}"
                cells.append(tags.td(text, cls="number", data_value="" if value is None else repr(value)))
            body.append(tags.tr(*cells))
    table = tags.table(tags.thead(tags.tr(*head)), tags.tbody(*body), cls="sortable")
    count = sum(len(group.runs) for group in groups)
    folded = tags.details(tags.summary(f"All {count} runs"), tags.div(table, cls="scroller"))
    return tags.section(folded, cls="panel")
