"""Colour spaces, differences and ab bins against reference values."""

import numpy as np
import pytest
import torch

from tests.support.environment import GOLDEN, ROOT, needs_golden
from util.color import (
    AB_BINS,
    ciede2000,
    colourfulness,
    from_L_ab,
    lab_to_rgb,
    match_colours,
    rgb_to_lab,
    soft_encode,
    to_L_ab,
)

SHARMA = ROOT.parent / "shared" / "data" / "metrics" / "skimage" / "ciede2000_test_data.txt"


def pixel(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((1, 1, 1), (100, 0, 0)),
        ((1, 0, 0), (53.2406, 80.0923, 67.2028)),
        ((0, 1, 0), (87.7351, -86.1813, 83.1775)),
        ((0, 0, 1), (32.2957, 79.1870, -107.8617)),
        ((0.5, 0.5, 0.5), (53.3889, 0, 0)),
        ((0.01, 0.02, 0.03), (1.3001, -0.3124, -1.1998)),  # the linear parts of both curves
    ],
)
def test_lab_of_known_colours(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    np.testing.assert_allclose(rgb_to_lab(pixel(*rgb)).flatten(), lab, rtol=0, atol=6e-3)
    np.testing.assert_allclose(lab_to_rgb(rgb_to_lab(pixel(*rgb))).flatten(), rgb, rtol=0, atol=1e-5)


@needs_golden
def test_lab_agrees_with_scikit_image() -> None:
    golden = np.load(GOLDEN / "lab.npz")
    rgb = torch.from_numpy(golden["rgb"]).permute(2, 0, 1)[None]
    lab = rgb_to_lab(rgb / 255)
    assert np.abs(lab[0].permute(1, 2, 0).numpy() - golden["lab"]).max() < 1e-3
    back = lab_to_rgb(torch.from_numpy(golden["lab"]).permute(2, 0, 1)[None]) * 255
    assert np.abs(back[0].permute(1, 2, 0).numpy() - golden["back"]).max() < 0.1
    assert torch.equal((lab_to_rgb(lab) * 255).round(), rgb.float())


def test_round_trip() -> None:
    levels = torch.arange(0, 256, 5)
    rgb = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, -1, 1)
    assert torch.equal((lab_to_rgb(rgb_to_lab(rgb / 255)) * 255).round(), rgb.float())
    images = rgb / 127.5 - 1
    torch.testing.assert_close(from_L_ab(*to_L_ab(images)), images, rtol=0, atol=1e-4)
    L, ab = to_L_ab(images)
    assert L.min() >= -1.001 and L.max() <= 1.001 and ab.abs().max() < 1


def test_gradients_of_the_conversions() -> None:
    values = torch.tensor([0.01, 0.03, 0.06, 0.3, 0.9], dtype=torch.float64)
    rgb = torch.cartesian_prod(values, values, values).T.reshape(1, 3, -1, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rgb_to_lab(x), rgb, eps=1e-7, atol=1e-3)
    lab = rgb_to_lab(rgb.detach()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: lab_to_rgb(x), lab, eps=1e-7, atol=1e-4)
    black = torch.zeros(1, 3, 2, 2, requires_grad=True)
    lab_to_rgb(rgb_to_lab(black)).sum().backward()
    assert black.grad is not None and black.grad.isfinite().all()


@pytest.mark.skipif(not SHARMA.exists(), reason="needs the table of colour differences")
def test_ciede2000_agrees_with_sharmas_table() -> None:
    rows = [line.split() for line in SHARMA.read_text().splitlines() if not line.startswith("#")]
    table = torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64)
    assert len(table) == 34
    for first, second in ((table[:, 2:5], table[:, 17:20]), (table[:, 17:20], table[:, 2:5])):
        assert (ciede2000(first, second) - table[:, 15]).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [  # from the paper's table
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_known_colour_differences(first: tuple, second: tuple, difference: float) -> None:
    assert ciede2000(pixel(*first), pixel(*second)).item() == pytest.approx(difference, abs=1e-4)


def test_colourfulness() -> None:
    assert colourfulness(torch.full((2, 3, 4, 4), 77.0)).tolist() == [0, 0]
    halves = torch.tensor([[255.0, 0, 0], [0, 0, 255.0]]).T.reshape(1, 3, 1, 2)
    # rg = 255, 0; yb = 127.5, -255: deviations 127.5 and 191.25, means 127.5 and -63.75
    expected = np.hypot(127.5, 191.25) + 0.3 * np.hypot(127.5, 63.75)
    assert colourfulness(halves).item() == pytest.approx(expected, rel=1e-6)


def test_matched_colours_have_the_mean_and_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    image = torch.rand(1, 3, 5, 9, generator=generator, dtype=torch.float64)
    like = torch.einsum("ij,njhw->nihw", mixed, image.roll(1, 1)[..., :7] ** 2) - 0.7
    matched = match_colours(image, like)
    assert matched.shape == image.shape
    for moment in (lambda x: x.mean(1), lambda x: torch.cov(x, correction=0)):
        torch.testing.assert_close(moment(matched[0].flatten(1)), moment(like[0].flatten(1)))
    torch.testing.assert_close(match_colours(like, like), like)
    grey = match_colours(image[:, :1], like[:, :1])
    expected = (image[:, :1] - image[:, :1].mean()) / image[:, :1].std(correction=0)
    expected = expected * like[:, :1].std(correction=0) + like[:, :1].mean()
    torch.testing.assert_close(grey, expected)


def test_matching_does_not_amplify_nearly_grey_colours() -> None:
    generator = torch.Generator().manual_seed(0)
    grey = torch.rand(1, 1, 8, 8, generator=generator).expand(-1, 3, -1, -1)
    nearly = grey + 1e-3 * torch.randn(1, 3, 8, 8, generator=generator)
    colourful = torch.rand(1, 3, 8, 8, generator=generator) * 2 - 1
    for image in (grey, nearly, torch.full_like(grey, 0.3)):
        assert match_colours(image, colourful).abs().max() < 2.5
    matched = match_colours(nearly, colourful)
    assert (matched - matched.mean(1, keepdim=True)).abs().max() < 0.4
    flat = match_colours(torch.full_like(grey, 0.3), colourful)
    torch.testing.assert_close(flat, colourful.mean((2, 3), keepdim=True).expand_as(flat))


def test_the_313_bins() -> None:
    assert len(AB_BINS) == len(set(AB_BINS)) == 313
    assert AB_BINS[0] == (-90, 50) and AB_BINS[-1] == (100, 0) and (0, 0) in AB_BINS


def test_soft_encoding() -> None:
    points = torch.tensor([[0.0, 0.0], [0.0, 5.0], [300.0, 300.0]])
    code = soft_encode(points)
    torch.testing.assert_close(code.sum(-1), torch.ones(3))
    assert ((code > 0).sum(-1) <= 10).all()
    assert code[0].argmax() == AB_BINS.index((0, 0))
    assert code[1, AB_BINS.index((0, 0))] == pytest.approx(code[1, AB_BINS.index((0, 10))])
    # neighbours at distance 10 weigh exp(-10² / (2 · 5²)) of the nearest
    ratio = code[0, AB_BINS.index((0, 10))] / code[0, AB_BINS.index((0, 0))]
    assert ratio.item() == pytest.approx(np.exp(-2), rel=1e-4)
