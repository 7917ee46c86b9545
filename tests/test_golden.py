"""Our numbers against those that junyanz/pytorch-CycleGAN-and-pix2pix computes."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GOLDEN, needs_golden
from PIL import Image

from data.transforms import Decision, Transform
from models.networks import build_discriminator, build_generator
from models.pix2pix_model import Pix2PixModel
from options.base_options import NetworkOptions
from util.batch import Batch, normalise
from util.checkpoint import load_weights

pytestmark = needs_golden


def load_trace(name: str, dtype: torch.dtype) -> tuple[Pix2PixModel, list[Batch], dict[str, Any], Any]:
    folder = GOLDEN / name
    record = json.loads((folder / "trace.json").read_text())
    options = record["options"]
    network = NetworkOptions(
        netG=options["netG"], norm=options["norm"], ngf=options["ngf"], ndf=options["ndf"], no_dropout=True
    )
    G = build_generator(network, options["input_nc"], options["output_nc"])
    D = build_discriminator(network, options["input_nc"] + options["output_nc"])
    load_weights(G, folder / "init_net_G.pth")
    load_weights(D, folder / "init_net_D.pth")
    make_optimizer = partial(torch.optim.Adam, lr=options["lr"], betas=(options["beta1"], 0.999), fused=True)
    model = Pix2PixModel(G, D, make_optimizer=make_optimizer, gan_mode=options["gan_mode"], dtype=dtype)
    arrays = np.load(folder / "trace.npz")
    size = record["batch"]
    names = [""] * size
    batches = [
        Batch(
            torch.from_numpy(arrays["A"][i : i + size]).to(dtype),
            torch.from_numpy(arrays["B"][i : i + size]).to(dtype),
            names,
            names,
            torch.arange(size),
        )
        for i in range(0, len(arrays["A"]), size)
    ]
    return model, batches, record, arrays


@pytest.mark.parametrize("name", ["pix2pix_unet_batch", "colorization_l_to_ab"])
def test_every_step_agrees_in_float64(name: str) -> None:
    model, batches, record, arrays = load_trace(name, torch.float64)
    assert len(batches) == record["steps"]
    for batch, expected in zip(batches, record["losses"], strict=True):
        losses, visuals = model.step(batch)
        assert losses.keys() == expected.keys()
        for loss, value in expected.items():
            assert losses[loss].item() == pytest.approx(value, rel=1e-8), loss
    np.testing.assert_allclose(visuals["fake_B"].numpy(), arrays["out_fake_B"], rtol=0, atol=1e-6)
    for net, total in record["weight_sums"].items():
        state = model.nets[net].state_dict()
        ours = sum(v.double().abs().sum().item() for v in state.values() if v.is_floating_point())
        counters = sum(v.item() for v in state.values() if not v.is_floating_point())
        assert ours + counters == pytest.approx(total, rel=1e-8)


@pytest.mark.parametrize("name", ["pix2pix_unet_batch", "colorization_l_to_ab"])
def test_first_step_agrees_in_float32(name: str) -> None:
    model, batches, record, _ = load_trace(name, torch.float32)
    losses, _ = model.step(batches[0])
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
    transform = Transform(preprocess, int(load_size), int(crop_size), flip=True)
    path = Path(GOLDEN / "transform_input.png")
    picture = Image.open(path).convert("RGB")
    ours = transform.apply(picture, Decision(5, 3, flip == "1"), grey=bool(gray), path=str(path))
    difference = np.abs(normalise(ours, torch.float32).numpy() - expected).max() * 127.5
    assert difference < 1e-4
