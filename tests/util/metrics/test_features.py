"""FID, KID and LPIPS against closed forms and float64, with stand-ins for the trained networks."""

import logging
import math
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from util.batch import Batch
from util.errors import UserError
from util.metrics import features as feature_metrics
from util.metrics.features import LPIPS_MIN_SIDE, frechet_distance
from util.metrics.measure import Metrics
from util.metrics.networks import Network, load_inception, load_lpips

needs_torchmetrics = pytest.mark.skipif(
    not all(map(find_spec, ("torchmetrics", "torch_fidelity"))),
    reason="requirements-metrics.txt is not installed",
)
Array = NDArray[np.float64]


class StandIn(nn.Module):
    """Map uint8 images to features (N, 12), a nonlinear function of the means of quarters."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.uint8
        return (F.adaptive_avg_pool2d(x.float() / 64, 2).flatten(1) * 2).sin() + x.float().std((1, 2, 3))[
            :, None
        ]


def sets(fake: int, real: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shades = torch.rand(fake + real, 3, 2, 2, generator=generator) * 200
    images = F.interpolate(shades, 8) + torch.rand(fake + real, 3, 8, 8, generator=generator) * 50
    return images[:fake].to(torch.uint8), (images[fake:] * 0.9).to(torch.uint8)


def measured(fake: Tensor, real: Tensor) -> Metrics:
    """Return metrics updated with batches of unequal size that overlap."""
    metrics = Metrics(["fid", "kid"], networks={"inception": Network(StandIn(), "a stand-in")})
    for side, images in (("fake", fake), ("real", real)):
        for chosen in (range(3), range(2, 9), range(9, len(images))):
            metrics.update_set(side, images[list(chosen)], [f"{number:04}" for number in chosen])
    return metrics


def reference_mmd(x: Array, y: Array) -> float:
    count, width = x.shape
    total = 0.0
    for i in range(count):
        for j in range(count):
            if i != j:
                total += (x[i] @ x[j] / width + 1) ** 3 / (count * (count - 1))
                total += (y[i] @ y[j] / width + 1) ** 3 / (count * (count - 1))
            total -= 2 * (x[i] @ y[j] / width + 1) ** 3 / count**2
    return total


def test_fid_and_kid_equal_float64() -> None:
    fake, real = sets(60, 60)
    summary = measured(fake, real).compute()
    x, y = (StandIn()(images).double().numpy() for images in (fake, real))
    product = np.cov(x.T) @ np.cov(y.T)
    root = np.sqrt(np.linalg.eigvals(product).astype(complex)).real.sum()
    fid = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T)) + np.trace(np.cov(y.T)) - 2 * root
    assert summary.mean["fid"] == pytest.approx(fid, rel=1e-6) and fid > 0.01
    assert summary.mean["kid"] == pytest.approx(reference_mmd(x, y), rel=1e-6)
    assert "60 results, 60 real images; a stand-in" in summary.protocol["fid"]
    assert "/ 12 + 1)^3" in summary.protocol["kid"] and "of all images" in summary.protocol["kid"]


def test_kid_is_the_mean_over_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_metrics, "KID_SUBSETS", 4)
    monkeypatch.setattr(feature_metrics, "KID_SUBSET_SIZE", 10)
    fake, real = sets(30, 25)
    summary = measured(fake, real).compute()
    x, y = (StandIn()(images).double().numpy() for images in (fake, real))
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(4):
        chosen = [torch.randperm(count, generator=generator)[:10].numpy() for count in (30, 25)]
        found.append(reference_mmd(x[chosen[0]], y[chosen[1]]))
    assert summary.mean["kid"] == pytest.approx(np.mean(found), rel=1e-6)
    assert "4 random subsets of 10, seed 0" in summary.protocol["kid"]


def test_sets_of_one_image_are_left_out() -> None:
    metrics = Metrics(["fid", "kid", "l1"], networks={"inception": Network(StandIn(), "a stand-in")})
    fake, real = sets(1, 1)
    metrics.update(fake, real, keys=[0])
    found = metrics.compute()
    assert found.mean.keys() == {"l1"} == found.protocol.keys()
    assert found.left_out.keys() == {"fid", "kid"} and "at least (here 1 and 1)" in found.left_out["fid"]


def test_unpaired_results_are_compared_as_sets() -> None:
    """A file of the shorter folder that is repeated counts once; there are no values of single images."""
    fake, real = (images / 127.5 - 1 for images in sets(4, 4))
    metrics = Metrics(["fid", "psnr"], networks={"inception": Network(StandIn(), "a stand-in")})
    for paths_B in (["x", "y", "z", "w"], ["x", "y", "z", "w"]):
        batch = Batch(fake, real, ["a", "b", "c", "d"], paths_B, torch.arange(4))
        assert metrics.update_visuals(batch, {"fake_B": fake, "real_B": real}, paired=False) == [{}] * 4
    found = metrics.compute()
    assert found.mean.keys() == {"fid"} and "4 results, 4 real images" in found.protocol["fid"]
    single = Batch(fake, None, ["a", "b", "c", "d"], [], torch.arange(4))
    assert metrics.update_visuals(single, {"real_A": fake, "fake_B": fake}, paired=False) == [{}] * 4
    assert "here 0 and 0" in metrics.compute().left_out["fid"]


def alexnet() -> dict[str, Tensor]:
    """Return weights of AlexNet's convolutions, by torchvision's names."""
    generator = torch.Generator().manual_seed(0)
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    weights = {}
    for place, (out, into, side) in shapes.items():
        scale = math.sqrt(2 / (into * side**2))
        weights[f"features.{place}.weight"] = torch.randn(out, into, side, side, generator=generator) * scale
        weights[f"features.{place}.bias"] = torch.randn(out, generator=generator) * 0.1
    return weights


def reference_lpips(weights: dict[str, Tensor], heads: list[Tensor], images: Tensor) -> float:
    """Return LPIPS (Zhang et al. 2018) of two images in [-1, 1], (2, 3, H, W), in float64."""
    shift, scale = (
        torch.tensor(v).double().view(3, 1, 1) for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
    )
    x, total = (images - shift) / scale, 0.0
    for (place, stride, padding), head in zip(
        ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)), heads, strict=True
    ):
        if place in (3, 6):
            x = F.max_pool2d(x, 3, 2)
        weight, bias = (weights[f"features.{place}.{kind}"].double() for kind in ("weight", "bias"))
        x = F.conv2d(x, weight, bias, stride, padding).relu()
        unit = x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()
        total += ((unit[0] - unit[1]).square() * head.double()[0]).sum(0).mean().item()
    return total


@needs_torchmetrics
def test_lpips_equals_the_paper(tmp_path: Path) -> None:
    from torchmetrics.functional.image import lpips

    heads = torch.load(Path(lpips.__file__).parent / "lpips_models" / "alex.pth", "cpu", weights_only=True)
    weights, file = alexnet(), tmp_path / "alexnet.pth"
    torch.save(weights, file)
    torch.manual_seed(7)
    metrics = Metrics(["lpips"], networks={"lpips": load_lpips(str(file))})
    assert torch.equal(torch.rand(3), torch.manual_seed(7) and torch.rand(3))  # the random state is unchanged
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (2, 2, 3, 70, 64), dtype=torch.uint8, generator=generator)
    found = metrics.update(*images, keys=[0, 1])["lpips"]
    for i in range(2):
        expected = reference_lpips(weights, list(heads.values()), images[:, i].double() / 127.5 - 1)
        assert found[i].item() == pytest.approx(expected, rel=1e-4) and expected > 0.01
    edge = torch.zeros(1, 3, LPIPS_MIN_SIDE, LPIPS_MIN_SIDE, dtype=torch.uint8)
    assert metrics.update(edge, edge, [2])["lpips"].item() == 0
    assert metrics.update(edge[..., 1:], edge[..., 1:], [3])["lpips"].isnan().all()
    summary = metrics.compute()
    assert summary.left_out == {"lpips": f"1 of 4 images: a side below {LPIPS_MIN_SIDE} pixels"}
    assert "torchmetrics" in summary.protocol["lpips"]


@needs_torchmetrics
def test_unavailable_metrics_are_left_out_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import torch_fidelity.feature_extractor_inceptionv3 as inception

    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(inception, "load_state_dict_from_url", no_network)
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image.lpips", None)
    fake = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    metrics = Metrics.load(["l1", "lpips", "fid", "kid"])
    metrics.update(fake, fake, [0, 1])
    found = metrics.compute()
    assert found.mean == {"l1": 0.0} and found.left_out.keys() == {"lpips", "fid", "kid"}
    assert "pip install -r requirements-metrics.txt" in found.left_out["lpips"]
    assert "no network" in found.left_out["fid"] and "--inception_weights" in found.left_out["fid"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.split(":")[0] for text in warnings] == ["--metrics lpips", "--metrics fid,kid"]


@needs_torchmetrics
def test_other_weights_are_refused(tmp_path: Path) -> None:
    absent, other = tmp_path / "absent.pth", tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(2)}, other)
    for load in (load_lpips, load_inception):
        with pytest.raises(UserError, match="there is no such file; give download, or the path"):
            load(str(absent))
        with pytest.raises(UserError, match=r"_weights .*other\.pth: "):
            load(str(other))


def features(mean: list[float], covariance: list[list[float]]) -> Tensor:
    """Return features with exactly this mean and covariance."""
    size = len(mean)
    points = torch.cat([torch.eye(size), -torch.eye(size)]).double() * math.sqrt((2 * size - 1) / 2)
    return points @ torch.linalg.cholesky(torch.tensor(covariance).double()).mT + torch.tensor(mean)


def test_frechet_distance_of_diagonal_covariances() -> None:
    one = features([1, 2, 3], [[4, 0, 0], [0, 1, 0], [0, 0, 9]])
    other = features([1, 0, 6], [[1, 0, 0], [0, 16, 0], [0, 0, 9]])
    # ‖μ₁ − μ₂‖² + Σ(σ₁ − σ₂)²
    torch.testing.assert_close(frechet_distance(one, other).item(), 13.0 + (1 + 9 + 0))
    assert frechet_distance(one, one).item() < 1e-12


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    A, B = [[2.0, 1.0], [1.0, 3.0]], [[1.0, -0.5], [-0.5, 2.0]]
    product = torch.tensor(A) @ torch.tensor(B)
    # The trace of the square root of a 2 x 2 matrix is √(tr M + 2√det M).
    root = math.sqrt(product.trace().item() + 2 * math.sqrt(torch.linalg.det(product).item()))
    expected = 5 + 3 - 2 * root
    for one, other in ((A, B), (B, A)):
        found = frechet_distance(features([0, 0], one), features([0, 0], other)).item()
        assert abs(found - expected) < 1e-6


def test_frechet_distance_of_constant_features() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(50, 4, generator=generator) * torch.tensor([1.0, 0.0, 2.0, 0.0])
    assert 0 <= frechet_distance(one, one).item() < 1e-9
    shifted = frechet_distance(one, one + torch.tensor([0.0, 3.0, 0.0, 4.0])).item()
    assert abs(shifted - 25) < 1e-4
