"""Scaling, cropping and flipping."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import DATASETS
from data.transforms import Decision, Transform
from models import MODELS
from options.parse import parse
from options.train_options import TrainOptions
from tests.support.images import image
from util.errors import UserError
from util.image_io import read_image
from util.seeding import numpy_rng, python_rng


@pytest.mark.parametrize(
    ("preprocess", "size"),
    [
        ("resize_and_crop", (16, 16)),
        ("crop", (16, 16)),
        ("scale_width", (20, 30)),
        ("scale_width_and_crop", (16, 16)),
        ("none", (40, 60)),
    ],
)
def test_sizes_of_the_preprocess_modes(preprocess: str, size: tuple[int, int]) -> None:
    transform = Transform(preprocess, 20, 16, flip=True)
    source = Image.new("RGB", (40, 60))
    scaled = transform.scale(source, grey=False)
    decisions = [transform.decide(scaled, python_rng("t", i)) for i in range(50)]
    assert {decision.flip for decision in decisions} == {True, False}
    for decision in decisions:
        assert transform.apply(scaled, decision, "p").shape == (3, size[1], size[0])
    if "crop" in preprocess:
        assert len({decision.x for decision in decisions}) > 3
        assert len({decision.y for decision in decisions}) > (3 if preprocess != "resize_and_crop" else 2)


def test_scale_width_keeps_at_least_the_crop_size() -> None:
    transform = Transform("scale_width", 64, 48, flip=False)
    assert transform.scale(Image.new("RGB", (640, 100)), grey=True).shape == (1, 48, 64)


SIZES = [(512, 256), (321, 481), (481, 321), (100, 700), (37, 50), (286, 100), (1, 90), (2500, 1800)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grey", [False, True])
def test_torch_scales_like_pillow_in_the_same_order(size: tuple[int, int], grey: bool) -> None:
    pixels = numpy_rng("scaled", *size).integers(
        0, 256, (size[1] // 3 + 1, size[0] // 3 + 1, 3), dtype=np.uint8
    )
    source = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)  # as sharp as photos are
    transform = Transform("resize_and_crop", 286, 256, flip=False)
    result = transform.scale(source, grey)
    converted = source.convert("L") if grey else source
    rows = converted.resize((286, size[1]), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(rows.resize((286, 286), Image.Resampling.BICUBIC)))
    difference = result.int() - (expected[None] if grey else expected.permute(2, 0, 1)).int()
    assert (difference == 0).float().mean() >= 0.99
    assert difference.abs().max() <= 2


def test_exact_scaling_equals_pillow(tmp_path: Path) -> None:
    source = Image.open(image(tmp_path / "1.png", 50, 70))
    exact = Transform("scale_width", 64, 48, flip=False, exact=True).scale(source, grey=False)
    expected = np.array(source.resize((64, 89), Image.Resampling.BICUBIC))
    assert np.array_equal(exact.permute(1, 2, 0).numpy(), expected)
    argv = ["--dataroot", "d", "--model", "pix2pix", "--exact_resize"]
    assert Transform.from_options(parse(TrainOptions, argv, MODELS, DATASETS).data).exact


def test_a_crop_larger_than_the_image_is_refused() -> None:
    transform = Transform("crop", 0, 32, flip=False)
    with pytest.raises(
        UserError, match=r"p\.png: --crop_size 32 is larger than this image of 40 x 20 pixels"
    ):
        transform.apply(torch.zeros(3, 20, 40, dtype=torch.uint8), Decision(0, 0, False), "p.png")


@pytest.mark.parametrize("preprocess", ["none", "crop"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_apply_returns_a_contiguous_copy_whatever_the_memory_format(
    preprocess: str, flip: bool, grey: bool, tmp_path: Path
) -> None:
    transform, decision = Transform(preprocess, 0, 5, flip=True), Decision(2, 1, flip)
    read = transform.scale(read_image(image(tmp_path / "p.png", 9, 7)), grey)
    kept = read.contiguous()
    expected = read[:, 1:6, 2:7] if preprocess == "crop" else read.clone()
    expected = expected.flip(2) if flip else expected
    for scaled in (read, kept):
        result = transform.apply(scaled, decision, "p")
        assert torch.equal(result, expected) and result.is_contiguous()
        assert result.untyped_storage().data_ptr() != scaled.untyped_storage().data_ptr()
