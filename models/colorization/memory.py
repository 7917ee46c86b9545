"""A memory of colours under spatial features (Yoo et al. 2019, "Coloring With Limited Data", section 3.1)."""

from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.precision import at_least_float32
from util.color import ciede2000, lab_to_rgb, rgb_to_lab, soft_encode

FEATURE_SIZE = 512
PALETTE = 10
SAMPLES = 32
"""Colour features are taken from a grid of at most so many places a side."""

NAME_BYTES = 200
AGE_NOISE = 4.0


class ColorMemory(nn.Module):
    """Slots with a key (what an image shows), a value (its colours), an age, and the image it came from.

    Everything is part of the state_dict. Slots that were never written are empty and are never fetched.

    Args:
        size: slots.
        value_size: numbers in a colour feature.
        threshold: colour features nearer than this are taken for the same.
        top: how many of the best slots the triplet loss looks at.
        fingerprint: tells on whose features it is learnt.
    """

    keys: Tensor
    values: Tensor
    ages: Tensor
    sources: Tensor
    names: Tensor

    def __init__(
        self,
        size: int,
        value_size: int,
        threshold: float,
        top: int = 256,
        fingerprint: nn.Module | None = None,
    ):
        super().__init__()
        self.fingerprint = fingerprint
        self.threshold, self.top = threshold, min(top, size)
        self.distance = palette_distance if value_size == 3 * PALETTE else divergence
        self.query = nn.Linear(FEATURE_SIZE, FEATURE_SIZE)
        self.register_buffer("keys", torch.zeros(size, FEATURE_SIZE))
        self.register_buffer("values", torch.zeros(size, value_size))
        self.register_buffer("ages", torch.zeros(size))
        self.register_buffer("sources", torch.full((size,), -1))  # position in the training set; -1: empty
        self.register_buffer("names", torch.zeros(size, NAME_BYTES, dtype=torch.uint8))

    def forward(self, features: Tensor) -> Tensor:
        """Return the queries of spatial features: (N, 512) to (N, 512) of length 1."""
        with torch.autocast(features.device.type, enabled=False):
            return F.normalize(self.query(at_least_float32(features)))

    def scores(self, queries: Tensor) -> Tensor:
        """Return the cosine of every query and every key, (N, size); -inf for empty slots."""
        with torch.autocast(queries.device.type, enabled=False):
            return (queries @ self.keys.T).masked_fill(self.sources < 0, -torch.inf)

    def fetch(self, queries: Tensor, count: int = 1) -> Tensor:
        """Return the slots that fit best, the best first: (N, count) indices."""
        return self.scores(queries).topk(count).indices

    def triplet_loss(self, queries: Tensor, values: Tensor, margin: float) -> Tensor:
        """Return how much nearer than the best slot of the same colour one of other colour comes (eq. 2).

        Among the `top` best slots the positive is the best one whose value is nearer than the threshold, the
        negative the best other one. A query that lacks either counts as nothing.
        """
        scores, slots = self.scores(queries).topk(self.top)
        same = self.distance(self.values[slots], values[:, None]) < self.threshold
        filled = scores.isfinite()
        positive, negative = (scores.masked_fill(~(filled & which), -torch.inf) for which in (same, ~same))
        positive, negative = positive.amax(1), negative.amax(1)
        both = positive.isfinite() & negative.isfinite()
        loss = F.relu(torch.where(both, negative, 0) - torch.where(both, positive, 0) + margin)
        return (loss * both).sum() / both.sum().clamp(min=1)

    @torch.no_grad()
    def update(self, queries: Tensor, values: Tensor, sources: Tensor, names: Tensor, noise: Tensor) -> None:
        """Take in images one after the other (section 3.1.3).

        If the best slot's value is near, its key moves towards the query; else the oldest slot is
        overwritten.

        Args:
            queries, values: (N, 512), (N, value_size).
            sources, names: (N,) positions in the training set, and `encode_names` of their files.
            noise: (N, size), added to the ages to choose among equally old slots.
        """
        for query, value, source, name, jitter in zip(queries, values, sources, names, noise, strict=True):
            self.ages += 1
            best = self.fetch(query[None])[0]
            near = (self.distance(self.values[best], value) < self.threshold) & (self.sources[best] >= 0)
            oldest = (self.ages + jitter).masked_fill(self.sources < 0, torch.inf).argmax().view(1)
            slot = torch.where(near, best, oldest)
            key = torch.where(near, F.normalize(self.keys[slot] + query), query[None])
            self.keys.index_copy_(0, slot, key)
            self.values.index_copy_(0, slot, torch.where(near, self.values[slot], value))
            self.sources.index_copy_(0, slot, torch.where(near, self.sources[slot], source))
            self.names.index_copy_(0, slot, torch.where(near, self.names[slot], name))
            self.ages.index_fill_(0, slot, 0)

    def name_of(self, slot: int) -> str:
        """Return the file name of the image that a slot's value came from."""
        return bytes(self.names[slot].tolist()).rstrip(b"\0").decode(errors="replace")


def encode_names(names: list[str]) -> Tensor:
    """Return file names as (N, 200) bytes in uint8; longer ones lose their beginning."""
    encoded = (name.encode()[-NAME_BYTES:].ljust(NAME_BYTES, b"\0") for name in names)
    return torch.tensor([list(name) for name in encoded], dtype=torch.uint8)


def divergence(memory: Tensor, query: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of colour distributions in digits: (..., 313) to (...)."""
    # xlogy: a colour that does not occur adds nothing, instead of 0 · log 0.
    return (torch.xlogy(memory, memory) - torch.xlogy(memory, query + 1e-8)).sum(-1) / log(10)


def palette_distance(memory: Tensor, query: Tensor) -> Tensor:
    """Return the mean CIEDE2000 of palettes' colours in their order, (..., 30) to (...)."""
    memory, query = torch.broadcast_tensors(memory, query)
    labs = [rgb_to_lab(palette.reshape(-1, PALETTE, 3).mT[..., None]) for palette in (memory, query)]
    return ciede2000(*labs).mean((1, 2)).view(memory.shape[:-1])


def color_distribution(lab: Tensor) -> Tensor:
    """Return the mean soft code of images' colours: Lab (N, 3, H, W) to (N, 313) that sum to 1."""
    return soft_encode(_grid(lab)[:, 1:].flatten(2).transpose(1, 2)).mean(1)


def color_palette(lab: Tensor) -> Tensor:
    """Return the ten main colours of images, the most common first: Lab (N, 3, H, W) to RGB, (N, 30).

    They are in 0..1, the centres of k-means in Lab, started at equally spaced ranks of lightness.
    """
    points = _grid(lab).flatten(2).transpose(1, 2)
    count = points.shape[1]
    ranks = points[..., 0].argsort(1)
    starts = ((torch.arange(PALETTE, device=lab.device) + 0.5) * count / PALETTE).long()
    centres = points.gather(1, ranks[:, starts, None].expand(-1, -1, 3))
    for _ in range(10):
        member = F.one_hot(torch.cdist(points, centres).argmin(2), PALETTE).to(points)
        sizes = member.sum(1)
        means = member.transpose(1, 2) @ points / sizes.clamp(min=1)[..., None]
        centres = torch.where(sizes[..., None] > 0, means, centres)
    order = sizes.argsort(dim=1, descending=True, stable=True)
    centres = centres.gather(1, order[..., None].expand(-1, -1, 3))
    return lab_to_rgb(centres.transpose(1, 2)[..., None]).squeeze(-1).transpose(1, 2).flatten(1)


def _grid(images: Tensor) -> Tensor:
    """Return the pixels on a grid of at most 32 x 32 places."""
    vertical, horizontal = (-(-side // SAMPLES) for side in images.shape[-2:])
    return images[..., ::vertical, ::horizontal]
