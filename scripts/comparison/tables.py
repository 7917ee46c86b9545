"""Tables of metrics over runs: for people, for spreadsheets (CSV), for papers (LaTeX)."""

import csv
import io
import math
from collections.abc import Sequence

from scripts.comparison.runs import RunGroup, Statistic, best_groups, metric_names, text
from util.metrics.names import HIGHER_IS_BETTER

MOST_DECIMALS = 6
LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_"},
}


def decimals(statistics: Sequence[Statistic | None]) -> int:
    """Return with how many decimals a column shows two digits of the typical deviation.

    Without deviations it is as many as show four digits of the largest mean.
    """
    given = [each for each in statistics if each]
    deviations = sorted(each.deviation for each in given if each.deviation and math.isfinite(each.deviation))
    if deviations:
        places = 1 - math.floor(math.log10(deviations[(len(deviations) - 1) // 2]))
    else:
        largest = max((abs(each.mean) for each in given if math.isfinite(each.mean)), default=0)
        places = 3 - math.floor(math.log10(largest)) if largest else 0
    return min(max(places, 0), MOST_DECIMALS)


def groups_csv(groups: Sequence[RunGroup]) -> str:
    """Return a row for every group: its flags, its runs, each metric's number of values, mean, deviation."""
    metrics = metric_names(groups)
    columns = [column for name in metrics for column in (f"{name}_n", f"{name}_mean", f"{name}_deviation")]
    lines: list[list[object]] = [[*groups[0].differing, "runs", *columns]]
    for group in groups:
        cells: list[object] = []
        for name in metrics:
            found = group.statistic(name)
            deviation = "" if found is None or found.deviation is None else found.deviation
            cells += [found.n, found.mean, deviation] if found else [0, "", ""]
        lines.append([*group.differing.values(), len(group.runs), *cells])
    return _csv(lines)


def runs_csv(groups: Sequence[RunGroup]) -> str:
    """Return a row for every run: its name, flags, seed, metrics, and what it lacks."""
    metrics = metric_names(groups)
    lines: list[list[object]] = [["run", *groups[0].differing, "seed", *metrics, "missing"]]
    for group in groups:
        for run in group.runs:
            values = [run.metrics.get(name, "") for name in metrics]
            seed = text(run.flags.get("seed", ""))
            lines.append([run.name, *group.differing.values(), seed, *values, run.missing])
    return _csv(lines)


def groups_latex(groups: Sequence[RunGroup]) -> str:
    """Return a table for booktabs: mean ± deviation, the best mean of each metric in bold."""
    flags, metrics = list(groups[0].differing), metric_names(groups)
    arrows = {True: r" $\uparrow$", False: r" $\downarrow$", None: ""}
    head = [*map(latex, flags or ["run"]), "$n$"]
    head += [latex(name) + arrows[HIGHER_IS_BETTER.get(name)] for name in metrics]
    columns: list[list[str]] = []
    for name in metrics:
        found = [group.statistic(name) for group in groups]
        places, best = decimals(found), best_groups(groups, name)
        columns.append([latex_cell(each, places, row in best) for row, each in enumerate(found)])
    lines = [
        "% needs \\usepackage{booktabs}; mean and sample standard deviation over n runs",
        f"\\begin{{tabular}}{{{'l' * len(flags or ['run'])}r{'r' * len(metrics)}}}",
        "\\toprule",
        " & ".join(head) + r" \\",
        "\\midrule",
    ]
    for row, group in enumerate(groups):
        named = [latex(str(value)) for value in group.differing.values()] or [latex(group.label)]
        cells = [*named, str(len(group.measured)), *(column[row] for column in columns)]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def latex(plain: str) -> str:
    """Return a text as LaTeX shows it."""
    return "".join(LATEX_ESCAPES.get(character, character) for character in plain)


def latex_cell(found: Statistic | None, places: int, best: bool) -> str:
    """Return one cell of the table."""
    if found is None:
        return "--"
    mean = r"$\infty$" if math.isinf(found.mean) else f"{found.mean:.{places}f}"
    mean = f"\\textbf{{{mean}}}" if best else mean
    if found.deviation is None or not math.isfinite(found.deviation):
        return mean
    return f"{mean} $\\pm$ {found.deviation:.{places}f}"


def _csv(lines: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()
