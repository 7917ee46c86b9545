"""A memory of colours by spatial features (Yoo et al. 2019, "Coloring With Limited Data", section 3.1)."""

from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.precision import at_least_float32
from util.color import ciede2000, lab_to_rgb, rgb_to_lab, soft_encode

FEATURE_SIZE = 512
PALETTE = 10
SAMPLES = 32
"""Colour features are computed from a grid of at most this many pixels per side."""

NAME_BYTES = 200
AGE_NOISE = 4.0


class ColorMemory(nn.Module):
    """Slots with a key (spatial feature), a value (colour feature), an age, and the image of the value.

    Everything is part of the state_dict. Slots that were never written are empty and are never fetched.

    Args:
        size: number of slots.
        value_size: size of a colour feature.
        threshold: distance below which colour features count as the same.
        top: number of best slots that the triplet loss considers.
        fingerprint: identifies the network that the spatial features come from.
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
        self.register_buffer("sources", torch.full((size,), -1))  # index in the training set; -1: empty slot
        self.register_buffer("names", torch.zeros(size, NAME_BYTES, dtype=torch.uint8))

    def forward(self, features: Tensor) -> Tensor:
        """Return the queries of spatial features, (N, 512) to (N, 512), of length 1."""
        with torch.autocast(features.device.type, enabled=False):
            return F.normalize(self.query(at_least_float32(features)))

    def scores(self, queries: Tensor) -> Tensor:
        """Return the cosine similarity of queries and keys, (N, size); -inf for empty slots."""
        with torch.autocast(queries.device.type, enabled=False):
            return (queries @ self.keys.T).masked_fill(self.sources < 0, -torch.inf)

    def filled(self) -> Tensor:
        """Return the indices of the slots that are not empty, (M,)."""
        return (self.sources >= 0).nonzero().flatten()

    def fetch(self, queries: Tensor, count: int = 1) -> Tensor:
        """Return the indices of the best slots, best first, (N, count); `count` slots must be filled."""
        return self.scores(queries).topk(count).indices

    def triplet_loss(self, queries: Tensor, values: Tensor, margin: float) -> Tensor:
        """Return the threshold triplet loss, a mean over queries (eq. 2).

        Among the `top` best slots the positive is the best one whose value is within the threshold, the
        negative the best one whose value is not. Queries that lack either are left out.
        """
        scores, slots = self.scores(queries).topk(self.top)
        same = self.distance(self.values[slots], values[:, None]) < self.threshold
        filled = scores.isfinite()
        positive, negative = (scores.masked_fill(~(filled & mask), -torch.inf) for mask in (same, ~same))
        positive, negative = positive.amax(1), negative.amax(1)
        both = positive.isfinite() & negative.isfinite()
        loss = F.relu(torch.where(both, negative, 0) - torch.where(both, positive, 0) + margin)
        return (loss * both).sum() / both.sum().clamp(min=1)

    @torch.no_grad()
    def update(self, queries: Tensor, values: Tensor, sources: Tensor, names: Tensor, noise: Tensor) -> None:
        """Add images one after the other (section 3.1.3).

        If the value of the best slot is within the threshold, the slot's key moves towards the query; else
        the oldest slot is overwritten.

        Args:
            queries, values: (N, 512), (N, value_size).
            sources, names: (N,) indices in the training set, and `encode_names` of their files.
            noise: (N, size), added to the ages to choose among slots of the same age.
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
        """Return the file name of the image that a slot's value comes from."""
        return bytes(self.names[slot].tolist()).rstrip(b"\0").decode(errors="replace")


def encode_names(names: list[str]) -> Tensor:
    """Return file names as bytes, (N, 200) uint8; longer names are cut at the beginning."""
    encoded = (name.encode()[-NAME_BYTES:].ljust(NAME_BYTES, b"\0") for name in names)
    return torch.tensor([list(name) for name in encoded], dtype=torch.uint8)


def divergence(memory: Tensor, query: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of colour distributions, to base 10, (..., 313) to (...)."""
    # xlogy is 0 for colours that do not occur, where 0 · log 0 is NaN.
    return (torch.xlogy(memory, memory) - torch.xlogy(memory, query + 1e-8)).sum(-1) / log(10)


def palette_distance(memory: Tensor, query: Tensor) -> Tensor:
    """Return the mean CIEDE2000 distance of palettes, colour by colour, (..., 30) to (...)."""
    memory, query = torch.broadcast_tensors(memory, query)
    labs = [rgb_to_lab(palette.reshape(-1, PALETTE, 3).mT[..., None]) for palette in (memory, query)]
    return ciede2000(*labs).mean((1, 2)).view(memory.shape[:-1])


def color_distribution(lab: Tensor) -> Tensor:
    """Return the mean soft encoding of images' colours, Lab (N, 3, H, W) to (N, 313), which sums to 1."""
    return soft_encode(_grid(lab)[:, 1:].flatten(2).transpose(1, 2)).mean(1)


def color_palette(lab: Tensor) -> Tensor:
    """Return the ten main colours of images, most common first, Lab (N, 3, H, W) to RGB in [0, 1], (N, 30).

    They are the centres of k-means in Lab, which starts at equally spaced quantiles of lightness.
    """
    points = _grid(lab).flatten(2).transpose(1, 2)
    count = points.shape[1]
    by_lightness = points[..., 0].argsort(1)
    starts = ((torch.arange(PALETTE, device=lab.device) + 0.5) * count / PALETTE).long()
    centres = points.gather(1, by_lightness[:, starts, None].expand(-1, -1, 3))
    for _ in range(10):
        membership = F.one_hot(torch.cdist(points, centres).argmin(2), PALETTE).to(points)
        sizes = membership.sum(1)
        means = membership.transpose(1, 2) @ points / sizes.clamp(min=1)[..., None]
        centres = torch.where(sizes[..., None] > 0, means, centres)
    order = sizes.argsort(dim=1, descending=True, stable=True)
    centres = centres.gather(1, order[..., None].expand(-1, -1, 3))
    return lab_to_rgb(centres.transpose(1, 2)[..., None]).squeeze(-1).transpose(1, 2).flatten(1)


def _grid(images: Tensor) -> Tensor:
    """Return the pixels on a grid of at most 32 x 32."""
    vertical, horizontal = (-(-side // SAMPLES) for side in images.shape[-2:])
    return images[..., ::vertical, ::horizontal]
