"""Folders packed into tar files, the shards, with an index of the files in them."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.url import MAX_INDEX_BYTES, read_url
from util.checking import COUNT, Rule, parse_json, read_limited
from util.errors import UserError
from util.shards import Member, expand_braces

INDEX_NAME = "index.json"
FORMAT = "atelier shards 1"
"""The format of an index, which begins with ``{"format": "atelier shards 1"``."""

Shard = dict[str, Any]
"""The entry of a shard in an index."""

SHARD_NAME = re.compile(r"(?![-.])[^/\\:\x00-\x1f\x7f]+\.tar")
"""Names of shards in an index, which are files beside it: neither paths nor URLs."""

IS_FORMAT = Rule(str, FORMAT.__eq__, f'"{FORMAT}"')
SHARD = {
    "name": Rule(str, lambda name: SHARD_NAME.fullmatch(name) is not None, "the name of a .tar file"),
    "bytes": COUNT,
    "files": list,
}

URL = re.compile(r"[a-z][a-z0-9+.-]*://|(pipe|file):")
"""The beginning of a stream's name. Without ``//`` a colon is part of a path, as in ``nas:/images``."""

LAST_NAME = re.compile(r"[^/\s]*\.tar(?![^/\s]*\.tar)")
"""The name of the tar file in a URL, or in a command, which may have arguments after it."""


@dataclass(frozen=True)
class ShardFolder:
    """A folder whose files are members of tar files, with the methods of `Path` that are used here."""

    path: str
    members: list[Member]

    def __str__(self) -> str:
        return self.path

    def __truediv__(self, name: str) -> "ShardFolder":
        path = f"{self.path}/{name}"
        return replace(
            self, path=path, members=[file for file in self.members if file.startswith(f"{path}/")]
        )

    def is_dir(self) -> bool:
        """Return whether it has files."""
        return bool(self.members)


Folder = Path | ShardFolder


def is_url(dataroot: str) -> bool:
    """Return whether ``--dataroot`` names a stream, which can only be read from beginning to end."""
    return URL.match(dataroot) is not None and not os.path.exists(dataroot)


def is_command(dataroot: str) -> bool:
    """Return whether ``--dataroot`` is a command whose output is read."""
    return is_url(dataroot) and dataroot.lower().startswith("pipe:")


def open_folder(dataroot: str) -> Folder:
    """Return the folder that ``--dataroot`` names: a real one, or one in tar files.

    Raises:
        UserError: The folder cannot be read; tar files or their index are missing, or do not belong together.
    """
    if is_url(dataroot):
        return _remote(dataroot)
    if dataroot.endswith(".tar") and not os.path.isdir(dataroot):
        return _local([Path(name) for name in expand_braces(dataroot)])
    index = Path(dataroot) / INDEX_NAME
    try:
        has_index = index.is_file()
    except PermissionError as error:  # the folder's, whether there is an index or not
        raise UserError(f"--dataroot {dataroot}: no permission to read it ({error.strerror})") from None
    if has_index and FORMAT.encode() in index.open("rb").read(100):
        shards = parse_index(read_limited(index, MAX_INDEX_BYTES), str(index))
        return _local([Path(dataroot) / name for name in shards], shards)
    return Path(dataroot)


def parse_index(text: bytes, source: str) -> dict[str, Shard]:
    """Return the entry of each shard in an index, by name.

    Raises:
        UserError: The text is not an index, or a name in it is not that of a file beside it.
    """
    advice = "not an index of shards, which datasets/make_shards.py writes with them"
    index = parse_json(text, {"format": IS_FORMAT, "shards": [SHARD]}, source, advice)
    return {shard["name"]: shard for shard in index["shards"]}


def _local(files: list[Path], shards: dict[str, Shard] | None = None) -> ShardFolder:
    folder = files[0].parent
    if any(file.parent != folder for file in files):
        raise UserError(
            f"--dataroot: {files[0]} and {files[-1]}: all shards must be in one folder, with their index"
        )
    if shards is None:
        index = folder / INDEX_NAME
        if not index.is_file():
            raise UserError(
                f"{index}: there is no such file; datasets/make_shards.py writes it with the shards"
            )
        shards = parse_index(read_limited(index, MAX_INDEX_BYTES), str(index))
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: there is no such shard")
        if file.name in shards and file.stat().st_size != shards[file.name]["bytes"]:
            raise UserError(
                f"{file}: {file.stat().st_size} bytes, but {shards[file.name]['bytes']} by its {INDEX_NAME};"
                " copy it again, or make the shards again"
            )
    return _folder(str(folder), {file.name: str(file) for file in files}, shards)


def _remote(dataroot: str) -> ShardFolder:
    urls = expand_braces(dataroot)
    named = {match[0]: url for url in urls if (match := LAST_NAME.search(url))}
    if not named and len(urls) == 1 and not is_command(dataroot):
        base = dataroot.rstrip("/")
        shards = parse_index(read_url(f"{base}/{INDEX_NAME}"), f"{base}/{INDEX_NAME}")
        return _folder(base, {name: f"{base}/{name}" for name in shards}, shards)
    if len(named) < len(urls):
        raise UserError(
            f"--dataroot {dataroot}: expected URLs of shards, such as http://host/train-{{000000..000009}}.tar"
            " or pipe:command folder/train-{000000..000009}.tar, or of a folder with an index.json"
        )
    index = LAST_NAME.sub(INDEX_NAME, urls[0])
    return _folder(index.removesuffix(f"/{INDEX_NAME}"), named, parse_index(read_url(index), index))


def _folder(path: str, locations: dict[str, str], shards: dict[str, Shard]) -> ShardFolder:
    """Return the folder of the shards with these paths or URLs, by name."""
    members = []
    for name, location in locations.items():
        if name not in shards:
            raise UserError(f"{location}: this shard is not in the {INDEX_NAME} beside it")
        try:
            members += [
                _member(entry, path, location, shards[name]["bytes"]) for entry in shards[name]["files"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}/{INDEX_NAME}: {name}: the entry of a file in it is damaged; datasets/make_shards.py"
                " writes the index with the shards"
            ) from error
    return ShardFolder(path, members)


def _member(entry: dict[str, Any], path: str, location: str, shard_bytes: int) -> Member:
    """Return the file of an entry in an index.

    Raises:
        KeyError, TypeError, ValueError: The entry is damaged, or its name leads out of the folder.
    """
    name, member, offset, size = entry["name"], entry["member"], entry["offset"], entry["size"]
    if not (type(name) is type(member) is str and type(offset) is type(size) is int):
        raise TypeError("wrong type")
    if not (0 <= offset <= offset + size <= shard_bytes) or name.startswith("/") or ".." in name.split("/"):
        raise ValueError("wrong value")
    if b"\0" in os.fsencode(name):  # which raises a ValueError for what is no name either
        raise ValueError("not the name of a file")
    return Member.of(f"{path}/{name}", location, member, offset, size)
