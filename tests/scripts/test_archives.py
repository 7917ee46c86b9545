"""Archives: what is unpacked, what is refused, and limits."""

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import archives
from scripts.archives import ArchiveError, unpack


def write_zip(path: Path, members: dict[str, bytes], link: str = "") -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, "/etc/passwd")


def write_tar(path: Path, members: dict[str, bytes], link: str = "") -> None:
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE) if link else ():
            info = tarfile.TarInfo(f"{link}{kind.decode()}")
            info.type, info.linkname = kind, "../../../etc/passwd"
            file.addfile(info)


WRITERS = pytest.mark.parametrize("write", [write_zip, write_tar])
Write = Callable[..., None]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@WRITERS
def test_unsafe_members_are_refused_and_the_others_unpacked(write: Write, tmp_path: Path) -> None:
    archive, folder = tmp_path / "archive", tmp_path / "folder"
    good = {"maps/trainA/1.jpg": b"one", "./maps/trainA/2.jpg": b"x" * 3_000_000, "maps/empty": b""}
    elsewhere = {"__MACOSX/maps/1.jpg": b"", "README": b"text"}
    bad = {
        "../../out": b"",
        "/tmp/absolute": b"",
        "maps/../../out": b"",
        "maps\\..\\..\\out": b"",
        "C:\\x": b"",
    }
    write(archive, {**bad, **elsewhere, **good}, link="maps/link")
    refused = unpack(archive, folder, "maps")
    assert files(folder) == {
        "maps/trainA/1.jpg": b"one",
        "maps/trainA/2.jpg": b"x" * 3_000_000,
        "maps/empty": b"",
    }
    assert not (tmp_path.parent / "out").exists() and not any(path.is_symlink() for path in folder.rglob("*"))
    links = 4 if write is write_tar else 1
    assert len(refused) == len(bad) + links
    assert refused[0] == "'../../out' (a path out of the folder)"
    assert sum(text.endswith(("(a link)", "(a special file)")) for text in refused) == links


@WRITERS
def test_an_archive_that_unpacks_to_too_much_is_refused(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MIN_LIMIT", 1 << 20)
    write(tmp_path / "bomb", {f"maps/{number}": bytes(1 << 19) for number in range(3)})
    with pytest.raises(ArchiveError, match="unpacks to more than 1,048,576 bytes"):
        unpack(tmp_path / "bomb", tmp_path / "folder", "maps")
    write(tmp_path / "many", {f"maps/{number}": b"" for number in range(9)})
    monkeypatch.setattr(archives, "MAX_MEMBERS", 8)
    with pytest.raises(ArchiveError, match="8 files"):
        unpack(tmp_path / "many", tmp_path / "folder", "maps")


def test_headers_of_tar_archives_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "archive.tar.gz"
    header = tarfile.TarInfo("maps/1")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30  # tarfile reads such a header into memory
    archive.write_bytes(gzip.compress(header.tobuf() + bytes(4096)))
    with pytest.raises(ArchiveError, match="a header is too long"):
        unpack(archive, tmp_path / "folder", "maps")

    raw = bytearray(tarfile.TarInfo("maps/1").tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = b"\xff" * 10 + (-1024 & 0xFFFF).to_bytes(2, "big")  # a negative size leads backward
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    archive.write_bytes(gzip.compress(bytes(raw) + bytes(4096)))
    with pytest.raises(ArchiveError, match="a negative size"):
        unpack(archive, tmp_path / "folder", "maps")


@WRITERS
def test_damaged_archives_and_archives_without_the_folder(write: Write, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    write(archive, {"other/1": b"one", "maps": b"a file"})
    with pytest.raises(ArchiveError, match=r"no files in a folder maps$"):
        unpack(archive, tmp_path / "folder", "maps")
    write(archive, {"maps/1": bytes(range(256)) * 100})
    whole = archive.read_bytes()
    for content in (
        whole[:-200],
        whole[:100] + b"??" + whole[102:],
        b"",
        b"<html>",
        whole[:-6] + b"??" + whole[-4:],
    ):
        archive.write_bytes(content)
        if content[-3:-1] == b"??" and write is write_zip:
            continue  # the end of a zip archive's directory
        with pytest.raises(ArchiveError, match="damaged"):
            unpack(archive, tmp_path / "folder", "maps")
