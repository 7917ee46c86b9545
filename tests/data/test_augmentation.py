"""``--augment``: geometry alike for all images of a sample, values of the input alone."""

from dataclasses import replace
from itertools import product
from math import atan2, degrees
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as kernels

from data import DATASETS, Loader, create_loader
from data.augmentation import Augmentation, check, cut, draw, recolor
from data.transforms import Transform
from models import MODELS
from options.augment_options import Augment, parse_augment
from options.parse import parse
from options.train_options import TrainOptions
from tests.support.images import image
from util.batch import Batch
from util.errors import UserError
from util.parts import Part, Side, Sides, Values
from util.seeding import numpy_rng, python_rng

GEOMETRY = "vflip,rot90,rotate:15,scale:0.9-1.1,shift:0.05"
EVERYTHING = f"{GEOMETRY},color:0.2,noise:0.02,blur:1,jpeg:60"
TYPES = {
    "uint8": Values(),
    "uint16": Values("uint16", 0, 65535),
    "int16": Values("int16", -1000, 3000),
    "float32": Values("float32", -2.5, 7.5),
}


def words(text: str) -> Augment:
    augment = parse_augment(text)
    assert augment is not None
    return augment


def values_part(values: Values, channels: int = 3) -> Part:
    return Part("A", "values", channels=channels, values=values)


def random_image(values: Values, channels: int, size: int = 48) -> Tensor:
    fractions = numpy_rng("augmented", channels).random((channels, size, size))
    return torch.from_numpy(values.cast(values.low + fractions * values.span))


def coordinates(height: int, width: int) -> NDArray[np.float32]:
    """Return an image of two channels with the column and the row of each pixel."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)


def test_a_rotation_keeps_images_label_maps_and_masks_aligned() -> None:
    height, width, crop = 90, 110, 64
    columns, rows = painted = coordinates(height, width)
    blocks = (rows // 9 * 13 + columns // 9).astype(np.uint16) + 40_000  # beyond int16
    transform = Transform("crop", 0, crop, flip=True, augment=words("rotate:15,vflip,rot90"))
    images = {
        "values": (painted, values_part(Values("float32", 0, 128), 2)),
        "8bit": (np.stack([columns, rows, rows]).astype(np.uint8), Part("B")),
        "mask": (2 * columns[None].astype(np.uint8), Part("M", "mask", channels=1)),
        "labels": (blocks[None], Part("A2", "labels", channels=117, values=Values("uint16"))),
        "instances": (blocks[None], Part("A3", "instances", channels=1, values=Values("uint16"))),
    }
    angles = set()
    for seed in range(12):
        decision = transform.decide(torch.from_numpy(painted), python_rng("rotated", seed))
        result = {
            name: transform.apply(torch.from_numpy(image), decision, name, part).numpy()
            for name, (image, part) in images.items()
        }
        x, y = result["values"]
        # Where the window shows the image itself, and not its reflection
        seen = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
        assert seen.mean() > 0.7

        change = decision.change
        assert change is not None
        across, down = np.gradient(x, axis=1)[seen], np.gradient(y, axis=1)[seen]
        np.testing.assert_allclose(np.hypot(np.median(across), np.median(down)), 1, atol=1e-3)
        angle = degrees(atan2(np.median(down), np.median(across)))
        turned = min(abs((angle - sign * change.angle + 45) % 90 - 45) for sign in (1, -1))
        assert turned < 0.05
        angles.add(round(change.angle))

        np.testing.assert_allclose(result["8bit"][:2], [x, y], atol=0.51)
        np.testing.assert_allclose(result["mask"][0], 2 * x, atol=0.51)
        # Pixels whose nearest neighbour is not in doubt
        sure = seen & (abs(x % 1 - 0.5) > 0.01) & (abs(y % 1 - 0.5) > 0.01)
        expected = np.rint(y) // 9 * 13 + np.rint(x) // 9 + 40_000
        for name in ("labels", "instances"):
            assert result[name].dtype == np.uint16
            np.testing.assert_array_equal(result[name][0][sure], expected[sure])
    assert len(angles) > 4
    assert max(abs(angle) for angle in angles) <= 15


@pytest.mark.parametrize(("mode", "kind"), [("bilinear", "values"), ("nearest", "labels")])
def test_inside_the_image_geometry_is_that_of_torchvision(mode: str, kind: Any) -> None:
    image = random_image(TYPES["float32"], 2, 61)
    change = Augmentation(words("rotate:40"), angle=33.0, scale=1.7, shift=(0.1, -0.05))
    result = cut(image.numpy(), (0, 0, 61, 61), change, kind)
    expected = kernels.affine(
        image, 33.0, [6.1, -3.05], 1.7, [0.0, 0.0], interpolation=InterpolationMode(mode)
    )
    middle = (slice(None), slice(8, -8), slice(8, -8))
    different = np.abs(result[middle] - expected.numpy()[middle]) > 1e-3
    assert different.mean() < (0.005 if mode == "nearest" else 1e-9)


def test_a_window_is_rotated_about_its_own_centre_with_what_is_around_it() -> None:
    painted = coordinates(400, 300)
    change = Augmentation(words("rotate:45"), angle=45.0)
    x, y = cut(painted, (100, 200, 51, 51), change, "values")
    np.testing.assert_allclose((x[25, 25], y[25, 25]), (125, 225), atol=1e-3)
    assert x.min() < 100
    assert x.max() > 151


def test_corners_that_are_uncovered_show_the_reflected_image() -> None:
    flat = np.full((1, 20, 31), 200, np.uint8)
    for seed in range(20):
        change = draw(words("rotate:180,scale:0.2-1.2,shift:0.5"), python_rng("flat", seed))
        assert (cut(flat, (0, 0, 31, 20), change, "8bit") == 200).all()
    painted = coordinates(20, 20)
    x, y = cut(painted, (0, 0, 20, 20), Augmentation(words("shift:0.5"), shift=(0.25, 0.0)), "8bit")
    np.testing.assert_allclose(x[0], [4, 3, 2, 1, 0, *range(15)], atol=1e-4)
    np.testing.assert_allclose(y[:, 0], np.arange(20), atol=1e-4)


@pytest.mark.parametrize(("preprocess", "size"), [("none", (40, 60)), ("crop", (32, 32))])
def test_quarter_turns_keep_the_size(preprocess: str, size: tuple[int, int]) -> None:
    transform = Transform(preprocess, 0, 32, flip=False, augment=words("rot90,vflip"))
    scaled = random_image(TYPES["uint8"], 3, 60)[:, :40]
    seen = set()
    for seed in range(40):
        decision = transform.decide(scaled, python_rng("turned", seed))
        result = transform.apply(scaled, decision, "p")
        assert result.shape[1:] == size
        window = scaled if preprocess == "none" else scaled[:, decision.y :, decision.x :][:, :32, :32]
        window = window.flip(1) if decision.change and decision.change.vflip else window
        turns = [k for k in range(4) if torch.equal(torch.rot90(window, k, (1, 2)), result)]
        assert len(turns) == 1
        seen.add((turns[0], decision.change and decision.change.vflip))
    assert len(seen) == (4 if preprocess == "none" else 8)


def test_draws_follow_those_without_augmentation_and_ignore_other_words() -> None:
    scaled = torch.zeros(3, 40, 40, dtype=torch.uint8)
    plain, augmented = (
        Transform("crop", 0, 32, flip=True, augment=parse_augment(text)) for text in ("none", EVERYTHING)
    )
    one, everything = words("scale:0.9-1.1"), words(EVERYTHING)
    scales = set()
    for seed in range(30):
        before, after = (
            plain.decide(scaled, python_rng("d", seed)),
            augmented.decide(scaled, python_rng("d", seed)),
        )
        assert (before.x, before.y, before.flip) == (after.x, after.y, after.flip)
        assert before.change is None
        scale = draw(one, python_rng("e", seed)).scale
        assert draw(everything, python_rng("e", seed)).scale == scale
        scales.add(scale)
    assert min(scales) < 0.93
    assert max(scales) > 1.07
    assert 0.9 <= min(scales) <= max(scales) <= 1.1
    assert repr(plain) == repr(augmented)  # the key of cached images, which are those before augmentation


CHANGES = [
    *product(["color:0.5", "noise:0.1-0.1", "blur:1-1"], TYPES, [1, 3, 4]),
    *product(["jpeg:5-5"], ["uint8"], [1, 3]),
]


@pytest.mark.parametrize(("word", "kind", "channels"), CHANGES)
def test_values_change_within_type_and_range(word: str, kind: str, channels: int) -> None:
    values = TYPES[kind]
    image = random_image(values, channels)
    before, part = image.clone(), values_part(values, channels)
    change = draw(words(word), python_rng("changed", 1))
    result = recolor(image, change, part, is_input=True)
    assert torch.equal(image, before)
    assert (result.dtype, result.shape) == (image.dtype, image.shape)
    changed = (result.double() - image.double()) / values.span
    assert 0.005 < changed.std() < 0.4
    assert values.low <= result.double().min()
    assert result.double().max() <= values.high
    if word.startswith("noise"):
        inner = changed[
            (image.double() > values.low + 0.4 * values.span)
            & (image.double() < values.low + 0.6 * values.span)
        ]
        assert abs(inner.std() - 0.1) < 0.01
    assert torch.equal(recolor(image, change, part, is_input=True), result)
    assert torch.equal(recolor(image, change, part, is_input=False), image)
    both = draw(words(f"{word}:AB"), python_rng("changed", 1))
    assert torch.equal(recolor(image, both, part, is_input=False), result)


def test_neutral_amounts_leave_values_as_they_are() -> None:
    change = Augmentation(words("color:0.5,noise:0.1,blur:1"))
    for values in TYPES.values():
        image = random_image(values, 3)
        result = recolor(image, change, values_part(values), is_input=True)
        torch.testing.assert_close(result.double(), image.double(), rtol=0, atol=1e-6 * values.span)


@pytest.mark.parametrize("sigma", [0.7, 3.0, 60.0])
def test_a_blur_is_that_of_torchvision(sigma: float) -> None:
    image = random_image(TYPES["float32"], 2, 64)[:, :, :40]
    result = recolor(
        image,
        Augmentation(words("blur:0-50"), blur=sigma),
        values_part(TYPES["float32"], 2),
        is_input=True,
    )
    size = [2 * min(int(np.ceil(3 * sigma)), length - 1) + 1 for length in (40, 64)]
    torch.testing.assert_close(result, kernels.gaussian_blur(image, size, [sigma] * 2), rtol=1e-4, atol=1e-4)


def test_masks_and_numbers_of_classes_keep_their_values() -> None:
    image = torch.randint(0, 9, (1, 16, 16), dtype=torch.uint8)
    change = draw(words("color:0.5:AB,noise:0.2:AB,blur:2:AB"), python_rng("kept"))
    for kind in ("mask", "labels", "instances"):
        assert torch.equal(recolor(image, change, Part("A", kind, channels=1), is_input=True), image)  # type: ignore[arg-type]


def test_parts_have_different_noise() -> None:
    image = torch.full((1, 32, 32), 128, dtype=torch.uint8)
    change = draw(words("noise:0.1-0.1:AB"), python_rng("noisy"))
    A1, A2 = (recolor(image, change, Part(name, channels=1), is_input=True).double() for name in ("A1", "A2"))
    assert abs(torch.corrcoef(torch.stack([A1.flatten(), A2.flatten()]))[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rotat:15", "no word 'rotat'; did you mean rotate? Words: none, or some of vflip, rot90, rotate:15"),
        ("vflip,,rot90", "no word ''. Words"),
        ("vflip:1", "vflip:1: write vflip, without an amount"),
        ("rotate", "rotate: expected rotate:15 (degrees, from 0 to 180, above 0)"),
        ("rotate:0", "rotate:0: expected rotate:15"),
        ("rotate:190", "rotate:190: expected rotate:15"),
        ("rotate:-5", "rotate:-5: expected rotate:15"),
        ("rotate:5-10", "rotate:5-10: expected rotate:15"),
        ("scale:1.1", "scale:1.1: expected scale:0.9-1.1 (smallest and largest factor"),
        ("scale:1.1-0.9", "scale:1.1-0.9: expected scale:0.9-1.1"),
        ("shift:2", "shift:2: expected shift:0.05 (fraction of the image's sides"),
        ("noise:x", "noise:x: expected noise:0.02 or LO-HI"),
        ("jpeg:0", "jpeg:0: expected jpeg:60 or LO-HI (quality, from 1 to 100)"),
        ("blur:1,blur:2", "blur is listed twice"),
        ("color:0.2:B", "color:0.2:B: expected color:0.2 (the input alone) or color:0.2:AB"),
        ("rotate:15:AB", "rotate:15:AB: rotate is the same for input and target; write rotate:15"),
    ],
)
def test_wrong_words_are_named(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_augment(text)
    assert str(error.value).startswith(f"--augment {text}: ")
    assert message in str(error.value)


def test_words_have_intervals() -> None:
    augment = words("rotate:15, scale:0.9-1.1,color:.2:AB,noise:1e-2,blur:0.5-1,jpeg:60")
    assert augment.intervals == {
        "rotate": (-15, 15),
        "scale": (0.9, 1.1),
        "color": (-0.2, 0.2),
        "noise": (0, 0.01),
        "blur": (0.5, 1),
        "jpeg": (60, 100),
    }
    assert augment.both == {"color"}


def test_photometric_words_without_images_to_change_are_refused() -> None:
    labels = Sides(Side((Part("A", "labels", channels=9),)), Side.eight_bits("B"))
    with pytest.raises(
        UserError, match=r"noise changes the values of images.*only label maps; write noise with"
    ):
        check(words("noise:0.1"), labels)
    check(words("noise:0.1:AB"), labels)
    with pytest.raises(UserError, match=r"jpeg stores RGB and grey.*A has 5 channels of float32; remove it"):
        check(words("jpeg:50"), Sides(A=Side((values_part(TYPES["float32"], 5),))))
    check(words(EVERYTHING), Sides())


def test_a_warning_says_where_the_input_is_also_the_target(caplog: pytest.LogCaptureFixture) -> None:
    check(words("rotate:15,color:0.2"), Sides(), learns_input=True)
    assert not caplog.records
    check(words("noise:0.1,jpeg:60"), Sides(), learns_input=True)
    assert "--augment: noise and jpeg also change what the model learns to produce" in caplog.text


def create(dataroot: Path, *flags: object) -> Loader:
    argv = ["--dataroot", str(dataroot), "--model", "pix2pix", "--gpu_ids", "-1", *map(str, flags)]
    return create_loader(parse(TrainOptions, argv, MODELS, DATASETS), torch.device("cpu"))


def test_labels_images_and_masks_of_a_data_set_stay_aligned(tmp_path: Path) -> None:
    columns, rows = painted = coordinates(90, 110)
    for folder in ("trainA", "trainB", "trainM"):
        (tmp_path / folder).mkdir()
    for name in "12":
        Image.fromarray((rows // 9 * 13 + columns // 9).astype(np.uint8)).save(
            tmp_path / f"trainA/{name}.png"
        )
        np.save(tmp_path / f"trainB/{name}.npy", painted.transpose(1, 2, 0))
        Image.fromarray(columns.astype(np.uint8)).save(tmp_path / f"trainM/{name}.png")
    flags = ["--label_nc", 130, "--output_range", "0,128", "--output_nc", 2, "--mask", "true"]
    flags += ["--preprocess", "crop", "--crop_size", 64, "--num_threads", 0]
    loader = create(tmp_path, *flags, "--augment", "rotate:15,noise:0.1:AB")
    turned = 0
    for epoch in (1, 2, 3):
        for batch in loader.epoch(epoch):
            decision = loader.dataset.transform.decide(
                torch.from_numpy(painted), python_rng("augmentation", 0, epoch, int(batch.index))
            )
            assert decision.change is not None
            assert batch.B is not None
            assert batch.mask is not None
            assert batch.B.dtype == torch.float32
            assert (batch.A.shape[1], batch.mask.shape[1]) == (1, 1)
            x, y = loader.dataset.transform.apply(
                torch.from_numpy(painted),
                decision._replace(change=replace(decision.change, augment=words("rotate:15"))),
                "",
            ).numpy()
            noise = (batch.B[0].numpy() - [x, y]) / 128
            seen = (x > 1) & (x < 108) & (y > 1) & (y < 88)
            assert abs(noise[:, seen].mean()) < 0.03
            np.testing.assert_allclose(batch.mask[0, 0].numpy(), x, atol=0.51)
            sure = seen & (abs(x % 1 - 0.5) > 0.01) & (abs(y % 1 - 0.5) > 0.01)
            classes = np.rint(y) // 9 * 13 + np.rint(x) // 9
            np.testing.assert_array_equal(batch.A[0, 0].numpy()[sure], classes[sure])
            turned += abs(np.median(np.diff(x, axis=0))) > 0.02
    assert turned >= 4


@pytest.mark.parametrize("mode", ["aligned", "unaligned"])
def test_augmented_batches_depend_on_seed_epoch_and_index_alone(mode: str, tmp_path: Path) -> None:
    for i in range(6):
        for side in "AB":
            image(tmp_path / f"train{side}" / f"{i}.png", 24, 20, seed=i)
    flags = ["--dataset_mode", mode, "--load_size", 22, "--crop_size", 16, "--batch_size", 2]

    def epoch(loader: Loader, number: int, start: int = 0) -> list[Batch]:
        return list(loader.epoch(number, start))

    def same(one: list[Batch], other: list[Batch]) -> bool:
        pairs = zip(one, other, strict=True)
        return all(torch.equal(a.A, b.A) and torch.equal(a.B, b.B) for a, b in pairs)  # type: ignore[arg-type]

    augment = ["--augment", EVERYTHING]
    inline = create(tmp_path, *flags, *augment, "--num_threads", 0)
    parallel = create(tmp_path, *flags, *augment, "--num_threads", 2)
    cached = create(tmp_path, *flags, *augment, "--num_threads", 0, "--cache", "ram")
    first, second = epoch(inline, 1), epoch(inline, 2)
    assert not same(first, second)
    for other in (parallel, cached):
        assert same(epoch(other, 1), first)
        assert same(epoch(other, 2), second)
    assert same(epoch(inline, 2, 4), second[2:])  # as a resumed run reads it
    assert not same(first, epoch(create(tmp_path, *flags, *augment, "--num_threads", 0, "--seed", 1), 1))
    assert not same(first, epoch(create(tmp_path, *flags, "--num_threads", 0), 1))
    overfit = create(tmp_path, *flags, *augment, "--num_threads", 0, "--overfit", 4)
    assert same(epoch(overfit, 1), epoch(overfit, 2))
    if mode == "aligned":
        plain = create(tmp_path, *flags, "--augment", "color:0.5", "--num_threads", 0)
        targets = [batch.B for batch in epoch(create(tmp_path, *flags, "--num_threads", 0), 1)]
        for batch, target in zip(epoch(plain, 1), targets, strict=True):
            assert torch.equal(batch.B, target)  # type: ignore[arg-type]
            assert not torch.equal(batch.A, target)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", sorted(set(DATASETS.names()) - {"latent"}))
def test_every_data_set_is_augmented(mode: str, tmp_path: Path) -> None:
    DATASETS.get(mode).make_example(tmp_path)
    flags = ["--dataset_mode", mode, "--load_size", 22, "--crop_size", 16, "--num_threads", 0]
    if mode == "colorization":
        flags += ["--model", "colorization"]
    plain, moved, colored = (
        next(create(tmp_path, *flags, "--augment", words).epoch(1))
        for words in ("none", "rotate:15,shift:0.2", "color:0.5,noise:0.1")
    )
    for changed in (moved, colored):
        assert changed.A.shape == plain.A.shape
        assert not torch.equal(changed.A, plain.A)
    if plain.B is not None:
        assert not torch.equal(moved.B, plain.B)
        assert mode in ("unaligned", "style") or torch.equal(colored.B, plain.B)


def test_a_data_set_that_does_not_say_what_images_hold_refuses_to_change_values() -> None:
    scaled = torch.zeros(3, 20, 20, dtype=torch.uint8)
    transform = Transform("none", 0, 0, flip=False, augment=words("rotate:15,noise:0.1"))
    with pytest.raises(UserError, match=r"noise needs to know what images hold.*BaseDataset.prepare"):
        transform.apply(scaled, transform.decide(scaled, python_rng("own")), "p")
