"""VGG features by the names of their layers."""

from collections.abc import Collection, Iterable

from torch import Tensor, nn

from models.objectives.backbones import load_vgg, normalise_for_imagenet

BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Convolutions between two poolings."""

NETWORK, CONTENT_LAYERS = "vgg16", ("relu2_2",)
STYLE_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
"""What contents and styles are compared by (Johnson et al. 2016, section 4.1)."""

STYLE_SCALE = 1e5
"""How much a distance of Gram matrices usually counts, where one of contents counts as 1."""


def layer_index(network: str, layer: str) -> int:
    """Return the position in torchvision's ``features`` of a layer such as ``conv4_2`` or ``relu3_3``.

    Raises:
        ValueError: the network has no such layer.
    """
    names = {}
    position = 0
    for block, count in enumerate(BLOCKS[network], start=1):
        for number in range(1, count + 1):
            names[f"conv{block}_{number}"], names[f"relu{block}_{number}"] = position, position + 1
            position += 2
        position += 1  # the pooling
    if layer not in names:
        raise ValueError(f"{network} has no layer {layer}: {', '.join(names)}")
    return names[layer]


def with_average_pooling(vgg: nn.Sequential) -> nn.Sequential:
    """Return a VGG's ``features`` with mean instead of maximum poolings (Gatys et al. 2016, section 2)."""
    return nn.Sequential(*(nn.AvgPool2d(2) if isinstance(layer, nn.MaxPool2d) else layer for layer in vgg))


class Features(nn.Module):
    """What a frozen VGG makes of images, at some of its layers.

    Args:
        vgg: the ``features`` of torchvision's network.
        network: ``vgg16`` or ``vgg19``.
        layers: names such as ``relu3_3``.
    """

    def __init__(self, vgg: nn.Sequential, network: str, layers: Iterable[str]):
        super().__init__()
        self.positions = {layer_index(network, layer): layer for layer in layers}
        self.layers = vgg[: max(self.positions) + 1]
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # a convolution's features may be asked for as well

    @property
    def least_side(self) -> int:
        """The smallest side, in pixels, of images that reach the deepest layer."""
        return 2 ** sum(isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d)) for layer in self.layers)

    def forward(self, images: Tensor, only: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return the features of all layers, or of some `only`; nothing beyond the deepest is computed.

        Images are (N, 1 or 3, H, W) in [-1, 1].
        """
        wanted = {at: name for at, name in self.positions.items() if only is None or name in only}
        x = normalise_for_imagenet((images.expand(-1, 3, -1, -1) + 1) / 2)
        found = {}
        for position, layer in enumerate(self.layers[: max(wanted) + 1]):
            x = layer(x)
            if position in wanted:
                found[wanted[position]] = x
        return found


def load_features(source: str) -> Features:
    """Return VGG16 at the layers that contents and styles are compared by; for `source` see `load_vgg`."""
    return Features(load_vgg(NETWORK, source), NETWORK, {*CONTENT_LAYERS, *STYLE_LAYERS})
