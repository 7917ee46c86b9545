"""Translation of images that are too large for memory, from a file to bands of rows."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base_model import BaseModel
from models.layers.generator import Generator
from models.layers.norms import statistics_from
from models.layers.tiling import blend_bands, thumbnail_size
from util.batch import Batch

Read = Callable[[int, int, int, int], tuple[Tensor, Tensor | None]]
"""Returns the part of A, and of B if there is one, with these edges (left, top, right, bottom), (C, h, w)."""

SCALING: dict[str, Any] = {"mode": "bilinear", "antialias": True, "align_corners": False}

STRIP_PIXELS = 1 << 22
"""Pixels of the strips in which the input is read for its thumbnail."""

BAND_PIXELS = 1 << 20
"""Pixels of the bands that are handed over at most, unless a row has more."""


def translate_scene(
    model: BaseModel, batch: Batch, read: Read, height: int, width: int
) -> Iterator[dict[str, Tensor]]:
    """Yield the images of `BaseModel.translate` for one large input, in bands of rows from top to bottom.

    The input is read tile by tile; generated images are those of a whole image that is translated in tiles,
    see `Generator`.

    Args:
        batch: the only sample, without its pixels.
        height, width: its size.

    Returns:
        Images by name, (C, h, width), for each band; valid until the next one.
    """
    generators = [net for net in model.nets.values() if isinstance(net, Generator)]
    tile, multiple = generators[0].tile, max(net.multiple for net in generators)
    smallest = max(net.smallest for net in generators)
    assert tile is not None
    columns, rows = (side + max(-side % multiple, smallest - side) for side in (width, height))

    def part(left: int, top: int, right: int, bottom: int) -> Batch:
        edges = min(left, width - 1), min(top, height - 1), min(right, width), min(bottom, height)
        A, B = read(*edges)
        stored = replace(batch, A=A[None], B=None if B is None else B[None])
        padding = (0, right - left - A.shape[2], 0, bottom - top - A.shape[1])
        moved = stored.to(model.device, model.dtype)
        return moved.map_images(lambda image: F.pad(image, padding, mode="replicate"))

    channels: dict[str, int] = {}

    def output(top: int, left: int) -> Tensor:
        images = model.translate(part(left, top, min(left + tile, columns), min(top + tile, rows)))
        channels.update({name: image.shape[1] for name, image in images.items()})
        return torch.cat(list(images.values()), 1)

    small = _thumbnail(part, rows, columns, thumbnail_size(rows, columns, tile, multiple, smallest))
    done = 0
    with statistics_from(nn.ModuleList(model.nets.values()), lambda: model.translate(small)):
        for band in blend_bands(output, rows, columns, tile, multiple):
            kept = band[0, :, : height - done, :width]
            done += kept.shape[1]
            for part_of_band in kept.split(max(1, BAND_PIXELS // width), 1):
                yield dict(zip(channels, part_of_band.split(list(channels.values())), strict=True))


def _thumbnail(
    part: Callable[[int, int, int, int], Batch], rows: int, columns: int, size: tuple[int, int]
) -> Batch:
    """Return the whole image scaled to a size, as `thumbnail` scales it, read in strips."""
    height, width = size
    first = part(0, 0, 1, 1)
    # In one piece: small tensors kept among large ones would prevent the reuse of their memory.
    narrow = first.A.new_empty(1, first.A.shape[1], rows, width)
    step = max(1, STRIP_PIXELS // columns)
    for top in range(0, rows, step):
        bottom = min(rows, top + step)
        strip = part(0, top, columns, bottom).A
        narrow[:, :, top:bottom] = F.interpolate(strip, (bottom - top, width), **SCALING)
    small = F.interpolate(narrow, size, **SCALING)
    return replace(
        first, A=small, B=None if first.B is None else small.new_zeros(1, first.B.shape[1], height, width)
    )
