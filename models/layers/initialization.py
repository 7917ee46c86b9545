"""Initial weights and spectral norm."""

from torch import Tensor, nn
from torch.nn import init
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrizations import spectral_norm


def initialise(net: nn.Module, init_type: str, gain: float) -> None:
    """Draw the weights of convolutions and linear layers; set biases to 0, batch norm's scales to N(1, gain).

    Args:
        init_type: ``normal`` (N(0, gain)), ``xavier`` (normal), ``kaiming`` (normal, fan-in, gain unused) or
            ``orthogonal``.
    """
    for layer in net.modules():
        if isinstance(layer, (_ConvNd, nn.Linear)):
            _draw(layer.weight, init_type, gain)
            if layer.bias is not None:
                init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            init.normal_(layer.weight, 1.0, gain)
            init.zeros_(layer.bias)


def normalise_spectrum(net: nn.Module) -> None:
    """Divide the weights of all layers by their largest singular value (Miyato et al. 2018)."""
    for layer in list(net.modules()):
        if isinstance(layer, (_ConvNd, nn.Linear)):
            spectral_norm(layer)


def _draw(weight: Tensor, init_type: str, gain: float) -> None:
    if init_type == "normal":
        init.normal_(weight, 0.0, gain)
    elif init_type == "xavier":
        init.xavier_normal_(weight, gain=gain)
    elif init_type == "kaiming":
        init.kaiming_normal_(weight, a=0, mode="fan_in")
    elif init_type == "orthogonal":
        init.orthogonal_(weight, gain=gain)
    else:
        raise ValueError(f"init_type {init_type}")
