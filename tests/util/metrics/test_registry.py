"""What every metric must do: a new one in util/metrics/ is covered without a line here."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from options.base_options import MetricOptions
from options.option import flags_of
from tests.support.environment import ONE_THREAD, ROOT
from util.metrics import __main__ as compare_folders
from util.metrics.measure import Metrics
from util.metrics.names import METRICS, NETWORK_FILES, Metric, find_metrics
from util.metrics.networks import LOADERS, Network

IMAGE_METRICS = [metric for metric in METRICS.values() if metric.per == "image"]
SET_METRICS = [metric for metric in METRICS.values() if metric.per == "set"]


class Features(nn.Module):
    """Stands in for Inception: features (N, 12) of uint8 images, the means of quarters."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x.float() / 255, 2).flatten(1)


class Distance(nn.Module):
    """Stands in for LPIPS: the mean absolute difference."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs().mean((1, 2, 3), keepdim=True)


NETWORKS = {"inception": Network(Features(), "a stand-in"), "lpips": Network(Distance(), "a stand-in")}


def images(count: int, side: int = 40, seed: int = 0) -> Tensor:
    """Smooth colours, away from black and white so that noise is not clipped."""
    generator = torch.Generator().manual_seed(seed)
    colours = 70 + torch.rand(count, 3, 4, 4, generator=generator) * 110
    return F.interpolate(colours, side, mode="bilinear").to(torch.uint8)


def noisy(real: Tensor, amplitude: float) -> Tensor:
    noise = torch.rand(real.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return (real + noise * amplitude).round().clamp(0, 255).to(torch.uint8)


def measure(metric: Metric, fake: Tensor, real: Tensor) -> Tensor:
    """Return each image's value, (N,)."""
    values = Metrics([metric.name], networks=NETWORKS).update(fake, real, range(len(fake)))
    return values[metric.name]


def distance(metric: Metric, fake: Tensor, real: Tensor) -> float:
    """Return the value of two sets of images."""
    metrics = Metrics([metric.name], networks=NETWORKS)
    metrics.update_set("fake", fake, range(len(fake)))
    metrics.update_set("real", real, range(len(real)))
    return metrics.compute().mean[metric.name]


def is_better(metric: Metric, value: float, other: float) -> bool:
    return value > other if metric.higher_is_better else value < other


def ignores_truth(metric: Metric) -> bool:
    """Whether the value depends on the result alone."""
    fake = noisy(images(1), 20)
    return torch.equal(measure(metric, fake, images(1)), measure(metric, fake, images(1, seed=3)))


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_record(metric: Metric) -> None:
    function = metric.load()
    assert function.__doc__ and metric.protocol
    assert metric.reference == "" or metric.load(metric.reference).__name__ == metric.reference
    assert metric.network == "" or metric.network in LOADERS
    assert METRICS[metric.name] is metric


def test_help_documents_every_metric(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare_folders.main(["--help"])
    text = capsys.readouterr().out
    flag = flags_of(MetricOptions)["metrics"]
    for metric in METRICS.values():
        assert f"{metric.name:14} " in text and metric.protocol in text
        assert metric.name in flag.help


def test_networks_have_loaders() -> None:
    assert LOADERS.keys() == NETWORK_FILES.keys()


@pytest.mark.parametrize("metric", IMAGE_METRICS, ids=[metric.name for metric in IMAGE_METRICS])
def test_values_of_images(metric: Metric) -> None:
    """One finite value an image, whatever else is in the batch; the images are left as they are."""
    real = images(3)
    fake = noisy(real, 60)
    before = fake.clone(), real.clone()
    values = measure(metric, fake, real)
    assert values.shape == (3,) and values.dtype == torch.float64 and values.isfinite().all()
    assert torch.equal(fake, before[0]) and torch.equal(real, before[1])
    for i in range(3):
        torch.testing.assert_close(measure(metric, fake[i : i + 1], real[i : i + 1]), values[i : i + 1])


@pytest.mark.parametrize("metric", IMAGE_METRICS, ids=[metric.name for metric in IMAGE_METRICS])
def test_direction(metric: Metric) -> None:
    """A result nearer to the truth has a better value, and no result beats the truth itself."""
    if ignores_truth(metric):
        return
    real = images(4)
    near, far, equal = (measure(metric, noisy(real, amplitude), real) for amplitude in (4, 40, 0))
    for i in range(4):
        assert is_better(metric, near[i].item(), far[i].item())
        # NaN and the worst infinity are no values of a perfect result; test_undefined wants the reason.
        assert not math.isfinite(equal[i].item()) or not is_better(metric, near[i].item(), equal[i].item())


@pytest.mark.parametrize("metric", IMAGE_METRICS, ids=[metric.name for metric in IMAGE_METRICS])
def test_undefined(metric: Metric) -> None:
    """Where there is no finite value, the record says why, and the mean leaves the image out."""
    real = images(1)
    cases = [(real, real), (torch.zeros_like(real), real), (real, torch.full_like(real, 255))]
    cases += [(images(1, side), images(1, side, seed=1)) for side in (1, 2, 10, 30)]
    for fake, truth in cases:
        metrics = Metrics([metric.name], networks=NETWORKS)
        value = metrics.update(fake, truth, [0])[metric.name].item()
        summary = metrics.compute()
        if math.isfinite(value):
            assert summary.mean == {metric.name: pytest.approx(value)} and summary.left_out == {}
        else:
            assert metric.undefined, f"{metric.name} is {value} for a side of {truth.shape[3]}"
            assert summary.mean == {} and metric.undefined in summary.left_out[metric.name]


@pytest.mark.parametrize("metric", SET_METRICS, ids=[metric.name for metric in SET_METRICS])
def test_sets(metric: Metric) -> None:
    """The nearer of two sets has the better value; the order of the images does not count."""
    real = images(30)
    shifted = [(images(30, seed=1) * factor).to(torch.uint8) for factor in (1.0, 0.8, 0.4)]
    near, middle, far = (distance(metric, fake, real) for fake in shifted)
    assert is_better(metric, near, middle) and is_better(metric, middle, far)
    assert distance(metric, shifted[1].flip(0), real) == pytest.approx(middle, rel=1e-6)
    metrics = Metrics([metric.name], networks=NETWORKS)
    metrics.update_set("fake", real[:1], [0])
    summary = metrics.compute()
    assert summary.mean == {} and "needs two results" in summary.left_out[metric.name]


DECLARED = """
import package_that_is_not_installed
from util.metrics.names import metric

@metric("contrast", higher_is_better=True, unit="levels",
        protocol="the results' standard deviation",
        reference="contrast_of_truth")
def contrast(fake, real, *, weight=None, sharpness=1):
    return fake.double().std((1, 2, 3))
"""


def test_one_file_declares_a_metric(tmp_path: Path) -> None:
    """Its record is read from the source: what the file imports may be missing."""
    (tmp_path / "contrast.py").write_text(DECLARED)
    (tmp_path / "other.py").write_text("raise RuntimeError\n")
    assert find_metrics(tmp_path, "package") == {
        "contrast": Metric(
            "contrast",
            higher_is_better=True,
            protocol="the results' standard deviation",
            unit="levels",
            reference="contrast_of_truth",
            module="package.contrast",
            function="contrast",
            takes=("weight",),
        )
    }
    assert find_metrics(tmp_path, "package")["contrast"].label == "Mean contrast (levels)"


def test_the_documented_metrics_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "documented").mkdir()
    for page, name in (("overview", "bias"), ("data", "nmae")):
        passage = (ROOT / "docs" / f"{page}.md").read_text().split("A metric of your own")[1]
        code = passage.split("```python\n")[1].split("```")[0]
        (tmp_path / "documented" / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    metrics = find_metrics(tmp_path / "documented", "documented")
    bias, nmae = (metrics[name].load() for name in ("bias", "nmae"))
    real = images(2)
    assert bias(real, real + 3).tolist() == pytest.approx([3, 3])
    assert metrics["nmae"].takes == ("data_range", "weight")
    assert nmae(real, real + 3).tolist() == pytest.approx([3 / 255] * 2)
    weight, spans = torch.ones(2, 1, 40, 40), torch.full((3, 1, 1), 6.0)
    assert nmae(real, real + 3, data_range=spans, weight=weight).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ('"x", higher_is_better=UP, protocol="p"', r"x\.py:1: invalid @metric\(x\): malformed"),
        ('"x", higher_is_better=True', "missing 1 required positional argument: 'protocol'"),
        ('"x", higher_is_better=True, protocol="p", units="dB"', "unexpected keyword argument 'units'"),
        ('"x,y", higher_is_better=True, protocol="p"', "'x,y' cannot be a name in --metrics"),
        ('"x", higher_is_better=True, protocol="p", per="batch"', "per is image or set"),
        ('"x", higher_is_better=True, protocol="p", network="vgg"', "there is no network 'vgg', only lpips"),
        ('"x", higher_is_better=True, protocol="p", per="set"', "metrics of sets have network"),
    ],
)
def test_invalid_declarations(declaration: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(f"@metric({declaration})\ndef x(fake, real): ...\n")
    with pytest.raises(TypeError, match=message):
        find_metrics(tmp_path, "package")


def test_parameters_without_a_default_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(
        '@metric("x", higher_is_better=True, protocol="p")\ndef x(fake, real, *, weight): ...\n'
    )
    with pytest.raises(TypeError, match=r"invalid @metric\(x\): weight needs a default value"):
        find_metrics(tmp_path, "package")


def test_two_metrics_of_one_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(
            '@metric("x", higher_is_better=True, protocol="p")\ndef x(fake, real): ...\n'
        )
    with pytest.raises(TypeError, match=r"b\.py:1: a metric 'x' exists already"):
        find_metrics(tmp_path, "package")


def test_pages_and_comparisons_need_names_without_torch() -> None:
    """Importing torch takes seconds, which scripts/compare.py need not spend."""
    modules = "util.metrics.names, util.metrics.summary, util.pages.page, scripts.compare"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=ONE_THREAD, timeout=60)
