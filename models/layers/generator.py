"""The base class of generators: padding to sizes that fit, and translation in tiles."""

from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.blocks import statistics_from
from models.layers.precision import at_least_float32
from models.layers.recomputation import Recomputing
from models.layers.tiling import blend_tiles, thumbnail


class Generator(Recomputing):
    """What generators share: they map (N, input_nc, H, W) to (N, output_nc, H, W) in [-1, 1], any H and W.

    Some take conditions beside the image, such as (N, K) colour features.
    Images whose sides are not multiples of `multiple`, or below `smallest`, are padded by repeating their
    right and bottom edges, and the result is cropped back.

    Attributes:
        tile: translate images with a longer side in overlapping tiles of this side, a `fitting_tile`, which
            bounds the memory; each gets all the conditions.
    """

    multiple: int
    smallest: int
    tile: int | None = None
    model: nn.Module

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        right, below = (max(-side % self.multiple, self.smallest - side) for side in (width, height))
        run = self.run if self.tile is None or max(height, width) <= self.tile else self.run_in_tiles
        if not right and not below:
            return at_least_float32(run(x, *conditions))
        padded = F.pad(x, (0, right, 0, below), mode="replicate")
        return at_least_float32(run(padded, *conditions)[..., :height, :width])

    def run(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """Return the output for an input whose size fits."""
        return self.model(x)

    def run_in_tiles(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """Return the output tile by tile, with the statistics of a thumbnail (Chen et al. 2022, URST)."""
        assert self.tile is not None
        small = thumbnail(x, self.tile, self.multiple, self.smallest)
        with statistics_from(self, lambda: self.run(small, *conditions)):
            return blend_tiles(lambda part: self.run(part, *conditions), x, self.tile, self.multiple)
