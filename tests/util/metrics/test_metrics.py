"""Metrics against scikit-image and published values, their files, and two folders."""

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from tests.support.environment import ROOT
from util import distributed
from util.errors import UserError
from util.image_io import read_image
from util.metrics import __main__ as compare_folders
from util.metrics.images import l1, mae, psnr, rmse, ssim
from util.metrics.measure import Metrics
from util.metrics.names import METRICS, parse_names
from util.metrics.summary import Summary, write_summary

PUBLISHED = ROOT.parent / "shared" / "data" / "metrics"
needs_published = pytest.mark.skipif(not PUBLISHED.exists(), reason="needs the images with published values")


def image(levels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(levels)).permute(2, 0, 1)[None]


def noisy(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return an image with smooth parts, edges and noise."""
    y, x = np.mgrid[:height, :width]
    shades = np.sin(x / 7)[..., None] * rng.uniform(20, 90, 3) + (y > height / 2)[..., None] * 60
    return (
        (128 + shades + rng.normal(0, rng.uniform(0, 30), (height, width, 3))).clip(0, 255).astype(np.uint8)
    )


def test_psnr_and_ssim_equal_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for case in range(50):
        height, width = rng.integers(11, 80, 2)
        real = noisy(rng, height, width)
        fake = (real + rng.normal(0, rng.uniform(1, 40), real.shape)).clip(0, 255).astype(np.uint8)
        # Strips of a few rows in every other case must not change the value.
        monkeypatch.setattr("util.metrics.images.STRIP_PIXELS", 1 << 16 if case % 2 else 1)
        expected = structural_similarity(
            fake, real, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert ssim(image(fake), image(real)).item() == pytest.approx(expected, abs=1e-6)
        expected = peak_signal_noise_ratio(real, fake)
        assert psnr(image(fake), image(real)).item() == pytest.approx(expected, rel=1e-9)
        expected = np.abs(fake.astype(float) - real).mean() / 127.5
        assert l1(image(fake), image(real)).item() == pytest.approx(expected, rel=1e-9)
        assert mae(image(fake), image(real)).item() == pytest.approx(expected * 127.5, rel=1e-9)
        expected = np.sqrt(mean_squared_error(fake, real))
        assert rmse(image(fake), image(real)).item() == pytest.approx(expected, rel=1e-9)


def test_values_are_independent_of_the_batch() -> None:
    fake, real = torch.randint(256, (2, 3, 3, 20, 20), dtype=torch.uint8)
    names = [name for name, metric in METRICS.items() if not metric.network]
    batched = Metrics(METRICS).update(fake, real, range(3))
    assert list(batched) == names  # no network was given
    for i in range(3):
        alone = Metrics(METRICS).update(fake[i : i + 1], real[i : i + 1], [i])
        for name, values in batched.items():
            torch.testing.assert_close(values[i : i + 1], alone[name])


@needs_published
def test_published_values() -> None:
    camera = np.array(read_image(PUBLISHED / "skimage" / "camera.png"))
    noise = 20.0 * np.random.RandomState(5).randn(512, 512, 1)
    noised = np.clip(camera + noise, 0, 255).astype(np.uint8)
    pairs = [(image(noised), image(camera), 22.409353, 0.357964)]
    for one, other, *values in (
        ("goldhill_jpeg.gif", "goldhill.gif", 27.4314, 0.68237),
        ("i01_01_5.bmp", "I01.BMP", 21.0157, 0.52707),
    ):
        fake, real = (image(np.array(read_image(PUBLISHED / "piq" / name))) for name in (one, other))
        pairs.append((fake, real, *values))
    for fake, real, decibels, similarity in pairs:
        assert psnr(fake, real).item() == pytest.approx(decibels, abs=6e-5)
        assert ssim(fake, real).item() == pytest.approx(similarity, abs=6e-6)


def test_undefined_values_are_left_out_of_the_mean(tmp_path: Path) -> None:
    """Equal images have an infinite PSNR, images below the window no SSIM: null in JSON, not in means."""
    metrics = Metrics(["psnr", "ssim", "l1"])
    small = torch.randint(256, (2, 3, 10, 40), dtype=torch.uint8)
    rows = []
    for key, (fake, real) in enumerate([(small[:1], small[:1]), (small[:1], small[1:])]):
        found = metrics.update(fake, real, [key])
        rows.append((str(key), {name: values.item() for name, values in found.items()}))
    assert rows[0][1]["psnr"] == math.inf and math.isnan(rows[1][1]["ssim"])
    summary = metrics.compute()
    assert summary.mean == {"psnr": rows[1][1]["psnr"], "l1": rows[1][1]["l1"] / 2}
    assert summary.left_out == {
        "psnr": "1 of 2 images: equal to the truth, where it is infinite",
        "ssim": "2 of 2 images: a side below the window's 11 pixels",
    }
    write_summary(tmp_path, rows, summary)
    text = (tmp_path / "metrics.json").read_text()
    written = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert written["pictures"][0] == {"name": "0", "psnr": None, "ssim": None, "l1": 0.0}
    assert written["left_out"] == summary.left_out and written["protocol"].keys() == {"psnr", "l1"}
    table = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert [row[0] for row in table] == ["name", "0", "1", "mean"]
    assert table[1] == ["0", "inf", "", "0.0"] and table[3][1] == table[2][1]
    assert metrics.compute() == Summary({}, {}, {}, {})  # compute resets


def test_ranks_gather_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that two ranks have measured counts once."""
    fake, real = torch.randint(256, (2, 5, 3, 12, 12), dtype=torch.uint8)
    single, first, second = Metrics(["psnr", "l1"]), Metrics(["psnr", "l1"]), Metrics(["psnr", "l1"])
    single.update(fake, real, range(5))
    first.update(fake[[0, 2, 4]], real[[0, 2, 4]], [0, 2, 4])
    second.update(fake[[1, 3, 4]], real[[1, 3, 4]], [1, 3, 4])
    sent: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "gather_objects", lambda value: sent.append(value) or [])
        assert second.compute() == Summary({}, {}, {}, {})
    monkeypatch.setattr(distributed, "gather_objects", lambda value: [value, *sent])
    gathered = first.compute()
    monkeypatch.undo()
    assert gathered == single.compute()


def test_a_metric_that_one_rank_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, real = torch.randint(256, (2, 2, 3, 12, 12), dtype=torch.uint8)
    first, second = Metrics(["psnr", "l1"]), Metrics(["psnr"], left_out={"l1": "needs a network"})
    shares = []
    for i, metrics in enumerate((second, first)):
        metrics.update(fake[i : i + 1], real[i : i + 1], [i])
        monkeypatch.setattr(distributed, "gather_objects", lambda value: shares.append(value) or shares)
        summary = metrics.compute()
    assert summary.mean.keys() == {"psnr"} and summary.left_out == {"l1": "needs a network"}


@pytest.mark.parametrize(
    ("names", "message"),
    [("psnr,sim", "did you mean ssim"), ("", "There are .*psnr"), ("none,l1", "no such")],
)
def test_unknown_metrics_are_refused(names: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_names(names)


def test_names() -> None:
    assert parse_names("none") == () and parse_names("l1,psnr,l1") == ("l1", "psnr")
    known = ["psnr", "ssim", "l1", "mae", "rmse", "ciede2000", "colorfulness", "lpips", "fid", "kid"]
    assert [name for name in METRICS if name in known] == known  # the order of files and --help


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return two folders with images a and b; a third, images/, has both under the names of a gallery."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for side, extension, label in (("fake", "png", "fake_B"), ("real", "bmp", "real_B")):
            noise = Image.fromarray(noisy(rng, 20, 24))
            for path in (
                tmp_path / side / f"{name}.{extension}",
                tmp_path / "images" / f"{name}_{label}.png",
            ):
                path.parent.mkdir(exist_ok=True)
                noise.save(path)
    return tmp_path / "fake", tmp_path / "real"


def test_two_folders_are_compared(folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tmp_path, flags = folders[0].parent, ["--metrics", "psnr,ssim", "--gpu_ids", "-1"]
    assert compare_folders.main([*map(str, folders), *flags, "--out", str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [row["name"] for row in written["pictures"]] == ["a", "b"]
    values = [
        psnr(
            *(
                image(np.array(Image.open(path)))
                for path in (folders[0] / f"{n}.png", folders[1] / f"{n}.bmp")
            )
        )
        for n in ("a", "b")
    ]
    assert written["mean"]["psnr"] == pytest.approx(sum(values).item() / 2)
    assert f"Mean psnr (dB): {written['mean']['psnr']:.4f}" in caplog.text and "Mean ssim: 0." in caplog.text
    # A gallery's folder, which has both sides.
    images = [str(tmp_path / "images")] * 2
    suffixes = ["--suffix_a", "_fake_B", "--suffix_b", "_real_B"]
    assert compare_folders.main([*images, *flags, *suffixes, "--out", str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "again" / "metrics.json").read_text()) == written


def test_folders_of_any_images_are_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their own values in their own units, also of results and truth in different formats, and of stacks."""
    rng = np.random.default_rng(0)
    real = rng.uniform(-1000, 3000, (2, 20, 24)).astype(np.float32)
    fake = np.round(real + rng.normal(0, 100, real.shape)).astype(np.int16)
    for folder in ("fake", "real"):
        (tmp_path / folder).mkdir()
    for i in range(2):
        np.save(tmp_path / "real" / f"scan_{i:03}.npy", real[i])
    tifffile.imwrite(tmp_path / "fake" / "scan_fake_B.tif", fake)  # two pages
    flags = ["--suffix_a", "_fake_B", "--data_range", "-1000,3000", "--gpu_ids", "-1", "--out", str(tmp_path)]
    assert compare_folders.main([str(tmp_path / "fake"), str(tmp_path / "real"), *flags]) == 0
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert [row["name"] for row in written["pictures"]] == ["scan_000", "scan_001"]
    expected = [
        {
            "psnr": peak_signal_noise_ratio(x, y, data_range=4000),
            "mae": np.abs(y - x).mean(),
            "rmse": np.sqrt(mean_squared_error(x, y)),
            "ssim": structural_similarity(
                x, y, data_range=4000, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            ),
        }
        for x, y in zip(real.astype(float), fake.astype(float), strict=True)
    ]
    for row, values in zip(written["pictures"], expected, strict=True):
        assert {name: row[name] for name in values} == pytest.approx(values)
    assert "range -1000 to 3000 of float32" in written["protocol"]["psnr"]


def test_the_range_of_an_integer_type(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 65536, (5, 12, 14), dtype=np.uint16)
    result = rng.integers(0, 65536, (5, 12, 14), dtype=np.uint16)
    for folder, array in (("fake", result), ("real", truth)):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "a.npy", array)
    folders = [str(tmp_path / "fake"), str(tmp_path / "real"), "--gpu_ids", "-1"]
    assert compare_folders.main([*folders, "--data_range", "full", "--out", str(tmp_path)]) == 0
    means = json.loads((tmp_path / "metrics.json").read_text())["mean"]
    assert means["psnr"] == pytest.approx(peak_signal_noise_ratio(truth, result))
    assert means["psnr[2]"] == pytest.approx(peak_signal_noise_ratio(truth[1], result[1]))
    for flags, message in (
        ([], r"fake: there is no image in it; files such as a\.npy are read with --data_range"),
        (["--data_range", "5,5"], "--data_range 5,5: expected 8bit, full, or an interval"),
        (["--data_range", "1,2,3"], "--data_range 1,2,3: expected"),
    ):
        with pytest.raises(UserError, match=message):
            compare_folders.main([*folders, *flags])
    np.save(tmp_path / "fake" / "a.npy", result[:3])
    with pytest.raises(UserError, match=r"a\.npy: has 3 channels, the first image of the truth 5"):
        compare_folders.main([*folders, "--data_range", "full"])
    np.save(tmp_path / "real" / "a.npy", truth.astype(np.float32))
    with pytest.raises(UserError, match=r"--data_range full: floating point lies in 0\.\.1, but .*a\.npy"):
        compare_folders.main([*folders, "--data_range", "full"])


def test_folders_that_cannot_be_compared(folders: tuple[Path, Path]) -> None:
    fake, real = folders

    def refused(message: str, *flags: str) -> None:
        with pytest.raises(UserError, match=message):
            compare_folders.main([str(fake), str(real), "--gpu_ids", "-1", *flags])

    refused("no image whose name ends with _fake", "--suffix_a", "_fake")
    refused("nothing left to measure", "--metrics", "none")
    (fake / "c.png").write_bytes((fake / "a.png").read_bytes())
    refused(r"real: 1 images have no partner there \(c\)")
    Image.new("RGB", (24, 21)).save(real / "c.png")
    refused(r"c\.png has 24 x 20 pixels, .*c\.png 24 x 21")
    (real / "c.png").write_bytes(b"not an image")
    refused(r"c\.png: cannot be read as an image")
    (real / "c.tif").write_bytes(b"")
    refused("two images of the same name")
    for path in real.iterdir():
        path.unlink()
    refused("real: there is no image in it")
    real.rmdir()
    refused("real: there is no such folder")
