"""Tiles: their positions and weights, the statistics of the thumbnail, all models, error messages."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data import DATASETS
from models import MODELS, create_model
from models.colorization.networks import ColorUnet
from models.layers.blocks import separate_images
from models.layers.generator import Generator
from models.layers.norms import BatchNorm2d, ImageStatistics, InstanceNorm2d, statistics_from
from models.layers.sizes import set_tile
from models.layers.tiling import blend_tiles, blend_weights, fitting_tile, thumbnail, tile_starts
from models.networks import build_generator
from options.base_options import NetworkOptions
from options.parse import parse
from options.test_options import TestOptions
from tests.support.models import example_flags
from util.batch import Batch
from util.errors import UserError

CPU = torch.device("cpu")


def generator(netG: str = "resnet_6blocks", tile: int | None = None) -> Generator:
    """Return a generator whose results for smooth images are smooth."""
    torch.manual_seed(0)
    choices = {"norm": "instance", "upsample": "bilinear", "init_type": "xavier"}
    options = NetworkOptions(netG=netG, ngf=4, no_dropout=True, init_gain=0.3, **choices)
    net = build_generator(options, 3, 3).double()
    net.tile = tile
    return net


def images(count: int, height: int, width: int) -> Tensor:
    """Return smooth images in [-1, 1]."""
    torch.manual_seed(1)
    coarse = 2 * torch.rand(count, 3, 5, 5, dtype=torch.float64) - 1
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True).clamp(-1, 1)


@pytest.mark.parametrize(("tile", "multiple"), [(256, 4), (64, 32), (96, 32), (8, 4), (512, 256)])
def test_tiles_cover_a_side_and_their_weights_sum_to_one(tile: int, multiple: int) -> None:
    overlap = -(-tile // 4 // multiple) * multiple
    for side in range(multiple, 9 * tile, 13 * multiple):
        starts = tile_starts(side, tile, overlap, multiple)
        assert starts[0] == 0 and all(start % multiple == 0 for start in starts)
        assert starts[-1] + tile == side or (starts == [0] and side <= tile)
        assert all(overlap <= start + tile - following < tile for start, following in pairwise(starts))
        weights = blend_weights(starts, side, tile, overlap)
        torch.testing.assert_close(weights.sum(0), torch.ones(side, dtype=torch.float64))
        for start, row in zip(starts, weights, strict=True):
            inside = torch.zeros(side, dtype=torch.bool)
            inside[start + overlap // 4 if start else 0 : start + tile - overlap // 4] = True
            inside[side - overlap // 4 :] |= start + tile >= side
            assert not row[~inside].any()
            assert row.diff().abs().max() <= 2 / overlap + 1e-9 or side == 1


class Shallow(Generator):
    """A generator with a receptive field of 5 pixels to each side."""

    multiple = smallest = 2

    def __init__(self, norm: nn.Module):
        super().__init__()
        down, up = nn.Conv2d(3, 6, 3, 2, 1), nn.ConvTranspose2d(6, 3, 3, 2, 1, output_padding=1)
        self.model = nn.Sequential(down, norm, nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), up)


@pytest.mark.parametrize("norm", [nn.Identity(), InstanceNorm2d(6), BatchNorm2d(6)])
def test_tiles_larger_than_the_receptive_field_with_its_statistics_equal_the_whole_image(
    norm: nn.Module,
) -> None:
    torch.manual_seed(0)
    net, x = Shallow(norm).double(), images(2, 170, 120)
    if isinstance(norm, BatchNorm2d):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    with torch.no_grad(), separate_images([net], [0]):
        whole = net(x)
        with statistics_from(net, lambda: net(x)):
            tiled = blend_tiles(net.run, x, 64, 2)
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-12)
        assert torch.equal(net(x), whole)  # the statistics are no longer used


def test_a_layer_uses_the_statistics_of_another_run_in_the_order_of_its_calls() -> None:
    layer, (one, two, x) = InstanceNorm2d(3), 5 * torch.rand(3, 2, 3, 6, 7)

    def normalised(statistics_of: Tensor) -> Tensor:
        variance, mean = torch.var_mean(statistics_of, (2, 3), correction=0, keepdim=True)
        return (x - mean) / (variance + layer.eps).sqrt()

    with statistics_from(layer, lambda: (layer(one), layer(two))):
        for expected in (one, two, one, two):
            torch.testing.assert_close(layer(x), normalised(expected), rtol=0, atol=1e-5)
    torch.testing.assert_close(layer(x), F.instance_norm(x))
    assert layer.state_dict() == {}
    with pytest.raises(ZeroDivisionError), statistics_from(layer, lambda: 1 / 0):
        pass
    torch.testing.assert_close(layer(x), F.instance_norm(x))


@pytest.mark.parametrize("conditions", [(), (torch.rand(1, 4, dtype=torch.float64),)])
def test_every_norm_of_a_generator_records_statistics(conditions: tuple[Tensor, ...]) -> None:
    colored = ColorUnet(3, 3, 5, 4, 4, dropout=False).double()
    net, norms = (colored, len(colored.styled)) if conditions else (generator(), 17)
    x = images(1, 64, 64)
    with torch.no_grad(), statistics_from(net, lambda: net.run(x, *conditions)):
        kept = [layer.kept for layer in net.modules() if isinstance(layer, ImageStatistics)]
        assert [len(statistics or ()) for statistics in kept] == [1] * norms
        again = net.run(x, *conditions)
    with torch.no_grad():
        torch.testing.assert_close(again, net.run(x, *conditions), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("netG", "tile", "size", "small"),
    [
        ("resnet_6blocks", 64, (100, 150), (44, 64)),
        ("resnet_6blocks", 64, (9, 300), (8, 64)),
        ("unet_32", 64, (100, 250), (32, 64)),
    ],
)
def test_a_generator_runs_on_a_thumbnail_and_then_on_tiles(
    netG: str, tile: int, size: tuple[int, int], small: tuple[int, int]
) -> None:
    net, x = generator(netG, tile=tile), images(1, *size)
    seen: list[Tensor] = []
    run = net.run
    net.run = lambda part: seen.append(part) or run(part)  # type: ignore[method-assign]
    with torch.no_grad():
        y = net(x)
    assert y.shape == x.shape and y.abs().max() <= 1 + 1e-12
    assert seen[0].shape[2:] == small
    padded = F.pad(x, (0, -size[1] % net.multiple, 0, -size[0] % net.multiple), mode="replicate")
    scaled = F.interpolate(padded, small, mode="bilinear", antialias=True)
    assert torch.equal(seen[0], scaled) and torch.equal(thumbnail(padded, tile, net.multiple, 8), scaled)
    assert len(seen) > 2 and {max(part.shape[2:]) for part in seen[1:]} == {tile}
    for part in seen[1:]:
        positions = (part[0, 0, 0, 0] == padded[0, 0]).nonzero()
        assert any((position % net.multiple == 0).all() for position in positions)


def test_the_statistics_come_from_the_thumbnail() -> None:
    net, x = generator(tile=64), images(1, 96, 128)
    small = thumbnail(x, 64, 4, 8)
    with torch.no_grad():
        tiled = net(x)
        with statistics_from(net, lambda: net.run(small)):
            torch.testing.assert_close(tiled, blend_tiles(net.run, x, 64, 4), rtol=0, atol=1e-12)
        # With the statistics of each tile the result is different.
        assert (blend_tiles(net.run, x, 64, 4) - tiled).abs().mean() > 0.02


def jumps(y: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring columns."""
    return y.diff(dim=3).abs().mean((0, 1, 2))


def test_no_seams() -> None:
    tile, overlap = 64, 16
    net, x = generator(tile=tile), images(4, 64, 320)
    with torch.no_grad():
        blended = jumps(net(x))
        cut = jumps(torch.cat([net.run(part) for part in x.split(tile, 3)], 3))
    starts = tile_starts(320, tile, overlap, net.multiple)
    # The borders of tiles, and those of the regions that their weights are above 0 in.
    edges = {edge for start in starts for edge in (start, start + overlap // 4)}
    edges |= {edge + tile for start in starts for edge in (start, start - overlap // 4)}
    for edge in range(2, 318):
        if edge in edges:
            assert blended[edge - 1] < 1.15 * (blended[edge - 2] + blended[edge]) / 2, edge
    assert cut[tile - 1] > 3 * (cut[tile - 2] + cut[tile]) / 2


@pytest.mark.parametrize("size", [(64, 64), (37, 50), (8, 61)])
def test_images_no_larger_than_a_tile_are_translated_whole(size: tuple[int, int]) -> None:
    net, x = generator(), images(1, *size)
    with torch.no_grad():
        whole = net(x)
        net.tile = 64
        assert torch.equal(net(x), whole)


def options(data: dict[str, Path], name: str, *flags: str) -> TestOptions:
    mode = str(MODELS.get(name).defaults.get("dataset_mode", "unaligned"))
    argv = ["--dataroot", str(data[mode]), "--model", name, "--ngf", "4", "--preprocess", "none"]
    argv += ["--netG", "unet_32", "--precision", "fp64", *example_flags(name), *flags]
    return parse(TestOptions, argv, MODELS, DATASETS)


@pytest.mark.parametrize("name", [name for name in MODELS.names() if name != "dcgan"])
def test_every_model_translates_in_tiles_whatever_the_batch(name: str, data: dict[str, Path]) -> None:
    # Batch norm and dropout, where the model has them, are in training mode.
    A, B = images(2, 70, 150), images(2, 70, 150).flip(0)

    def visuals(*flags: str, rows: tuple[int, ...] = (0, 1)) -> dict[str, Tensor]:
        model = create_model(options(data, name, *flags), CPU)
        picked = list(rows)
        return model.translate(Batch(A[picked], B[picked], ["p"] * 2, ["p"] * 2, torch.tensor(picked)))

    whole, tiled = visuals(), visuals("--tile", "64")
    alone = [visuals("--tile", "64", rows=(row,)) for row in (0, 1)]
    for label, image in tiled.items():
        assert image.shape[2:] == (70, 150)
        assert torch.equal(image, whole[label]) == label.startswith(("real", "style"))
        one_by_one = torch.cat([images_of_one[label] for images_of_one in alone])
        torch.testing.assert_close(image, one_by_one, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--tile 0", "--tile 0: expected a whole number not below 1 or inf"),
        ("--tile 32", "--tile 32: the generator needs a multiple of 32, at least 64; take --tile 64"),
        ("--tile 100", "take --tile 128"),
        ("--tile 250 --netG resnet_6blocks", "a multiple of 4, at least 8; take --tile 252"),
        ("--tile 256 --netG unet_256", "take --tile 512"),
        ("--tile 64 --model dcgan --netG resnet_9blocks", "--tile 64: this model has no generator"),
        ("--tile 64 --attention 1/8", "--tile 64: the generator has self-attention (--attention)"),
    ],
)
def test_invalid_tiles_are_refused(flags: str, message: str, data: dict[str, Path]) -> None:
    with pytest.raises(UserError) as caught:
        create_model(options(data, "pix2pix", *flags.split()), CPU)
    assert message in str(caught.value)


def test_a_model_without_generator_is_refused() -> None:
    with pytest.raises(UserError, match="--tile 64: this model has no generator"):
        set_tile([nn.Conv2d(3, 3, 1)], 64)


def test_a_fitting_tile_is_accepted_as_it_is() -> None:
    for multiple, smallest in ((4, 8), (32, 32), (256, 256)):
        for tile in (1, 8, 64, 65, 600):
            fitting = fitting_tile(tile, multiple, smallest)
            assert fitting >= max(tile, smallest) and fitting_tile(fitting, multiple, smallest) == fitting


def test_tiles_as_large_as_the_crops_are_reported_to_have_no_effect(
    data: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    options(data, "pix2pix", "--tile", "64", "--preprocess", "crop", "--crop_size", "128")
    assert options(data, "pix2pix").results.tile is None and not caplog.text
    options(data, "pix2pix", "--tile", "256", "--preprocess", "crop")
    assert "--tile 256 has no effect on the images of --crop_size 256" in caplog.text
