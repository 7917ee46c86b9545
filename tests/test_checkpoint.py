"""Checkpoint files: whole or recognised as damaged; weights of ours and of others."""

import logging
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from models.layers import BatchNorm2d
from util.checkpoint import load_into, load_state, load_weights, save_checkpoint, state_path, weights_path
from util.errors import UserError


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm2d(4), nn.InstanceNorm2d(4), nn.Conv2d(4, 2, 3))


def state(number: int) -> dict[str, object]:
    return {"number": number, "tensor": torch.full((1000,), float(number), dtype=torch.float64)}


def number(folder: Path, tag: str = "latest") -> object:
    found = load_state(folder, tag)
    assert found is not None and found["tensor"].eq(found["number"]).all()
    return found["number"]


def test_states_replace_each_other_and_the_one_before_stays(tmp_path: Path) -> None:
    assert load_state(tmp_path, "latest") is None
    for i in range(3):
        save_checkpoint(tmp_path, ["latest"], state(i), {})
    assert number(tmp_path) == 2
    assert number(tmp_path, "latest") == 2
    state_path(tmp_path, "latest").unlink()
    assert number(tmp_path) == 1
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("damage", ["cut", "emptied", "bit flipped", "checksum gone"])
def test_a_damaged_state_is_named_and_the_one_before_is_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path, ["latest"], state(1), {})
    save_checkpoint(tmp_path, ["latest"], state(2), {})
    path = state_path(tmp_path, "latest")
    data = bytearray(path.read_bytes())
    if damage == "bit flipped":
        data[len(data) // 2] ^= 1
    kept = {"cut": len(data) // 2, "emptied": 0, "checksum gone": len(data) - 39}.get(damage, len(data))
    os.unlink(path)  # not written in place: another name may share the bytes
    path.write_bytes(data[:kept])
    with caplog.at_level(logging.WARNING):
        assert number(tmp_path) == 1
    assert f"{path}: damaged" in caplog.text
    state_path(tmp_path, "latest.prev".removesuffix(".prev")).with_name("latest_state.prev.pth").write_bytes(
        b""
    )
    with pytest.raises(UserError, match="no undamaged state is left"):
        load_state(tmp_path, "latest")


def test_torch_itself_reads_a_state(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, ["latest"], state(4), {})
    assert torch.load(state_path(tmp_path, "latest"), weights_only=True)["number"] == 4


def test_tags_share_their_bytes_but_not_their_fate(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, ["latest", "5"], state(5), {"G": net()})
    assert os.path.samefile(state_path(tmp_path, "latest"), state_path(tmp_path, "5"))
    save_checkpoint(tmp_path, ["latest"], state(6), {"G": net()})
    assert (number(tmp_path), number(tmp_path, "5")) == (6, 5)
    assert weights_path(tmp_path, "5", "G").exists()


def test_exports_are_plain_float32_on_the_cpu(tmp_path: Path) -> None:
    source = net().double()
    save_checkpoint(tmp_path, ["latest"], {}, {"G": source})
    weights = torch.load(tmp_path / "latest_net_G.pth", weights_only=True)
    assert list(weights) == list(source.state_dict())
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.int64}
    target = net()
    load_weights(target, tmp_path / "latest_net_G.pth")
    torch.testing.assert_close(target[0].weight.double(), source[0].weight, rtol=0, atol=1e-7)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_old_forms_of_weights_load(tmp_path: Path, prefix: str) -> None:
    source, target = net(), net()
    weights = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    old = {
        "running_mean": torch.zeros(4),
        "running_var": torch.ones(4),
        "num_batches_tracked": torch.tensor(3),
    }
    weights |= {f"{prefix}2.{name}": tensor for name, tensor in old.items()}
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    load_weights(target, tmp_path / "old.pth")
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


def test_another_architecture_is_described() -> None:
    weights = net().state_dict()
    del weights["0.bias"]
    weights["9.weight"] = torch.zeros(1)
    weights["3.weight"] = torch.zeros(1)
    with pytest.raises(UserError) as caught:
        load_into(net(), weights, "file.pth")
    for part in (
        "file.pth",
        "1 entries are missing in the file, such as 0.bias",
        "unknown to the network, such as 9.",
    ):
        assert part in str(caught.value)
    assert "differ in shape, such as 3.weight" in str(caught.value) and "--ngf" in str(caught.value)


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("content", ["code", "noise", "list", None])
def test_files_that_are_no_weights(
    tmp_path: Path, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x_net_G.pth"
    if content == "noise":
        path.write_bytes(b"noise")
    elif content:
        torch.save({"code": {"w": Malicious()}, "list": [1]}[content], path)
    with pytest.raises(UserError, match=r"x_net_G\.pth") as caught:
        load_weights(net(), path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()
