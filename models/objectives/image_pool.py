"""A history of generated images for the discriminator (Shrivastava et al. 2017, section 2.3)."""

import logging
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from util import distributed
from util.checking import COUNT
from util.errors import UserError

log = logging.getLogger(__name__)


class ImagePool:
    """Returns new fakes or, half of the time, stored ones in their place.

    Every position in a batch has slots of its own, so that positions are independent. While a position has an
    empty slot, a fake is stored and returned; after that, with probability 1/2, a stored fake is returned and
    replaced by the new one, else the new one is returned and not stored.

    Args:
        size: images in all; 0 returns every fake unchanged.
        batch_size: positions; each has ``max(1, size // batch_size)`` slots.
    """

    STATE: ClassVar[object] = {"images": Tensor | None, "filled": [COUNT]}
    """The shape of `state_dict`."""

    def __init__(self, size: int, batch_size: int):
        self.slots = max(1, size // batch_size) if size else 0
        self.filled = [0] * batch_size
        self.images: Tensor | None = None

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the random decisions for the next `count` fakes.

        Returns:
            (count, 4) int64 on the CPU: the position in the batch, a slot, whether to return the image in it,
            whether to store the fake there.
        """
        if not self.slots:
            return torch.zeros(count, 4, dtype=torch.int64)
        decisions = []
        for position in range(count):
            if position >= len(self.filled):  # the last batch of a stream may be larger
                decisions.append((0, 0, False, False))
                continue
            slot = int(torch.randint(self.slots, (), generator=generator))
            swap = bool(torch.rand((), generator=generator) > 0.5)
            if self.filled[position] < self.slots:
                decisions.append((position, self.filled[position], False, True))
                self.filled[position] += 1
            else:
                decisions.append((position, slot, swap, swap))
        return torch.tensor(decisions, dtype=torch.int64)

    def query(self, fakes: Tensor, decisions: Tensor) -> Tensor:
        """Return the images to show to the discriminator, detached.

        Args:
            fakes: (N, C, H, W).
            decisions: (N, 4), the rows of `draw` for these fakes, on their device.
        """
        fakes = fakes.detach()
        if not self.slots:
            return fakes
        if self.images is None:
            self.images = fakes.new_zeros(len(self.filled), self.slots, *fakes.shape[1:])
        self.images = self.images.to(fakes)  # a loaded state may be on the CPU, and in another precision
        if self.images.shape[2:] != fakes.shape[1:]:
            raise UserError(
                "--pool_size keeps earlier fakes, which must all have one size: use --pool_size 0, or a"
                " --preprocess that crops"
            )
        position, slot = decisions[:, 0], decisions[:, 1]
        use_stored, store = (decisions[:, k].bool().view(-1, 1, 1, 1) for k in (2, 3))
        # A stored non-finite fake would make later steps non-finite too.
        store &= fakes.isfinite().flatten(1).all(1).view(-1, 1, 1, 1)
        stored = self.images[position, slot]
        self.images[position, slot] = torch.where(store, fakes, stored)
        return torch.where(use_stored, stored, fakes)

    def complete(self) -> None:
        """Exchange the images of all positions between the ranks; each rank has updated those of its own."""
        if distributed.world_size() == 1 or self.images is None:
            return
        mine = distributed.rank_slice(len(self.filled), distributed.world_size(), distributed.rank())
        images = self.images[mine].clone()
        self.images.zero_()[mine] = images
        distributed.all_reduce_sum([self.images])

    def buffers(self) -> Iterable[Tensor]:
        """Return nothing: non-finite fakes are not stored, and the decisions do not depend on them."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """Return the images and the number of filled slots per position."""
        return {"images": self.images, "filled": list(self.filled)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict`; a pool of another size stays empty."""
        images, filled = state["images"], list(state["filled"])
        if images is None or images.shape[:2] == (len(self.filled), self.slots):
            if images is not None and len(filled) != len(self.filled):
                raise ValueError(f"a pool of {len(filled)} positions instead of {len(self.filled)}")
            self.images, self.filled = None if images is None else images.clone(), filled
        else:
            log.warning("--pool_size or --batch_size has changed: the pool of earlier fakes starts empty")
