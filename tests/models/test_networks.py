"""All registered generators and discriminators, and details of those that the papers describe."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from data import DATASETS
from models import MODELS
from models.layers.attention import SelfAttention
from models.layers.blocks import Dropout, apply_to_both, separate_images
from models.layers.discriminator import Discriminator
from models.layers.generator import Generator
from models.layers.initialization import initialise
from models.layers.norms import BatchNorm2d
from models.layers.recomputation import recompute_generators
from models.layers.sizes import set_tile
from models.layers.tiling import fitting_tile
from models.networks import build_discriminator, build_generator
from models.objectives.losses import gradient_penalty
from models.registry import discriminator, generator
from options.base_options import NetworkOptions
from options.parse import parse
from options.train_options import TrainOptions
from util.architecture import infer_flags
from util.errors import UserError

GENERATORS, DISCRIMINATORS = generator.names(), discriminator.names()
NORMS = ("instance", "batch", "none")
FLAG_VALUES: dict[str, tuple[object, ...]] = {
    "ngf": (4, 8),
    "ndf": (4, 8),
    "n_layers_D": (1, 2),
    "norm": NORMS,
    "no_dropout": (True, False),
    "upsample": ("deconv", "nearest", "bilinear"),
    "padding": ("reflect", "replicate", "zero"),
}
"""Values to try of flags that networks may follow, except of --attention."""


def make_generator(netG: str, **choices: object) -> Generator:
    torch.manual_seed(0)
    values = {"ngf": 4, **generator.get(netG).example, **choices}
    return build_generator(NetworkOptions(netG=netG, **values), 3, 2)


def make_discriminator(netD: str, **choices: object) -> Discriminator:
    torch.manual_seed(0)
    values = {"ndf": 4, **discriminator.get(netD).example, **choices}
    return build_discriminator(NetworkOptions(netD=netD, **values), 3)


def image(net: nn.Module, count: int = 1) -> Tensor:
    """Return images of the smallest size that a network takes without padding, and that is at least 16."""
    multiple = getattr(net, "multiple", 1)
    side = -(-max(16, getattr(net, "smallest", 1), getattr(net, "minimum", 1)) // multiple) * multiple
    return torch.rand(count, 3, side, side) * 2 - 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("netG", GENERATORS)
def test_generators_keep_the_size_and_the_range(netG: str, norm: str) -> None:
    net = make_generator(netG, norm=norm).double()
    x = torch.cat([image(net).double()] * 2, 3)
    y = net(x)
    assert y.shape == (1, 2, *x.shape[2:]) and y.dtype == torch.float64
    assert y.abs().max() <= 1


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (37, 50), (64, 3)])
@pytest.mark.parametrize("netG", [name for name in GENERATORS if name not in ("unet_128", "unet_256")])
def test_generators_take_any_size(netG: str, size: tuple[int, int], norm: str) -> None:
    net = make_generator(netG, norm=norm, no_dropout=True)
    x = torch.rand(2, 3, *size)
    y = net(x)
    assert y.shape == (2, 2, *size)
    wide = torch.cat([x, x[..., -1:].expand(-1, -1, -1, -size[1] % net.multiple)], 3)
    torch.testing.assert_close(net(wide)[..., : size[1]], y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("netG", GENERATORS)
def test_generators_differentiate_by_all_parameters(netG: str) -> None:
    net = make_generator(netG, norm="batch", init_type="xavier", init_gain=1.0)
    net(image(net, 2)).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("netD", DISCRIMINATORS)
def test_discriminators_work_down_to_their_smallest_size(netD: str, norm: str) -> None:
    net = make_discriminator(netD, norm=norm)
    for side in (net.minimum, net.minimum + 7):
        logits = net(torch.rand(2, 3, side, side))
        assert logits.shape[:2] == (2, 1) and logits.isfinite().all()


@pytest.mark.parametrize("norm", ["instance", "none"])
@pytest.mark.parametrize("netD", DISCRIMINATORS)
def test_discriminators_can_be_penalised(netD: str, norm: str) -> None:
    net = make_discriminator(netD, norm=norm, init_gain=1.0)
    real, fake = image(net, 2), image(net, 2)
    gradient_penalty(net, real, fake, torch.rand(2, 1, 1, 1)).backward()
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("netD", DISCRIMINATORS)
def test_judging_two_batches_in_one_call_changes_nothing(netD: str, norm: str) -> None:
    net = make_discriminator(netD, norm=norm).double()
    calls: list[int] = []
    net.register_forward_hook(lambda *_: calls.append(1))
    x, y = image(net, 2).double(), image(net, 2).double()
    both = apply_to_both(net, x, y)
    has_batch_norm = any(isinstance(layer, BatchNorm2d) for layer in net.modules())
    assert len(calls) == (2 if has_batch_norm else 1)
    for logits, expected in zip(both, (net(x), net(y)), strict=True):
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", ["G", "D"])
def test_networks_follow_the_flags_that_their_parameters_name(side: str) -> None:
    registry, make = (generator, make_generator) if side == "G" else (discriminator, make_discriminator)
    changes: dict[tuple[object, str], bool] = {}
    for name in registry.names():
        choice = registry.get(name)
        for flag in set(choice.flags) - {"attention"}:
            assert flag in FLAG_VALUES, f"--{flag}: add two values of it to FLAG_VALUES"
            results = []
            for value in FLAG_VALUES[flag]:
                net = make(name, **{flag: value})
                torch.manual_seed(0)
                results.append(net(image(net)))
            differs = any(not torch.equal(result, results[0]) for result in results[1:])
            # One of the names is enough: the smallest U-Net has no level with dropout.
            changes[choice.constructor, flag] = changes.get((choice.constructor, flag), False) or differs
    assert not [key for key, changed in changes.items() if not changed]


@pytest.mark.parametrize("name", [*GENERATORS, *DISCRIMINATORS])
def test_attention_is_where_it_is_asked_for_or_refused(name: str) -> None:
    registry, make, side = (
        (generator, make_generator, "G") if name in GENERATORS else (discriminator, make_discriminator, "D")
    )
    if "attention" not in registry.get(name).flags:
        with pytest.raises(UserError, match=f"--net{side} {name} has no feature maps for it"):
            make(name, attention="1/2", attention_nets=side)
        return
    plain = make(name)
    x = image(plain)
    depth = max(1, (x.shape[-1] // 32).bit_length() - 1)
    net = make(name, attention=f"1/{2**depth}")
    sizes: list[int] = []
    for layer in net.modules():
        if isinstance(layer, SelfAttention):
            layer.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[-1]))
    y = net.eval()(x)
    assert sizes and set(sizes) == {x.shape[-1] // 2**depth}
    # All other entries keep their names, and the result is initially the same.
    loaded = net.load_state_dict(plain.state_dict(), strict=False)
    assert not loaded.unexpected_keys and all("attention" in key for key in loaded.missing_keys)
    torch.testing.assert_close(net(x), plain.eval()(x))
    assert not torch.equal(net(x), y)
    with pytest.raises(UserError, match=f"this --net{side} has feature maps of 1/2 to"):
        make(name, attention=f"1/{2**15}", attention_nets=side)


@pytest.mark.parametrize("netG", GENERATORS)
def test_generators_recompute_to_the_bit_or_refuse(netG: str) -> None:
    net = make_generator(netG, norm="batch")
    if not net.supports_checkpointing:
        with pytest.raises(UserError, match="--checkpointing: this model has no generator"):
            recompute_generators({"G": net})
        return
    x, before = image(net, 2), {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def step() -> tuple[dict[str, Tensor], int]:
        """Return all gradients and buffers after a step, and the bytes of activations that it kept."""
        kept = []

        def keep(tensor: Tensor) -> Tensor:
            kept.append(0 if isinstance(tensor, nn.Parameter) else tensor.nbytes)
            return tensor

        torch.manual_seed(0)
        net.load_state_dict(before)
        net.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = net(x)
        y.square().sum().backward()
        gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
        return gradients | {name: buffer.clone() for name, buffer in net.named_buffers()}, sum(kept)

    plain, kept = step()
    recompute_generators({"G": net})
    recomputed, kept_less = step()
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(tensor, recomputed[name]) for name, tensor in plain.items())
    assert kept_less < 0.6 * kept


@pytest.mark.parametrize("netG", GENERATORS)
def test_generators_translate_in_tiles_or_refuse(netG: str) -> None:
    net = make_generator(netG, norm="instance", no_dropout=True)
    if not net.supports_tiling:
        with pytest.raises(UserError, match="--tile 64: this --netG"):
            set_tile([net], 64)
        return
    tile = fitting_tile(1, net.multiple, net.smallest)
    with torch.no_grad():
        whole = net(x := torch.rand(1, 3, tile, 2 * tile + 5))
        set_tile([net], tile)
        tiled = net(x)
    assert tiled.shape == whole.shape and tiled.isfinite().all() and not torch.equal(tiled, whole)


@pytest.mark.parametrize("nets", ["G", "D", "GD"])
@pytest.mark.parametrize("name", [*GENERATORS, *DISCRIMINATORS])
def test_spectral_norm_bounds_every_weight(name: str, nets: str) -> None:
    kind, make = ("G", make_generator) if name in GENERATORS else ("D", make_discriminator)
    net = make(name, spectral_norm=nets, init_gain=0.5)
    net(image(net, 2))
    for layer_name, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            transposed = isinstance(layer, nn.ConvTranspose2d)
            weight = layer.weight.transpose(0, 1) if transposed else layer.weight
            largest = torch.linalg.matrix_norm(weight.flatten(1), 2).item()
            assert nn.utils.parametrize.is_parametrized(layer) == (kind in nets)
            assert largest < 1.5 or kind not in nets, (layer_name, largest)


@pytest.mark.parametrize("name", [*GENERATORS, *DISCRIMINATORS])
def test_no_other_network_is_read_off_the_weights(name: str) -> None:
    make = make_generator if name in GENERATORS else make_discriminator
    for norm in NORMS:
        flags = infer_flags(make(name, norm=norm).state_dict())
        assert name in flags.get("netG", flags.get("netD", name)) and flags.get("norm", norm) == norm


@pytest.mark.parametrize("netG", GENERATORS)
def test_in_separate_images_a_batch_does_not_matter(netG: str) -> None:
    net = make_generator(netG).double()
    x = image(net, 3).double()

    def run(rows: list[int]) -> Tensor:
        with torch.no_grad(), separate_images([net], rows):
            return net(x[rows])

    batched, alone = run([0, 1, 2]), torch.cat([run([0]), run([1]), run([2])])
    torch.testing.assert_close(batched, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(run([0]), run([0]), rtol=0, atol=0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run([1, 2])
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), f"{name}: running statistics moved"
    # Outside of the context the images of a batch do matter.
    assert not any(layer.separate for layer in net.modules() if isinstance(layer, BatchNorm2d))


@pytest.fixture
def tiny() -> Iterator[str]:
    """A generator that follows --ngf alone, registered as a user's file would."""

    @generator("tiny")
    class Tiny(Generator):
        multiple = 2

        def __init__(self, input_nc: int, output_nc: int, ngf: int):
            super().__init__()
            self.model = nn.Sequential(nn.Conv2d(input_nc, ngf, 3, padding=1), nn.Conv2d(ngf, output_nc, 1))

    yield "tiny"
    del generator._choices["tiny"]


def test_a_registered_generator_is_a_choice_of_the_command_line(
    tiny: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    train = partial(parse, TrainOptions, models=MODELS, datasets=DATASETS)
    options = train(argv=["--dataroot", "d", "--netG", tiny, "--upsample", "nearest", "--ngf", "8"])
    assert build_generator(options.network, 3, 1).model[0].out_channels == 8
    needed = "without --netG resnet_9blocks or resnet_6blocks or unet_32"
    assert f"--upsample nearest has no effect {needed}" in caplog.text and "--ngf" not in caplog.text
    with pytest.raises(UserError, match="--netG tiy: no such choice; did you mean tiny"):
        train(argv=["--dataroot", "d", "--netG", "tiy"])
    with pytest.raises(SystemExit):
        train(argv=["--help"])
    listed = " ".join(capsys.readouterr().out.split())
    assert f"generator (one of {', '.join(GENERATORS)}, tiny;" in listed


def test_choices_are_offered_in_a_fixed_order() -> None:
    unets = ("unet_32", "unet_64", "unet_128", "unet_256")
    assert [name for name in GENERATORS if name.startswith(("resnet", "unet"))] == [
        "resnet_9blocks",
        "resnet_6blocks",
        *unets,
    ]
    assert [name for name in DISCRIMINATORS if name in ("basic", "n_layers", "pixel")] == [
        "basic",
        "n_layers",
        "pixel",
    ]


def test_a_registration_that_cannot_work_is_refused(tiny: str) -> None:
    with pytest.raises(ValueError, match="--netG tiny is registered twice"):
        generator(tiny)(nn.Module)
    with pytest.raises(TypeError, match=r"--netG new: no flag provides the parameters \['depth'\]"):
        generator("new")(lambda input_nc, output_nc, depth: nn.Module())
    assert "new" not in generator.names()
    with pytest.raises(UserError, match="--netD bsic: no such choice; did you mean basic"):
        build_discriminator(NetworkOptions(netD="bsic"), 3)


@pytest.mark.parametrize(
    ("netG", "count"), [("unet_32", 0), ("unet_64", 1), ("unet_256", 3), ("resnet_6blocks", 6)]
)
def test_dropout_is_where_the_papers_have_it(netG: str, count: int) -> None:
    for dropout in (True, False):
        net = make_generator(netG, no_dropout=not dropout)
        assert sum(isinstance(layer, Dropout) for layer in net.modules()) == count * dropout


@pytest.mark.parametrize(("netD", "n_layers"), [("basic", 3), ("n_layers", 1), ("n_layers", 4)])
def test_patch_discriminators_halve_once_per_layer(netD: str, n_layers: int) -> None:
    net = make_discriminator(netD, n_layers_D=n_layers if netD == "n_layers" else 5)
    assert net(torch.rand(1, 3, net.minimum, net.minimum)).shape[2:] == (1, 1)
    side = 2**n_layers * 6
    assert net(torch.rand(1, 3, side, side)).shape[-1] == 4


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


def test_attention_can_be_the_papers_with_an_output_convolution() -> None:
    """Values of C / 8 channels and a convolution back to C (Zhang et al. 2019, eq. 2), as one matrix."""
    ours, paper = (SelfAttention(16).double() for _ in range(2))
    paper.load_state_dict(ours.state_dict())
    paper.value, out = (nn.Conv2d(*channels, 1).double() for channels in ((16, 2), (2, 16)))
    ours.value.weight.data = (out.weight[..., 0, 0] @ paper.value.weight[..., 0, 0])[..., None, None]
    ours.value.bias.data = out.weight[..., 0, 0] @ paper.value.bias + out.bias
    x = torch.rand(2, 16, 5, 6, dtype=torch.float64)
    query, key, value = (layer(x).flatten(2) for layer in (paper.query, paper.key, paper.value))
    weights = (query.transpose(1, 2) @ key).softmax(2)
    attended = out((value @ weights.transpose(1, 2)).view(2, 2, 5, 6))
    ours.gamma.data.fill_(0.7)
    torch.testing.assert_close(ours(x), x + 0.7 * attended)


@pytest.mark.parametrize(
    ("netG", "attention", "sizes"),
    [
        ("unet_32", "1/2,1/8", [16, 4, 4, 16]),
        ("unet_32", "1/16", [2, 2]),
        ("resnet_6blocks", "1/2,1/4", [16, 8, 8, 16]),
    ],
)
def test_generators_attend_at_every_given_depth(netG: str, attention: str, sizes: list[int]) -> None:
    net = make_generator(netG, attention=attention)
    seen: list[int] = []
    for layer in net.modules():
        if isinstance(layer, SelfAttention):
            layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[-1]))
    x = torch.rand(1, 3, 32, 32)
    net.eval()(x)
    assert seen == sizes


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


def test_separate_images_leave_spectral_norm_alone() -> None:
    net = make_generator("unet_32", norm="batch", spectral_norm="G")
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
    net = make_generator(netG, upsample=upsample)
    assert not any(isinstance(layer, nn.ConvTranspose2d) for layer in net.modules())
    assert {layer.mode for layer in net.modules() if isinstance(layer, nn.Upsample)} == {upsample}
    assert net(torch.rand(1, 3, 32, 64)).shape == (1, 2, 32, 64)


def test_padding_changes_the_border_and_no_names() -> None:
    nets = {
        padding: make_generator("resnet_6blocks", padding=padding)
        for padding in ("reflect", "replicate", "zero")
    }
    results = {}
    x = torch.rand(1, 3, 64, 64)
    for padding, net in nets.items():
        net.load_state_dict(nets["reflect"].state_dict())
        results[padding] = net.eval()(x)
    for padding in ("replicate", "zero"):
        assert not torch.allclose(results[padding][..., :4, :4], results["reflect"][..., :4, :4])
