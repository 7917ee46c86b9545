"""A history of generated images for the discriminator (Shrivastava et al. 2017, section 2.3)."""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from util import distributed
from util.errors import UserError

log = logging.getLogger(__name__)


class ImagePool:
    """Hands out the newest fakes or, half of the time, earlier ones in their place.

    Every position in a batch has its own share of the pool: positions do not influence each other. Until its
    share is full a fake is stored and handed out; then, with probability 1/2, a stored one is handed out and
    replaced by it, else it is handed out unstored.

    Args:
        size: images in all; 0 hands out every fake as it is.
        batch_size: positions; each has ``max(1, size // batch_size)`` images.
    """

    def __init__(self, size: int, batch_size: int):
        self.share = max(1, size // batch_size) if size else 0
        self.filled = [0] * batch_size
        self.images: Tensor | None = None

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return what to do with the next `count` fakes, decided on the host.

        Returns:
            (count, 4) int64 on the CPU: the position in the batch, a slot, whether to hand out what it holds,
            whether to store the fake there.
        """
        if not self.share:
            return torch.zeros(count, 4, dtype=torch.int64)
        decisions = []
        for position in range(count):
            if position >= len(self.filled):  # a stream's last batch may be larger
                decisions.append((0, 0, False, False))
                continue
            slot = int(torch.randint(self.share, (), generator=generator))
            swap = bool(torch.rand((), generator=generator) > 0.5)
            if self.filled[position] < self.share:
                decisions.append((position, self.filled[position], False, True))
                self.filled[position] += 1
            else:
                decisions.append((position, slot, swap, swap))
        return torch.tensor(decisions, dtype=torch.int64)

    def query(self, fakes: Tensor, decisions: Tensor) -> Tensor:
        """Return the images to show to the discriminator; no gradient flows through them.

        Args:
            fakes: (N, C, H, W).
            decisions: what `draw` returned for them, on their device; the rows of some positions if the fakes
                are a part of a batch.
        """
        fakes = fakes.detach()
        if not self.share:
            return fakes
        if self.images is None:
            self.images = fakes.new_zeros(len(self.filled), self.share, *fakes.shape[1:])
        self.images = self.images.to(fakes)  # a loaded state may be on the CPU, and in another precision
        if self.images.shape[2:] != fakes.shape[1:]:
            raise UserError(
                "--pool_size keeps earlier fakes, which must all have one size: use --pool_size 0, or a"
                " --preprocess that crops"
            )
        position, slot = decisions[:, 0], decisions[:, 1]
        hand_out, store = (decisions[:, k].bool().view(-1, 1, 1, 1) for k in (2, 3))
        store &= fakes.isfinite().flatten(1).all(1).view(-1, 1, 1, 1)  # --on_nan skip shall not meet it again
        held = self.images[position, slot]
        self.images[position, slot] = torch.where(store, fakes, held)
        return torch.where(hand_out, held, fakes)

    def complete(self) -> None:
        """Give every process the images of all positions, of which each has dealt with its own."""
        if distributed.world_size() == 1 or self.images is None:
            return
        mine = distributed.rank_slice(len(self.filled), distributed.world_size(), distributed.rank())
        own = self.images[mine].clone()
        self.images.zero_()[mine] = own
        distributed.all_reduce_sum([self.images])

    def buffers(self) -> Iterable[Tensor]:
        """Return nothing: fakes that are not finite are not stored, and the host has counted the others."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """Return the images and how many there are."""
        return {"images": self.images, "filled": list(self.filled)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; a pool of another size stays empty."""
        images, filled = state["images"], list(state["filled"])
        if images is None or images.shape[:2] == (len(self.filled), self.share):
            self.images, self.filled = None if images is None else images.clone(), filled
        else:
            log.warning("--pool_size or --batch_size has changed: the pool of earlier fakes starts empty")
