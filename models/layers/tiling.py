"""Networks applied to large images in overlapping, blended tiles, with the statistics of a thumbnail."""

from collections.abc import Callable, Iterator
from math import inf

import torch
from torch import Tensor
from torch.nn import functional as F


def fitting_tile(tile: int, multiple: int, smallest: int) -> int:
    """Return the smallest side, not below `tile`, of tiles that a `Generator` accepts.

    Args:
        multiple, smallest: see `Generator`.
    """
    # Neighbouring tiles must overlap and still start at multiples.
    return -(-max(tile, smallest, 2 * multiple) // multiple) * multiple


def thumbnail(x: Tensor, size: int, multiple: int, smallest: int) -> Tensor:
    """Return images, (N, C, H, W), scaled to a longer side of `size` and a shorter one that fits.

    Args:
        multiple, smallest: see `Generator`.
    """
    sides = thumbnail_size(x.shape[-2], x.shape[-1], size, multiple, smallest)
    return F.interpolate(x, sides, mode="bilinear", antialias=True, align_corners=False)


def thumbnail_size(height: int, width: int, size: int, multiple: int, smallest: int) -> tuple[int, int]:
    """Return height and width of a `thumbnail` of an image of this height and width."""
    longer = max(height, width)
    rows, columns = (
        max(smallest, round(side * size / longer / multiple) * multiple) for side in (height, width)
    )
    return rows, columns


def blend_tiles(run: Callable[[Tensor], Tensor], x: Tensor, tile: int, multiple: int) -> Tensor:
    """Return the output of `run` for x, (N, C, H, W), computed tile by tile, see `blend_bands`.

    Args:
        run: maps (N, C, h, w) to (N, K, h, w).
    """

    def output(top: int, left: int) -> Tensor:
        return run(x[..., top : top + tile, left : left + tile])

    height, width = x.shape[-2:]
    result: Tensor | None = None
    top = 0
    for band in blend_bands(output, height, width, tile, multiple):
        if result is None:
            result = band.new_empty(*band.shape[:2], height, width)
        result[..., top : top + band.shape[-2], :] = band
        top += band.shape[-2]
    assert result is not None
    return result


def blend_bands(
    output: Callable[[int, int], Tensor], height: int, width: int, tile: int, multiple: int
) -> Iterator[Tensor]:
    """Yield an image that is computed tile by tile, in bands of rows from top to bottom, (N, K, h, width).

    A band is valid until the next one.

    Neighbouring tiles overlap by at least a quarter of a tile. A quarter of the overlap is discarded on
    either side, where a tile's own border affects the output; the outputs are blended linearly in between.

    Args:
        output: returns the tile, (N, K, h, w), whose top and left edge it gets.
        tile: side of the tiles, a `fitting_tile`; tiles at the edges of a smaller image are smaller.
        multiple: height, width and the tiles' positions are multiples of it, so that strided layers sample
            the same pixels as in the whole image.
    """
    overlap = -(-tile // 4 // multiple) * multiple
    rows, columns = (tile_starts(side, tile, overlap, multiple) for side in (height, width))
    row_weights, column_weights = (
        blend_weights(starts, side, tile, overlap) for starts, side in ((rows, height), (columns, width))
    )
    band: Tensor | None = None  # the rows of the current tiles
    for number, (top, row) in enumerate(zip(rows, row_weights, strict=True)):
        if band is not None:
            begun = band[..., top - rows[number - 1] :, :].clone()  # shared with the tiles above
            band[..., : begun.shape[-2], :] = begun
            band[..., begun.shape[-2] :, :] = 0
        for left, column in zip(columns, column_weights, strict=True):
            y = output(top, left)
            if band is None:
                band = y.new_zeros(*y.shape[:2], min(tile, height), width)
            weights = torch.outer(row[top : top + tile], column[left : left + tile])
            band[..., left : left + tile] += y * weights.to(y)
        assert band is not None
        yield band if top == rows[-1] else band[..., : rows[number + 1] - top, :]


def tile_starts(side: int, tile: int, overlap: int, multiple: int) -> list[int]:
    """Return the first pixel of every tile along a side: even multiples, with at least `overlap` shared."""
    last = max(0, side - tile)
    steps = -(-last // (tile - overlap))
    return [last // multiple * step // max(1, steps) * multiple for step in range(steps + 1)]


def blend_weights(starts: list[int], side: int, tile: int, overlap: int) -> Tensor:
    """Return the weights of tiles at the pixels of a side, (tiles, side); they sum to 1 over the tiles."""
    margin = overlap / 4
    pixels = torch.arange(side, dtype=torch.float64) + 0.5
    rows = []
    for start in starts:
        before = pixels - start if start else pixels + inf
        after = start + tile - pixels if start + tile < side else pixels + inf
        rows.append(((torch.minimum(before, after) - margin) / (overlap - 2 * margin)).clamp(0, 1))
    weights = torch.stack(rows)
    return weights / weights.sum(0)
