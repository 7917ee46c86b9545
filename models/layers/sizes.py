"""Which sizes of images and of tiles networks accept."""

from collections.abc import Iterable

from torch import nn

from models.layers.attention import SelfAttention
from models.layers.generator import Generator
from models.layers.tiling import fitting_tile
from util.batch import Batch
from util.errors import UserError


def check_crop_size(nets: Iterable[nn.Module], crop_size: int) -> None:
    """Raise a `UserError` if the generators would have to pad every image of ``--crop_size``."""
    for net in nets:
        multiple = getattr(net, "multiple", 1)
        if crop_size % multiple:
            fitting = max(multiple, crop_size // multiple * multiple)
            raise UserError(
                f"--crop_size {crop_size}: the generator needs sides that are multiples of {multiple};"
                f" take --crop_size {fitting}, or another --netG"
            )


def set_tile(nets: Iterable[nn.Module], tile: int) -> None:
    """Let generators translate larger images in tiles of this side, see `Generator`.

    Raises:
        UserError: a generator cannot, or needs tiles of another side.
    """
    generators = [net for net in nets if isinstance(net, Generator)]
    if not generators:
        raise UserError(f"--tile {tile}: this model has no generator that works in tiles; leave --tile out")
    for G in generators:
        if not G.supports_tiling:
            raise UserError(f"--tile {tile}: this --netG does not work in tiles; leave --tile out")
        if any(isinstance(layer, SelfAttention) for layer in G.modules()):
            raise UserError(
                f"--tile {tile}: the generator has self-attention (--attention), which must see the whole"
                " image; leave --tile out"
            )
        fitting = fitting_tile(tile, G.multiple, G.smallest)
        if fitting != tile:
            raise UserError(
                f"--tile {tile}: the generator needs a multiple of {G.multiple}, at least"
                f" {fitting_tile(1, G.multiple, G.smallest)}; take --tile {fitting}"
            )
        G.tile = tile


def check_sizes(nets: Iterable[nn.Module], batch: Batch) -> None:
    """Raise a `UserError` for images that are too small for a discriminator."""
    minimum = max(getattr(net, "minimum", 1) for net in nets)
    for paths, images in ((batch.paths_A, batch.A), (batch.paths_B, batch.B)):
        if images is not None and min(images.shape[-2:]) < minimum:
            raise UserError(
                f"{paths[0]}: prepared for training it is {images.shape[-1]} x {images.shape[-2]}"
                f" pixels, but the discriminator needs sides of {minimum}; raise --crop_size, or take"
                " --netD n_layers with a lower --n_layers_D"
            )
