"""Tables of metrics over runs as CSV and LaTeX."""

import csv
import io
import math
from collections.abc import Sequence

from options.parse import argument_text
from scripts.comparison.runs import RunGroup, Statistic, best_group, metric_names
from util.metrics.names import HIGHER_IS_BETTER
from util.text import csv_cell, printable

MAX_DECIMALS = 6
LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_"},
}


def decimals(statistics: Sequence[Statistic | None]) -> int:
    """Return the number of decimals that shows two digits of a column's median deviation.

    Without deviations it shows four digits of the largest mean.
    """
    present = [statistic for statistic in statistics if statistic]
    deviations = sorted(s.deviation for s in present if s.deviation and _is_significant(s.deviation, s.mean))
    if deviations:
        places = 1 - math.floor(math.log10(deviations[(len(deviations) - 1) // 2]))
    else:
        largest = max((abs(s.mean) for s in present if math.isfinite(s.mean)), default=0)
        places = 3 - math.floor(math.log10(largest)) if largest else 0
    return min(max(places, 0), MAX_DECIMALS)


def _is_significant(deviation: float, mean: float) -> bool:
    """Return whether a deviation is finite and more than the rounding errors of equal values."""
    return math.isfinite(deviation) and deviation > 1e-9 * abs(mean)


def groups_csv(groups: Sequence[RunGroup]) -> str:
    """Return a row per group: flags, number of runs, and n, mean and deviation of each metric."""
    metrics = metric_names(groups)
    columns = [column for name in metrics for column in (f"{name}_n", f"{name}_mean", f"{name}_deviation")]
    lines: list[list[object]] = [[*groups[0].differing, "runs", *columns]]
    for group in groups:
        cells: list[object] = []
        for name in metrics:
            statistic = group.statistic(name)
            deviation = "" if statistic is None or statistic.deviation is None else statistic.deviation
            cells += [statistic.n, statistic.mean, deviation] if statistic else [0, "", ""]
        lines.append([*group.differing.values(), len(group.runs), *cells])
    return _csv(lines)


def runs_csv(groups: Sequence[RunGroup]) -> str:
    """Return a row per run: name, flags, seed, metrics, and what is missing."""
    metrics = metric_names(groups)
    lines: list[list[object]] = [["run", *groups[0].differing, "seed", *metrics, "missing"]]
    for group in groups:
        for run in group.runs:
            values = [run.metrics.get(name, "") for name in metrics]
            seed = argument_text(run.flags.get("seed", ""))
            lines.append([run.name, *group.differing.values(), seed, *values, run.missing])
    return _csv(lines)


def groups_latex(groups: Sequence[RunGroup]) -> str:
    """Return a table for booktabs: mean ± deviation, a mean that is best beyond noise in bold."""
    flags, metrics = list(groups[0].differing), metric_names(groups)
    arrows = {True: r" $\uparrow$", False: r" $\downarrow$", None: ""}
    head = [*map(latex, flags or ["run"]), "$n$"]
    head += [latex(name) + arrows[HIGHER_IS_BETTER.get(name)] for name in metrics]
    columns: list[list[str]] = []
    for name in metrics:
        statistics = [group.statistic(name) for group in groups]
        places, best = decimals(statistics), best_group(groups, name)
        columns.append([latex_cell(s, places, row == best) for row, s in enumerate(statistics)])
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
    """Return a text with LaTeX's special characters escaped, and unsafe ones shown as by Python."""
    return "".join(LATEX_ESCAPES.get(character, character) for character in printable(plain))


def latex_cell(statistic: Statistic | None, places: int, best: bool) -> str:
    """Return one cell of the table."""
    if statistic is None:
        return "--"
    mean = r"$\infty$" if math.isinf(statistic.mean) else f"{statistic.mean:.{places}f}"
    mean = f"\\textbf{{{mean}}}" if best else mean
    if statistic.deviation is None or not math.isfinite(statistic.deviation):
        return mean
    return f"{mean} $\\pm$ {statistic.deviation:.{places}f}"


def _csv(lines: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(map(csv_cell, line) for line in lines)
    return file.getvalue()
