"""The page that shows runs side by side: metrics, curves, images, flags; and its tables as files."""

import filecmp
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dominate import tags
from dominate.util import raw
from PIL import Image

from scripts.comparison.charts import CurveGroup, by_name, chart, classes
from scripts.comparison.runs import (
    RunGroup,
    Series,
    Statistic,
    TrainedRun,
    best_groups,
    group_runs,
    metric_names,
)
from scripts.comparison.tables import decimals, groups_csv, groups_latex, runs_csv
from util.errors import UserError
from util.files import write_text
from util.metrics.names import HIGHER_IS_BETTER
from util.pages.page import Page, image_tag

OPEN_CHARTS = 6
"""So many curves are shown at once; losses come first, then the measures of health."""

TABLE, RUNS, LATEX = "table.csv", "runs.csv", "table.tex"


def write_comparison(
    runs: Sequence[TrainedRun], folder: Path, title: str, *, samples: int = 8, width: int = 256
) -> Path:
    """Write the page with its tables and copies of its images into `folder`; return its path.

    Args:
        samples: how many inputs are shown with all that was made of them.
        width: the largest width of an image on the page, in CSS pixels.

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
    page = Page(path, title, width=width, kind="comparison", intro=(_hiding(len(groups)),))
    sections = [_missing(runs), _table(groups)]
    sections += [
        _curves(groups, "Validation", lambda run: run.validation),
        _curves(groups, "Losses in training", lambda run: run.losses),
        _images(groups, folder / "images", samples, width),
        _every_run(groups),
    ]
    page.append(*(section for section in sections if section))
    return path


def _hiding(count: int) -> tags.style:
    """Return the rules by which the boxes of the legends hide groups."""
    rules = "\n".join(
        f"section:has(.show-{number}:not(:checked)) .group-{number} {{ display: none; }}"
        for number in range(count)
    )
    return tags.style(raw("\n" + rules))


def _missing(runs: Sequence[TrainedRun]) -> tags.section | None:
    lacking = [run for run in runs if run.missing]
    if not lacking:
        return None
    lines = [tags.li(tags.b(run.name), ": ", run.missing) for run in lacking]
    head = tags.h2(f"Missing: {len(lacking)} of {len(runs)} runs")
    return tags.section(head, tags.ul(*lines), cls="panel missing")


def _table(groups: Sequence[RunGroup]) -> tags.section:
    metrics, flags = metric_names(groups), list(groups[0].differing)
    section = tags.section(tags.h2("Metrics"), cls="panel", id="metrics")
    if not metrics:
        section.add(
            tags.p("Nothing was measured: test.py writes metrics.json where there is a truth.", cls="note")
        )
    head = [_head(name) for name in flags or ["run"]] + [_head("n", "runs that were measured", "number")]
    head += [_head(name + _arrow(name), _direction(name), "number") for name in metrics]
    columns = {}
    for name in metrics:
        found = [group.statistic(name) for group in groups]
        columns[name] = (found, decimals(found), best_groups(groups, name))
    body = []
    for row, group in enumerate(groups):
        named = list(group.differing.values()) or [group.label]
        first = tags.td(_swatch(row), named[0] or "–", data_value=named[0])
        cells = [first, *(tags.td(value or "–", data_value=value) for value in named[1:])]
        n = len(group.measured)
        short = n < len(group.runs)
        cells.append(
            tags.td(f"{n} of {len(group.runs)}" if short else str(n), cls="number", data_value=str(n))
        )
        for found, places, best in columns.values():
            cells.append(_cell(found[row], places, row in best, n))
        body.append(tags.tr(*cells))
    table = tags.table(tags.thead(tags.tr(*head)), tags.tbody(*body), cls="sortable")
    section.add(tags.div(table, cls="scroller"))
    section.add(
        tags.p(
            "Means over n seeds ± sample standard deviation; the best mean is bold. As files: ",
            *(tags.a(name, href=name) for name in (TABLE, LATEX, RUNS)),
            cls="note files",
        )
    )
    return section


def _head(name: str, title: str = "", cls: str = "") -> tags.th:
    cell = tags.th(tags.button(name, type="button"), cls=cls, scope="col")
    if title:
        cell["title"] = title
    return cell


def _arrow(metric: str) -> str:
    return {True: " ↑", False: " ↓", None: ""}[HIGHER_IS_BETTER.get(metric)]


def _direction(metric: str) -> str:
    return {True: "higher is better", False: "lower is better", None: ""}[HIGHER_IS_BETTER.get(metric)]


def _cell(found: Statistic | None, places: int, best: bool, n: int) -> tags.td:
    if found is None:
        return tags.td("–", cls="number", data_value="")
    mean = "∞" if math.isinf(found.mean) else f"{found.mean:.{places}f}"
    cell = tags.td(tags.b(mean) if best else mean, cls="number", data_value=repr(found.mean))
    if found.deviation is not None and math.isfinite(found.deviation):
        cell.add(tags.span(f" ± {found.deviation:.{places}f}", cls="deviation"))
    if found.n != n:
        cell.add(tags.span(f" (n = {found.n})", cls="deviation"))
    return cell


def _swatch(number: int) -> tags.html_tag:
    line = (
        f'<svg class="swatch-line" viewBox="0 0 26 8" aria-hidden="true"><path class="mean {classes(number)}"'
    )
    return raw(f'{line} d="M1 4H25"/></svg>')


def _curves(
    groups: Sequence[RunGroup], heading: str, curves_of: Callable[[TrainedRun], Mapping[str, Series]]
) -> tags.section | None:
    """Return a chart for every curve that a run has, with one legend; None if there are none."""
    names = by_name([curves_of(run) for group in groups for run in group.runs])
    if not names:
        return None
    legend = tags.div(cls="groups", role="group", aria_label="shown")
    for number, group in enumerate(groups):
        box = tags.input_(type="checkbox", checked=True, cls=f"show-{number}", autocomplete="off")
        legend.add(tags.label(box, _swatch(number), f"{group.label} ({len(group.runs)})"))
    charts = []
    for name in names:
        drawn = []
        for number, group in enumerate(groups):
            series = [curves_of(run)[name] for run in group.runs if name in curves_of(run)]
            if series:
                drawn.append(CurveGroup(number, group.label, series))
        charts.append(tags.figure(tags.figcaption(name), raw(chart(drawn))))
    told = "Thin: a run. Thick: the mean of a group's runs, as far as all have got. Across: epochs."
    section = tags.section(
        tags.h2(heading), legend, tags.div(*charts[:OPEN_CHARTS], cls="charts"), cls="panel"
    )
    if further := charts[OPEN_CHARTS:]:
        count = f"{len(further)} further curves" if len(further) > 1 else "one further curve"
        section.add(tags.details(tags.summary(count), tags.div(*further, cls="charts"), cls="further"))
    section.add(tags.p(told, cls="note"))
    return section


def _images(groups: Sequence[RunGroup], images: Path, samples: int, width: int) -> tags.section | None:
    """Return the same inputs with what each group's first run made of them; the files are copied.

    An image that is the same file in all of them, such as an input, is shown once.
    """
    shown = [(group.label, next((run for run in group.runs if run.images), None)) for group in groups]
    present = [(number, label, run) for number, (label, run) in enumerate(shown) if run]
    first = [name for _, _, run in present for name in run.images]
    names = [name for name in dict.fromkeys(first) if all(name in run.images for _, _, run in present)]
    if not names:
        return None
    images.mkdir(parents=True, exist_ok=True)
    names = names[:samples]
    shared = _shared_labels([run for _, _, run in present], names)
    articles = []
    for name in names:
        figures = [
            _copied(present[0][2].images[name][label], images, "", name, label, width) for label in shared
        ]
        for label in dict.fromkeys(label for _, _, run in present for label in run.images[name]):
            for number, group, run in present:
                if label in run.images[name] and label not in shared:
                    told = f"{label}: {group}"
                    file = run.images[name][label]
                    figures.append(_copied(file, images, f"group{number}_", name, told, width))
        articles.append(tags.article(tags.h3(name), tags.div(*figures, cls="strip"), cls="sample"))
    lines = [tags.li(_swatch(number), f"{label}: {run.name}") for number, label, run in present]
    note = tags.details(tags.summary("the runs that are shown"), tags.ul(*lines), cls="note")
    return tags.section(tags.h2("Images"), note, *articles, cls="panel pictures-panel")


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


def _copied(file: Path, images: Path, prefix: str, name: str, label: str, width: int) -> tags.figure:
    target = images / f"{prefix}{file.name}"
    if file.resolve() != target.resolve():
        shutil.copyfile(file, target)
    with Image.open(target) as image:
        across, down = image.size
    return image_tag(target.name, label, f"{name}, {label}", (down, across), width, key=label)


def _every_run(groups: Sequence[RunGroup]) -> tags.section:
    """Return a line for every run, folded in."""
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
                shown = "–" if value is None else f"{value:.5g}"
                cells.append(tags.td(shown, cls="number", data_value="" if value is None else repr(value)))
            body.append(tags.tr(*cells))
    table = tags.table(tags.thead(tags.tr(*head)), tags.tbody(*body), cls="sortable")
    count = sum(len(group.runs) for group in groups)
    folded = tags.details(tags.summary(f"All {count} runs"), tags.div(table, cls="scroller"))
    return tags.section(folded, cls="panel")
