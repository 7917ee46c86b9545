"""Pack a folder of images into tar files, the shards, with an index of the files in them."""

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.aligned_dataset import find_pairs
from data.examples import Layout
from data.image_folder import find_images, name_in
from data.shards import FORMAT, INDEX_NAME
from util.files import errors_name, write_text

Files = list[tuple[str, ...]]
"""The files of every sample."""


def find_series(folder: Path, layout: Layout, phases: Sequence[str]) -> dict[str, Files]:
    """Return the samples of every series of shards, by the prefix of the shards' names.

    Raises:
        UserError: The folder does not have this layout.
    """
    if layout == "folder":
        return {"pictures": [(path,) for path in find_images(folder)]}
    if layout == "sides":
        sides = [f"{phase}{side}" for phase in phases for side in "AB"]
        return {side: [(path,) for path in find_images(folder / side)] for side in sides}
    if layout == "pairs":
        pairs = {phase: find_pairs(folder, phase) for phase in phases}
        return {phase: [(A,) if A == B else (A, B) for A, B in pairs[phase]] for phase in phases}
    return {phase: [(path,) for path in find_images(folder / phase)] for phase in phases}


def pack(folder: Path, out: Path, series: dict[str, Files], max_bytes: float, per_shard: int | None) -> int:
    """Write the shards of every series to `out`, then their index; return the number of shards.

    Args:
        folder: names in the index are relative to this folder.
        max_bytes: size of the images in a shard, which a single sample may exceed.
        per_shard: samples in a shard, instead of a size.
    """
    shards = []
    total = sum(map(len, series.values()))
    with tqdm(total=total, unit=" samples", disable=None) as bar:
        for name, samples in series.items():
            first = 0
            for number, part in enumerate(_split(samples, max_bytes, per_shard)):
                path = out / f"{name.replace(os.sep, '_')}-{number:06d}.tar"
                shards.append(_write_shard(folder, path, part, first))
                first += len(part)
                bar.update(len(part))
    lines = ",\n".join(json.dumps(shard) for shard in shards)
    write_text(out / INDEX_NAME, f'{{"format": "{FORMAT}", "shards": [\n{lines}\n]}}\n')
    return len(shards)


def _split(samples: Files, max_bytes: float, per_shard: int | None) -> Iterator[Files]:
    shard: Files = []
    size = 0
    for files in samples:
        more = sum(os.path.getsize(file) for file in files)
        if shard and (len(shard) == per_shard if per_shard else size + more > max_bytes):
            yield shard
            shard, size = [], 0
        shard.append(files)
        size += more
    yield shard


def _write_shard(folder: Path, path: Path, samples: Files, first: int) -> dict[str, Any]:
    """Write one shard and return its entry in the index.

    Args:
        first: number of its first sample; samples are named by their numbers in the tar file.
    """
    entries = []
    # WebDataset ends a sample's name at the first dot, so the files' own names cannot be used.
    with errors_name(path), tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, files in enumerate(samples, start=first):
            sides = ("",) if len(files) == 1 else (".a", ".b")
            for file, side in zip(files, sides, strict=True):
                member = tarfile.TarInfo(f"{number:09d}{side}{os.path.splitext(file)[1].lower()}")
                with open(file, "rb") as opened:
                    member.size = os.fstat(opened.fileno()).st_size
                    offset = tar.offset + tarfile.BLOCKSIZE  # the header is one block in this format
                    tar.addfile(member, opened)
                name = name_in(folder, file)
                entries.append({"name": name, "member": member.name, "offset": offset, "size": member.size})
    return {"name": path.name, "bytes": path.stat().st_size, "files": entries}
