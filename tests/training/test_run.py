"""Where a run starts: with what its state says, and never with what is not its own."""

import io
import json
import logging
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.training import training
from util.errors import UserError


@pytest.fixture(scope="module")
def finished(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two epochs, some of whose checkpoints have no state."""
    folder = tmp_path_factory.mktemp("finished")
    assert training(pairs, folder, "--n_epochs", 2, "--save_epoch_freq", 1, "--keep_state", "latest") == 0
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run's folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit_state(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a state as an attacker could, with a checksum that matches."""
    path = folder / "latest_state.pth"
    state = torch.load(path, weights_only=True)
    change(state)
    file = io.BytesIO()
    torch.save(state, file)
    path.unlink()
    path.write_bytes(file.getvalue() + b"sha256:" + sha256(file.getvalue()).digest())


def resume(pairs: Path, folder: Path, *flags: object) -> int:
    return training(pairs, folder.parent, "--continue_train", *flags)


def test_checkpoints_of_epochs_have_weights_of_their_own_and_no_state_if_so_chosen(copy: Path) -> None:
    assert {path.name for path in copy.glob("*.pth")} == {
        *("1_net_G.pth", "1_net_D.pth", "2_net_G.pth", "2_net_D.pth"),
        *("latest_net_G.pth", "latest_net_D.pth", "latest_state.pth", "latest_state.prev.pth"),
    }


def test_a_finished_run_says_so_and_saves_nothing(
    pairs: Path, finished: Path, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert resume(pairs, copy, "--n_epochs", 1) == 0
    assert "Nothing is left to train: epoch 2 is done, and the last one is 1" in caplog.text
    assert "A higher --n_epochs continues it" in caplog.text
    assert contents(copy) == contents(finished / "run")
    for flags in (("--continue_train",), ()):
        with pytest.raises(
            UserError, match=r"^--epoch_count 201: nothing would be trained.* raise --n_epochs$"
        ):
            training(pairs, copy.parent, *flags, "--n_epochs", 2, "--epoch_count", 201)
    assert contents(copy) == contents(finished / "run")
    caplog.clear()
    assert resume(pairs, copy, "--n_epochs", 3) == 0
    assert "End of epoch 3 / 3" in caplog.text and "Nothing is left" not in caplog.text


def test_only_the_runs_own_logs_are_truncated(pairs: Path, copy: Path) -> None:
    outside = copy.parent / "thesis.txt"
    others = [outside, copy / "2_net_G.pth", copy / "train_opt.json"]
    before = "my thesis\n"
    outside.write_text(before)
    (copy / "link.txt").symlink_to(outside)
    names = {str(outside): 0, "../thesis.txt": 0, "link.txt": 0, "2_net_G.pth": 0, "train_opt.json": 0}

    def add_names(state: dict[str, Any]) -> None:
        state["logs"] = {**state["logs"], **names, "loss_log.txt": 5}

    edit_state(copy, add_names)
    assert resume(pairs, copy, "--n_epochs", 2) == 0
    assert all(path.stat().st_size > 0 for path in others) and outside.read_text() == before
    assert (copy / "loss_log.txt").stat().st_size == 5
    (copy / "loss_log.txt").unlink()
    (copy / "loss_log.txt").symlink_to(outside)
    with pytest.raises(OSError, match="symbolic link"):
        resume(pairs, copy, "--n_epochs", 2)
    assert outside.read_text() == before


def test_states_of_a_wrong_structure_are_named_with_the_key(pairs: Path, copy: Path) -> None:
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]

    def remove_moment(state: dict[str, Any]) -> None:
        for entries in state["model"]["optimizers"]["G"]["state"].values():
            entries["exp_avg"] = "text"

    def shorten_moments(state: dict[str, Any]) -> None:
        state["model"]["optimizers"]["G"]["state"][0]["exp_avg"] = torch.ones(1)

    saved = (copy / "latest_state.pth").read_bytes()
    for change, message in (
        (lambda state: state.pop("progress"), "latest_state.pth: progress is missing"),
        (
            lambda state: state["progress"].update(epoch="9"),
            "progress.epoch: expected a whole number above 0",
        ),
        (
            lambda state: state["logs"].update({"loss_log.txt": -1}),
            "logs.loss_log.txt: expected a whole number",
        ),
        (lambda state: state["model"].update(nets=deep), "model.nets: expected an object, found a list"),
        (lambda state: state["options"].update(model="x\x1b[2J"), r"--model x\\x1b\[2J"),
        (lambda state: state["model"]["nets"].pop("G"), r"cannot be loaded \(KeyError: 'G'\)"),
        (remove_moment, "model.optimizers.G.state.0.exp_avg: expected a Tensor, found 'text'"),
        (
            shorten_moments,
            r"latest_state.pth: cannot be loaded \(ValueError: the moments of parameter 0 have",
        ),
        (
            lambda state: state["model"]["state"]["health"].update(past=[{"D_doubt": None}]),
            r"model.state.health.past\[0\].D_doubt: expected a number, found null",
        ),
    ):
        edit_state(copy, change)
        with pytest.raises(UserError, match=message) as error:
            resume(pairs, copy, "--n_epochs", 3)
        assert "\n" not in str(error.value)
        (copy / "latest_state.pth").write_bytes(saved)


def test_weights_that_were_changed_beside_the_state_are_not_discarded(pairs: Path, copy: Path) -> None:
    path = copy / "latest_net_G.pth"
    shutil.copyfile(copy / "1_net_G.pth", path)  # the weights of another epoch
    before = contents(copy)
    with pytest.raises(
        UserError, match=r"latest_net_G.pth in .* changed after .*--init_from .*remove or replace"
    ):
        resume(pairs, copy, "--n_epochs", 3)
    assert contents(copy) == before
    path.unlink()
    assert resume(pairs, copy, "--n_epochs", 3) == 0
    assert path.exists()


def test_a_run_that_saved_nothing_begins_anew_with_empty_logs(pairs: Path, copy: Path) -> None:
    """With and without --continue_train, whatever files its dead start has left."""
    expected = {name: data for name, data in contents(copy).items() if name.endswith(".pth")}
    for continued in ("true", "false"):
        for path in copy.glob("latest*"):
            path.unlink()
        (copy / "latest_state.next.pth.0123456789abcdef.tmp").write_bytes(b"cut")
        (copy / "metrics.jsonl").write_text("{}\n")
        flags = ["--n_epochs", 2, "--save_epoch_freq", 1, "--keep_state", "latest"]
        assert training(pairs, copy.parent, *flags, "--continue_train", continued) == 0
        lines = (copy / "losses.jsonl").read_text().splitlines()
        assert [json.loads(line)["total_iters"] for line in lines] == [2, 4, 6, 8, 10, 12]
        assert not (copy / "metrics.jsonl").exists()
        found = {name: data for name, data in contents(copy).items() if name.endswith(".pth")}
        assert found.keys() == expected.keys()
        assert all(found[name] == expected[name] for name in found if "_net_" in name)


def test_without_its_last_state_a_run_continues_from_the_newest_other_one(
    pairs: Path, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert resume(pairs, copy, "--n_epochs", 4, "--save_epoch_freq", 1) == 0
    for path in copy.glob("latest*"):
        path.unlink()
    expected = contents(copy)
    shutil.copyfile(copy / "3_net_G.pth", copy / "latest_net_G.pth")  # of another epoch
    with pytest.raises(
        UserError, match=r"latest_net_G.pth in .* changed after the run had saved 4_state.pth"
    ):
        resume(pairs, copy, "--n_epochs", 4)
    (copy / "latest_net_G.pth").unlink()
    assert resume(pairs, copy, "--n_epochs", 4) == 0
    assert "there is no latest_state.pth; 4_state.pth takes its place" in caplog.text
    found = contents(copy)
    assert all(found[name] == expected[name] for name in expected if name.endswith((".pth", ".jsonl")))


def test_a_checkpoint_without_its_state_does_not_replace_the_run(
    pairs: Path, finished: Path, copy: Path
) -> None:
    with pytest.raises(
        UserError, match=r"checkpoint 1 in .* has no state to resume from .*--init_from .* --epoch 1"
    ):
        resume(pairs, copy, "--epoch", 1)
    assert contents(copy) == contents(finished / "run")


@pytest.mark.parametrize(
    "file", ["latest_state.next.pth", "1_net_D.pth", "latest_net_D.pth", "latest_state.pth"]
)
def test_a_run_killed_in_its_first_save_ends_as_if_it_had_not_been(
    pairs: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    class Killed(BaseException):
        pass

    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.name == file:
            raise Killed
        return replace(self, target)

    flags = ["--n_epochs", 2, "--save_epoch_freq", 1, "--keep_state", "latest"]
    unlink = Path.unlink

    def keep(self: Path, missing_ok: bool = False) -> None:  # a killed process cleans up nothing
        if ".pth" not in self.name:
            unlink(self, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "unlink", keep)
        training(pairs, tmp_path, *flags)
    assert training(pairs, tmp_path, *flags, "--continue_train") == 0
    expected, found = (contents(folder / "run") for folder in (finished, tmp_path))
    assert found.keys() == expected.keys()
    assert all(found[name] == expected[name] for name in found if "_net_" in name)
    assert found["losses.jsonl"].count(b"\n") == 6


def test_a_wrong_name_leaves_no_folder_that_would_count_as_a_run(pairs: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(UserError):
            training(pairs, tmp_path, "--continue_train", "--n_epochs", 1)
    assert not os.listdir(tmp_path)
