"""Image data of every kind through train.py, a resume and test.py, with a generator that changes nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

import data
import test as test_command
import train as train_command
from tests.support import identity_model
from util import formats
from util.errors import UserError

IDENTITY = Path(identity_model.__file__)

RNG = np.random.default_rng(0)
KINDS: dict[str, tuple[str, NDArray[Any], str]] = {
    "16-bit grey": ("png", RNG.integers(0, 65536, (1, 24, 20)).astype(np.uint16), "full"),
    "16-bit RGB": ("tif", RNG.integers(0, 65536, (3, 24, 20)).astype(np.uint16), "0,65535"),
    "float32": ("npy", RNG.uniform(-1000, 3000, (1, 24, 20)).astype(np.float32), "-1000,3000"),
    "5 bands": ("tif", RNG.uniform(-2, 2, (5, 24, 20)).astype(np.float32), "percentile:0"),
    "int16": ("npy", RNG.integers(-32768, 32768, (2, 24, 20)).astype(np.int16), "full"),
}


def flags_of(root: Path, channels: int, text: str) -> list[str]:
    """Return the flags of both commands, then those of train.py, which test.py takes from the run."""
    flags = ["--dataroot", str(root), "--name", "run", "--checkpoints_dir", str(root / "ck")]
    flags += [
        "--gpu_ids",
        "-1",
        "--model",
        str(IDENTITY),
        "--dataset_mode",
        "aligned",
        "--preprocess",
        "none",
    ]
    ranges = ["--input_range", text, "--output_range", text]
    return [*flags, "--num_threads", "0", "--input_nc", str(channels), "--output_nc", str(channels), *ranges]


@pytest.mark.parametrize("kind", KINDS)
def test_an_identity_gives_back_the_values_of_the_files(kind: str, tmp_path: Path) -> None:
    ending, image, text = KINDS[kind]
    for folder in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            formats.write(tmp_path / folder / f"{number}.{ending}", np.roll(image, number, 2))
    flags = flags_of(tmp_path, len(image), text)
    train = [*flags, "--n_epochs_decay", "0", "--no_flip"]
    assert train_command.main([*train, "--n_epochs", "1"]) == 0
    assert train_command.main([*train, "--n_epochs", "2", "--continue_train"]) == 0
    assert test_command.main([*flags[:14], "--results_dir", str(tmp_path / "results")]) == 0
    results = tmp_path / "results" / "run" / "test_latest"
    for number in range(2):
        result = formats.read(str(results / "native" / f"{number}_fake_B.tif"))
        expected = np.roll(image, number, 2)
        assert result.dtype == image.dtype
        tolerance = 0 if image.dtype.kind in "ui" else 1e-6 * float(np.ptp(image))
        np.testing.assert_allclose(result.astype(float), expected.astype(float), atol=tolerance)
    mean = json.loads((results / "metrics.json").read_text())["mean"]
    assert mean["mae"] <= 1e-6 * float(np.ptp(image.astype(float)))
    assert ("mae[1]" in mean) == (len(image) > 3)


def test_a_large_scene_is_translated_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.add.outer(np.arange(300), np.arange(200) * 100).astype(np.uint16)[None]
    for folder in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            with rasterio.open(
                tmp_path / folder / f"{name}.tif",
                "w",
                driver="GTiff",
                height=300,
                width=200,
                count=1,
                dtype="uint16",
                crs="EPSG:32633",
                transform=from_origin(500_000, 5_500_000, 10, 10),
            ) as file:
                file.write(image)
    flags = flags_of(tmp_path, 1, "full")
    assert train_command.main([*flags, "--n_epochs", "1", "--n_epochs_decay", "0"]) == 0
    monkeypatch.setattr(data, "SCENE_PIXELS", 1000)
    test = [*flags[:14], "--results_dir", str(tmp_path / "results"), "--tile", "64"]
    assert test_command.main(test) == 0
    native = tmp_path / "results" / "run" / "test_latest" / "native"
    assert sorted(path.name for path in native.iterdir()) == ["a_fake_B.tif", "b_fake_B.tif"]
    with rasterio.open(native / "a_fake_B.tif") as file:
        np.testing.assert_allclose(file.read().astype(int), image.astype(int), atol=1)
        assert file.crs.to_epsg() == 32633 and file.transform == from_origin(500_000, 5_500_000, 10, 10)
    preview = formats.read(str(native.parent / "images" / "a_fake_B.png"))
    assert preview.shape == (3, 300, 200)
    with pytest.raises(UserError, match=r"--format npy: .*a\.tif has 200 x 300 pixels; .*--format tif"):
        test_command.main([*test, "--format", "npy"])
    assert len(list(native.iterdir())) == 2
