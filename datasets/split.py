"""Divide a data set into train, val and test.

    python datasets/split.py --dataroot D --out S --val 0.1 --test 0.1 [--group '^(patient\\d+)']

The images of a sample (D/A/1.png, D/B/1.png, D/M/1.png) stay together, so do samples of one group, and
images that are nearly the same. The same seed divides the same files in the same way. No file is overwritten;
S/split.csv says where each sample is.
"""

import argparse
import csv
import errno
import io
import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.folders.flags import add_flags
from data.folders.parallel import run_jobs
from data.folders.splitting import NOT_IMAGES, Item, divide, find_folders, find_groups, find_items, thumbnail
from util.errors import Parser, UserError, run_command
from util.files import copy_file, write_text
from util.image_limits import set_max_image_gb
from util.text import csv_cell

log = logging.getLogger(__name__)

RECORD = "split.csv"


def main(argv: list[str]) -> int:
    options = _parse(argv)
    set_max_image_gb(options.max_image_gb)
    shares = _shares(options.ratio, options.val, options.test)
    folders = find_folders(options.dataroot, options.phase)
    items = find_items(folders)
    log.info("dividing %s", ", ".join(map(str, folders.values())))
    thumbnails = {}
    if not options.keep_duplicates:
        paths = [path for item in items for part, path in item.files.items() if part not in NOT_IMAGES]
        found = run_jobs(thumbnail, paths, options.num_threads)
        thumbnails = {path: image for path, image in zip(paths, found, strict=True) if image is not None}
    if list(folders) == [""] and not options.group and (folder := _same_names(items, options.dataroot)):
        log.warning(
            "%s: files of one name in several of its folders are divided independently; if they belong"
            " together, name the folders A, B, M, or add --group '[^/]+$'",
            folder,
        )
    groups, alike = find_groups(items, options.group, thumbnails)
    phases = divide(items, groups, shares, options.seed)

    plan = _plan(items, phases, folders, options.out)
    _check(plan, options.out, options.how)
    for one, other in alike:
        log.info("nearly the same, kept together: %s, %s", _first(items[one]), _first(items[other]))
    _report(items, groups, phases, options.group)
    if options.dry_run:
        log.info("Nothing is written (--dry_run)")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    _write_record(options.out / RECORD, items, phases, groups)
    for source, target in plan:
        if source.absolute() != target.absolute():
            target.parent.mkdir(parents=True, exist_ok=True)
            _transfer(source, target, options.how)
    done = {"copy": "copied", "link": "linked", "move": "moved"}[options.how]
    log.info("%d files %s to %s; %s names the phase of each sample", len(plan), done, options.out, RECORD)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--dataroot",
        type=Path,
        required=True,
        help="folder with the images, in itself, in A, B, M, ..., or in train, trainA, trainB, ...",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for train, val and test")
    parser.add_argument("--val", type=float, help="share of the samples below 1, or number; default: 0.1")
    parser.add_argument("--test", type=float, help="likewise; default: 0.1")
    parser.add_argument(
        "--ratio", metavar="T,V,T", help="instead: parts of train, val and test, such as 8,1,1"
    )
    parser.add_argument(
        "--group", default="", metavar="REGEX", help="samples of one group have the same match"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random order; default: 0")
    parser.add_argument(
        "--how", choices=("copy", "link", "move"), default="copy", help="link: hard links; default: copy"
    )
    parser.add_argument(
        "--phase", default="train", help="the part of a divided data set to divide; default: train"
    )
    parser.add_argument(
        "--keep_duplicates", action="store_true", help="do not look for images that are nearly the same"
    )
    parser.add_argument("--dry_run", action="store_true", help="only print what would be done")
    add_flags(parser, "num_threads", "max_image_gb")
    return parser.parse_args(argv)


def _shares(ratio: str | None, val: float | None, test: float | None) -> dict[str, float]:
    """Return the shares or numbers of samples of val and test."""
    if ratio is None:
        shares = {"val": 0.1 if val is None else val, "test": 0.1 if test is None else test}
    else:
        if val is not None or test is not None:
            raise UserError("--ratio: give it, or --val and --test")
        try:
            parts = [float(part) for part in ratio.split(",")]
        except ValueError:
            parts = []
        if len(parts) not in (2, 3) or min(parts) < 0 or not parts[0] or sum(parts) == float("inf"):
            raise UserError(f"--ratio {ratio}: expected parts of train, val and test, such as 8,1,1")
        shares = {phase: part / sum(parts) for phase, part in zip(("val", "test"), parts[1:], strict=False)}
    for phase, share in shares.items():
        if not share >= 0 or (share >= 1 and share != int(share)):
            raise UserError(f"--{phase} {share:g}: expected a share below 1, or a whole number of samples")
    if sum(share for share in shares.values() if share < 1) >= 1:
        raise UserError("--val and --test: nothing would be left for train")
    return shares


def _plan(
    items: Sequence[Item], phases: Sequence[str], folders: Mapping[str, Path], out: Path
) -> list[tuple[Path, Path]]:
    """Return where each file goes: the same path below the folder of its phase."""
    return [
        (Path(path), out / f"{phase}{part}" / os.path.relpath(path, folders[part]))
        for item, phase in zip(items, phases, strict=True)
        for part, path in item.files.items()
    ]


def _check(plan: Sequence[tuple[Path, Path]], out: Path, how: str) -> None:
    """Raise a UserError if a file would be overwritten, or would be in two phases."""
    staying = [source for source, target in plan if source.absolute() == target.absolute()]
    if staying and how != "move":
        raise UserError(
            f"--out {out}: {staying[0]} is there and would stay in train; use --how move, or a new folder"
        )
    for source, target in plan:
        if source.absolute() != target.absolute() and os.path.lexists(target):
            raise UserError(f"{target}: exists, and is not overwritten; name another --out")
    if os.path.lexists(out / RECORD):
        raise UserError(f"{out / RECORD}: exists, and is not overwritten; name another --out, or rename it")


def _report(items: Sequence[Item], groups: Sequence[int], phases: Sequence[str], pattern: str) -> None:
    for side in sorted({item.side for item in items}):
        counts = Counter(phase for item, phase in zip(items, phases, strict=True) if item.side == side)
        listed = ", ".join(f"{phase} {counts[phase]}" for phase in ("train", "val", "test") if counts[phase])
        log.info("%s%s of %d samples", f"{side}: " if side else "", listed, counts.total())
    sizes = Counter(groups)
    if pattern or len(sizes) < len(items):
        divided = ", ".join(
            f"{phase} {len({g for g, p in zip(groups, phases, strict=True) if p == phase})}"
            for phase in ("train", "val", "test")
        )
        log.info("%d groups, the largest of %d samples: %s", len(sizes), max(sizes.values()), divided)


def _write_record(path: Path, items: Sequence[Item], phases: Sequence[str], groups: Sequence[int]) -> None:
    """Write a table with the phase and the group of every sample."""
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(("sample", "side", "phase", "group"))
    for item, phase, group in zip(items, phases, groups, strict=True):
        writer.writerow([csv_cell(cell) for cell in (item.name, item.side, phase, items[group].name)])
    write_text(path, rows.getvalue())


def _transfer(source: Path, target: Path, how: str) -> None:
    """Copy, link or move a file, which is complete when it appears under its new name."""
    if how == "link":
        try:
            os.link(source.resolve(), target)
        except OSError as error:
            raise UserError(
                f"{target}: no hard link can be made ({error.strerror}); use --how copy"
            ) from error
        return
    if how == "move":
        try:
            os.rename(source, target)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:  # to another file system files are copied
                raise
    copy_file(source, target)
    if how == "move":
        source.unlink()


def _same_names(items: Sequence[Item], dataroot: Path) -> Path | None:
    """Return the folder if most names in its subfolders are in several of them."""
    counts = Counter(os.path.basename(item.name) for item in items)
    return dataroot if sum(count > 1 for count in counts.values()) > len(counts) / 2 else None


def _first(item: Item) -> str:
    return next(iter(item.files.values()))


if __name__ == "__main__":
    sys.exit(run_command(main))
