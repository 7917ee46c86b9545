"""Features of VGG networks by the names of their layers."""

from collections.abc import Collection, Iterable

from torch import Tensor, nn

from models.objectives.backbones import load_vgg, normalise_for_imagenet

BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Number of convolutions in each block; a pooling follows each block."""

NETWORK, CONTENT_LAYERS = "vgg16", ("relu2_2",)
STYLE_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
"""The network and layers that contents and styles are compared by (Johnson et al. 2016, section 4.1)."""

STYLE_SCALE = 1e5
"""Usual weight of the distance of Gram matrices, relative to that of contents."""


def layer_index(network: str, layer: str) -> int:
    """Return the index in torchvision's ``features`` of a layer such as ``conv4_2`` or ``relu3_3``.

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
    """Return a VGG's ``features`` with average instead of max pooling (Gatys et al. 2016, section 2)."""
    return nn.Sequential(*(nn.AvgPool2d(2) if isinstance(layer, nn.MaxPool2d) else layer for layer in vgg))


class Features(nn.Module):
    """The features of images at some layers of a frozen VGG.

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
                layer.inplace = False  # the features of the convolution before it may be returned

    @property
    def least_side(self) -> int:
        """The smallest side, in pixels, of images that the layers accept."""
        return 2 ** sum(isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d)) for layer in self.layers)

    def forward(self, images: Tensor, only: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return the features by layer; nothing beyond the deepest returned layer is computed.

        Args:
            images: (N, 1 or 3, H, W) in [-1, 1].
            only: the layers to return; None: all.
        """
        names = {index: name for index, name in self.positions.items() if only is None or name in only}
        x = normalise_for_imagenet((images.expand(-1, 3, -1, -1) + 1) / 2)
        features = {}
        for index, layer in enumerate(self.layers[: max(names) + 1]):
            x = layer(x)
            if index in names:
                features[names[index]] = x
        return features


def load_features(source: str) -> Features:
    """Return the features that contents and styles are compared by; for `source` see `load_vgg`."""
    return Features(load_vgg(NETWORK, source), NETWORK, {*CONTENT_LAYERS, *STYLE_LAYERS})
