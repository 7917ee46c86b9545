"""Metrics in the files' units, by channel and under masks, against scikit-image and hand-computed values."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from tests.util.metrics.test_registry import NETWORKS
from util.batch import Batch
from util.metrics.measure import Metrics
from util.metrics.names import METRICS
from util.metrics.summary import write_summary
from util.metrics.target import Target
from util.parts import RGB_B, Part, Side, Values

IN_UNITS = ("psnr", "ssim", "l1", "mae", "rmse")

CT = Part("B", "values", channels=1, values=Values("float32", -1000.0, 3000.0))
BANDS = Part("B", "values", channels=4, bands=(4, 3, 2, 8), values=Values("uint16", 0, 10000))
DEPTH = Part("B2", "values", channels=1, values=Values("int16", -100, 900))
PHOTO = Part("B1", channels=3)
CLASSES = Part("B", "labels", channels=5)


def visuals(side: Side, count: int = 2, size: int = 17, noise: float = 0.3) -> dict[str, Tensor]:
    """Return results and truth as a model returns them; some results are outside of the range."""
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(count, side.channels, size, size + 4, generator=generator) * 2 - 1
    return {"real_B": real, "fake_B": real + noise * torch.randn(real.shape, generator=generator)}


def batch_of(images: Tensor, mask: Tensor | None = None) -> Batch:
    count = len(images)
    return Batch(images, images, [""] * count, [""] * count, torch.arange(count), mask=mask)


def measured(
    side: Side, images: dict[str, Tensor], mask: Tensor | None = None, names: tuple[str, ...] = IN_UNITS
) -> list[dict[str, float]]:
    metrics = Metrics(names, networks=NETWORKS, target=Target(side, mask is not None))
    return metrics.update_visuals(batch_of(images["real_B"], mask), images, paired=True)


def units(image: Tensor, values: Values) -> np.ndarray:
    """Return one channel in the file's units as it is saved, by numpy alone."""
    array = (image.numpy().astype(np.float64).clip(-1, 1) + 1) / 2 * (values.high - values.low) + values.low
    return array if values.dtype == "float32" else np.rint(array)


def similarity(fake: np.ndarray, real: np.ndarray, span: float) -> np.ndarray:
    """Return the map of SSIM of all windows inside the images."""
    flags = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, full = structural_similarity(fake, real, data_range=span, full=True, **flags)
    return full[5:-5, 5:-5]


@pytest.mark.parametrize("parts", [(CT,), (BANDS,), (PHOTO, DEPTH)], ids=["ct", "bands", "parts"])
def test_values_in_units_equal_scikit_image(parts: tuple[Part, ...]) -> None:
    side = Side(parts)
    images = visuals(side)
    ranges = [part.values for part in parts for _ in range(part.channels)]
    for i, values in enumerate(measured(side, images)):
        fake, real = (
            [units(images[label][i, c], values) for c, values in enumerate(ranges)]
            for label in ("fake_B", "real_B")
        )
        channels = list(zip(fake, real, ranges, strict=True))
        errors = np.stack([x - y for x, y, _ in channels])
        spans = np.array([values.span for values in ranges])[:, None, None]
        assert values["mae"] == pytest.approx(np.abs(errors).mean())
        assert values["rmse"] == pytest.approx(np.sqrt((errors**2).mean()))
        assert values["l1"] == pytest.approx((np.abs(errors) / spans).mean() * 2)
        assert values["psnr"] == pytest.approx(-10 * np.log10(((errors / spans) ** 2).mean()))
        expected = [similarity(x, y, values.span).mean() for x, y, values in channels]
        assert values["ssim"] == pytest.approx(np.mean(expected), abs=1e-9)
        if len(parts) == 1:  # one range for all channels
            expected = peak_signal_noise_ratio(np.stack(real), np.stack(fake), data_range=ranges[0].span)
            assert values["psnr"] == pytest.approx(expected)


def test_channels_have_their_own_values(tmp_path: Path) -> None:
    """They are named by their numbers in the file, or by the parts; each has its own range."""
    images = visuals(Side((BANDS,)))
    rows = measured(Side((BANDS,)), images)
    alone = Side((Part("B", "values", channels=1, values=BANDS.values),))
    for c, band in enumerate((4, 3, 2, 8)):
        single = measured(alone, {label: image[:, c : c + 1] for label, image in images.items()})
        for i, row in enumerate(rows):
            assert {name: row[f"{name}[{band}]"] for name in IN_UNITS} == pytest.approx(single[i])
    assert len(rows[0]) == 5 * len(IN_UNITS)

    side = Side((PHOTO, DEPTH))
    metrics = Metrics(["psnr", "mae"], target=Target(side))
    images = visuals(side)
    rows = metrics.update_visuals(batch_of(images["real_B"]), images, paired=True)
    channels = ["B1", "B2", "B1.1", "B1.2", "B1.3"]
    assert list(rows[0]) == [
        f"{name}{c}" for name in ("psnr", "mae") for c in ("", *(f"[{c}]" for c in channels))
    ]
    photo = measured(RGB_B, {label: image[:, :3] for label, image in images.items()})
    assert rows[0]["mae[B1]"] == pytest.approx(photo[0]["mae"])  # levels, as an 8-bit image alone has
    assert rows[0]["psnr[B1]"] == pytest.approx(photo[0]["psnr"])

    summary = metrics.compute()
    assert list(summary.mean) == ["psnr", "mae"] == list(summary.protocol)
    assert "0 to 255 of uint8 (B1), -100 to 900 of int16 (B2)" in summary.protocol["mae"]
    write_summary(tmp_path, [(f"image {i}", row) for i, row in enumerate(rows)], summary)
    means = json.loads((tmp_path / "metrics.json").read_text())["mean"]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == ["image 0", "image 1", "mean"]
    for name in rows[0]:
        assert means[name] == pytest.approx((rows[0][name] + rows[1][name]) / 2)
        assert float(table[2][name]) == means[name] and float(table[0][name]) == rows[0][name]


def test_images_of_up_to_three_channels_have_no_columns_by_channel() -> None:
    side = Side((Part("B", "values", channels=3, values=Values("uint16", 0, 65535)),))
    assert list(measured(side, visuals(side))[0]) == list(IN_UNITS)


def test_results_are_measured_as_they_are_saved() -> None:
    """Within the range, and rounded in integer types; the truth, too."""
    side = Side((Part("B", "values", channels=1, values=Values("int16", 0, 10)),))
    real, fake = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.13, 7.0]])  # 5, 10 and 5.65, 40
    values = measured(side, {"real_B": real[None, None], "fake_B": fake[None, None]}, names=("mae", "rmse"))
    assert values == [{"mae": pytest.approx(0.5), "rmse": pytest.approx(math.sqrt(0.5))}]


def test_masks_weight_pixels() -> None:
    """Differences of 10, 20, 30 and 40 units with weights of 1, 0.5, 0 and 0.5."""
    side = Side((Part("B", "values", channels=1, values=Values("float32", 0.0, 100.0)),))
    real = torch.zeros(1, 1, 2, 2)
    fake = torch.tensor([[[[0.2, 0.4], [0.6, 0.8]]]])
    mask = torch.tensor([[[[1.0, 0.5], [0.0, 0.5]]]])
    (values,) = measured(side, {"real_B": real, "fake_B": fake}, mask)
    assert values["mae"] == pytest.approx((10 + 10 + 20) / 2)
    assert values["l1"] == pytest.approx(0.4)
    assert values["rmse"] == pytest.approx(math.sqrt((100 + 200 + 800) / 2))
    assert values["psnr"] == pytest.approx(10 * math.log10(100**2 / 550))
    assert math.isnan(values["ssim"])  # smaller than the window


def test_ssim_is_weighted_at_the_centres_of_its_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    side, mask = Side((CT,)), torch.rand(2, 1, 17, 21, generator=torch.Generator().manual_seed(1))
    images = visuals(side)
    monkeypatch.setattr("util.metrics.images.STRIP_PIXELS", 1)  # strips of few rows
    for i, values in enumerate(measured(side, images, mask)):
        fake, real = (units(images[label][i, 0], CT.values) for label in ("fake_B", "real_B"))
        weights = mask[i, 0, 5:-5, 5:-5].double().numpy()
        expected = (similarity(fake, real, 4000) * weights).sum() / weights.sum()
        assert values["ssim"] == pytest.approx(expected, abs=1e-9)


def test_masks_of_8_bit_images() -> None:
    images = visuals(RGB_B, size=24)
    names = tuple(name for name, metric in METRICS.items() if "weight" in metric.takes)
    everything = measured(RGB_B, images, torch.ones(2, 1, 24, 28), names)
    assert everything == [pytest.approx(row) for row in measured(RGB_B, images, names=names)]
    left = torch.zeros(2, 1, 24, 28)
    left[..., :14] = 1
    halves = {label: image[..., :14] for label, image in images.items()}
    per_pixel = tuple(name for name in names if name != "ssim")
    expected = measured(RGB_B, halves, names=per_pixel)
    assert measured(RGB_B, images, left, per_pixel) == [pytest.approx(row) for row in expected]


def test_images_whose_mask_is_0_are_left_out_of_the_mean() -> None:
    metrics = Metrics(["l1", "psnr"], target=Target(masked=True))
    images = visuals(RGB_B)
    mask = torch.stack([torch.ones(1, 17, 21), torch.zeros(1, 17, 21)])
    rows = metrics.update_visuals(batch_of(images["real_B"], mask), images, paired=True)
    summary = metrics.compute()
    assert math.isnan(rows[1]["l1"]) and summary.mean["l1"] == rows[0]["l1"]
    assert summary.left_out["l1"] == "1 of 2 images: not finite, or the mask is 0 everywhere"
    assert summary.protocol["l1"].endswith("; pixels weighted by masks")


def test_values_do_not_depend_on_the_batch() -> None:
    side = Side((PHOTO, DEPTH))
    images, mask = visuals(side, 3), torch.rand(3, 1, 17, 21)
    for i, row in enumerate(measured(side, images, mask)):
        alone = {label: image[i : i + 1] for label, image in images.items()}
        assert measured(side, alone, mask[i : i + 1]) == [pytest.approx(row)]


def test_metrics_of_rgb_images_see_previews() -> None:
    """Values from 0 to 255 in the type uint16 give what 8-bit images give; others are mapped to that."""
    names = tuple(METRICS)
    for part in (Values("uint16", 0, 255), Values("float32", -10.0, 10.0)):
        side = Side((Part("B", "values", channels=3, values=part),))
        images = visuals(side, size=40)
        same = IN_UNITS if part.high == 255 else ()
        for row, expected in zip(
            measured(side, images, names=names), measured(RGB_B, images, names=names), strict=True
        ):
            others = [name for name in expected if name not in IN_UNITS]
            assert {"ciede2000", "lpips"} < set(others)
            for name in (*same, *others):
                assert row[name] == pytest.approx(expected[name]), name
    metrics = Metrics(["ciede2000", "fid"], networks=NETWORKS, target=Target(side))
    metrics.update_visuals(batch_of(images["real_B"]), images, paired=True)
    protocol = metrics.compute().protocol
    for name in ("ciede2000", "fid"):
        assert protocol[name].endswith("of 8-bit previews: range -10 to 10 of float32 as 0 to 255")


@pytest.mark.parametrize(
    ("target", "reason", "measured"),
    [
        (Target(RGB_B), "", set(METRICS)),
        (Target(RGB_B, masked=True), "cannot be weighted by masks", {*IN_UNITS, "ciede2000"}),
        (Target(Side((CT,))), "", set(METRICS)),
        (
            Target(Side((BANDS,))),
            "needs an RGB or grey image, and the target is an image of 4",
            set(IN_UNITS),
        ),
        (Target(Side((PHOTO, DEPTH))), "and the target is several images", set(IN_UNITS)),
        (Target(Side((CLASSES,))), "is for images, not for label maps", set()),
    ],
    ids=["8-bit", "masks", "grey", "bands", "parts", "labels"],
)
def test_metrics_that_the_target_does_not_allow(target: Target, reason: str, measured: set[str]) -> None:
    metrics = Metrics(METRICS, networks=NETWORKS, target=target)
    assert set(metrics.names) == measured and metrics.left_out.keys() == METRICS.keys() - measured
    assert all(reason in why for why in metrics.left_out.values())
