"""Generators, discriminators and their layers."""

from itertools import product

import pytest
import torch
from torch import nn

from models.layers.attention import SelfAttention
from models.layers.blocks import Dropout, apply_to_both, initialise, separate_images
from models.layers.norms import BatchNorm2d
from models.networks import build_discriminator, build_generator
from models.objectives.losses import gradient_penalty
from options.base_options import DISCRIMINATORS, GENERATORS, NetworkOptions
from util.errors import UserError

NORMS = ("instance", "batch", "none")


def generator(netG: str, norm: str = "batch", dropout: bool = True, **choices: str) -> nn.Module:
    torch.manual_seed(0)
    return build_generator(
        NetworkOptions(netG=netG, norm=norm, ngf=4, no_dropout=not dropout, **choices), 3, 2
    )


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
def test_in_separate_images_a_batch_does_not_matter(netG: str) -> None:
    net = generator(netG).double()
    x = torch.rand(3, 3, 64, 64, dtype=torch.float64)

    def run(rows: list[int]) -> torch.Tensor:
        with torch.no_grad(), separate_images([net], rows):
            return net(x[rows])

    together, alone = run([0, 1, 2]), torch.cat([run([0]), run([1]), run([2])])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(run([0]), run([0]), rtol=0, atol=0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run([1, 2])
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), f"{name}: running statistics moved"
    # Outside, the layers are their usual selves again: images of a batch do matter.
    net.eval()
    norms = [layer for layer in net.modules() if isinstance(layer, BatchNorm2d)]
    assert norms and not any(norm.separate for norm in norms)


def test_separate_images_equal_batch_norm_of_one_and_drop_half() -> None:
    torch.manual_seed(0)
    norm, x = BatchNorm2d(5).double(), torch.rand(1, 5, 6, 7, dtype=torch.float64)
    initialise(norm, "normal", 0.5)
    expected = norm(x)
    with separate_images([norm], [0]):
        torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)

    dropout, ones = Dropout(0.5), torch.ones(2, 64, 16, 16)
    with separate_images([dropout], [0, 1]):
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


def reference_attention(layer: SelfAttention, x: torch.Tensor) -> torch.Tensor:
    """SAGAN's equations, with the whole map of scores."""
    n, c, h, w = x.shape
    f, g, v = (part(x).view(n, -1, h * w) for part in (layer.query, layer.key, layer.value))
    scores = torch.softmax(f.transpose(1, 2) @ g, dim=2)  # for each place, over all places
    return x + layer.gamma * (v @ scores.transpose(1, 2)).view(n, c, h, w)


def test_self_attention_is_that_of_the_paper_and_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    layer, x = SelfAttention(16).double(), torch.rand(2, 16, 5, 6, dtype=torch.float64)
    assert torch.equal(layer(x), x)
    nn.init.constant_(layer.gamma, 0.7)
    torch.testing.assert_close(layer(x), reference_attention(layer, x), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("netG", "attention", "sizes"),
    [
        ("unet_32", "1/2,1/8", [16, 4, 4, 16]),
        ("unet_32", "1/16", [2, 2]),
        ("resnet_6blocks", "1/2,1/4", [16, 8, 8, 16]),
    ],
)
def test_generators_attend_where_they_are_told(netG: str, attention: str, sizes: list[int]) -> None:
    net, plain = generator(netG, attention=attention), generator(netG)
    seen: list[int] = []
    for layer in net.modules():
        if isinstance(layer, SelfAttention):
            layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[-1]))
    x = torch.rand(1, 3, 32, 32)
    net.eval()(x)
    assert seen == sizes
    # All other entries keep their names, and at the start the result.
    loaded = net.load_state_dict(plain.state_dict(), strict=False)
    assert not loaded.unexpected_keys and all("attention" in key for key in loaded.missing_keys)
    torch.testing.assert_close(net(x), plain.eval()(x))


def test_discriminators_attend_and_can_be_penalised() -> None:
    options = NetworkOptions(norm="instance", ndf=8, attention="1/2,1/8", attention_nets="D")
    assert not any(isinstance(layer, SelfAttention) for layer in build_generator(options, 3, 3).modules())
    net = build_discriminator(options, 3)
    sizes = []
    for layer in net.modules():
        if isinstance(layer, SelfAttention):
            nn.init.constant_(layer.gamma, 0.5)
            layer.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[-1]))
    real, fake = torch.rand(2, 2, 3, 48, 48)
    gradient_penalty(net, real, fake, torch.rand(2, 1, 1, 1)).backward()
    assert sizes == [24, 6]
    assert all(
        p.grad is not None and p.grad.isfinite().all() for n, p in net.named_parameters() if "query" in n
    )


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            {"netG": "unet_32", "attention": "1/32"},
            "--attention 1/32: this --netG has feature maps of 1/2 to 1/16",
        ),
        ({"netG": "resnet_6blocks", "attention": "1/8"}, "--attention_nets D"),
        (
            {"netD": "basic", "attention": "1/16", "attention_nets": "D"},
            "this --netD has feature maps of 1/2 to 1/8",
        ),
        ({"netD": "pixel", "attention": "1/2", "attention_nets": "D"}, "add --attention_nets G"),
    ],
)
def test_attention_that_cannot_be_is_refused(choices: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", "\\(")):
        build_generator(NetworkOptions(**choices), 3, 3)
        build_discriminator(NetworkOptions(**choices), 3)


@pytest.mark.parametrize("nets", ["G", "D", "GD"])
def test_spectral_norm_bounds_every_weight(nets: str) -> None:
    options = NetworkOptions(netG="unet_32", spectral_norm=nets, ngf=4, ndf=4, attention="1/4", init_gain=0.5)
    for kind, net in (("G", build_generator(options, 3, 3)), ("D", build_discriminator(options, 3))):
        net(torch.rand(2, 3, 32, 32))
        for name, layer in net.named_modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                weight = (
                    layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
                )
                largest = torch.linalg.matrix_norm(weight.flatten(1), 2).item()
                assert (largest < 1.5) == (kind in nets) or weight.flatten(1).shape[0] == 1, (name, largest)


def test_separate_images_leave_spectral_norm_alone() -> None:
    net = generator("unet_32", spectral_norm="G")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad(), separate_images([net], [0]):
        net(torch.rand(1, 3, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    net(torch.rand(1, 3, 32, 32))
    assert not all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("netG", ["unet_32", "resnet_6blocks"])
@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_other_ways_to_enlarge_have_no_deconvolution(netG: str, upsample: str) -> None:
    net = generator(netG, upsample=upsample)
    assert not any(isinstance(layer, nn.ConvTranspose2d) for layer in net.modules())
    assert {layer.mode for layer in net.modules() if isinstance(layer, nn.Upsample)} == {upsample}
    assert net(torch.rand(1, 3, 32, 64)).shape == (1, 2, 32, 64)


def test_padding_changes_the_border_and_no_names() -> None:
    nets = {
        padding: generator("resnet_6blocks", padding=padding) for padding in ("reflect", "replicate", "zero")
    }
    results = {}
    x = torch.rand(1, 3, 64, 64)
    for padding, net in nets.items():
        net.load_state_dict(nets["reflect"].state_dict())
        results[padding] = net.eval()(x)
    for padding in ("replicate", "zero"):
        assert not torch.allclose(results[padding][..., :4, :4], results["reflect"][..., :4, :4])
