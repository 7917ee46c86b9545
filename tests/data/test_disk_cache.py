"""Images cached in a file, for later runs and several at once; damaged entries are never used."""

import errno
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.cache import HEADER, MAGIC, STATE, VERSION
from data.disk_cache import FILE_NAME, DiskCache
from tests.support.environment import ROOT
from util.errors import UserError

SIDE = 16
SIZE = 3 * SIDE * SIDE + HEADER.size
"""Bytes of an image."""

Make = Callable[[], tuple[Tensor, ...]]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The files that images are made from; their content is not read here."""
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        path.write_bytes(b"image")
    return paths


def level(value: int) -> Make:
    return lambda: (torch.full((3, SIDE, SIDE), value, dtype=torch.uint8),)


def not_made() -> tuple[Tensor, ...]:
    raise AssertionError("made again")


def fill(folder: Path, files: list[Path]) -> DiskCache:
    cache = DiskCache(folder, 100 * SIZE)
    for value, path in enumerate(files):
        cache.get(str(path), "", level(value))
    return cache


def values(cache: DiskCache, files: list[Path], make: Make = not_made) -> list[int]:
    images = [cache.get(str(path), "", make)[0] for path in files]
    assert all((image == image[0, 0, 0]).all() for image in images)
    return [int(image[0, 0, 0]) for image in images]


def test_another_process_makes_nothing(tmp_path: Path, files: list[Path]) -> None:
    fill(tmp_path / "cache", files)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from data.disk_cache import DiskCache\n"
        f"cache = DiskCache(Path('cache'), {100 * SIZE})\n"
        "print([int(cache.get(f'{i}.png', '', lambda: sys.exit('made again'))[0].sum()) for i in range(4)])\n"
    )
    argv = [sys.executable, "-c", program, str(ROOT)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)  # and by relative paths
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([3 * SIDE * SIDE * value for value in range(4)])


def test_a_changed_file_is_read_again_by_later_runs(tmp_path: Path, files: list[Path]) -> None:
    folder = tmp_path / "cache"
    fill(folder, files)
    files[1].write_bytes(b"another image")
    os.utime(files[2], ns=(0, 7))
    assert values(DiskCache(folder, 100 * SIZE), files, level(9)) == [0, 9, 9, 3]
    assert values(DiskCache(folder, 100 * SIZE), files) == [0, 9, 9, 3]


def add_many(folder: Path, source: str, first: int) -> None:
    cache = DiskCache(folder, 1000 * SIZE)
    for i in range(100):
        number = (first + i) % 100
        cache.get(source, str(number), level(number))


def test_processes_that_add_entries_at_once_lose_none(tmp_path: Path, files: list[Path]) -> None:
    folder, source = tmp_path / "cache", str(files[0])
    context = multiprocessing.get_context("fork")
    arguments = [(folder, source, first) for first in (0, 30, 60)]
    processes = [context.Process(target=add_many, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    cache = DiskCache(folder, 1000 * SIZE)
    for number in range(100):
        (image,) = cache.get(source, str(number), not_made)
        assert (image == number).all()
    assert STATE.unpack_from(cache._memory)[2] == STATE.size + 100 * SIZE  # each once


@pytest.mark.parametrize("place", [HEADER.size + 5, 0, 17], ids=["pixel", "key", "shape"])
def test_a_damaged_entry_is_not_used(tmp_path: Path, files: list[Path], place: int) -> None:
    folder = tmp_path / "cache"
    fill(folder, files)
    with (folder / FILE_NAME).open("r+b") as file:  # the second of four entries
        file.seek(STATE.size + SIZE + place)
        file.write(b"\xff")
    cache = DiskCache(folder, 100 * SIZE)
    assert values(cache, files[1:2], level(8)) == [8]
    assert values(cache, files, level(8))[1] == 8
    assert values(DiskCache(folder, 100 * SIZE), files[1:2]) == [8]


@pytest.mark.parametrize("damage", ["zeros", "truncated", "version", "end"])
def test_a_damaged_file_is_replaced(
    tmp_path: Path, files: list[Path], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    old = fill(folder, files)
    content = bytearray((folder / FILE_NAME).read_bytes())
    if damage == "zeros":  # the end was written, the entries were not
        content[STATE.size :] = bytes(len(content) - STATE.size)
    elif damage == "truncated":
        del content[STATE.size + 2 * SIZE + 5 :]
    else:
        ends = STATE.size + 4 * SIZE
        content[: STATE.size] = STATE.pack(MAGIC, VERSION + (damage == "version"), ends + (damage == "end"))
    (folder / "damaged").write_bytes(content)
    (folder / "damaged").replace(folder / FILE_NAME)
    cache = DiskCache(folder, 100 * SIZE)
    assert "replaced by a new file" in caplog.text
    assert values(cache, files, level(7)) == [7] * 4
    assert values(DiskCache(folder, 100 * SIZE), files) == [7] * 4
    assert values(old, files) == [0, 1, 2, 3]  # a run with the old file open keeps it


@pytest.mark.parametrize("size", [0, STATE.size, STATE.size + SIZE + 7, 100 * SIZE])
def test_a_file_that_is_cut_while_in_use_is_not_read(
    size: int, tmp_path: Path, files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    cache = fill(folder, files[:2])
    os.truncate(folder / FILE_NAME, size)
    for _ in range(2):
        assert values(cache, files, level(5)) == [5] * 4
    assert len(caplog.messages) == 1 and f"{folder / FILE_NAME} was cut while in use" in caplog.text
    assert values(DiskCache(folder, 100 * SIZE), files[2:], level(6)) == [6, 6]


def test_what_is_planted_at_its_place_is_not_used(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    for name in ("link", "dangling", "hard", "pipe"):
        (tmp_path / name).mkdir()
    fill(other, files)
    before = (other / FILE_NAME).read_bytes()
    (tmp_path / "link" / FILE_NAME).symlink_to(other / FILE_NAME)
    (tmp_path / "dangling" / FILE_NAME).symlink_to(tmp_path / "made")
    os.mkfifo(tmp_path / "pipe" / FILE_NAME)
    for name, message in (
        ("link", "is a symbolic link"),
        ("dangling", "is a symbolic link"),
        ("pipe", "is not a regular file"),
    ):
        with pytest.raises(UserError, match=f"{name}/{FILE_NAME} {message}.*--cache_dir"):
            DiskCache(tmp_path / name, 1000 * SIZE)
    assert not (tmp_path / "made").exists()
    (tmp_path / "empty").touch()
    (tmp_path / "hard" / FILE_NAME).hardlink_to(tmp_path / "empty")
    with pytest.raises(UserError, match="has several names"):
        DiskCache(tmp_path / "hard", SIZE)
    assert (tmp_path / "empty").stat().st_size == 0
    assert (other / FILE_NAME).read_bytes() == before
    status = os.fstat

    def another_user(file: int) -> os.stat_result:
        return os.stat_result([*status(file)[:4], 12345, *status(file)[5:]])

    monkeypatch.setattr(os, "fstat", another_user)
    with pytest.raises(UserError, match="belongs to another user"):
        DiskCache(other, SIZE)


def test_a_file_that_is_not_a_cache_stays_unchanged(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"a photo")
    with pytest.raises(UserError, match=r"is not a cache of images.*--cache_dir"):
        DiskCache(tmp_path, SIZE)
    assert (tmp_path / FILE_NAME).read_bytes() == b"a photo"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--cache_dir .*file: cannot store images"):
        DiskCache(tmp_path / "file", SIZE)
    with pytest.raises(UserError, match=r"holds files of 1e\+10 GB \(--cache_limit\)"):
        DiskCache(tmp_path, 10**19)


def test_a_full_disk_is_reported_once_and_loses_no_image(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    cache, write = fill(folder, files[:2]), os.pwrite

    def limited_write(file: int, content: bytes, offset: int) -> int:
        if len(content) < 500:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, content[:500], offset)

    monkeypatch.setattr(os, "pwrite", limited_write)
    for _ in range(2):
        assert values(cache, files[2:], level(6)) == [6, 6]
    assert len(caplog.messages) == 1 and "No space left on device" in caplog.text
    monkeypatch.undo()
    later = DiskCache(folder, 100 * SIZE)
    assert values(later, files[:2]) == [0, 1]
    assert values(later, files[2:], level(5)) == [5, 5]


def test_runs_of_different_limits_share_what_fits(
    tmp_path: Path, files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    small = DiskCache(tmp_path / "cache", 2 * SIZE)
    large = fill(tmp_path / "cache", files)
    assert values(small, files[:2]) == [0, 1]
    assert values(small, files[2:], level(4)) == [4, 4]
    assert "--cache_limit is reached" in caplog.text
    assert values(large, files) == [0, 1, 2, 3]
    assert values(DiskCache(tmp_path / "cache", SIZE), files) == [0, 1, 2, 3]
