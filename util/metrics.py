"""How far pictures are from the truth, how colourful they are, and how much alike two sets of them are."""

from collections.abc import Mapping

import torch
from torch import Tensor

from util.color import ciede2000, colourfulness, rgb_to_lab

HIGHER_IS_BETTER: Mapping[str, bool] = {
    "psnr": True,
    "ssim": True,
    "l1": False,
    "ciede2000": False,
    "colorfulness": True,
    "lpips": False,
    "fid": False,
    "kid": False,
}


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Return each picture's mean absolute difference: (N, C, H, W) to (N,), 0 to 2 for values in [-1, 1]."""
    return (x - y).abs().flatten(1).mean(1)


def compare(visuals: Mapping[str, Tensor], paired: bool) -> dict[str, Tensor]:
    """Return what can be measured of a model's results and the truth, by a description, (N,) each.

    Args:
        paired: whether real_B is the truth for fake_B; real_B_rgb always is that for fake_B_rgb.
    """
    found = {}
    if paired and {"fake_B", "real_B"} <= visuals.keys():
        found["L1 between fake_B and real_B (0 to 2)"] = l1(visuals["fake_B"], visuals["real_B"])
    if {"fake_B_rgb", "real_B_rgb"} <= visuals.keys():
        # As they are saved: in 256 levels.
        fake, real = (
            ((visuals[name] + 1) * 127.5).round().clamp(0, 255) for name in ("fake_B_rgb", "real_B_rgb")
        )
        fake_lab, real_lab = rgb_to_lab(fake / 255), rgb_to_lab(real / 255)
        grey_lab = real_lab * torch.tensor([1.0, 0.0, 0.0]).to(real_lab).view(1, 3, 1, 1)
        found["CIEDE2000 of fake_B_rgb"] = ciede2000(fake_lab, real_lab).flatten(1).mean(1)
        found["CIEDE2000 of the grey picture"] = ciede2000(grey_lab, real_lab).flatten(1).mean(1)
        found["colourfulness of fake_B_rgb"] = colourfulness(fake)
        found["colourfulness of real_B_rgb"] = colourfulness(real)
    return found


def frechet_distance(one: Tensor, other: Tensor) -> Tensor:
    """Return the Fréchet distance of two sets of features, as of Gaussians (Heusel et al. 2017, eq. 6).

    It is ‖μ₁ − μ₂‖² + tr(C₁ + C₂ − 2(C₁C₂)^½), 0-d, computed in float64.

    Args:
        one, other: (N, D) and (M, D), N and M at least 2.
    """
    one, other = one.double(), other.double()
    covariances = [features.mT.cov().reshape(one.shape[1], -1) for features in (one, other)]
    # C₁C₂ has the eigenvalues of the symmetric C₁^½ C₂ C₁^½, whose rounding errors stay real.
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    between = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    spread = sum(covariance.trace() for covariance in covariances)
    return ((one.mean(0) - other.mean(0)).square().sum() + spread - 2 * between).clamp(min=0)
