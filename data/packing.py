"""Pack a folder of images into tar files, the shards, with an index of the files in them."""

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from data.aligned_dataset import find_pairs, hd_folders
from data.examples import Layout
from data.image_folder import find_images, name_in
from data.matching import match_in_order, match_masks, match_names
from data.shards import FORMAT, INDEX_NAME, Folder
from util.files import errors_name, write_text
from util.formats import EXTENSIONS, stem

Samples = list[tuple[str, ...]]
"""The files of every sample."""


class Parts(NamedTuple):
    """What flags of training say of the folders.

    Attributes:
        inputs, outputs: the folders without the phase; empty if flags do not name them.
        mask: whether there are masks.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    mask: bool = False


NO_PARTS = Parts()


def find_series(
    folder: Path, layout: Layout, phases: Sequence[str], parts: Parts = NO_PARTS
) -> dict[str, Samples]:
    """Return the samples of every series of shards, by the prefix of the shards' names.

    Raises:
        UserError: The folder does not have this layout.
    """
    if layout == "folder" and not parts.inputs:
        return {"pictures": _match([folder])}
    if layout == "folder":
        return {phase: _match([folder / f"{phase}{part}" for part in parts.inputs]) for phase in phases}
    if layout == "sides":
        sides = {"A": parts.inputs or ("A",), "B": parts.outputs or ("B",)}
        return {
            f"{phase}{side}": _match([folder / f"{phase}{part}" for part in names])
            for phase in phases
            for side, names in sides.items()
        }
    if layout == "pairs":
        return {phase: _find_pairs(folder, phase, parts) for phase in phases}
    return {phase: _match([folder / phase]) for phase in phases}


def _find_pairs(folder: Path, phase: str, parts: Parts) -> Samples:
    """Return the files of pairs in any of the layouts of `AlignedDataset`."""
    if parts.inputs or parts.outputs:
        names = [*(parts.inputs or ("A",)), *(parts.outputs or ("B",))]
        folders = [folder / f"{phase}{name}" for name in names]
        samples = _match(folders)
    elif hd := hd_folders(folder, phase):
        folders = [folder / f"{phase}{name}" for name in hd]
        samples = match_in_order([(each, _images(each)) for each in folders])
    else:
        pairs = find_pairs(folder, phase, lambda each, side: _images(each))
        samples = [(A,) if A == B else (A, B) for A, B in pairs]
        folders = [folder / (phase if len(samples[0]) == 1 else f"{phase}A")]
    if parts.mask:
        folder_M = folder / f"{phase}M"
        masks = match_masks(folders[0], [files[0] for files in samples], folder_M, _images(folder_M))
        samples = [(*files, mask) for files, mask in zip(samples, masks, strict=True)]
    return samples


def _match(folders: Sequence[Path]) -> Samples:
    found = [(folder, _images(folder)) for folder in folders]
    return [(path,) for path in found[0][1]] if len(found) == 1 else match_names(found)


def _images(folder: Folder) -> list[str]:
    return find_images(folder, EXTENSIONS)


def pack(folder: Path, out: Path, series: dict[str, Samples], max_bytes: float, per_shard: int | None) -> int:
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


def _split(samples: Samples, max_bytes: float, per_shard: int | None) -> Iterator[Samples]:
    shard: Samples = []
    size = 0
    for files in samples:
        more = sum(os.path.getsize(file) for file in files)
        if shard and (len(shard) == per_shard if per_shard else size + more > max_bytes):
            yield shard
            shard, size = [], 0
        shard.append(files)
        size += more
    yield shard


def _write_shard(folder: Path, path: Path, samples: Samples, first: int) -> dict[str, Any]:
    """Write one shard and return its entry in the index.

    Args:
        first: number of its first sample; samples are named by their numbers in the tar file.
    """
    entries = []
    # WebDataset ends a sample's name at the first dot, so the files' own names cannot be used.
    with errors_name(path), tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, files in enumerate(samples, start=first):
            for position, file in enumerate(files):
                side = f".{chr(ord('a') + position)}" if len(files) > 1 else ""
                extension = file[len(stem(file)) :].lower()
                member = tarfile.TarInfo(f"{number:09d}{side}{extension}")
                with open(file, "rb") as opened:
                    member.size = os.fstat(opened.fileno()).st_size
                    offset = tar.offset + tarfile.BLOCKSIZE  # the header is one block in this format
                    tar.addfile(member, opened)
                name = name_in(folder, file)
                entries.append({"name": name, "member": member.name, "offset": offset, "size": member.size})
    return {"name": path.name, "bytes": path.stat().st_size, "files": entries}
