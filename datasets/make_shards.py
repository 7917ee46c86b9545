"""Pack a folder of images into tar files, the shards, with an index of what is where.

    python datasets/make_shards.py --dataroot facades --dataset_mode aligned --phase train test --out S

The files go in byte for byte, in the WebDataset format. ``--dataroot S`` then reads them as it would the
folder; copied to a web server or a bucket they can be read as a stream (docs/overview.md).
"""

import argparse
import json
import logging
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.aligned_dataset import find_pairs
from data.image_folder import find_images, name_in
from data.shards import FORMAT, INDEX_NAME
from util.errors import UserError, run_command
from util.files import write_text

log = logging.getLogger(__name__)

Files = list[tuple[str, ...]]
"""The files of every sample."""


def samples_of(folder: Path, mode: str, phases: list[str]) -> dict[str, Files]:
    """Return the samples of every series of shards, by the name with which its shards begin.

    Raises:
        UserError: the folder's layout is not the data set's.
    """
    if mode == "single":
        return {"pictures": [(path,) for path in find_images(folder)]}
    if mode == "unaligned":
        sides = [f"{phase}{side}" for phase in phases for side in "AB"]
        return {side: [(path,) for path in find_images(folder / side)] for side in sides}
    if mode == "aligned":
        pairs = {phase: find_pairs(folder, phase) for phase in phases}
        return {phase: [(A,) if A == B else (A, B) for A, B in pairs[phase]] for phase in phases}
    return {phase: [(path,) for path in find_images(folder / phase)] for phase in phases}


def split(samples: Files, most_bytes: float, per_shard: int | None) -> Iterator[Files]:
    """Yield the samples of each shard: `per_shard`, or as many as `most_bytes` hold, but at least one."""
    shard: Files = []
    size = 0
    for files in samples:
        more = sum(os.path.getsize(file) for file in files)
        if shard and (len(shard) == per_shard if per_shard else size + more > most_bytes):
            yield shard
            shard, size = [], 0
        shard.append(files)
        size += more
    yield shard


def write_shard(folder: Path, path: Path, samples: Files, first: int) -> dict[str, Any]:
    """Write one shard; return what the index says of it.

    Args:
        folder: the names in the index are those in this folder.
        first: the number of its first sample; their numbers are the names in the tar file.
    """
    entries = []
    # The file's own name may be none for a sample: WebDataset takes it to end at its first dot.
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, files in enumerate(samples, start=first):
            sides = ("",) if len(files) == 1 else (".a", ".b")
            for file, side in zip(files, sides, strict=True):
                member = tarfile.TarInfo(f"{number:09d}{side}{os.path.splitext(file)[1].lower()}")
                with open(file, "rb") as opened:
                    member.size = os.fstat(opened.fileno()).st_size
                    offset = (
                        tar.offset + tarfile.BLOCKSIZE
                    )  # behind the header, which is one block in this format
                    tar.addfile(member, opened)
                name = name_in(folder, file)
                entries.append({"name": name, "member": member.name, "offset": offset, "size": member.size})
    return {"name": path.name, "bytes": path.stat().st_size, "files": entries}


def pack(folder: Path, out: Path, series: dict[str, Files], most_bytes: float, per_shard: int | None) -> int:
    """Write the shards of every series, and the index as the last file; return how many shards there are."""
    shards = []
    total = sum(map(len, series.values()))
    with tqdm(total=total, unit=" samples", disable=None) as bar:
        for name, samples in series.items():
            first = 0
            for number, part in enumerate(split(samples, most_bytes, per_shard)):
                path = out / f"{name.replace(os.sep, '_')}-{number:06d}.tar"
                shards.append(write_shard(folder, path, part, first))
                first += len(part)
                bar.update(len(part))
    lines = ",\n".join(json.dumps(shard) for shard in shards)
    write_text(out / INDEX_NAME, f'{{"format": "{FORMAT}", "shards": [\n{lines}\n]}}\n')
    return len(shards)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--dataroot", type=Path, required=True, help="the folder with the images")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the shards")
    parser.add_argument(
        "--dataset_mode",
        choices=("aligned", "unaligned", "single", "colorization"),
        default="unaligned",
        help="how the folder is laid out (docs/overview.md); single packs all that is in it",
    )
    parser.add_argument("--phase", nargs="+", help="which parts of the folder; default: train")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shard_size", type=float, default=256, metavar="MB", help="of a shard; default: 256")
    size.add_argument("--per_shard", type=int, metavar="N", help="samples in a shard, instead of a size")
    options = parser.parse_args(argv)
    if options.shard_size <= 0 or (options.per_shard is not None and options.per_shard < 1):
        parser.error("--shard_size and --per_shard must be positive")
    if options.phase and options.dataset_mode == "single":
        parser.error("--phase: --dataset_mode single takes the whole folder")
    if not options.dataroot.is_dir():
        raise UserError(f"--dataroot {options.dataroot}: there is no such folder")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise UserError(f"--out {options.out}: it is there and not empty; name a new folder")
    series = samples_of(options.dataroot, options.dataset_mode, options.phase or ["train"])
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        count = pack(options.dataroot, options.out, series, options.shard_size * 1e6, options.per_shard)
    except OSError as error:
        raise UserError(
            f"{error.filename or options.out}: {error.strerror or error}; without an {INDEX_NAME} what is in"
            f" {options.out} is of no use: delete it, and try again"
        ) from error
    for name, samples in series.items():
        log.info("%s: %d samples", name, len(samples))
    log.info("%d shards and their %s: %s", count, INDEX_NAME, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(lambda argv: main(argv)))
