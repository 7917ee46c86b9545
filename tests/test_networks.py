"""Generators, discriminators and their layers."""

from itertools import product

import pytest
import torch
from torch import nn

from models.layers import BatchNorm2d, Dropout, initialise, separate_pictures
from models.networks import apply_to_both, build_discriminator, build_generator
from options.base_options import DISCRIMINATORS, GENERATORS, NetworkOptions
from util.seeding import torch_rng

NORMS = ("instance", "batch", "none")


def generator(netG: str, norm: str = "batch", dropout: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return build_generator(NetworkOptions(netG=netG, norm=norm, ngf=4, no_dropout=not dropout), 3, 2)


@pytest.mark.parametrize(("netG", "norm", "dropout"), list(product(GENERATORS, NORMS, (True, False))))
def test_generators_keep_the_size(netG: str, norm: str, dropout: bool) -> None:
    net = generator(netG, norm, dropout).double()
    width = max(net.multiple, 8) * (2 if net.multiple < 64 else 1)
    x = torch.rand(1, 3, max(net.multiple, 8), width, dtype=torch.float64)
    y = net(x)
    assert y.shape == (1, 2, *x.shape[2:])
    assert y.dtype == torch.float64
    assert y.abs().max() <= 1
    assert sum(isinstance(layer, Dropout) for layer in net.modules()) == (
        0 if not dropout else int(netG[7]) if netG.startswith("resnet") else int(netG[5:]).bit_length() - 6
    )


@pytest.mark.parametrize(
    ("netG", "norm"), list(product(("unet_32", "resnet_6blocks"), ("instance", "batch")))
)
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (37, 50), (64, 3)])
def test_generators_take_any_size(netG: str, norm: str, size: tuple[int, int]) -> None:
    net = generator(netG, norm, dropout=False)
    x = torch.rand(2, 3, *size)
    y = net(x)
    assert y.shape == (2, 2, *size)
    wide = torch.cat([x, x[..., -1:].expand(-1, -1, -1, -size[1] % net.multiple)], 3)
    torch.testing.assert_close(net(wide)[..., : size[1]], y, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("netD", "norm", "n_layers"), list(product(DISCRIMINATORS, NORMS, (1, 4))))
def test_discriminators_work_down_to_their_smallest_size(netD: str, norm: str, n_layers: int) -> None:
    net = build_discriminator(NetworkOptions(netD=netD, norm=norm, n_layers_D=n_layers, ndf=4), 6)
    smallest = net.minimum
    expected = (smallest, smallest) if netD == "pixel" else (1, 1)
    assert net(torch.rand(2, 6, smallest, smallest)).shape == (2, 1, *expected)
    layers = {"basic": 3, "n_layers": n_layers, "pixel": None}[netD]
    if layers:
        side = 2**layers * 6
        assert net(torch.rand(1, 6, side, side)).shape[-1] == 4


@pytest.mark.parametrize("init_type", ["normal", "xavier", "kaiming", "orthogonal"])
def test_initial_weights(init_type: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(64, 128, 3), BatchNorm2d(128), nn.ConvTranspose2d(128, 64, 3))
    initialise(net, init_type, 0.02)
    conv, norm = net[0], net[1]
    fan_in, fan_out = 64 * 9, 128 * 9
    deviation = {
        "normal": 0.02,
        "xavier": 0.02 * (2 / (fan_in + fan_out)) ** 0.5,
        "kaiming": (2 / fan_in) ** 0.5,
        "orthogonal": 0.02 / fan_in**0.5,
    }[init_type]
    assert conv.weight.std().item() == pytest.approx(deviation, rel=0.03)
    assert conv.bias.abs().max() == 0
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.01)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.3)
    if init_type == "orthogonal":
        rows = conv.weight.flatten(1) / 0.02
        torch.testing.assert_close(rows @ rows.T, torch.eye(128), atol=1e-4, rtol=0)


@pytest.mark.parametrize("netG", ["unet_64", "resnet_6blocks"])
def test_in_separate_pictures_a_batch_does_not_matter(netG: str) -> None:
    net = generator(netG).double()
    x = torch.rand(3, 3, 64, 64, dtype=torch.float64)

    def run(rows: list[int]) -> torch.Tensor:
        with torch.no_grad(), separate_pictures([net], [torch_rng("t", row) for row in rows]):
            return net(x[rows])

    together, alone = run([0, 1, 2]), torch.cat([run([0]), run([1]), run([2])])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(run([0]), run([0]), rtol=0, atol=0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run([1, 2])
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), f"{name}: running statistics moved"
    # Outside, the layers are their usual selves again: pictures of a batch do matter.
    net.eval()
    norms = [layer for layer in net.modules() if isinstance(layer, BatchNorm2d)]
    assert norms and not any(norm.separate for norm in norms)


def test_separate_pictures_equal_batch_norm_of_one_and_drop_half() -> None:
    torch.manual_seed(0)
    norm, x = BatchNorm2d(5).double(), torch.rand(1, 5, 6, 7, dtype=torch.float64)
    initialise(norm, "normal", 0.5)
    expected = norm(x)
    with separate_pictures([norm], []):
        torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)

    dropout, ones = Dropout(0.5), torch.ones(2, 64, 16, 16)
    with separate_pictures([dropout], [torch_rng("t", 0), torch_rng("t", 1)]):
        y = dropout(ones)
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert not torch.equal(y[0], y[1])


@pytest.mark.parametrize("norm", NORMS)
def test_judging_two_batches_together_changes_nothing(norm: str) -> None:
    net = build_discriminator(NetworkOptions(norm=norm, ndf=4), 3).double()
    calls: list[int] = []
    net.register_forward_hook(lambda *_: calls.append(1))
    x, y = torch.rand(2, 2, 3, 32, 32, dtype=torch.float64)
    together = apply_to_both(net, x, y)
    assert len(calls) == (2 if norm == "batch" else 1)
    for one, other in zip(together, (net(x), net(y)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
