"""Write a page that shows runs side by side: metrics over seeds, curves, images of the same inputs.

    python scripts/compare.py facades_pix2pix facades_l1_50 --out results/l1
    python scripts/compare.py checkpoints/norms                  # all runs in this folder

A run is given by its name below --checkpoints_dir or by its folder. Runs whose flags are equal except for the
seed are one line of the table. The tables are also written as table.csv, runs.csv and table.tex (LaTeX).
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from scripts.comparison.page import write_comparison  # noqa: E402
from scripts.comparison.runs import TrainedRun, read_flags, read_run  # noqa: E402
from util.errors import Parser, UserError, run_command  # noqa: E402

log = logging.getLogger(__name__)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Return the values of the flags."""
    parser = Parser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a name, a run's folder, or a folder of runs")
    parser.add_argument(
        "--checkpoints_dir", type=Path, default=Path("checkpoints"), help="folder of runs (./checkpoints)"
    )
    parser.add_argument(
        "--results_dir", type=Path, default=Path("results"), help="folder of test.py's results (./results)"
    )
    parser.add_argument("--phase", default="test", help="the phase that was tested (test)")
    parser.add_argument("--epoch", default="latest", help="the checkpoint that was tested (latest)")
    parser.add_argument(
        "--out", type=Path, default=Path("comparison"), help="folder of the page (./comparison)"
    )
    parser.add_argument("--title", default="Comparison of runs", help="the page's title")
    parser.add_argument("--samples", type=int, default=8, help="number of inputs that the page shows (8)")
    settings = parser.parse_args(argv)
    if settings.samples < 1:
        raise UserError(f"--samples {settings.samples}: expected 1 or more")
    return settings


def run_folders(given: Sequence[str], checkpoints: Path) -> list[Path]:
    """Return the folders of the given runs, each once, in the given order.

    Raises:
        UserError: a name or folder has no run.
    """
    folders: list[Path] = []
    for text in given:
        folder = Path(text) if Path(text).is_dir() else checkpoints / text
        inside = sorted(path.parent for path in folder.glob("*/train_opt.json"))
        runs = [folder] if (folder / "train_opt.json").exists() else inside
        if not runs:
            raise UserError(f"{text}: there is no run, neither in {Path(text)} nor in {checkpoints / text}")
        folders += runs
    return list({folder.resolve(): folder for folder in folders}.values())


def results_folder(folder: Path, settings: argparse.Namespace) -> Path:
    """Return the folder of a run's results: below --results_dir as the run is below --checkpoints_dir."""
    inside = folder.resolve().is_relative_to(settings.checkpoints_dir.resolve())
    place = folder.resolve().relative_to(settings.checkpoints_dir.resolve()) if inside else Path(folder.name)
    return settings.results_dir / place / f"{settings.phase}_{settings.epoch}"


def main(argv: list[str]) -> int:
    settings = parse_arguments(argv)
    folders = run_folders(settings.runs, settings.checkpoints_dir)
    names = [folder.resolve().name for folder in folders]
    runs: list[TrainedRun] = []
    for folder, name in zip(folders, names, strict=True):
        shown = str(folder) if names.count(name) > 1 else name
        runs.append(read_run(shown, folder, results_folder(folder, settings), read_flags(folder)))
    for run in (run for run in runs if run.missing):
        log.warning("%s: %s", run.name, run.missing)
    path = write_comparison(runs, settings.out, settings.title, samples=settings.samples)
    log.info("%d runs: %s", len(runs), path)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
