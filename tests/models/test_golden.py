"""Our numbers against those that junyanz/pytorch-CycleGAN-and-pix2pix computes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from data import DATASETS
from data.transforms import Decision, Transform
from models import MODELS
from models.networks import build_discriminator, build_generator
from options.base_options import NetworkOptions
from options.parse import parse
from options.train_options import TrainOptions
from tests.support.environment import GOLDEN, needs_golden
from tests.support.models import create_trainer
from training.trainer import Trainer
from util.batch import Batch, normalise
from util.weights import load_weights

pytestmark = needs_golden


TRACES = ("pix2pix_unet_batch", "colorization_l_to_ab", "cycle_gan_resnet_instance")


def load_trace(name: str, precision: str) -> tuple[Trainer, list[Batch], dict[str, Any], Any]:
    folder = GOLDEN / name
    record = json.loads((folder / "trace.json").read_text())
    model = "cycle_gan" if name.startswith("cycle_gan") else "pix2pix"
    flags = ["netG", "norm", "ngf", "ndf", "lr", "beta1", "gan_mode", "input_nc", "output_nc"]
    argv = ["--dataroot", ".", "--model", model, "--no_dropout", "--precision", precision]
    argv += [f"--{flag}={record['options'][flag]}" for flag in flags]
    options = parse(TrainOptions, argv, MODELS, DATASETS)
    trainer = create_trainer(options)
    for net_name, net in trainer.model.nets.items():
        load_weights(net, folder / f"init_net_{net_name}.pth")
    batches = load_batches(folder, record["batch"], trainer.model.dtype)
    return trainer, batches, record, np.load(folder / "trace.npz")


def load_batches(folder: Path, size: int, dtype: torch.dtype) -> list[Batch]:
    arrays, names = np.load(folder / "trace.npz"), [""] * size
    A, B = (torch.from_numpy(arrays[side]).to(dtype).split(size) for side in "AB")
    return [Batch(a, b, names, names, torch.arange(size)) for a, b in zip(A, B, strict=True)]


def each_alone(
    net: nn.Module, first: torch.Tensor, second: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return net(first), net(second)


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("batched", [True, False])
def test_every_step_agrees_in_float64(name: str, batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not batched:
        monkeypatch.setattr("models.objectives.gan.apply_to_both", each_alone)
        monkeypatch.setattr("models.cycle_gan_model.apply_to_both", each_alone)
    trainer, batches, record, arrays = load_trace(name, "fp64")
    assert len(batches) == record["steps"]
    for batch, expected in zip(batches, record["losses"], strict=True):
        losses, visuals = trainer.step(batch)
        assert losses.keys() == expected.keys()
        for loss, value in expected.items():
            assert losses[loss].item() == pytest.approx(value, rel=1e-8), loss
    for key in arrays.files:
        if key.startswith("out_"):
            ours = visuals[key.removeprefix("out_")].numpy()
            np.testing.assert_allclose(ours, arrays[key], rtol=0, atol=1e-6)
    for net, expected_sum in record["weight_sums"].items():
        state = trainer.model.nets[net].state_dict()
        assert sum(v.double().abs().sum().item() for v in state.values()) == pytest.approx(
            expected_sum, rel=1e-8
        )


@pytest.mark.parametrize("name", TRACES)
def test_first_step_agrees_in_float32(name: str) -> None:
    trainer, batches, record, _ = load_trace(name, "fp32")
    losses, _ = trainer.step(batches[0])
    for loss, value in record["losses"][0].items():
        assert losses[loss].item() == pytest.approx(value, rel=1e-6), loss


def golden_keys() -> dict[str, list[Any]]:
    return json.loads((GOLDEN / "state_dict_keys.json").read_text()) if GOLDEN.exists() else {}


@pytest.mark.parametrize("case", golden_keys())
def test_state_dict_entries_agree(case: str) -> None:
    kind, name, *rest = case.split(":")
    if kind == "G":
        norm, dropout = rest
        options = NetworkOptions(netG=name, norm=norm, no_dropout=dropout == "no_dropout")
        net: torch.nn.Module = build_generator(options, 3, 3)
    else:
        n_layers, norm = rest
        net = build_discriminator(NetworkOptions(netD=name, n_layers_D=int(n_layers), norm=norm), 6)
    ours = {entry: list(tensor.shape) for entry, tensor in net.state_dict().items()}
    expected = golden_keys()[case]
    assert ours == (expected if isinstance(expected, dict) else dict(expected))


def golden_transforms() -> list[str]:
    path = GOLDEN / "transforms.npz"
    # The peer resizes in mode none; ours pads in the model and crops back.
    return [key for key in np.load(path).files if not key.startswith("none")] if path.exists() else []


@pytest.mark.parametrize("key", golden_transforms())
def test_preprocessing_agrees(key: str) -> None:
    preprocess, load_size, crop_size, flip, *gray = key.split("|")
    expected = np.load(GOLDEN / "transforms.npz")[key]
    transform = Transform(preprocess, int(load_size), int(crop_size), flip=True, exact=True)
    path = Path(GOLDEN / "transform_input.png")
    image = Image.open(path).convert("RGB")
    scaled = transform.scale(image, grey=bool(gray))
    ours = transform.apply(scaled, Decision(5, 3, flip == "1"), str(path))
    difference = np.abs(normalise(ours, torch.float32).numpy() - expected).max() * 127.5
    assert difference < 1e-4
