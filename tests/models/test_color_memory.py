"""The colour memory against numbers computed by hand."""

from math import log10

import pytest
import torch
from torch import nn

from models.colorization.memory import (
    FEATURE_SIZE,
    PALETTE,
    ColorMemory,
    color_distribution,
    color_palette,
    divergence,
    encode_names,
    palette_distance,
)
from util.color import AB_BINS, rgb_to_lab


def direction(*parts: float) -> torch.Tensor:
    """Return a feature that starts with `parts` and is 0 elsewhere."""
    return torch.cat([torch.tensor(parts), torch.zeros(FEATURE_SIZE - len(parts))])


def one_color(index: int) -> torch.Tensor:
    return nn.functional.one_hot(torch.tensor(index), len(AB_BINS)).float()


def memory(size: int = 4, threshold: float = 0.7, top: int = 256) -> ColorMemory:
    made = ColorMemory(size, len(AB_BINS), threshold, top)
    nn.init.eye_(made.query.weight)
    nn.init.zeros_(made.query.bias)
    return made


def remember(
    made: ColorMemory, query: torch.Tensor, value: torch.Tensor, source: int, name: str = ""
) -> None:
    noise = torch.zeros(1, len(made.ages))
    made.update(query[None], value[None], torch.tensor([source]), encode_names([name]), noise)


def test_queries_have_length_one() -> None:
    torch.testing.assert_close(memory()(direction(3, 4)[None])[0, :2], torch.tensor([0.6, 0.8]))


def test_empty_slots_are_filled_first_and_never_fetched() -> None:
    made = memory()
    remember(made, direction(1), one_color(0), 7, "a.jpg")
    remember(made, direction(0, 1), one_color(1), 9, "b.jpg")
    assert made.sources.tolist() == [7, 9, -1, -1]
    assert made.ages.tolist() == [1, 0, 2, 2]
    assert made.fetch(direction(0.6, 0.8)[None], 2).tolist() == [[1, 0]]
    assert made.fetch(direction(-1, -1)[None]).item() in (0, 1)
    assert [made.name_of(slot) for slot in (0, 1, 2)] == ["a.jpg", "b.jpg", ""]


def test_the_same_colours_move_the_key_and_keep_the_value() -> None:
    made = memory()
    remember(made, direction(1), one_color(0), 7, "a.jpg")
    mostly = 0.9 * one_color(0) + 0.1 * one_color(1)
    assert divergence(one_color(0), mostly).item() == pytest.approx(-log10(0.9), rel=1e-5)
    remember(made, direction(0, 1), mostly, 8, "b.jpg")
    torch.testing.assert_close(made.keys[0, :2], torch.tensor([0.5, 0.5]).sqrt())
    assert torch.equal(made.values[0], one_color(0))
    assert made.sources.tolist() == [7, -1, -1, -1] and made.name_of(0) == "a.jpg"
    assert made.ages.tolist() == [0, 2, 2, 2]


def test_other_colours_replace_the_oldest_slot() -> None:
    made = memory(size=2)
    for index in range(3):
        remember(made, direction(1), one_color(index), index, f"{index}.jpg")
    # Slot 0 was the oldest when the third image was added.
    assert made.sources.tolist() == [2, 1] and made.name_of(0) == "2.jpg"
    assert torch.equal(made.values, torch.stack([one_color(2), one_color(1)]))
    # The noise chooses among slots of nearly the same age.
    noise = torch.tensor([[5.0, 0.0]])
    made.update(direction(1)[None], one_color(3)[None], torch.tensor([3]), encode_names(["3.jpg"]), noise)
    assert made.sources.tolist() == [3, 1]


def test_images_of_a_batch_are_added_one_after_the_other() -> None:
    one_by_one, batched = memory(), memory()
    queries, values = torch.stack([direction(1), direction(0, 1)]), torch.stack([one_color(0), one_color(0)])
    for i in range(2):
        remember(one_by_one, queries[i], values[i], i)
    batched.update(queries, values, torch.arange(2), encode_names(["", ""]), torch.zeros(2, 4))
    for name, tensor in one_by_one.state_dict().items():
        assert torch.equal(tensor, batched.state_dict()[name]), name


def filled() -> ColorMemory:
    """Keys at cosines 1, 0.8, 0.6 and 0 to direction(1); colours 0, 0, 1 and 2."""
    made = memory()
    keys = (direction(1), direction(0.8, 0.6), direction(0.6, 0.8), direction(0, 1))
    made.keys.copy_(torch.stack(keys))
    made.values.copy_(torch.stack([one_color(index) for index in (0, 0, 1, 2)]))
    made.sources.copy_(torch.arange(4))
    return made


@pytest.mark.parametrize(
    ("color", "margin", "loss"),
    [
        (0, 0.1, 0.0),  # positive 1, negative 0.6
        (0, 0.5, 0.1),
        (1, 0.1, 0.5),  # positive 0.6, negative 1
        (2, 0.1, 1.1),  # positive 0, negative 1
        (5, 0.1, 0.0),  # no positive
    ],
)
def test_the_triplet_loss(color: int, margin: float, loss: float) -> None:
    value = filled().triplet_loss(direction(1)[None], one_color(color)[None], margin)
    assert value.item() == pytest.approx(loss, abs=1e-6)


def test_the_triplet_loss_is_a_mean_over_queries_with_positive_and_negative() -> None:
    made, queries = filled(), torch.stack([direction(1), direction(1)])
    loss = made.triplet_loss(queries, torch.stack([one_color(1), one_color(5)]), 0.1)
    assert loss.item() == pytest.approx(0.5)
    made.values.copy_(one_color(0).expand(4, -1))  # no negative
    assert made.triplet_loss(queries[:1], one_color(0)[None], 0.1).item() == 0
    made.top = 1  # only the best slot, which is a negative
    assert filled().triplet_loss(queries[:1], one_color(1)[None], 0.1).item() > 0
    assert made.triplet_loss(queries[:1], one_color(1)[None], 0.1).item() == 0


def test_the_gradient_of_the_triplet_loss_is_always_finite() -> None:
    for made in (memory(), filled()):
        for color in (1, 5):
            loss = made.triplet_loss(made(direction(1, 2)[None]), one_color(color)[None], 0.5)
            loss.backward()
            assert made.query.weight.grad is not None and made.query.weight.grad.isfinite().all()
    assert made.query.weight.grad.abs().sum() > 0


def test_zero_entries_give_no_nan() -> None:
    assert divergence(one_color(0), one_color(0)).item() == pytest.approx(0, abs=1e-6)
    assert divergence(one_color(0), one_color(1)).item() == pytest.approx(8, rel=1e-5)
    half = (one_color(0) + one_color(1)) / 2
    assert divergence(half, one_color(0) * 0.5 + one_color(2) * 0.5).item() == pytest.approx(
        0.5 * (log10(0.5) + 8), rel=1e-3
    )


def test_palettes() -> None:
    colors = torch.rand(PALETTE, 3, generator=torch.Generator().manual_seed(0))
    counts = torch.arange(PALETTE, 0, -1) * 10
    pixels = colors.repeat_interleave(counts, 0)[None].mT[..., None]
    palette = color_palette(rgb_to_lab(pixels))[0].view(PALETTE, 3)
    torch.testing.assert_close(palette[0], colors[0], rtol=0, atol=0.2)
    assert palette.min() >= 0 and palette.max() <= 1
    black, white = torch.zeros(1, 3 * PALETTE), torch.ones(1, 3 * PALETTE)
    assert palette_distance(black, white).item() == pytest.approx(100, abs=0.1)
    assert palette_distance(torch.stack([black, white], 1), white[:, None])[0].tolist() == pytest.approx(
        [100, 0], abs=0.1
    )


def test_distributions() -> None:
    lab = torch.zeros(2, 3, 70, 40)
    lab[1, 1] = 60
    distributions = color_distribution(lab)
    torch.testing.assert_close(distributions.sum(1), torch.ones(2))
    assert distributions.argmax(1).tolist() == [AB_BINS.index((0, 0)), AB_BINS.index((60, 0))]


def test_everything_is_in_the_state_dict() -> None:
    made = filled()
    remember(made, direction(0, 0, 1), one_color(4), 12, "ä.jpg")
    loaded = memory()
    loaded.load_state_dict(made.state_dict())
    slot = loaded.fetch(direction(0, 0, 1)[None]).item()
    assert loaded.name_of(int(slot)) == "ä.jpg" and torch.equal(loaded.ages, made.ages)
