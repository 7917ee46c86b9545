"""How far two pictures are apart."""

from torch import Tensor


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Return each picture's mean absolute difference: (N, C, H, W) to (N,), 0 to 2 for values in [-1, 1]."""
    return (x - y).abs().flatten(1).mean(1)
