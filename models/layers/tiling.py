"""Large images in tiles: a thumbnail for their statistics, overlapping tiles, and results without seams."""

from collections.abc import Callable
from math import inf

import torch
from torch import Tensor
from torch.nn import functional as F


def fitting_tile(tile: int, multiple: int, smallest: int) -> int:
    """Return the smallest side of a tile from `tile` on that suits a network, see `Generator`."""
    # Two tiles side by side must overlap and still start at multiples.
    return -(-max(tile, smallest, 2 * multiple) // multiple) * multiple


def thumbnail(x: Tensor, size: int, multiple: int, smallest: int) -> Tensor:
    """Return images, (N, C, H, W), scaled so that the longer side is `size` and the other one suits too."""
    longer = max(x.shape[-2:])
    sides = [max(smallest, round(side * size / longer / multiple) * multiple) for side in x.shape[-2:]]
    return F.interpolate(x, sides, mode="bilinear", antialias=True, align_corners=False)


def blend_tiles(run: Callable[[Tensor], Tensor], x: Tensor, tile: int, multiple: int) -> Tensor:
    """Return what `run` makes of x, (N, C, H, W), tile by tile.

    Neighbours overlap by a quarter of a tile or more. A quarter of the overlap is cut away on either side,
    because there a tile sees its own edge; in between, results fade linearly into each other.

    Args:
        run: maps (N, C, h, w) to (N, K, h, w).
        tile: side of the tiles, a `fitting_tile`.
        multiple: what H, W and the tiles' places are multiples of, so that strides meet the same pixels as in
            the whole image.
    """
    height, width = x.shape[-2:]
    overlap = -(-tile // 4 // multiple) * multiple
    rows, columns = (tile_starts(side, tile, overlap, multiple) for side in (height, width))
    down, across = (
        blend_weights(starts, side, tile, overlap) for starts, side in ((rows, height), (columns, width))
    )
    result: Tensor | None = None
    for top, row in zip(rows, down, strict=True):
        for left, column in zip(columns, across, strict=True):
            place = (..., slice(top, top + tile), slice(left, left + tile))
            y = run(x[place])
            if result is None:
                result = y.new_zeros(*y.shape[:2], height, width)
            result[place] += y * torch.outer(row[top : top + tile], column[left : left + tile]).to(y)
    assert result is not None
    return result


def tile_starts(side: int, tile: int, overlap: int, multiple: int) -> list[int]:
    """Return where tiles start along a side: evenly, at multiples; neighbours share `overlap` or more."""
    last = max(0, side - tile)
    steps = -(-last // (tile - overlap))
    return [last // multiple * step // max(1, steps) * multiple for step in range(steps + 1)]


def blend_weights(starts: list[int], side: int, tile: int, overlap: int) -> Tensor:
    """Return the tiles' weights along a side, (tiles, side), that sum to 1 at every pixel."""
    margin = overlap / 4
    pixels = torch.arange(side, dtype=torch.float64) + 0.5
    rows = []
    for start in starts:
        before = pixels - start if start else pixels + inf
        after = start + tile - pixels if start + tile < side else pixels + inf
        rows.append(((torch.minimum(before, after) - margin) / (overlap - 2 * margin)).clamp(0, 1))
    weights = torch.stack(rows)
    return weights / weights.sum(0)
