"""Images of any type and number of channels, label maps, instance maps and masks, from file to batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data import DATASETS, create_loader
from data.loader import Loader
from data.sides import with_sides
from data.transforms import Transform
from models import MODELS
from options.file_options import FileOptions
from options.parse import parse, save
from options.test_options import TestOptions
from options.train_options import TrainOptions
from util import formats
from util.batch import Batch
from util.errors import UserError
from util.image_io import BadImage
from util.parts import Part, Side, Values, edges

CPU = torch.device("cpu")
SIDE = 16


def write(path: Path, image: NDArray[Any]) -> None:
    """Write an array (C, H, W) as .npy, or (H, W) or (H, W, 3) as an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, image)
    else:
        Image.fromarray(image).save(path)


def fill(folder: Path, make: Callable[[np.random.Generator], NDArray[Any]], ending: str = ".npy") -> None:
    rng = np.random.default_rng(len(str(folder.name)))
    for number in range(3):
        write(folder / f"{number}{ending}", make(rng))


def uint16(rng: np.random.Generator) -> NDArray[Any]:
    return rng.integers(0, 65536, (SIDE, SIDE)).astype(np.uint16)


def float_bands(rng: np.random.Generator) -> NDArray[Any]:
    return rng.uniform(-1000, 3000, (5, SIDE, SIDE)).astype(np.float32)


def int16_bands(rng: np.random.Generator) -> NDArray[Any]:
    return rng.integers(-300, 300, (2, SIDE, SIDE)).astype(np.int16)


def grey(rng: np.random.Generator) -> NDArray[Any]:
    return rng.integers(0, 256, (SIDE, SIDE)).astype(np.uint8)


def options_for(root: Path, *flags: str, mode: str = "aligned", kind: Any = TrainOptions) -> Any:
    size = [] if "--load_size" in flags or "--preprocess" in flags else ["--preprocess", "none"]
    common = [
        "--dataroot",
        str(root),
        "--gpu_ids",
        "-1",
        "--num_threads",
        "0",
        "--no_flip",
        "--serial_batches",
    ]
    common += ["--dataset_mode", mode, "--checkpoints_dir", str(root / "runs"), "--model", "pix2pix"]
    return parse(kind, [*common, *size, *flags], MODELS, DATASETS)


def loader_for(root: Path, *flags: str, mode: str = "aligned", kind: Any = TrainOptions) -> Loader:
    return create_loader(options_for(root, *flags, mode=mode, kind=kind), CPU)


def first(loader: Loader) -> Batch:
    return next(iter(loader.epoch(1)))


NATIVE = ["--input_nc", "5", "--output_nc", "1", "--input_range", "-1000,3000", "--output_range", "full"]


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """Five float32 bands as A and 16-bit grey as B."""
    fill(tmp_path / "trainA", float_bands)
    fill(tmp_path / "trainB", uint16, ".png")
    return tmp_path


@pytest.mark.parametrize("cache", ["none", "ram", "disk"])
def test_values_reach_the_device_as_they_are_in_the_file(native: Path, cache: str) -> None:
    loader = loader_for(native, *NATIVE, "--cache", cache, "--cache_dir", str(native / "cache"))
    for epoch in (1, 2):
        for batch, name in zip(loader.epoch(epoch), ("0", "1", "2"), strict=True):
            A, B = (
                np.load(native / "trainA" / f"{name}.npy"),
                np.asarray(Image.open(native / f"trainB/{name}.png")),
            )
            assert batch.B is not None
            assert (batch.A.dtype, batch.B.dtype) == (torch.float32, torch.uint16)
            np.testing.assert_array_equal(batch.A[0].numpy(), A)
            np.testing.assert_array_equal(batch.B[0, 0].numpy(), B)
            moved = batch.to(CPU)
            assert moved.A.dtype == torch.float32 and moved.A.abs().max() <= 1
            units_A, units_B = batch.sides.A.in_units(moved.A), batch.sides.B.in_units(moved.B)
            np.testing.assert_allclose(units_A[0].numpy(), A, atol=1e-6 * 4000)
            np.testing.assert_allclose(units_B[0, 0].numpy(), B, atol=0.01)


def test_scaling_is_antialiased_in_floating_point_and_keeps_the_type(native: Path) -> None:
    batch = first(loader_for(native, *NATIVE, "--load_size", "8", "--crop_size", "8"))
    assert batch.B is not None and batch.B.dtype == torch.uint16
    image = Image.open(native / "trainB/0.png")
    expected = Image.fromarray(np.asarray(image).astype(np.float32)).resize((8, 8), Image.Resampling.BICUBIC)
    clipped = np.clip(np.asarray(expected), 0, 65535)
    np.testing.assert_allclose(batch.B[0, 0].to(torch.float32).numpy(), clipped, atol=1)
    exact = first(loader_for(native, *NATIVE, "--load_size", "8", "--crop_size", "8", "--exact_resize"))
    np.testing.assert_array_equal(exact.B[0, 0].numpy(), np.rint(clipped).astype(np.uint16))  # type: ignore[index]


def test_class_numbers_are_scaled_as_by_pillow() -> None:
    labels = np.random.default_rng(0).integers(0, 9, (13, 29)).astype(np.uint8)
    part = Part("A", "labels", channels=9)
    for size in (7, 40):
        scaled = Transform("resize_and_crop", size, size, flip=False).scale_values(labels[None], part)
        expected = Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(scaled[0].numpy(), np.asarray(expected))


def test_bands_are_chosen_in_order(native: Path) -> None:
    flags = [*NATIVE[2:], "--input_nc", "3", "--input_bands", "4,3,2"]
    batch = first(loader_for(native, *flags))
    np.testing.assert_array_equal(batch.A[0].numpy(), np.load(native / "trainA/0.npy")[[3, 2, 1]])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--input_nc", "4"],
            r"0\.npy: has 5 channels, not 4: use --input_nc 5, or choose 4",
        ),
        (
            ["--input_nc", "1", "--input_bands", "6"],
            r"has 5 channels; --input_bands asks for number 6",
        ),
        (["--input_nc", "2", "--input_bands", "1"], "--input_nc 2: the input has 1 channels"),
        (["--input_nc", "5", "--input_range", "3,3"], "--input_range 3,3: expected 8bit, full, LO,HI"),
        (
            ["--input_nc", "5", "--input_range", "full"],
            r"0\.npy: values from -.* full expects",
        ),
        (["--input_nc", "5", "--input_range", "percentile:50"], "expected a percentage from 0 to below 50"),
        (["--input_nc", "5", "--input_range", "A7:full"], "there is no part A7 of the input"),
        (["--inputs", "A1,A2", "--input_range", "full,A7:0,1"], "there is no part A7 of the input, only A1,"),
        (
            ["--input_nc", "4", "--input_range", "8bit"],
            "no images in it .*--input_range and --output_range",
        ),
    ],
)
def test_flags_that_do_not_fit_the_files_are_named(native: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        first(loader_for(native, *NATIVE[2:], *flags))


def test_values_of_all_parts_may_be_given_to_runs_that_use_some() -> None:
    files = FileOptions(inputs="A1", input_range="A1:full,A2:labels", input_bands="A1:2,A2:1,3")
    assert not files.holds_classes("input")


def test_channels_of_one_named_folder_are_counted(native: Path) -> None:
    options = options_for(
        native, *NATIVE[2:], "--inputs", "A", "--outputs", "B", "--input_range", "percentile:1"
    )
    counted = with_sides(options, create_loader(options, CPU).dataset.sides)
    assert counted.network.input_nc == 5


def test_8bit_images_have_one_or_three_channels(tmp_path: Path) -> None:
    fill(tmp_path / "train", lambda rng: rng.integers(0, 256, (8, 16, 3)).astype(np.uint8), ".png")
    with pytest.raises(UserError, match=r"--input_nc 4: .*--input_range full reads all channels"):
        loader_for(tmp_path, "--input_nc", "4")


def test_files_are_converted_to_one_type_without_loss(tmp_path: Path) -> None:
    fill(tmp_path / "trainA", uint16, ".png")
    fill(tmp_path / "trainB", grey, ".png")
    write(tmp_path / "trainA/0.png", np.full((SIDE, SIDE), 200, np.uint8))
    flags = ["--input_nc", "1", "--output_nc", "1", "--output_range", "full"]
    assert first(loader_for(tmp_path, *flags, "--input_range", "full")).A.unique().item() == 200 * 257
    assert first(loader_for(tmp_path, *flags, "--input_range", "0,4095")).A.unique().item() == 200
    write(tmp_path / "testA/0.npy", np.full((SIDE, SIDE), 0.5, np.float32))
    write(tmp_path / "testB/0.npy", np.full((SIDE, SIDE), 7, np.int16))
    known = {"A": {"range": "0,9", "channels": 1, "dtype": "uint16", "low": 0, "high": 9}}
    flags += ["--input_range", "0,9", "--value_ranges", json.dumps(known), "--phase", "test"]
    with pytest.raises(UserError, match=r"0\.npy: its values are float32, those of other files of A uint16"):
        first(loader_for(tmp_path, *flags))


def test_floating_point_beyond_1_is_named_under_full_among_integers(tmp_path: Path) -> None:
    fill(tmp_path / "trainA", grey, ".png")
    fill(tmp_path / "trainB", grey, ".png")
    write(tmp_path / "trainA/0.npy", np.full((SIDE, SIDE), 200, np.float32))
    (tmp_path / "trainA/0.png").unlink()
    known = {"A": {"range": "full", "channels": 1, "dtype": "uint8", "low": 0, "high": 255}}
    flags = ["--input_nc", "1", "--output_nc", "1", "--output_range", "full", "--input_range", "full"]
    with pytest.raises(UserError, match=r"0\.npy: values from 200 to 200, but --input_range full expects"):
        first(loader_for(tmp_path, *flags, "--value_ranges", json.dumps(known)))


def test_nan_is_an_error_that_names_file_and_count_or_replaced(native: Path) -> None:
    bands = np.load(native / "trainA/0.npy")
    bands[1, 2:4, 5], bands[0, 0, 0] = np.nan, np.inf
    np.save(native / "trainA/0.npy", bands)
    with pytest.raises(UserError, match=r"0\.npy: 3 of its 1280 values are NaN or infinite; .*--nan_value"):
        first(loader_for(native, *NATIVE))
    image = first(loader_for(native, *NATIVE, "--nan_value", "-7")).A[0]
    assert image[1, 2, 5] == image[0, 0, 0] == -7 and (image == -7).sum() == 3
    loader = loader_for(native, *NATIVE, "--nan_value", "-9999", "--input_range", "percentile:0")
    assert loader.dataset.sides.A.parts[0].values.low > -1000


def test_values_outside_of_the_interval_are_counted_and_clipped(
    native: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("util.remarks._shown", set())
    batches = list(loader_for(native, *NATIVE, "--input_range", "0,1000").epoch(1))
    outside = np.load(native / "trainA/0.npy")
    count = int(((outside < 0) | (outside > 1000)).sum())
    (line,) = [record.message for record in caplog.records if "outside" in record.message]
    assert f"0.npy: {count} of its 1280 values" in line and "--input_range 0,1000" in line
    assert batches[0].to(CPU).A.abs().max() == 1


def test_percentiles_are_measured_once_and_recorded_with_the_run(
    native: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = ["--input_nc", "5", "--output_nc", "1", "--input_range", "percentile:2", "--output_range", "full"]
    options = options_for(native, *flags)
    loader = create_loader(options, CPU)
    values = np.stack([np.load(path) for path in sorted((native / "trainA").iterdir())])
    part = loader.dataset.sides.A.parts[0]
    np.testing.assert_allclose((part.values.low, part.values.high), np.percentile(values, (2, 98)), rtol=1e-6)
    save(with_sides(options, loader.dataset.sides))
    for phase_folder in ("testA", "testB"):
        (native / phase_folder).symlink_to(native / phase_folder.replace("test", "train"))
    np.save(native / "trainA/1.npy", np.zeros((5, SIDE, SIDE), np.float32))
    tested = loader_for(native, kind=TestOptions).dataset
    resumed = loader_for(native, *flags, "--continue_train").dataset
    assert tested.sides == resumed.sides == loader.dataset.sides
    with pytest.raises(UserError, match="--input_range percentile:3: percentiles are measured in training"):
        loader_for(native, "--input_range", "percentile:3", kind=TestOptions)
    loader_for(native, "--input_range", "0,9", kind=TestOptions)
    assert "--input_range 0,9: the run was trained with percentile:2" in caplog.text


def test_pixels_without_data_are_left_out_of_percentiles(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    for place in ("trainA", "trainB"):
        (tmp_path / place).mkdir()
        profile = {"height": SIDE, "width": SIDE, "count": 1, "dtype": "float32", "nodata": -9999}
        profile |= {"crs": "EPSG:32633", "transform": from_origin(5e5, 5e6, 10, 10)}
        with rasterio.open(tmp_path / place / "dem.tif", "w", driver="GTiff", **profile) as file:
            heights = np.linspace(100, 900, SIDE * SIDE, dtype=np.float32).reshape(1, SIDE, SIDE)
            heights[:, :4] = -9999
            file.write(heights)
    flags = ["--input_nc", "1", "--output_nc", "1", "--input_range", "percentile:0"]
    sides = loader_for(tmp_path, *flags, "--output_range", "0,1000").dataset.sides
    assert 200 < sides.A.parts[0].values.low < 400 and sides.A.parts[0].values.high == 900


def test_both_halves_of_a_file_keep_their_values(tmp_path: Path) -> None:
    both = np.random.default_rng(0).integers(0, 4096, (SIDE, 2 * SIDE)).astype(np.uint16)
    write(tmp_path / "train/0.png", both)
    flags = ["--input_nc", "1", "--output_nc", "1", "--input_range", "0,4095", "--output_range", "full"]
    batch = first(loader_for(tmp_path, *flags, "--direction", "BtoA", "--cache", "ram"))
    assert batch.B is not None
    np.testing.assert_array_equal(batch.A[0, 0].numpy(), both[:, SIDE:])
    np.testing.assert_array_equal(batch.B[0, 0].numpy(), both[:, :SIDE])


def test_several_inputs_are_joined_by_name(tmp_path: Path) -> None:
    fill(tmp_path / "trainA1", grey, ".png")
    fill(tmp_path / "trainA2", int16_bands)
    fill(tmp_path / "trainB1", uint16, ".png")
    ranges = tmp_path / "ranges.json"
    ranges.write_text(json.dumps({"A1": "full", "A2": [-300, 300]}))
    flags = [
        "--inputs",
        "A1,A2",
        "--outputs",
        "B1",
        "--input_nc",
        "3",
        "--output_nc",
        "1",
        "--output_range",
        "full",
    ]
    for text in ("A1:full,A2:-300,300", str(ranges)):
        loader = loader_for(tmp_path, *flags, "--input_range", text)
        batch = first(loader)
        np.testing.assert_array_equal(
            batch.A[0, 0].numpy(), np.asarray(Image.open(tmp_path / "trainA1/0.png"))
        )
        np.testing.assert_array_equal(batch.A[0, 1:].numpy(), np.load(tmp_path / "trainA2/0.npy"))
        options = with_sides(options_for(tmp_path, *flags, "--input_range", text), loader.dataset.sides)
        assert options.files.input_range == "A1:full,A2:-300,300"
        names = [(part.name, image.shape[1]) for part, image in batch.sides.A.split(batch.to(CPU).A)]
        assert names == [("A1", 1), ("A2", 2)]
    unpaired = first(loader_for(tmp_path, *flags, "--input_range", "full", mode="unaligned"))
    assert unpaired.A.shape[1] == 3
    with pytest.raises(UserError, match=r"--input_nc 1: the input has 3 channels \(1 of A1 \+ 2 of A2\)"):
        loader_for(tmp_path, *flags, "--input_range", "full", "--input_nc", "1")
    # Without --input_nc, there are as many channels as the parts have.
    options = options_for(
        tmp_path, *flags[:4], *flags[6:], "--input_range", "full", "--input_bands", "A2:2,2,1"
    )
    network = with_sides(options, create_loader(options, CPU).dataset.sides).network
    assert (options.network.input_nc, network.input_nc, network.output_nc) == (3, 4, 1)
    (tmp_path / "trainA2/1.npy").unlink()
    with pytest.raises(UserError, match=r"1 images are in only some of .*trainA1 and .*trainA2.*such as 1"):
        loader_for(tmp_path, *flags, "--input_range", "full")


def labels(rng: np.random.Generator) -> NDArray[Any]:
    return rng.integers(0, 5, (SIDE, SIDE)).astype(np.uint8)


def test_label_maps_become_one_hot(tmp_path: Path) -> None:
    fill(tmp_path / "trainA", labels, ".png")
    fill(tmp_path / "trainB", grey, ".png")
    numbers = np.asarray(Image.open(tmp_path / "trainA/0.png")).copy()
    numbers[3, 4] = 255
    write(tmp_path / "trainA/0.png", numbers)
    flags = ["--label_nc", "5", "--output_nc", "1"]
    with pytest.raises(UserError, match=r"0\.png: class number 255 at \(4, 3\).* outside of 0 to 4: raise"):
        first(loader_for(tmp_path, *flags))
    options = options_for(tmp_path, *flags, "--label_ignore", "255")
    loader = create_loader(options, CPU)
    assert with_sides(options, loader.dataset.sides).network.input_nc == 5
    one_hot = first(loader).to(CPU).A[0]
    expected = torch.nn.functional.one_hot(torch.from_numpy(np.where(numbers == 255, 5, numbers)).long(), 6)
    assert torch.equal(one_hot, expected[..., :5].permute(2, 0, 1).float())
    palette = Image.fromarray(numbers).convert("P")
    palette.putdata([int(number) for number in np.where(numbers == 255, 1, numbers).ravel()])
    palette.save(tmp_path / "trainA/0.png")
    assert first(loader_for(tmp_path, *flags)).A[0, 0, 3, 4] == 1
    with pytest.raises(UserError, match="--label_nc 5: --dataset_mode style reads RGB or grey"):
        loader_for(tmp_path, *flags, mode="style")


COLORS = [(0, 0, 170), (255, 85, 0), (0, 255, 255)]


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_colours_become_class_numbers(tmp_path: Path, ending: str) -> None:
    numbers = np.repeat(np.arange(3), 8)[None].repeat(24, 0)
    write(tmp_path / f"trainA/0{ending}", np.array(COLORS, np.uint8)[numbers])
    write(tmp_path / "trainB/0.png", np.zeros((24, 24), np.uint8))
    (tmp_path / "colors.txt").write_text("# class colours\n0 0 170 wall\n255,85,0\n\n0 255 255 sky\n")
    flags = ["--label_nc", "3", "--output_nc", "1", "--label_colors", str(tmp_path / "colors.txt")]
    batch = first(loader_for(tmp_path, *flags))
    wrong = (batch.A[0, 0].numpy() != numbers).mean()
    assert wrong == 0 if ending == ".png" else wrong < 0.1
    assert batch.sides.A.parts[0].colors == tuple(COLORS)
    if ending == ".png":
        write(tmp_path / "trainA/0.png", np.full((24, 24, 3), 9, np.uint8))
        with pytest.raises(UserError, match=r"0\.png: the colour 9 9 9 at \(0, 0\) is not among the 3 of"):
            first(loader_for(tmp_path, *flags))
    (tmp_path / "colors.txt").write_text("0 0 red\n")
    with pytest.raises(UserError, match=r"--label_colors .*: line 1 is '0 0 red'; expected three numbers"):
        loader_for(tmp_path, *flags)


def test_the_layout_of_pix2pixhd_with_instances_above_32767(tmp_path: Path) -> None:
    instances = np.zeros((SIDE, SIDE), np.uint16)
    instances[4:9, 5:] = 40000
    for number in range(2):
        write(tmp_path / f"train_label/city_{number}_labelIds.png", labels(np.random.default_rng(number)))
        write(tmp_path / f"train_inst/city_{number}_instanceIds.png", instances)
        write(tmp_path / f"train_img/city_{number}.png", np.full((SIDE, SIDE, 3), 50 * number, np.uint8))
    options = options_for(tmp_path, "--label_nc", "5")
    loader = create_loader(options, CPU)
    assert with_sides(options, loader.dataset.sides).network.input_nc == 6
    batch = first(loader).to(CPU)
    assert batch.B is not None and batch.B.unique().item() == -1
    different = np.zeros((SIDE, SIDE), bool)
    padded = np.pad(instances, 1, mode="edge")
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        different |= padded[dy : dy + SIDE, dx : dx + SIDE] != instances
    np.testing.assert_array_equal(batch.A[0, 5].numpy(), different)
    plain = loader_for(tmp_path, "--label_nc", "5", "--no_instance")
    assert torch.equal(first(plain).to(CPU).A, batch.A[:, :5])
    # Where some names are the same, a neighbour in the order is no partner.
    for number, name in enumerate(("city_0_labelIds", "city_2_labelIds")):
        (tmp_path / f"train_img/city_{number}.png").rename(tmp_path / f"train_img/{name}.png")
    with pytest.raises(UserError, match=r"2 images are in only one of .*city_1_labelIds, city_2_labelIds"):
        loader_for(tmp_path, "--label_nc", "5", "--no_instance")
    (tmp_path / "train_img/city_2_labelIds.png").unlink()
    (tmp_path / "train_img/city_0_labelIds.png").rename(tmp_path / "train_img/city_0.png")
    with pytest.raises(UserError, match=r"train_label has 2, .*train_img has 1 images"):
        loader_for(tmp_path, "--label_nc", "5")


def test_a_part_may_have_the_name_of_the_folder_of_masks(tmp_path: Path) -> None:
    for folder in ("trainA", "trainM"):
        fill(tmp_path / folder, grey, ".png")
    flags = ("--inputs", "A,M", "--outputs", "A", "--output_nc", "1", "--input_range", "A:8bit,M:full")
    assert [part.kind for part in loader_for(tmp_path, *flags).dataset.sides.A.parts] == ["8bit", "values"]


def test_masks_are_cropped_and_flipped_with_their_pair(tmp_path: Path) -> None:
    for folder in ("trainA", "trainB", "trainM"):
        fill(tmp_path / folder, grey, ".png")
    for number in range(3):  # all three are one image
        for folder in ("trainA", "trainB"):
            (tmp_path / folder / f"{number}.png").write_bytes(
                (tmp_path / f"trainM/{number}.png").read_bytes()
            )
    flags = [
        "--input_nc",
        "1",
        "--output_nc",
        "1",
        "--mask",
        "--load_size",
        "20",
        "--crop_size",
        "8",
        "--batch_size",
        "3",
    ]
    batch = next(iter(loader_for(tmp_path, *flags, "--no_flip", "false").epoch(1)))
    assert batch.mask is not None and torch.equal(batch.mask, batch.A)
    assert torch.equal(batch.to(CPU).mask, batch.A / 255)  # type: ignore[arg-type]
    assert torch.equal(batch.select(slice(1, 2)).mask, batch.mask[1:2])  # type: ignore[arg-type]
    (tmp_path / "trainM/1.png").unlink()
    with pytest.raises(UserError, match=r"--mask: 1 images have no mask of the same name in .*M, such as 1"):
        loader_for(tmp_path, *flags)
    with pytest.raises(UserError, match="--mask: --dataset_mode unaligned has no masks"):
        loader_for(tmp_path, *flags, mode="unaligned")


def test_masks_of_zeros_and_ones_are_full_weights(tmp_path: Path) -> None:
    for folder in ("trainA", "trainB"):
        fill(tmp_path / folder, uint16)
    fill(tmp_path / "trainM", lambda rng: np.eye(SIDE, dtype=np.uint8))
    flags = [
        "--input_nc",
        "1",
        "--output_nc",
        "1",
        "--input_range",
        "full",
        "--output_range",
        "full",
        "--mask",
    ]
    mask = first(loader_for(tmp_path, *flags)).to(CPU).mask
    assert mask is not None and torch.equal(mask[0, 0], torch.eye(SIDE))


def test_boxes_say_where_samples_are_in_their_files(native: Path) -> None:
    for folder in ("testA", "testB"):
        (native / folder).symlink_to(native / folder.replace("test", "train"))
    flags = [*NATIVE, "--preprocess", "resize_and_crop", "--load_size", "32", "--crop_size", "24"]
    loader = loader_for(native, *flags, kind=TestOptions)
    left, top, right, bottom = first(loader).boxes[0]
    assert (right - left, bottom - top) == (12, 12) and 0 <= left <= 4 and 0 <= top <= 4
    assert first(loader_for(native, *NATIVE)).boxes == []


def test_images_of_one_folder_keep_their_channels(tmp_path: Path) -> None:
    fill(tmp_path, int16_bands)
    flags = ["--input_nc", "2", "--input_range", "full"]
    for mode in ("single", "images"):
        batch = first(loader_for(tmp_path, *flags, mode=mode))
        np.testing.assert_array_equal(batch.A[0].numpy(), np.load(tmp_path / "0.npy"))


def test_outputs_without_files_are_those_recorded_with_the_run(tmp_path: Path) -> None:
    fill(tmp_path, int16_bands)
    flags = ["--input_nc", "2", "--input_range", "full", "--outputs", "B1,B2", "--output_nc", "3"]
    record = {
        name: {"range": "8bit", "channels": channels, "dtype": "uint8", "low": 0, "high": 255}
        for name, channels in (("B1", 1), ("B2", 2))
    }
    given = ["--value_ranges", json.dumps(record)]
    loader = loader_for(tmp_path, *flags, *given, mode="single", kind=TestOptions)
    assert [(part.name, part.channels) for part in loader.dataset.sides.of("fake").parts] == [
        ("B1", 1),
        ("B2", 2),
    ]
    with pytest.raises(UserError, match="--outputs B1,B2: what B1 holds is not known"):
        loader_for(tmp_path, *flags, mode="single", kind=TestOptions)


def test_parts_travel_in_a_type_that_holds_all_their_values() -> None:
    parts = [Part(name, "values", channels=1, values=Values(name)) for name in ("uint8", "uint16", "int16")]
    assert Side((parts[0], parts[1])).dtype == np.uint16
    assert Side((parts[1], parts[2])).dtype == np.float32


def test_edges_are_between_different_numbers_only() -> None:
    numbers = torch.tensor([[1, 1, 2], [1, 1, 2]]).view(1, 1, 2, 3)
    assert edges(numbers).int().tolist() == [[[[0, 1, 1], [0, 1, 1]]]]


def test_lower_precision_keeps_16_bits_until_the_last_step() -> None:
    side = Side((Part("A", "values", channels=1, values=Values("uint16", 30000.0, 30010.0)),))
    stored = torch.arange(30000, 30011).to(torch.uint16).view(1, 1, 1, -1)
    expected: Tensor = torch.linspace(-1, 1, 11)
    assert torch.allclose(side.encode(stored, torch.bfloat16).flatten().float(), expected, atol=4e-3)


def test_broken_native_files_are_replaced_or_named(native: Path) -> None:
    (native / "trainA/0.npy").write_bytes(b"\x93NUMPY broken")
    assert first(loader_for(native, *NATIVE)).paths_A[0].endswith("1.npy")
    with pytest.raises(BadImage, match=r"0\.npy"):
        first(loader_for(native, *NATIVE, "--bad_images", "error"))


@pytest.mark.parametrize("augment", ["none", "rotate:15,scale:0.8-1.2,shift:0.1,vflip,rot90"])
def test_only_the_crop_of_a_large_image_is_read(
    native: Path, augment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*NATIVE, "--augment", augment, "--preprocess", "crop", "--crop_size", "4", "--no_flip", "false"]
    whole = loader_for(native, *flags)
    whole.dataset.unread_pixels = 0
    parts = loader_for(native, *flags)
    windows = []
    read = formats.read

    def spied(path: str, window: formats.Window | None = None) -> NDArray[Any]:
        windows.append((Path(path).suffix, window))
        return read(path, window)

    monkeypatch.setattr(formats, "read", spied)
    for expected, batch in zip(whole.epoch(3), list(parts.epoch(3)), strict=True):
        assert torch.equal(expected.A, batch.A)
        assert expected.B is not None and batch.B is not None and torch.equal(expected.B, batch.B)
    sizes = {
        (right - left, bottom - top)
        for _, window in windows[:6]
        if window
        for left, top, right, bottom in [window]
    }
    assert sizes == {(4, 4)} if augment == "none" else max(map(max, sizes)) <= 12
    assert {suffix for suffix, window in windows[:6] if window} == {".npy"}


def test_a_sample_too_large_for_memory_is_read_in_parts(
    native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("testA", "testB"):
        (native / folder).symlink_to(native / folder.replace("test", "train"))
    monkeypatch.setattr("data.SCENE_PIXELS", SIDE * SIDE - 1)
    loader = loader_for(native, *NATIVE, "--tile", "256", "--batch_size", "3", kind=TestOptions)
    batches = list(loader.epoch(0))
    assert [batch.index.tolist() for batch in batches] == [[0], [1], [2]]
    scene = batches[1].scene
    assert (
        scene is not None
        and (scene.height, scene.width) == (SIDE, SIDE)
        and batches[1].A.shape == (1, 5, 0, 0)
    )
    A, B = scene.read(2, 3, 10, 5)
    np.testing.assert_array_equal(A.numpy(), np.load(native / "trainA/1.npy")[:, 3:5, 2:10])
    assert B is not None and B.shape == (1, 2, 8)
