"""Colour operations on batches of images, on any device: CIE Lab, differences, matching, ab bins.

Lab is defined as in scikit-image: sRGB, D65 white, 2 degree observer (IEC 61966-2-1; CIE 15).
"""

from math import pi

import torch
from torch import Tensor
from torch.nn import functional as F

from util.device import constant

RGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.95047, 1.0, 1.08883)
GAMMA_KNEE, LINEAR_KNEE = 0.04045, 0.0031308  # where sRGB's curve becomes linear: encoded and decoded value
KNEE, ROOT_KNEE, SLOPE = (
    0.008856,
    0.2068966,
    7.787,
)  # where Lab's cube root becomes linear, and its slope there
GAMMA_SCALE = 1.055**2.4

# Matrices that map pixels, with an offset as the fourth column.
_RGB_TO_WHITE_XYZ = (
    torch.tensor(RGB_TO_XYZ, dtype=torch.float64) / torch.tensor(WHITE, dtype=torch.float64)[:, None]
)
LINEAR_TO_WHITE_XYZ = F.pad(_RGB_TO_WHITE_XYZ, (0, 1)) / GAMMA_SCALE
WHITE_XYZ_TO_LINEAR = F.pad(torch.linalg.inv(_RGB_TO_WHITE_XYZ), (0, 1)) * GAMMA_SCALE
ROOT_TO_LAB = torch.tensor([[0, 116, 0, -16], [500, -500, 0, 0], [0, 200, -200, 0]], dtype=torch.float64)
LAB_TO_ROOT = torch.tensor(
    [[1 / 116, 1 / 500, 0, 16 / 116], [1 / 116, 0, 0, 16 / 116], [1 / 116, 0, -1 / 200, 16 / 116]],
    dtype=torch.float64,
)

LEVEL = 2 / 255
"""One 8-bit level of images in [-1, 1]."""

AB_SCALE = 110
AB_STEP = 10
AB_ROWS = {
    **{-90: (50, 90), -80: (20, 90), -70: (0, 90), -60: (-20, 90), -50: (-30, 100), -40: (-40, 100)},
    **{-30: (-50, 100), -20: (-50, 100), -10: (-60, 100), 0: (-70, 100), 10: (-80, 90), 20: (-80, 90)},
    **{30: (-90, 90), 40: (-100, 90), 50: (-100, 80), 60: (-110, 80), 70: (-110, 80), 80: (-110, 70)},
    **{90: (-110, 70), 100: (-90, 0)},
}
"""The 313 in-gamut bins of the ab plane (Zhang et al. 2016): for each a the first and last b."""

AB_BINS = tuple((a, b) for a, (first, last) in AB_ROWS.items() for b in range(first, last + 1, AB_STEP))
AB_BIN_CENTRES = torch.tensor(AB_BINS, dtype=torch.float64)
NEIGHBOURS, SIGMA = 10, 5.0


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB in [0, 1], (N, 3, H, W), to Lab: L in 0..100, a and b about -110..110; differentiable."""
    relative = _affine(LINEAR_TO_WHITE_XYZ, _to_linear(rgb))
    return _affine(ROOT_TO_LAB, _to_root(relative))


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Convert Lab, (N, 3, H, W), to sRGB clipped to [0, 1]; differentiable where nothing is clipped."""
    root = _affine(LAB_TO_ROOT, lab)
    root[:, 2].clamp_(min=0)
    linear = _affine(WHITE_XYZ_TO_LINEAR, _from_root(root))
    return _from_linear(linear).clamp(0, 1)


def to_L_ab(images: Tensor) -> tuple[Tensor, Tensor]:
    """Convert images, (N, 1 or 3, H, W) in [-1, 1], to the inputs of colorization networks.

    Returns:
        L / 50 - 1, (N, 1, H, W), and ab / 110, (N, 2, H, W).
    """
    lab = rgb_to_lab((images.expand(-1, 3, -1, -1) + 1) / 2)
    return lab[:, :1] / 50 - 1, lab[:, 1:] / AB_SCALE


def from_L_ab(L: Tensor, ab: Tensor) -> Tensor:
    """Invert `to_L_ab`: return images (N, 3, H, W) in [-1, 1]."""
    return lab_to_rgb(torch.cat([(L + 1) * 50, ab * AB_SCALE], 1)) * 2 - 1


def ciede2000(first: Tensor, second: Tensor) -> Tensor:
    """Return the colour difference of Lab pixels (Sharma et al. 2005): (N, 3, ...) twice to (N, ...)."""
    L1, a1, b1 = first.unbind(1)
    L2, a2, b2 = second.unbind(1)
    mean_C = (torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2
    G = 0.5 * (1 - _saturation(mean_C))
    a1, a2 = (1 + G) * a1, (1 + G) * a2
    C1, C2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = (torch.atan2(b, a) % (2 * pi) for a, b in ((a1, b1), (a2, b2)))
    grey = C1 * C2 == 0

    dL, dC, dh = L2 - L1, C2 - C1, h2 - h1
    dh = torch.where(dh.abs() <= pi, dh, dh - 2 * pi * dh.sign())
    dh = torch.where(grey, 0.0, dh)
    dH = 2 * (C1 * C2).sqrt() * (dh / 2).sin()

    mean_L, mean_C, sum_h = (L1 + L2) / 2, (C1 + C2) / 2, h1 + h2
    apart = (h1 - h2).abs() > pi
    mean_h = torch.where(apart, torch.where(sum_h < 2 * pi, sum_h + 2 * pi, sum_h - 2 * pi), sum_h) / 2
    mean_h = torch.where(grey, sum_h, mean_h)

    T = 1 - 0.17 * (mean_h - pi / 6).cos() + 0.24 * (2 * mean_h).cos()
    T = T + 0.32 * (3 * mean_h + pi / 30).cos() - 0.20 * (4 * mean_h - 63 / 180 * pi).cos()
    turn = pi / 3 * torch.exp(-(((mean_h * 180 / pi - 275) / 25) ** 2))
    S_L = 1 + 0.015 * (mean_L - 50) ** 2 / (20 + (mean_L - 50) ** 2).sqrt()
    S_C, S_H = 1 + 0.045 * mean_C, 1 + 0.015 * mean_C * T
    R_T = -2 * _saturation(mean_C) * turn.sin()
    dL, dC, dH = dL / S_L, dC / S_C, dH / S_H
    return (dL**2 + dC**2 + dH**2 + R_T * dC * dH).clamp(min=0).sqrt()


def colourfulness(rgb: Tensor) -> Tensor:
    """Return each image's colourfulness M3 (Hasler & Süsstrunk 2003): (N, 3, H, W) in 0..255 to (N,)."""
    R, G, B = rgb.flatten(2).unbind(1)
    rg, yb = R - G, (R + G) / 2 - B
    spread = (rg.var(1, correction=0) + yb.var(1, correction=0)).sqrt()
    return spread + 0.3 * (rg.mean(1) ** 2 + yb.mean(1) ** 2).sqrt()


def match_colours(image: Tensor, like: Tensor) -> Tensor:
    """Return `image` with the mean and covariance of the colours of `like`, (1, C, H, W) in [-1, 1] both.

    x becomes Σ_like^½ Σ^-½ (x − μ) + μ_like (Gatys et al. 2016, "Preserving Color in Neural Artistic Style
    Transfer", image analogies); for one channel this matches mean and standard deviation. Eigenvalues of Σ
    are at least the square of one 8-bit level, so that nearly constant colours are not amplified. The result
    is not clipped.
    """
    (mean, covariance), (new_mean, new_covariance) = _colour_moments(image), _colour_moments(like)
    flat = _matrix_power(covariance, -0.5, least=LEVEL**2) @ (image.flatten(2)[0].double() - mean)
    matched = _matrix_power(new_covariance, 0.5, least=0.0) @ flat + new_mean
    return matched.to(image.dtype).view_as(image)


def ab_bins(like: Tensor) -> Tensor:
    """Return the centres of the 313 bins, (313, 2), on the device and with the dtype of `like`."""
    return constant(AB_BIN_CENTRES, like.device, like.dtype)


def soft_encode(ab: Tensor) -> Tensor:
    """Return the soft encoding of ab values over the 313 bins (Zhang et al. 2016): (..., 2) to (..., 313).

    The ten nearest bins have Gaussian weights of their distance, sigma 5, which sum to 1.
    """
    bins = ab_bins(ab)
    distances = (ab[..., None, :] - bins).pow(2).sum(-1)
    nearest, indices = distances.topk(NEIGHBOURS, largest=False)
    # softmax of -d²/2σ² is the normalised Gaussian, and does not underflow for large distances
    weights = F.softmax(-nearest / (2 * SIGMA**2), dim=-1)
    return torch.zeros_like(distances).scatter(-1, indices, weights)


def _colour_moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean, (C, 1), and covariance, (C, C), of an image's colours in float64."""
    x = image.flatten(2)[0].double()
    mean = x.mean(1, keepdim=True)
    return mean, (x - mean) @ (x - mean).T / x.shape[1]


def _matrix_power(covariance: Tensor, exponent: float, least: float) -> Tensor:
    """Return a power of a symmetric matrix with eigenvalues clamped to at least `least`."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=least) ** exponent @ vectors.T


def _saturation(chroma: Tensor) -> Tensor:
    seventh = chroma**7
    return (seventh / (seventh + 25.0**7)).sqrt()


# A curve that is linear below its knee is computed as f(bent) + slope · (x - bent) with bent = max(x, knee):
# faster than torch.where over both parts, and its gradient is finite everywhere.


def _to_linear(rgb: Tensor) -> Tensor:
    """Decode sRGB values to linear light, times 1.055 ** 2.4."""
    bent, slope = rgb.clamp(min=GAMMA_KNEE), GAMMA_SCALE / 12.92
    return _power(bent + 0.055, 2.4).add(rgb, alpha=slope).sub_(bent, alpha=slope)


def _from_linear(scaled: Tensor) -> Tensor:
    """Invert `_to_linear`."""
    bent, slope = scaled.clamp(min=LINEAR_KNEE * GAMMA_SCALE), 12.92 / GAMMA_SCALE
    return _power(bent, 1 / 2.4).add(scaled, alpha=slope).sub_(bent, alpha=slope).sub_(0.055)


def _to_root(x: Tensor) -> Tensor:
    """Return Lab's cube root function of tristimulus values relative to white."""
    bent = x.clamp(min=KNEE)
    return _power(bent, 1 / 3).add(x, alpha=SLOPE).sub_(bent, alpha=SLOPE)


def _from_root(root: Tensor) -> Tensor:
    """Invert `_to_root`."""
    bent, slope = root.clamp(min=ROOT_KNEE), 1 / SLOPE
    return bent.pow(3).add_(root, alpha=slope).sub_(bent, alpha=slope)


def _power(x: Tensor, exponent: float) -> Tensor:
    """Return ``x**exponent`` for positive x, twice as fast as `torch.pow` on a CPU."""
    return x.log().mul_(exponent).exp_()


def _affine(matrix: Tensor, images: Tensor) -> Tensor:
    """Apply a (3, 4) affine matrix to every pixel of (N, 3, H, W)."""
    matrix = constant(matrix, images.device, images.dtype).expand(len(images), -1, -1)
    with torch.autocast(images.device.type, enabled=False):
        return torch.baddbmm(matrix[..., 3:], matrix[..., :3], images.flatten(2)).view_as(images)
