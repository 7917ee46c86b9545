"""The pool of earlier fakes that discriminators see."""

import pytest
import torch

from models.objectives.image_pool import ImagePool
from util.errors import UserError
from util.seeding import torch_rng


def fakes(first: int, count: int) -> torch.Tensor:
    """Return images whose pixels are their numbers."""
    return (
        torch.arange(first, first + count, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()
    )


def run(pool: ImagePool, batches: range, size: int) -> list[list[float]]:
    shown = []
    for i in batches:
        decisions = pool.draw(size, torch_rng("t", i))
        image = pool.query(fakes(i * size, size), decisions)
        assert image.shape == (size, 3, 4, 4) and image.flatten(1).std(1).max() == 0
        shown.append(image[:, 0, 0, 0].tolist())
    return shown


def reference(size: int, batches: range) -> list[float]:
    """Return the images that the paper's pool shows at batch size 1, with the same random decisions."""
    stored: list[float] = []
    shown = []
    for i in batches:
        generator = torch_rng("t", i)
        slot, swap = (
            int(torch.randint(size, (), generator=generator)),
            bool(torch.rand((), generator=generator) > 0.5),
        )
        if len(stored) < size:
            stored.append(float(i))
            shown.append(float(i))
        elif swap:
            shown.append(stored[slot])
            stored[slot] = float(i)
        else:
            shown.append(float(i))
    return shown


def test_at_batch_size_one_it_equals_the_papers_pool() -> None:
    shown = [image for (image,) in run(ImagePool(5, 1), range(60), 1)]
    assert shown == reference(5, range(60))
    earlier = sum(image != i for i, image in enumerate(shown))
    assert 15 < earlier < 45


def test_positions_in_a_batch_have_their_own_slots() -> None:
    pool = ImagePool(6, 3)
    shown = run(pool, range(40), 3)
    for position in range(3):
        assert {int(image) % 3 for image in (row[position] for row in shown)} == {position}
    assert pool.images is not None and pool.images.shape == (3, 2, 3, 4, 4)
    assert run(ImagePool(2, 3), range(3), 3)  # at least one slot per position


def test_a_pool_of_size_zero_returns_new_fakes() -> None:
    assert run(ImagePool(0, 2), range(3), 2) == [[0, 1], [2, 3], [4, 5]]


def test_a_smaller_last_batch_and_a_resume_change_nothing() -> None:
    pool = ImagePool(4, 2)
    run(pool, range(10), 2)
    assert run(pool, range(10, 11), 1)
    resumed = ImagePool(4, 2)
    resumed.load_state_dict(pool.state_dict())
    assert run(resumed, range(20, 40), 2) == run(pool, range(20, 40), 2)


def test_no_gradient_flows_and_sizes_must_agree() -> None:
    pool = ImagePool(2, 1)
    image = fakes(0, 1).requires_grad_()
    assert not pool.query(image, pool.draw(1, torch_rng("t"))).requires_grad
    with pytest.raises(UserError, match="--pool_size 0"):
        pool.query(torch.zeros(1, 3, 5, 4), pool.draw(1, torch_rng("t")))


def test_a_pool_of_another_size_starts_empty() -> None:
    pool, larger = ImagePool(2, 1), ImagePool(4, 1)
    run(pool, range(5), 1)
    larger.load_state_dict(pool.state_dict())
    assert run(larger, range(5, 9), 1) == [[5], [6], [7], [8]]
