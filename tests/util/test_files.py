"""Files on file systems that lack something, and where others have planted links."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.environment import ROOT
from util import files

Failing = Callable[..., None]


def fails(number: int) -> Failing:
    """Return a function of the system that fails, as it does on some file systems."""

    def call(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS, errno.EACCES, errno.EINVAL])
def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    (tmp_path / "a").write_bytes(b"content")
    monkeypatch.setattr(os, "link", fails(number))
    files.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"content"
    assert files.create_exclusively(tmp_path / "lock", b"mine")
    assert not files.create_exclusively(tmp_path / "lock", b"other")
    assert (tmp_path / "lock").read_bytes() == b"mine" and names(tmp_path) == {"a", "b", "lock"}


def test_linking_a_file_again_leaves_no_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    for _ in range(2):
        files.link_or_copy(tmp_path / "a", tmp_path / "b")
        assert names(tmp_path) == {"a", "b"} and (tmp_path / "a").samefile(tmp_path / "b")


def test_a_file_is_created_once(tmp_path: Path) -> None:
    created: list[bool] = []
    create = lambda n: created.append(files.create_exclusively(tmp_path / "lock", bytes([n])))  # noqa: E731
    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(created) == 1 and names(tmp_path) == {"lock"}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_without_synchronised_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "fsync", fails(number))
    files.write_text(tmp_path / "a", "content")
    assert (tmp_path / "a").read_text("utf-8") == "content"


def test_a_failing_disk_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    for number in (errno.EIO, errno.EDQUOT):
        monkeypatch.setattr(os, "fsync", fails(number))
        with pytest.raises(OSError) as caught:
            files.write_text(tmp_path / "a", "new")
        assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "a"))
    monkeypatch.undo()
    with pytest.raises(OSError) as caught:
        files.write_text(tmp_path / "absent" / "a", "new")
    assert caught.value.filename == str(tmp_path / "absent" / "a")
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == {"a"}


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "名" * 85])
def test_names_as_long_as_the_file_system_allows(tmp_path: Path, name: str) -> None:
    files.write_text(tmp_path / name, "content")
    files.link_or_copy(tmp_path / name, tmp_path / "b")
    assert names(tmp_path) == {name, "b"}
    temporary = files.temporary_path(tmp_path / name).name
    assert len(os.fsencode(temporary)) <= 255 and temporary != files.temporary_path(tmp_path / name).name
    temporary.encode("utf-8")


def test_nothing_is_written_through_links(tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    folder.mkdir()
    victim.write_bytes(b"precious")
    for target in (victim, tmp_path / "absent"):
        for write in (files.start_file, files.append_text):
            (folder / "log").unlink(missing_ok=True)
            (folder / "log").symlink_to(target)
            with pytest.raises(OSError, match="a symbolic link") as caught:
                write(folder / "log", "text")
            assert caught.value.filename == str(folder / "log")
        files.write_text(folder / "log", "text")
        assert not (folder / "log").is_symlink() and (folder / "log").read_text("utf-8") == "text"
    (folder / "images").symlink_to(tmp_path)
    with pytest.raises(OSError, match="a symbolic link"):
        files.make_folder(folder / "images")
    assert victim.read_bytes() == b"precious" and not (tmp_path / "absent").exists()


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(OSError, match="not a regular file"):
        files.append_text(tmp_path / "log", "text")


def test_writers_at_the_same_time_do_not_meet(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from util.files import append_text, write_text\n"
        "for n in range(100):\n"
        "    write_text(Path(sys.argv[1]) / 'a', 'x' * 9000 + sys.argv[2])\n"
        "    append_text(Path(sys.argv[1]) / 'log', sys.argv[2] * 9000 + '\\n')\n"
    )
    run = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen([*run, letter], cwd=ROOT, stderr=subprocess.PIPE) for letter in "abc"]
    assert [process.communicate()[1] for process in processes] == [b""] * 3
    assert names(tmp_path) == {"a", "log"}
    lines = (tmp_path / "log").read_text("utf-8").splitlines()
    assert len(lines) == 300 and all(len(line) == 9000 and len(set(line)) == 1 for line in lines)


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    for name in ("latest_net_G.pth", "losses.jsonl"):
        files.temporary_path(tmp_path / name).touch()
        (tmp_path / name).touch()
    (tmp_path / "notes.pth.tmp").touch()
    files.remove_temporary(tmp_path, ".pth")
    left = names(tmp_path)
    assert {"latest_net_G.pth", "losses.jsonl", "notes.pth.tmp"} < left and len(left) == 4
