"""Checkpoint files are complete or recognised as damaged."""

import errno
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from models.layers.norms import BatchNorm2d
from training.checkpoint import load_state, remove_old, save_checkpoint, set_aside, state_path
from util.errors import UserError
from util.weights import load_weights, weights_path


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm2d(4), nn.InstanceNorm2d(4), nn.Conv2d(4, 2, 3))


def state(number: int) -> dict[str, object]:
    return {"number": number, "tensor": torch.full((1000,), float(number), dtype=torch.float64)}


def number(folder: Path, tag: str = "latest") -> object:
    saved = load_state(folder, tag)
    assert saved is not None and saved["tensor"].eq(saved["number"]).all()
    return saved["number"]


def test_a_new_state_replaces_the_old_one_which_is_kept_as_previous(tmp_path: Path) -> None:
    assert load_state(tmp_path, "latest") is None
    for i in range(3):
        save_checkpoint(tmp_path, ["latest"], state(i), {})
    assert number(tmp_path) == 2
    assert number(tmp_path, "latest") == 2
    state_path(tmp_path, "latest").unlink()
    assert number(tmp_path) == 1
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("damage", ["cut", "emptied", "bit flipped", "checksum gone"])
def test_a_damaged_state_is_named_and_the_previous_one_is_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path, ["latest"], state(1), {})
    save_checkpoint(tmp_path, ["latest"], state(2), {})
    path = state_path(tmp_path, "latest")
    data = bytearray(path.read_bytes())
    if damage == "bit flipped":
        data[len(data) // 2] ^= 1
    kept = {"cut": len(data) // 2, "emptied": 0, "checksum gone": len(data) - 39}.get(damage, len(data))
    os.unlink(path)  # not written in place: another tag may be a link to the same data
    path.write_bytes(data[:kept])
    with caplog.at_level(logging.WARNING):
        assert number(tmp_path) == 1
    assert f"{path}: damaged" in caplog.text
    (tmp_path / "latest_state.prev.pth").write_bytes(b"")
    with pytest.raises(UserError, match="no undamaged state is left"):
        load_state(tmp_path, "latest")


def test_torch_itself_reads_a_state(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, ["latest"], state(4), {})
    assert torch.load(state_path(tmp_path, "latest"), weights_only=True)["number"] == 4


def test_tags_are_links_to_the_same_data_until_one_is_saved_again(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, ["5", "latest"], state(5), {"G": net()})
    assert os.path.samefile(state_path(tmp_path, "latest"), state_path(tmp_path, "5"))
    save_checkpoint(tmp_path, ["latest"], state(6), {"G": net()})
    assert (number(tmp_path), number(tmp_path, "5")) == (6, 5)
    assert weights_path(tmp_path, "5", "G").exists()


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


def test_a_state_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path, ["latest"], state(1), {})
    save_checkpoint(tmp_path, ["latest"], {"number": Malicious()}, {})  # with a checksum that matches
    assert number(tmp_path) == 1
    assert "refused: it holds more than tensors" in caplog.text
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "ended_before", ["5_net_G.pth", "5_state.pth", "latest_net_G.pth", "latest_state.pth"]
)
def test_an_interrupted_save_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended_before: str
) -> None:
    save_checkpoint(tmp_path, ["latest"], state(1), {"G": net()})
    replace = Path.replace

    def replace_or_end(self: Path, target: Path) -> Path:
        if target.name == ended_before:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_or_end)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, ["5", "latest"], state(2), {"G": net()})
    assert number(tmp_path) == 1
    assert not list(tmp_path.glob("*.tmp"))


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for tag in ("10", "5", "iter_7", "15", "iter_8", "20"):
        save_checkpoint(tmp_path, [tag, "latest"], state(1), {"G": net()})
        remove_old(tmp_path, 2)
    tags = sorted(path.name.removesuffix("_state.pth") for path in tmp_path.glob("*_state.pth"))
    assert tags == ["15", "20", "iter_7", "iter_8", "latest"]
    save_checkpoint(tmp_path, ["6", "latest"], state(1), {"G": net()})  # a run resumed from epoch 5
    remove_old(tmp_path, 2)
    assert state_path(tmp_path, "6").exists() and not list(tmp_path.glob("15_*"))


def test_a_checkpoint_is_set_aside_as_a_whole(tmp_path: Path) -> None:
    assert not set_aside(tmp_path, "latest", "replaced")
    for i in (1, 2):
        save_checkpoint(tmp_path, ["latest"], state(i), {"G": net()})
    assert set_aside(tmp_path, "latest", "replaced")
    assert {path.name for path in tmp_path.iterdir()} == {
        "replaced_state.pth",
        "replaced_state.prev.pth",
        "replaced_net_G.pth",
    }
    assert number(tmp_path, "replaced") == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_leaves_the_last_good_state(small_disk: Path) -> None:
    save_checkpoint(small_disk, ["latest"], state(1), {"G": net()})
    size = 0
    for size in range(0, 4 << 20, 1 << 18):
        content = {**state(2), "more": torch.zeros(size, dtype=torch.uint8)}
        try:
            save_checkpoint(small_disk, ["latest"], content, {"G": net()})
        except OSError as error:
            assert error.errno == errno.ENOSPC
            break
    else:
        pytest.fail("the disk never filled")
    saved = load_state(small_disk, "latest")
    assert saved is not None and (saved["number"] == 1 or len(saved["more"]) == size - (1 << 18))
    assert not list(small_disk.glob("*.tmp"))
    load_weights(net(), small_disk / "latest_net_G.pth")
