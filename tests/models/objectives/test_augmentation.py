"""Differentiable augmentation against results by hand, and its gradient."""

import pytest
import torch
from torch.autograd import gradcheck

from models.objectives.augmentation import (
    AUGMENTATION_DRAWS,
    POLICIES,
    augment,
    change_color,
    cut_out,
    parse_policy,
)
from models.objectives.augmentation import translate as shift
from util.errors import UserError


def draws(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_colour_draws_of_one_half_change_nothing() -> None:
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(change_color(x, draws(0.5, 0.5, 0.5)), x)
    torch.testing.assert_close(change_color(x, draws(0.75, 0.5, 0.5)), x + 0.25)
    grey = change_color(x, draws(0.5, 0, 0.5))
    torch.testing.assert_close(grey, x.mean(1, keepdim=True).expand_as(x))
    flat = change_color(x, draws(0.5, 0.5, 0))
    torch.testing.assert_close(flat, x.mean() + (x - x.mean()) / 2)


@pytest.mark.parametrize(("draw", "rows"), [(0.0, [None, 0, 1]), (0.5, [0, 1, 2]), (0.99, [1, 2, 3])])
def test_translation_pads_with_zeros(draw: float, rows: list[int | None]) -> None:
    x = torch.arange(1.0, 65, dtype=torch.float64).view(1, 1, 8, 8)
    moved = shift(x, draws(draw, 0.5))
    for index, row in enumerate(rows):
        expected = torch.zeros(8, dtype=torch.float64) if row is None else x[0, 0, row]
        assert torch.equal(moved[0, 0, index], expected)
    assert torch.equal(shift(x.mT, draws(0.5, draw)), moved.mT)


def test_the_cutout_has_half_the_sides_and_the_drawn_centre() -> None:
    x = torch.ones(2, 1, 8, 12)
    cut = cut_out(x, torch.tensor([[0.5, 0.5], [0.0, 0.0]]))
    assert (cut[0] == 0).sum() == 4 * 6 and (cut[0, 0, 2:6, 3:9] == 0).all()
    assert (cut[1] == 0).sum() == 2 * 3 and (cut[1, 0, :2, :3] == 0).all()


def test_each_image_is_augmented_by_its_own_draws_and_gradients_flow() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    decisions = torch.rand(2, AUGMENTATION_DRAWS, dtype=torch.float64)
    batched = augment(x, POLICIES, decisions)
    for i in range(2):
        alone = augment(x[i : i + 1], POLICIES, decisions[i : i + 1])
        torch.testing.assert_close(batched[i : i + 1], alone)
    assert gradcheck(lambda x: augment(x, POLICIES, decisions), x.requires_grad_())
    assert torch.equal(augment(x, (), decisions), x)


def test_policies_by_name() -> None:
    assert parse_policy("none") == () and parse_policy("color, cutout") == ("color", "cutout")
    with pytest.raises(UserError, match="--diffaug colour: expected none or some of color"):
        parse_policy("colour")
