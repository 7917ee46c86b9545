"""Neural style transfer: losses against formulas; the script when killed, stopped or given invalid flags."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from models.objectives.backbones import load_vgg
from models.objectives.losses import grams
from models.objectives.perceptual import Features, with_average_pooling
from models.style.optimization import Method, Painting, StyleLoss, StyleTransfer, without_style_colours
from scripts import neural_style
from tests.support.environment import ONE_THREAD, ROOT
from util.color import to_L_ab
from util.errors import UserError

LAYERS = ("relu1_1", "relu2_1")
SCRIPT = ROOT / "scripts" / "neural_style.py"
NAMES = ("out.png", "out_000010.png", "out_000030.png", "out.png_losses.jsonl")


@pytest.fixture(scope="session")
def vgg() -> nn.Sequential:
    return load_vgg("vgg19", "random")


@pytest.fixture
def features(vgg: nn.Sequential) -> Features:
    return Features(vgg, "vgg19", (*LAYERS, "relu2_2"))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """A content and two styles of different sizes."""
    rng, paths = np.random.default_rng(0), []
    for name, size in (("content", (60, 45)), ("style1", (50, 64)), ("style2", (40, 40))):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        paths.append(tmp_path / f"{name}.png")
        coarse.resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    return paths


@pytest.fixture
def flags(images: list[Path], vgg: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The flags of a short run, which reuses the VGG of this process."""
    load = neural_style.load_vgg
    monkeypatch.setattr(neural_style, "load_vgg", lambda n, s: vgg if s == "random" else load(n, s))
    content, *styles = map(str, images)
    given = ["--content", content, "--style", *styles, "--style_blend", "0.7", "0.3", "--init", "noise"]
    given += ["--sizes", "24,36", "--steps", "20", "--save_every", "10", "--gpu_ids", "-1"]
    layers = ["--content_layers", "relu2_2", "--style_layers", ",".join(LAYERS)]
    return [*given, *layers, "--vgg_weights", "random"]


def method(**changes: Any) -> Method:
    values: dict[str, Any] = {
        **{"content_layers": ("relu2_2",), "style_layers": LAYERS, "style_blend": (1.0,), "style_scale": 1.0},
        **{"lambda_content": 1.0, "lambda_style": 1e5, "lambda_tv": 0.0, "preserve_color": "none"},
        **{"init": "content", "seed": 0, "optimizer": "lbfgs", "lr": 1.0},
    }
    return Method(**{**values, **changes})


def image(seed: int, *size: int) -> torch.Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


def records(log_file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in log_file.read_text().splitlines()]


def test_the_losses_equal_those_of_gatys_code(features: Features) -> None:
    content, style, x = (image(i, 20, 24 + 2 * i) for i in (0, 1, 0))
    x = x + 0.1
    losses = StyleLoss(content, [style], features, method(lambda_style=1000.0, lambda_tv=2.0))(x)
    of_image, of_style = features(x), features(style)
    expected = torch.zeros(())
    for layer in LAYERS:  # Gram matrices divided by H·W, mean squared differences, weights 1000 / C²
        image_maps, style_maps = (maps[layer][0].flatten(1) for maps in (of_image, of_style))
        difference = image_maps @ image_maps.T / image_maps.shape[1]
        difference = difference - style_maps @ style_maps.T / style_maps.shape[1]
        expected = expected + 1000 / len(image_maps) ** 2 * difference.pow(2).mean()
    torch.testing.assert_close(losses["style"], expected, rtol=1e-4, atol=0)
    deep = of_image["relu2_2"] - features(content)["relu2_2"]
    torch.testing.assert_close(losses["content"], deep.pow(2).mean())
    squares = (x[..., 1:, :] - x[..., :-1, :]).pow(2).sum() + (x[..., 1:] - x[..., :-1]).pow(2).sum()
    torch.testing.assert_close(losses["tv"], squares / x.numel())
    assert StyleLoss(content, [style], features, method(lambda_style=0.0))(content)["content"] == 0
    assert StyleLoss(content, [style], features, method())(content).keys() == {"content", "style"}


def test_the_gradient_of_a_blend_is_the_weighted_mean_of_its_styles(features: Features) -> None:
    content, first, second = image(0, 16, 16), image(1, 16, 20), -image(2, 24, 16).abs()

    def gradient(styles: list[torch.Tensor], blend: tuple[float, ...]) -> torch.Tensor:
        x = content.clone().requires_grad_()
        loss = StyleLoss(content, styles, features, method(lambda_content=0.0, style_blend=blend))
        return torch.autograd.grad(loss(x)["style"], x)[0]

    expected = 0.75 * gradient([first], (1.0,)) + 0.25 * gradient([second], (1.0,))
    scale = expected.abs().max()
    blended = gradient([first, second], (3.0, 1.0))
    torch.testing.assert_close(blended / scale, expected / scale, rtol=0, atol=1e-4)


def test_average_pooling(vgg: nn.Sequential) -> None:
    maximum, mean = (Features(v, "vgg19", ["conv3_1"]) for v in (vgg, with_average_pooling(vgg)))
    x = image(0, 16, 16)
    assert maximum.least_side == mean.least_side == 4
    shallow = Features(vgg, "vgg19", ["relu1_2"])
    assert shallow.least_side == 1
    pooled = shallow(x)["relu1_2"].unflatten(3, (8, 2)).unflatten(2, (8, 2)).mean((3, 5))
    torch.testing.assert_close(mean.layers[5:10](pooled), mean.layers[4:10](shallow(x)["relu1_2"]))
    assert not torch.equal(mean(x)["conv3_1"], maximum(x)["conv3_1"])


def test_only_the_ratio_of_weights_matters(features: Features) -> None:
    content, style = image(0, 16, 16), image(1, 16, 16) ** 3
    reductions = []
    for scale in (1e-9, 1.0, 1e6):
        weights = method(lambda_content=scale, lambda_style=1e5 * scale)
        painting = Painting(content, StyleLoss(content, [style], features, weights), "lbfgs", lr=1.0)
        totals = [painting.step()["total"] for _ in range(15)]
        reductions.append(totals[-1] / totals[0])
    assert reductions[1] < 0.7
    assert reductions == pytest.approx([reductions[1]] * 3, rel=1e-2)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_painting_resumes_from_its_state_to_the_bit(
    features: Features, tmp_path: Path, optimizer: str
) -> None:
    content, style = image(0, 16, 16), image(1, 16, 16)
    loss = StyleLoss(content, [style], features, method())
    whole, first, second = (Painting(content, loss, optimizer, lr) for lr in (0.5, 0.5, 0.5))
    expected = [whole.step() for _ in range(30)]
    losses = [first.step() for _ in range(7)]
    torch.save(first.state_dict(), tmp_path / "state.pth")
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    second.load_state_dict(state)
    losses += [second.step() for _ in range(23)]
    assert losses == expected
    assert torch.equal(whole.image, second.image)

    faster = Painting(content, loss, optimizer, lr=0.7)
    faster.load_state_dict(state)
    assert faster.optimizer.param_groups[0]["lr"] == 0.7
    other_optimizer = {"lbfgs": "adam", "adam": "lbfgs"}[optimizer]
    for start, kind in ((content, other_optimizer), (content[..., :8], optimizer)):
        with pytest.raises(UserError, match="--continue_train: the saved image"):
            Painting(start, loss, kind, lr=0.5).load_state_dict(state)


def test_colours_of_the_content() -> None:
    content, style = image(0, 8, 8) * 0.4, image(1, 8, 10).square()
    same, [recoloured] = without_style_colours("histogram", content, [style])
    assert same is content
    torch.testing.assert_close(recoloured.mean((2, 3)), content.mean((2, 3)))
    torch.testing.assert_close(recoloured.std((2, 3)), content.std((2, 3)), rtol=0.02, atol=0)
    grey, [painted] = without_style_colours("luminance", content, [style])
    assert grey.shape == (1, 1, 8, 8) and painted.shape == (1, 1, 8, 10)
    L, L_style = (to_L_ab(x)[0] for x in (grey, painted))
    torch.testing.assert_close(L, to_L_ab(content)[0], rtol=0, atol=1e-4)
    assert L_style.mean().item() == pytest.approx(L.mean().item(), abs=1e-4)
    assert L_style.std(correction=0).item() == pytest.approx(L.std(correction=0).item(), abs=1e-4)


def test_in_luminance_mode_the_result_has_the_contents_ab(features: Features, images: list[Path]) -> None:
    content, style = (Image.open(path) for path in images[:2])
    transfer = StyleTransfer(content, [style], features, method(preserve_color="luminance"))
    transfer.start(24)
    for _ in range(5):
        transfer.make_step()
    L, ab = to_L_ab(transfer.result()[None])
    kept = (L - to_L_ab(transfer.painting.image.detach())[0]).abs() < 1e-3  # pixels within sRGB
    assert kept.float().mean() > 0.5
    difference = (ab - to_L_ab(transfer.original)[1]).abs().amax(1, keepdim=True)
    assert difference[kept].max() < 1e-2


def test_a_larger_size_starts_from_the_previous_image(features: Features, images: list[Path]) -> None:
    content, style = (Image.open(path) for path in images[:2])
    transfer = StyleTransfer(content, [style], features, method(init="noise", seed=3))
    transfer.start(20)
    first = transfer.painting.image.detach().clone()
    assert 0.2 < first.std() < 0.4
    transfer.start(20)
    assert torch.equal(transfer.painting.image, first)
    losses = [transfer.make_step()["total"] for _ in range(20)]
    small = transfer.result()
    transfer.enlarge(60)
    assert (transfer.size, transfer.step, transfer.result().shape) == (60, 0, (3, 45, 60))
    again = F.interpolate(transfer.result()[None], small.shape[1:], mode="area")[0]
    assert (again - small).abs().mean() < 0.2 * (first[0] - small).abs().mean()
    assert transfer.make_step()["total"] < losses[0] / 2


def test_a_run_that_was_killed_and_stopped_ends_with_the_same_bits(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole" / "out.png", tmp_path / "cut" / "out.png"
    assert neural_style.main([*flags, "--out", str(whole)]) == 0
    assert sorted(p.name for p in whole.parent.iterdir()) == sorted(
        ["out.png", "out.png_losses.jsonl", *(f"out_{n:06}.png" for n in (10, 20, 30, 40))]
    )
    losses = records(whole.parent / "out.png_losses.jsonl")
    assert [(r["size"], r["step"]) for r in losses] == [(s, n) for s in (24, 36) for n in range(1, 21)]
    assert losses[19]["total"] < losses[0]["total"] / 2
    assert Image.open(whole).size == (36, 27)

    often = [*flags, "--out", str(cut), "--save_latest_minutes", "0"]
    argv = [sys.executable, str(SCRIPT), *often]
    process = subprocess.Popen(argv, env=ONE_THREAD, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    log_file, lines = cut.parent / "out.png_losses.jsonl", random.randrange(2, 9)
    deadline = time.monotonic() + 60
    while not log_file.exists() or log_file.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert not cut.exists()

    step = Painting.step

    def step_and_signal(painting: Painting) -> dict[str, float]:
        if painting.image.shape[3] == 36:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(painting)

    monkeypatch.setattr(Painting, "step", step_and_signal)
    assert neural_style.main([*often, "--continue_train"]) == 75
    assert not cut.exists() and len(records(log_file)) == 21
    monkeypatch.setattr(Painting, "step", step)
    assert neural_style.main([*often, "--continue_train"]) == 0
    for name in NAMES:
        assert (cut.parent / name).read_bytes() == (whole.parent / name).read_bytes(), name
    assert not list(cut.parent.glob("*.pth"))


@pytest.fixture
def stopped(flags: list[str], tmp_path: Path) -> Iterator[list[str]]:
    """The flags of a run that a signal stopped after one step."""
    given = [*flags, "--out", str(tmp_path / "out[1].png")]
    with pytest.MonkeyPatch.context() as patch:
        step = Painting.step
        patch.setattr(Painting, "step", lambda p: (os.kill(os.getpid(), signal.SIGUSR1), step(p))[1])
        assert neural_style.main(given) == 75
    yield given


def test_changed_flags_are_logged_or_refused(
    stopped: list[str], caplog: pytest.LogCaptureFixture, vgg: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = [*stopped, "--continue_train"]
    for changed, message in (
        (["--optimizer", "adam"], "--optimizer as before"),
        (["--preserve_color", "luminance"], "--preserve_color and"),
        (["--sizes", "32"], "--sizes 32: the saved state is of size 24"),
    ):
        with pytest.raises(UserError, match=message):
            neural_style.main([*again, *changed])
    with monkeypatch.context() as patch:
        other_vgg = nn.Sequential(*vgg[:7], nn.Conv2d(128, 128, 1), *vgg[8:])
        patch.setattr(neural_style, "load_vgg", lambda *_: other_vgg)
        with pytest.raises(UserError, match="--vgg_weights: the checkpoint was trained on"):
            neural_style.main(again)
    with caplog.at_level(logging.INFO):
        assert neural_style.main([*again, "--lambda_style", "2e5", "--steps", "2"]) == 0
    assert "Flags that have changed: " in caplog.text
    assert "--lambda_style 200000.0 (was 100000.0)" in caplog.text and "--steps 2 (was 20)" in caplog.text


def test_a_new_run_does_not_resume_from_an_old_state(
    stopped: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert neural_style.main([*stopped, "--steps", "3", "--keep_state"]) == 0
    assert "an earlier run's state is kept as out[1].png_replaced_state.pth" in caplog.text
    assert (tmp_path / "out[1].png_replaced_state.pth").exists()
    assert len(records(tmp_path / "out[1].png_losses.jsonl")) == 6

    # A kept state can be resumed with more steps, with the result of a run of that length.
    assert neural_style.main([*stopped, "--sizes", "24", "--steps", "3", "--keep_state"]) == 0
    assert neural_style.main([*stopped, "--sizes", "24", "--steps", "6", "--continue_train"]) == 0
    longer = (tmp_path / "out[1].png").read_bytes()
    assert neural_style.main([*stopped, "--sizes", "24", "--steps", "6"]) == 0
    assert (tmp_path / "out[1].png").read_bytes() == longer


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("--content absent.png", "--content absent.png: there is no such file"),
        ("--style absent.png --style_blend 1", "--style absent.png: there is no such file"),
        ("--content {broken}", "broken.png: cannot be read as an image"),
        ("--style_blend 1 2 3", "--style_blend: 3 weights for 2 images"),
        ("--style_blend 1 -1", "--style_blend 1.0 -1.0: give weights from 0 on"),
        ("--style_layers relu9_9", "--style_layers: vgg19 has no layer relu9_9"),
        ("--network vgg16 --content_layers relu4_4", "--content_layers: vgg16 has no layer relu4_4"),
        ("--sizes 36,24", "--sizes 36 24: give positive numbers that grow"),
        ("--sizes 24,x", "--sizes"),
        ("--sizes 2 --content_layers relu5_1", "--size 2: the content then has 2 x 2 pixels"),
        ("--style_scale 0.01", "--size 24: style image 1 then has 1 x 1 pixels"),
        ("--steps 0", "--steps 0: must be at least 1"),
        ("--lr 0", "--lr 0.0: must be a number above 0"),
        ("--lambda_tv nan", "--lambda_tv nan: must be a number above 0 or 0"),
        ("--lambda_content 0 --lambda_style 0", "nothing is left to paint"),
        ("--lr 1e30 --optimizer adam", "--lr 1e+30: after step"),
        ("--vgg_weights absent.pth", "--vgg_weights absent.pth: there is no such file"),
        ("--out {folder}/out.doc", "out.doc: give an image's name that ends in one of .png"),
        ("--out {broken}/out.png", "broken.png/out.png: its folder cannot be created"),
        ("--optimizer sgd", "--optimizer"),
        ("--optimize adam", "unrecognized arguments: --optimize"),
    ],
)
def test_invalid_flags_are_named(flags: list[str], tmp_path: Path, changed: str, message: str) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    extra = [part.format(broken=broken, folder=tmp_path) for part in changed.split()]
    with pytest.raises(UserError) as caught:
        neural_style.main([*flags, "--out", str(tmp_path / "out.png"), *extra])
    assert message in str(caught.value)


def test_optimisation_reaches_the_gram_matrices_of_the_style(features: Features) -> None:
    content, style = image(0, 16, 16), image(1, 16, 16) ** 3
    loss = StyleLoss(content, [style], features, method(lambda_content=0.0))
    painting = Painting(content, loss, "lbfgs", lr=1.0)
    for _ in range(60):
        painting.step()
    target, before, after = (
        grams({layer: features(x)[layer] for layer in LAYERS}) for x in (style, content, painting.image)
    )
    for layer in LAYERS:
        assert (after[layer] - target[layer]).norm() < 0.1 * (before[layer] - target[layer]).norm()
