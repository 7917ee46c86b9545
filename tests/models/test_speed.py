"""The results of fast paths equal those of torch's own layers, and their gradients are right."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from data import DATASETS, create_loader
from models import MODELS, create_model
from models.discriminators.patch import PatchDiscriminator
from models.generators.resnet import ResnetGenerator
from models.generators.unet import UnetGenerator
from models.layers.speed import memory_format, use_reference_path
from options.parse import parse
from options.test_options import TestOptions
from options.train_options import TrainOptions
from tests.support.models import CPU, TRAINED, arguments, trainer_and_batches

FORMATS = (torch.contiguous_format, torch.channels_last)


def networks(norm: str) -> Iterator[nn.Module]:
    torch.manual_seed(0)
    yield UnetGenerator(3, 3, 5, 8, norm, dropout=False)
    yield ResnetGenerator(3, 3, 2, 8, norm, dropout=False)
    yield PatchDiscriminator(3, 8, 3, norm)


def gradients(net: nn.Module, images: Tensor, target: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    out = net(images)
    (out.float() - target[..., : out.shape[-2], : out.shape[-1]].mean(1, keepdim=True)).pow(
        2
    ).mean().backward()
    return {name: p.grad.double().clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("weights_format", FORMATS)
@pytest.mark.parametrize("images_format", FORMATS)
def test_gradients_agree_with_float64(
    norm: str, count: int, weights_format: torch.memory_format, images_format: torch.memory_format
) -> None:
    for net in networks(norm):
        images, target = torch.rand(2, count, 3, 128, 128) * 2 - 1
        weights = [parameter.detach().clone() for parameter in net.parameters()]
        fast = gradients(
            net.to(memory_format=weights_format), images.contiguous(memory_format=images_format), target
        )
        # The reference: torch's own layers in float64.
        net.to(memory_format=torch.contiguous_format).double()
        for parameter, value in zip(net.parameters(), weights, strict=True):
            parameter.data.copy_(value)
        use_reference_path([net])
        exact = gradients(net, images.double(), target.double())
        total_norm = torch.stack([gradient.norm() for gradient in exact.values()]).norm()
        for name, expected in exact.items():
            if name in fast:
                error = (fast[name] - expected).norm() / expected.norm().clamp(min=1e-3 * total_norm)
                assert error < 5e-3, (type(net).__name__, name, error)
            else:  # a bias that the norm cancels
                assert expected.norm() < 1e-9 * total_norm


@pytest.mark.parametrize("name", TRAINED)
def test_first_losses_equal_those_of_the_reference_path(name: str, data: dict[str, Path]) -> None:
    fast, batches = trainer_and_batches(name, data)
    reference, _ = trainer_and_batches(name, data, "--speed", "off")
    losses, expected = fast.step(batches[0]).losses, reference.step(batches[0]).losses
    for loss, value in expected.items():
        torch.testing.assert_close(losses[loss], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("before,after", [("auto", "off"), ("off", "auto")])
def test_a_state_may_change_its_memory_format(before: str, after: str, data: dict[str, Path]) -> None:
    saved, batches = trainer_and_batches("cycle_gan", data, "--netG=resnet_6blocks", "--speed", before)
    resumed, _ = trainer_and_batches("cycle_gan", data, "--netG=resnet_6blocks", "--speed", after)
    saved.step(batches[0])
    resumed.load_state_dict(saved.state_dict())
    states = [dict(trainer.optimizers["G"].state) for trainer in (saved, resumed)]
    layouts = [{p.stride() == s["exp_avg"].stride() for p, s in state.items()} for state in states]
    assert layouts == [{True}, {True}]
    assert any(p.stride() != q.stride() for p, q in zip(*states, strict=True))
    for before_save, loaded in zip(*(state.values() for state in states), strict=True):
        assert torch.equal(before_save["exp_avg"], loaded["exp_avg"])


def visuals(name: str, data: dict[str, Path], *flags: str) -> list[Tensor]:
    options = parse(TestOptions, arguments(name, data, *flags, "--batch_size=1"), MODELS, DATASETS)
    model = create_model(options, CPU)
    batches = [batch.to(CPU, model.dtype) for batch in create_loader(options, CPU).epoch(0)]
    return [image for batch in batches for image in model.translate(batch).values()]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS.names())
def test_compiled_networks_translate_the_same(name: str, data: dict[str, Path]) -> None:
    # Dropout masks differ between images, so they must not become constants of the compiled code.
    for image, expected in zip(visuals(name, data, "--compile"), visuals(name, data), strict=True):
        torch.testing.assert_close(image, expected, rtol=0, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_compiled_networks_train_the_same(name: str, data: dict[str, Path]) -> None:
    eager, batches = trainer_and_batches(name, data)
    compiled, _ = trainer_and_batches(name, data, "--compile")
    losses, expected = compiled.step(batches[0]).losses, eager.step(batches[0]).losses
    for loss, value in expected.items():
        torch.testing.assert_close(losses[loss], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "benchmark"),
    [
        ([], True),
        (["--preprocess=crop"], True),
        (["--preprocess=scale_width"], False),
        (["--preprocess=none"], False),
        (["--deterministic"], False),
        (["--speed=off"], False),
    ],
)
def test_cudnn_benchmarks_convolutions_where_sizes_repeat(
    flags: list[str], benchmark: bool, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    create_model(parse(TrainOptions, arguments("pix2pix", data, *flags), MODELS, DATASETS), CPU)
    assert torch.backends.cudnn.benchmark == benchmark


@pytest.mark.parametrize(
    ("device", "precision", "norm", "expected"),
    [
        ("cpu", "fp32", "instance", {"U-Net": "contiguous", "ResNet": "channels_last"}),
        ("cpu", "fp32", "batch", {"U-Net": "contiguous", "ResNet": "contiguous"}),
        ("cpu", "bf16", "instance", {"U-Net": "channels_last", "ResNet": "channels_last"}),
        ("cpu", "fp64", "instance", {"U-Net": "contiguous", "ResNet": "contiguous"}),
        ("cuda", "fp32", "instance", {"U-Net": "contiguous", "ResNet": "contiguous"}),
        ("cuda", "bf16", "batch", {"U-Net": "channels_last", "ResNet": "channels_last"}),
    ],
)
def test_memory_formats(device: str, precision: str, norm: str, expected: dict[str, str]) -> None:
    nets = {
        "U-Net": UnetGenerator(3, 3, 5, 2, norm, dropout=False),
        "ResNet": ResnetGenerator(3, 3, 1, 2, norm, dropout=False),
    }
    names = {torch.contiguous_format: "contiguous", torch.channels_last: "channels_last"}
    found = {name: names[memory_format([net], torch.device(device), precision)] for name, net in nets.items()}
    assert found == expected
