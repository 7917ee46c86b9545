"""The base class of generators: padding to sizes that fit, checkpointing, and translation in tiles."""

from math import isqrt
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.norms import statistics_from
from models.layers.precision import at_least_float32
from models.layers.recomputation import Recomputing
from models.layers.tiling import blend_tiles, thumbnail


class Generator(Recomputing):
    """Maps (N, input_nc, H, W) to (N, output_nc, H, W) in [-1, 1], for any H and W.

    Images whose sides are not multiples of `multiple`, or below `smallest`, are padded by replicating their
    right and bottom edges, and the result is cropped back. Some generators also take conditions,
    such as (N, K) colour features.

    Attributes:
        multiple, smallest: sides that `run` accepts: multiples of `multiple`, at least `smallest`.
        supports_tiling: whether the output at a pixel depends on its neighbourhood and on the statistics of
            norms alone.
        tile: translate images with a longer side in overlapping tiles of this side, a `fitting_tile`, which
            bounds the memory; each tile gets all the conditions.
        model: the layers, unless `run` is overridden.
    """

    multiple: int = 1
    smallest: int = 1
    supports_tiling: ClassVar[bool] = True
    tile: int | None = None
    model: nn.Module

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        right, bottom = (max(-side % self.multiple, self.smallest - side) for side in (width, height))
        run = self.run if self.tile is None or max(height, width) <= self.tile else self.run_in_tiles
        if not right and not bottom:
            return at_least_float32(run(x, *conditions))
        padded = F.pad(x, (0, right, 0, bottom), mode="replicate")
        return at_least_float32(run(padded, *conditions)[..., :height, :width])

    def run(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """Return the output for an input whose sides fit.

        This runs `model`, an `nn.Sequential`; where activations are recomputed, in √n segments of √n layers
        (Chen et al. 2016, section 3). Overrides call `segment` for each of their segments, or set
        `supports_checkpointing` to False.
        """
        assert isinstance(self.model, nn.Sequential)
        length = isqrt(len(self.model)) or 1
        for first in range(0, len(self.model), length):
            layers = self.model[first : first + length]
            x = self.segment(layers, layers, x)
        return x

    def run_in_tiles(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """Return the output tile by tile, with the statistics of a thumbnail (Chen et al. 2022, URST)."""
        assert self.tile is not None
        small = thumbnail(x, self.tile, self.multiple, self.smallest)
        with statistics_from(self, lambda: self.run(small, *conditions)):
            return blend_tiles(lambda part: self.run(part, *conditions), x, self.tile, self.multiple)
