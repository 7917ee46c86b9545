"""Look for what is wrong with the images of a data set, and recommend flags for it.

    python datasets/doctor.py D [--html report.html]

Every file is read once. What is wrong is printed, a line per file: the path, what is wrong, and what to do. A
fault ends training or teaches something wrong; a warning is to be looked at; a note is to be known. The exit
status is 1 if there are faults. The layout of the folders is found, see docs/data.md.
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.doctor import checks  # noqa: F401  (registers the checks)
from data.doctor.advice import advise, command
from data.doctor.findings import Finding, Survey, count_levels, find
from data.doctor.sheet import histogram, summary, write_sheet
from data.doctor.survey import Settings, take_survey
from data.folders.flags import add_flags
from data.image_folder import files_in
from data.reading import read_colors
from options.file_options import part_names
from util.errors import Parser, UserError, run_command
from util.formats import BadImage, is_image_file, read
from util.image_limits import set_max_image_gb
from util.text import printable

log = logging.getLogger(__name__)

BARS = "▁▂▃▄▅▆▇█"


def list_files(folders: Sequence[Path]) -> int:
    """Print a line per file: loaded, with the size; bad or ignored, with the reason."""
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder")
    files = [
        Path(path) for folder in folders for path in sorted(f.path for f in files_in(folder, hidden=True))
    ]
    counts: Counter[str] = Counter()
    width = max((len(printable(str(path))) for path in files), default=0)
    for path in tqdm(files, disable=None):
        verdict, reason = _verdict(path)
        counts[verdict] += 1
        tqdm.write(f"{printable(str(path)):{width}}  {verdict:7}  {printable(reason)}", file=sys.stdout)
    print(", ".join(f"{counts[verdict]} {verdict}" for verdict in ("loaded", "bad", "ignored")))
    return 1 if counts["bad"] else 0


def _verdict(path: Path) -> tuple[str, str]:
    if not is_image_file(str(path)):
        return "ignored", "hidden" if path.name.startswith(".") else "not named like an image"
    try:
        image = read(str(path))
    except BadImage as error:
        return "bad", str(error).removeprefix(f"{path}: ")
    return "loaded", f"{image.shape[2]} x {image.shape[1]}"


def describe(survey: Survey) -> Iterator[str]:
    """Yield lines about the parts of a data set: sizes, types, values and a histogram."""
    layout = survey.layout
    counts = Counter(probe.sample.phase for probe in survey.probes)
    listed = ", ".join(f"{phase or 'in all'} {count}" for phase, count in counts.items())
    yield f"{layout.dataroot}: {layout.mode}; samples: {listed}"
    for part, files in survey.by_part.items():
        yield f"  {part:6} {summary(files)}"
        if files[0].kind != "instances":
            low, high, bins = histogram(files)
            peak = max(bins) or 1
            bars = "".join(BARS[-(-7 * count // peak)] for count in bins)
            yield f"         {low:g} {bars} {high:g}"


def report(findings: Sequence[Finding], limit: int) -> Iterator[str]:
    """Yield a line per finding, of each kind at most `limit`, the worst first."""
    for (level, kind), group in groupby(findings, lambda finding: (finding.level, finding.kind)):
        alike = list(group)
        for finding in alike[: limit or None]:
            advice = f"; {finding.advice}" if finding.advice else ""
            yield f"{level:8} {finding.where}: {finding.what}{advice}"
        if limit and len(alike) > limit:
            yield f"{level:8} ... and {len(alike) - limit} more ({kind}); --limit 0 prints all"


def main(argv: list[str]) -> int:
    parser = Parser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("folders", nargs="*", type=Path, metavar="D", help="the data set, as --dataroot")
    parser.add_argument("--dataroot", help="the data set: a folder, or shards")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the images to look at")
    parser.add_argument("--phase", nargs="+", default=(), help="parts of the folder to look at; default: all")
    parser.add_argument(
        "--dataset_mode", choices=("aligned", "unaligned", "single"), default="", help="default: found"
    )
    parser.add_argument("--inputs", default="", help="as in training: folders such as A1,A2")
    parser.add_argument("--outputs", default="", help="as in training: folders such as B1,B2")
    parser.add_argument("--label_nc", type=int, default=0, help="A is a map of this many classes")
    parser.add_argument("--label_ignore", type=int, help="class number without a class")
    parser.add_argument("--label_colors", default="", help="file with the colours of the classes")
    parser.add_argument("--crop_size", type=int, default=0, help="size that images should have at least")
    parser.add_argument("--limit", type=int, default=20, help="lines of one kind; 0: all; default: 20")
    parser.add_argument("--list", action="store_true", help="only print whether each file can be read")
    add_flags(parser, "tiff_pages", "slice_axis", "num_threads", "max_image_gb")
    options = parser.parse_args(argv)
    set_max_image_gb(options.max_image_gb)
    if options.list:
        return list_files(options.folders or [Path(options.dataroot or ".")])
    roots = [*([options.dataroot] if options.dataroot else []), *map(str, options.folders)]
    if not roots:
        raise UserError("name a data set: python datasets/doctor.py D")
    if options.html and len(roots) > 1:
        raise UserError("--html FILE: the page shows one data set; name one folder")
    return max([_examine(root, options) for root in roots])


def _examine(dataroot: str, options: argparse.Namespace) -> int:
    colors = read_colors(options.label_colors) if options.label_colors else ()
    settings = Settings(
        dataroot,
        options.phase,
        options.dataset_mode,
        [*part_names(options.inputs), *part_names(options.outputs)],
        options.label_nc or len(colors),
        options.label_ignore,
        frozenset(red << 16 | green << 8 | blue for red, green, blue in colors),
        options.crop_size,
        options.tiff_pages,
        options.slice_axis,
    )
    survey = take_survey(settings, options.num_threads)
    findings = find(survey)
    flags = advise(survey)
    for line in describe(survey):
        log.info("%s", line)
    for line in report(findings, options.limit):
        log.info("%s", line)
    log.info("Flags that fit:\n  %s", command(flags, dataroot))
    for flag in flags:
        log.info("  --%s %s: %s%s", flag.name, flag.value, flag.reason, " (default)" if flag.default else "")
    log.info("%s", count_levels(findings))
    if options.html:
        write_sheet(options.html, survey, findings, flags)
        log.info("%s", options.html)
    return 1 if any(finding.level == "fault" for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
