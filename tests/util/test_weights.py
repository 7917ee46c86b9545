"""Export and loading of weights, of this program and the peer, and messages about mismatches."""

import logging
import os
import pickle
import random
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.discriminators.patch import PatchDiscriminator
from models.discriminators.pixel import PixelDiscriminator
from models.generators.resnet import ResnetGenerator
from models.generators.unet import UnetGenerator
from models.layers.initialization import normalise_spectrum
from models.layers.norms import BatchNorm2d
from models.networks import build_generator
from options.base_options import NetworkOptions
from tests.support.environment import ROOT
from training.checkpoint import save_checkpoint
from training.ema import Ema
from util.architecture import infer_flags
from util.errors import UserError
from util.weights import (
    export_state_dict,
    find_initial_weights,
    initialise_from,
    load_into,
    load_weights,
    read_weights,
)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm2d(4), nn.InstanceNorm2d(4), nn.Conv2d(4, 2, 3))


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
def test_legacy_formats_load(tmp_path: Path, prefix: str) -> None:
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


def test_mismatches_are_listed() -> None:
    weights = net().state_dict()
    del weights["0.bias"]
    weights["9.weight"] = torch.zeros(1)
    weights["3.weight"] = torch.zeros(2, 7, 3, 3)
    with pytest.raises(UserError) as caught:
        load_into(net(), weights, "file.pth")
    for part in (
        "file.pth",
        "1 entries are missing in the file: 0.bias",
        "1 entries are unknown to the network: 9.weight",
        "1 entries differ in shape: 3.weight (2 x 7 x 3 x 3, here 2 x 4 x 3 x 3)",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["net.0.weight", "model.model.0.weight", "model.1.weight", "model.2.weight"])
def test_shapes_of_no_network_are_a_mismatch(name: str) -> None:
    for weight in (torch.zeros(()), torch.zeros(1), torch.zeros(1, 2, 7, 7), torch.zeros(1, 2, 4, 4)):
        with pytest.raises(UserError, match="of another architecture"):
            load_into(net(), {name: weight}, "file.pth")


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("content", ["code", "noise", "list", "numbers", "cut", "empty", None])
def test_files_without_weights_are_refused(
    tmp_path: Path, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x_net_G.pth"
    if content == "noise":
        path.write_bytes(b"noise")
    elif content in ("cut", "empty"):
        torch.save(net().state_dict(), path)
        data = path.read_bytes()
        path.write_bytes({"cut": data[: len(data) // 2], "empty": b""}[content])
    elif content:
        torch.save({"code": {"w": Malicious()}, "list": [1], "numbers": {"w": 1}}[content], path)
    with pytest.raises(UserError, match=r"x_net_G\.pth") as caught:
        load_weights(net(), path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_other_formats_are_named_and_unsafe_loading_is_never_advised(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    with pytest.warns(FutureWarning):
        torch.jit.script(layer).save(tmp_path / "script.pth")
    for name in ("module", "legacy module"):
        zipped = name == "module"
        torch.save(layer, tmp_path / f"{name}.pth", _use_new_zipfile_serialization=zipped)
    with tarfile.open(tmp_path / "tar.pth", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    torch.save({"epoch": 3, "state_dict": layer.state_dict()}, tmp_path / "nested.pth")
    np.savez(tmp_path / "numpy.npz", a=np.zeros(2))
    (tmp_path / "numpy.npz").rename(tmp_path / "numpy.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"w": [1]}, 4))
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>404</html>")
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "safe.pth").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "folder.pth").mkdir()
    os.mkfifo(tmp_path / "pipe.pth")
    expected = {
        "script": "a TorchScript archive",
        "module": "refused: it holds a torch.nn.modules.linear.Linear",
        "legacy module": "refused: it holds a torch.nn.modules.linear.Linear",
        "tar": "a tar archive",
        "nested": "'epoch' is a int",
        "numpy": "a NumPy archive",
        "pickle": "refused: it holds more than tensors",
        "page": "a web page",
        "pointer": "git lfs pull",
        "safe": "a safetensors file",
        "folder": "a folder",
        "pipe": "a device or pipe",
    }
    for name, message in expected.items():
        with pytest.raises(UserError, match=re.escape(message)) as caught:
            read_weights(tmp_path / f"{name}.pth")
        text = str(caught.value)
        assert f"{name}.pth: " in text and "weights_only" not in text and "\n" not in text


def test_batch_norm_of_old_torch_has_no_counters(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, path = net(), tmp_path / "old_net_G.pth"
    old = {name: tensor for name, tensor in source.state_dict().items() if "num_batches" not in name}
    torch.save(old, path)
    target, average = net(), Ema({"G": net()}, 0.9)
    load_weights(target, path)
    average.load_state_dict({"nets": {"G": old}, "updates": 1})
    with caplog.at_level(logging.INFO):
        initialise_from({"G": (fresh := net())}, tmp_path, "old")
    assert "start fresh" not in caplog.text
    for loaded in (target, average.nets["G"], fresh):
        assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in old.items())
    del old["1.running_var"]
    with pytest.raises(
        UserError, match=r"2 entries are missing in the file: 1\.num_batches.*, 1\.running_var"
    ):
        load_into(net(), old, "file.pth")


def test_entries_that_are_no_finite_numbers_are_named(tmp_path: Path) -> None:
    path = tmp_path / "latest_net_G.pth"
    for value, message in (
        (torch.tensor([0, torch.nan, 0, 0]), "1 entries are not finite (NaN or infinite): 0.bias"),
        (torch.tensor([0, 0, 0, -torch.inf]), "not finite (NaN or infinite): 0.bias"),
        (torch.full((4,), 1e300, dtype=torch.float64), "not finite (NaN or infinite): 0.bias"),
        (torch.zeros(4, dtype=torch.complex64), "1 entries are complex: 0.bias"),
        (
            torch.zeros(4, device="meta"),
            "are not plain tensors (sparse, quantized or without values): 0.bias",
        ),
    ):
        target = net()
        before = target.state_dict()["0.weight"].clone()
        torch.save({**net().state_dict(), "0.bias": value}, path)
        with pytest.raises(UserError, match=re.escape(message)) as caught:
            load_weights(target, path)
        assert str(caught.value).startswith(f"{path}: ")
        assert torch.equal(target.state_dict()["0.weight"], before)


def test_a_flipped_bit_is_detected_or_harmless(tmp_path: Path) -> None:
    source, path = net(), tmp_path / "x_net_G.pth"
    torch.save(source.state_dict(), path)
    content, rng, detected = path.read_bytes(), random.Random(0), 0
    for _ in range(200):
        data = bytearray(content)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        target = net()
        try:
            load_weights(target, path)
        except UserError:
            detected += 1
        else:
            for name, tensor in source.state_dict().items():
                assert torch.equal(target.state_dict()[name], tensor)
    assert detected > 20


GENERATOR = {"input_nc": 3, "output_nc": 1, "ngf": 8, "norm": "batch", "dropout": True}


UNET, RESNET = {"netG": "unet_128", "ngf": "8"}, {"netG": "resnet_6blocks", "ngf": "8"}
CHANNELS = {"input_nc": "3", "output_nc": "1"}


@pytest.mark.parametrize(
    ("built", "flags"),
    [
        (UnetGenerator(num_downs=7, **GENERATOR), UNET | CHANNELS | {"norm": "batch", "upsample": "deconv"}),
        (
            UnetGenerator(
                num_downs=7, **GENERATOR | {"norm": "instance"}, upsample="nearest", attention=(2,)
            ),
            UNET | CHANNELS | {"norm": "instance", "attention": "some", "upsample": "nearest or bilinear"},
        ),
        (
            ResnetGenerator(n_blocks=6, **GENERATOR | {"norm": "none"}),
            RESNET | CHANNELS | {"norm": "none", "no_dropout": "False", "upsample": "deconv"},
        ),
        (
            ResnetGenerator(n_blocks=6, **GENERATOR | {"dropout": False}, upsample="bilinear"),
            RESNET | CHANNELS | {"norm": "batch", "no_dropout": "True", "upsample": "nearest or bilinear"},
        ),
        (
            PatchDiscriminator(6, 4, 3, "batch"),
            {"n_layers_D": "3", "ndf": "4", "channels": "6", "norm": "batch", "attention": "none"},
        ),
        (
            PatchDiscriminator(3, 4, 5, "instance", (1,)),
            {"n_layers_D": "5", "ndf": "4", "channels": "3", "norm": "instance", "attention": "some"},
        ),
        (
            PixelDiscriminator(3, 4, "instance"),
            {"netD": "pixel", "ndf": "4", "channels": "3", "norm": "instance"},
        ),
    ],
)
def test_flags_are_inferred_from_weights(built: nn.Module, flags: dict[str, str]) -> None:
    assert infer_flags(built.state_dict()).items() >= (flags | {"spectral_norm": "none"}).items()
    normalise_spectrum(built)
    assert infer_flags(built.state_dict()).items() >= (flags | {"spectral_norm": "on"}).items()


def test_no_flags_of_other_networks() -> None:
    assert infer_flags(net().state_dict()) == {}


def test_the_message_names_the_flags_to_change() -> None:
    def advice(theirs: nn.Module, ours: nn.Module) -> str:
        with pytest.raises(UserError) as caught:
            load_into(ours, theirs.state_dict(), "file.pth")
        return str(caught.value)

    wide = ResnetGenerator(n_blocks=6, **GENERATOR)
    narrow = ResnetGenerator(n_blocks=6, **GENERATOR | {"ngf": 4, "norm": "instance"})
    message = advice(wide, narrow)
    assert "--ngf 8 (here 4), --norm batch (here instance): use the same flags" in message
    assert "model.1.weight (8 x 3 x 7 x 7, here 4 x 3 x 7 x 7)" in message
    unet = UnetGenerator(num_downs=5, **GENERATOR)
    assert "of unet_32, the options ask for resnet_6blocks" in advice(unet, wide)
    message = advice(PatchDiscriminator(6, 4, 3, "batch"), PatchDiscriminator(3, 4, 3, "batch"))
    assert "other channels: 6 (here 3)" in message


def test_initial_weights_of_the_generator_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, nets = net(), {"G_A": net(), "G_B": net(), "D_A": net()}
    before = {name: {k: t.clone() for k, t in n.state_dict().items()} for name, n in nets.items()}
    save_checkpoint(tmp_path, ["latest"], {}, {"G": source})
    with caplog.at_level(logging.INFO):
        initialise_from(nets, tmp_path, "latest")
    assert torch.equal(nets["G_A"][0].weight, source[0].weight)
    for name in ("G_B", "D_A"):
        assert all(torch.equal(t, before[name][k]) for k, t in nets[name].state_dict().items())
    assert "start fresh: G_B, D_A" in caplog.text


def test_missing_entries_start_fresh_and_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = UnetGenerator(num_downs=5, **GENERATOR)
    attentive = UnetGenerator(num_downs=5, **GENERATOR, attention=(2,))
    torch.save(plain.state_dict(), tmp_path / "weights.pth")
    fresh = {name: t.clone() for name, t in attentive.state_dict().items() if "attention" in name}
    with caplog.at_level(logging.INFO):
        initialise_from({"G": attentive}, tmp_path / "weights.pth", "latest")
    state = attentive.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())
    assert fresh and all(torch.equal(state[name], tensor) for name, tensor in fresh.items())
    assert f"{len(fresh)} entries of network G are not in it" in caplog.text
    with pytest.raises(UserError, match="differ in shape"):
        initialise_from(
            {"G": UnetGenerator(num_downs=5, **GENERATOR | {"ngf": 4})}, tmp_path / "weights.pth", "x"
        )


def test_files_of_initial_weights(tmp_path: Path) -> None:
    nets = {"G_A": net(), "G_B": net(), "D_A": net()}
    save_checkpoint(tmp_path, ["7"], {}, {"G_B": net(), "D_A": net(), "other": net()})
    found = find_initial_weights(tmp_path, "7", nets)
    assert {name: path.name for name, path in found.items()} == {
        "G_B": "7_net_G_B.pth",
        "D_A": "7_net_D_A.pth",
    }
    assert list(find_initial_weights(tmp_path / "7_net_D_A.pth", "latest", nets)) == ["D_A"]
    (tmp_path / "horse2zebra.pth").touch()
    assert list(find_initial_weights(tmp_path / "horse2zebra.pth", "latest", nets)) == ["G_A"]
    for source, tag, message in (
        (tmp_path, "latest", r"found: 7_net_D_A\.pth, 7_net_G_B\.pth, 7_net_other\.pth.*--epoch"),
        (tmp_path / "absent", "latest", "no such file or folder"),
        (tmp_path / "7_net_other.pth", "latest", "no network other"),
    ):
        with pytest.raises(UserError, match=message):
            find_initial_weights(source, tag, nets)


def test_loading_a_generator_in_ones_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "differences.md").read_text()
    code = text.split("```python\n")[1].split("```")[0].replace("unet_256", "unet_32")
    trained = build_generator(NetworkOptions(netG="unet_32", norm="batch"), 3, 3)
    monkeypatch.chdir(tmp_path)
    Path("checkpoints/N").mkdir(parents=True)
    torch.save(export_state_dict(trained), "checkpoints/N/latest_net_G.pth")
    names: dict[str, Any] = {}
    exec(code, names)
    image = torch.zeros(1, 3, 32, 32)
    assert torch.equal(names["net"].eval()(image), trained.eval()(image))
