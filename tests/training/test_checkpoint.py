"""Checkpoint files are complete or recognised as damaged."""

import errno
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from models.layers.norms import BatchNorm2d
from training.checkpoint import (
    SaveOrder,
    changed_weights,
    clean_up,
    discard_first_save,
    find_state,
    load_state,
    save_checkpoint,
    set_aside,
    state_path,
)
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


def test_a_link_to_a_state_that_is_not_there_is_no_new_start(tmp_path: Path) -> None:
    state_path(tmp_path, "latest").symlink_to(tmp_path / "unmounted" / "latest_state.pth")
    with pytest.raises(UserError, match="no undamaged state is left"):
        find_state(tmp_path, "latest")


def test_a_state_without_permission_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (1, 2):
        save_checkpoint(tmp_path, ["latest"], state(n), {})
    denied = PermissionError(errno.EACCES, "Permission denied", str(state_path(tmp_path, "latest")))
    monkeypatch.setattr("training.checkpoint.open_regular", Mock(side_effect=denied))
    with pytest.raises(PermissionError):  # rather than to resume from the previous one
        load_state(tmp_path, "latest")


@pytest.mark.parametrize("kind", ["folder", "pipe", "huge"])
def test_what_is_no_state_is_refused_at_once(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path, ["latest"], state(1), {})
    save_checkpoint(tmp_path, ["latest"], state(2), {})
    path = state_path(tmp_path, "latest")
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, 1 << 42)
    assert number(tmp_path) == 1 and f"{path}: " in caplog.text
    assert SaveOrder(tmp_path).numbers == {}


def test_torch_itself_reads_a_state(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, ["latest"], state(4), {})
    assert torch.load(state_path(tmp_path, "latest"), weights_only=True)["number"] == 4


def test_tags_share_the_state_and_have_weights_of_their_own(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, ["5", "latest"], state(5), {"G": net()})
    assert os.path.samefile(state_path(tmp_path, "latest"), state_path(tmp_path, "5"))
    latest, epoch = (weights_path(tmp_path, tag, "G") for tag in ("latest", "5"))
    before = epoch.read_bytes()
    assert latest.read_bytes() == before
    with latest.open("r+b") as file:  # as a program that writes in place
        file.write(b"changed")
    assert epoch.read_bytes() == before
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


def save(folder: Path, order: SaveOrder, *tags: str, nets: dict[str, nn.Module], keep: str = "all") -> None:
    """Save as a run does; `nets` are all that it has."""
    order.add(tags)
    content = run_state(nets, order.numbers)
    save_checkpoint(folder, list(tags), content, nets, keep)


def run_state(nets: dict[str, nn.Module], numbers: dict[str, int], images: int = 0) -> dict[str, object]:
    """Return the parts of a run's state that are compared with files."""
    weights = {name: net.state_dict() for name, net in nets.items()}
    return {
        "model": {"nets": weights},
        "progress": {"pictures": images},
        **({"checkpoints": dict(numbers)} if numbers else {}),
    }


def kept(folder: Path) -> set[str]:
    return {path.name.removesuffix("_net_G.pth") for path in folder.glob("*_net_G.pth")}


@pytest.mark.parametrize("keep", ["all", "latest"])
def test_the_checkpoints_saved_last_are_kept(tmp_path: Path, keep: str) -> None:
    nets, order = {"G": net()}, SaveOrder(tmp_path)
    for tag in ("10", "5", "iter_7", "15", "iter_8", "20"):
        save(tmp_path, order, tag, "latest", nets=nets, keep=keep)
        order.remove_old(2)
    assert kept(tmp_path) == {"15", "20", "iter_7", "iter_8", "latest"}
    for path in tmp_path.iterdir():  # times of a copy, and the wrong way round
        os.utime(path, (9e9, 9e9) if path.name.startswith("15") else (0, 0))
    order = SaveOrder(tmp_path)
    save(tmp_path, order, "6", "latest", nets=nets, keep=keep)  # a run resumed from epoch 5
    order.remove_old(2)
    assert kept(tmp_path) == {"6", "20", "iter_7", "iter_8", "latest"}
    states = {path.name for path in tmp_path.glob("[0-9i]*_state.pth")}
    assert len(states) == (4 if keep == "all" else 0)
    weights_path(tmp_path, "20", "G").unlink()  # by the user: it does not count as one of two
    state_path(tmp_path, "20").unlink(missing_ok=True)
    order = SaveOrder(tmp_path)
    save(tmp_path, order, "7", "latest", nets=nets, keep=keep)
    order.remove_old(2)
    assert kept(tmp_path) >= {"6", "7"}


def test_checkpoints_of_earlier_versions_are_older_and_ordered_by_the_images_seen(tmp_path: Path) -> None:
    nets = {"G": net()}
    for tag, images in (("3", 30), ("12", 60), ("4", 100)):
        save_checkpoint(tmp_path, [tag, "latest"], run_state(nets, {}, images), nets)
    order = SaveOrder(tmp_path)
    save(tmp_path, order, "5", "latest", nets=nets)
    order.remove_old(3)
    assert kept(tmp_path) == {"12", "4", "5", "latest"}
    state_path(tmp_path, "12").write_bytes(b"damaged")  # of unknown age: removed first
    SaveOrder(tmp_path).remove_old(2)
    assert kept(tmp_path) == {"4", "5", "latest"}


class Killed(BaseException):
    pass


def killed_save(folder: Path, monkeypatch: pytest.MonkeyPatch, at: int, *tags: str, number: int) -> bool:
    """Save a network of ones times `number` and be killed before the rename `at`; return whether it was."""
    order = SaveOrder(folder)
    nets = {name: net() for name in ("G", "D")}
    for each in nets.values():
        for tensor in each.state_dict().values():
            tensor.fill_(number)
    replace, count = Path.replace, 0

    def killed(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count >= at:
            raise Killed
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(
            Path, "unlink", lambda self, missing_ok=False: None
        )  # a killed process cleans up nothing
        try:
            save(folder, order, *tags, nets=nets)
        except Killed:
            return True
    return False


def test_a_save_is_repeated_or_did_not_begin_wherever_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for earlier in (False, True):
        killed, at = True, 0
        while killed:
            at += 1
            folder = tmp_path / f"{earlier}{at}"
            folder.mkdir()
            if earlier:
                assert not killed_save(folder, monkeypatch, 99, "1", "latest", number=1)
            killed = killed_save(folder, monkeypatch, at, "2", "latest", number=2)
            saved = find_state(folder, "latest")
            if saved is None:
                assert not earlier and at == 1 and not list(folder.glob("*_net_*.pth"))
                continue
            assert saved.content["model"]["nets"]["G"]["0.bias"][0] == (1 if at == 1 else 2)
            assert saved.is_interrupted == (killed and at > 1)
            assert changed_weights(folder, "latest", saved, ["G", "D"]) == []
            if not earlier and killed:  # begun anew instead
                discard_first_save(folder, "latest")
                assert not list(folder.glob("latest_*.pth"))
            clean_up(folder)
            assert not list(folder.glob("*.tmp"))
        assert at > 7


def test_weights_that_others_changed_are_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nets = {"G": net().double(), "D": net()}
    save_checkpoint(tmp_path, ["latest"], run_state(nets, {}, 10), nets)  # as an earlier version
    saved = find_state(tmp_path, "latest")
    assert saved is not None
    path = weights_path(tmp_path, "latest", "G")

    def changed() -> list[Path]:
        return changed_weights(tmp_path, "latest", saved, ["G", "D", "new"])

    assert changed() == []
    weights = {key: value.float() for key, value in nets["G"].state_dict().items()}
    torch.save(weights, path)  # the same values, written by another program
    assert changed() == []
    tuned = {**weights, "3.bias": weights["3.bias"] + 1e-3}
    torch.save(tuned, path)
    assert changed() == [path]
    torch.save({"other.weight": torch.ones(3)}, path)
    assert changed() == [path]
    torch.save({"model": weights}, path)  # no state_dict, but not damaged
    assert changed() == [path]
    path.write_bytes(b"cut")
    assert changed() == [] and "the state has its own weights" in caplog.text
    path.unlink()
    assert changed() == []

    # An earlier version wrote weights first: a save that was killed left them without their state.
    later = {"G": net(), "D": net()}
    torch.save(later["G"].state_dict(), path)
    assert changed() == [path]
    save_checkpoint(tmp_path, ["2"], run_state(later, {}, 20), later)
    assert changed() == []
    state_path(tmp_path, "2").unlink()
    (tmp_path / "latest_state.pth.tmp").touch()
    assert changed() == []


def test_averages_do_not_outlast_the_weights_that_they_are_of(tmp_path: Path) -> None:
    nets = {"G": net(), "G_ema": net()}
    save_checkpoint(tmp_path, ["1", "best", "latest"], run_state(nets, {}), nets)
    save_checkpoint(tmp_path, ["best", "latest"], run_state(nets, {}), {"G": net()})
    averages = {path.name for path in tmp_path.glob("*_ema.pth")}
    assert averages == {"1_net_G_ema.pth"}


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
