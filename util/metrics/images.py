"""Metrics of single images: uint8 batches, (N, 3, H, W), to (N,) float64."""

from collections.abc import Callable

import torch
from torch import Tensor

from util import color
from util.metrics.names import metric

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

STRIP_PIXELS = 1 << 16
"""Images are processed in strips of about this many pixels, which fit a CPU's cache."""


@metric(
    "psnr",
    higher_is_better=True,
    unit="dB",
    protocol="10 log10(255^2 / MSE), all channels together",
    undefined="equal to the truth, where it is infinite",
)
def psnr(fake: Tensor, real: Tensor) -> Tensor:
    """Return 10 log₁₀(255² / MSE) over all channels, in dB; infinity where the images are equal."""
    error = _mean_in_strips(lambda x, y: (x - y).square(), fake, real)
    return 10 * (255**2 / error).log10()


@metric(
    "ssim",
    higher_is_better=True,
    protocol="Wang et al. 2004: Gaussian window 11 x 11, sigma 1.5, K1 0.01, K2 0.03, population covariance,"
    " whole windows only, mean over R, G and B",
    undefined="a side below the window's 11 pixels",
)
def ssim(fake: Tensor, real: Tensor) -> Tensor:
    """Return the structural similarity (Wang et al. 2004), averaged over the channels.

    The 11 x 11 Gaussian window (sigma 1.5) lies wholly inside the image, and variances are those of the
    population. NaN for images with a side below 11.
    """
    if min(fake.shape[-2:]) < SSIM_WINDOW:
        return torch.full((len(fake),), torch.nan, dtype=torch.float64, device=fake.device)
    return _mean_in_strips(_structural_similarity, fake, real, SSIM_WINDOW)


@metric(
    "l1",
    higher_is_better=False,
    unit="0 to 2",
    protocol="mean absolute difference in units of [-1, 1], 0 to 2",
)
def l1(fake: Tensor, real: Tensor) -> Tensor:
    """Return the mean absolute difference of the images in [-1, 1]: 0 to 2."""
    return _mean_in_strips(lambda x, y: (x - y).abs(), fake, real) / 127.5


@metric(
    "ciede2000",
    higher_is_better=False,
    protocol="mean over the pixels, sRGB to Lab with D65",
    reference="ciede2000_of_grey",
)
def ciede2000(fake: Tensor, real: Tensor) -> Tensor:
    """Return the mean CIEDE2000 colour difference of the pixels (Sharma et al. 2005)."""
    return _mean_in_strips(lambda x, y: color.ciede2000(_lab(x), _lab(y)), fake, real)


def ciede2000_of_grey(real: Tensor) -> Tensor:
    """Return the mean CIEDE2000 difference between images and their lightness alone."""

    def from_grey(_: Tensor, y: Tensor) -> Tensor:
        lab = _lab(y)
        return color.ciede2000(torch.cat([lab[:, :1], torch.zeros_like(lab[:, 1:])], 1), lab)

    return _mean_in_strips(from_grey, real, real)


@metric(
    "colorfulness",
    higher_is_better=True,
    protocol="M3 of Hasler and Suesstrunk 2003, of the results",
    reference="colorfulness_of_truth",
)
def colorfulness(fake: Tensor, real: Tensor) -> Tensor:
    """Return the colourfulness M3 of the results (Hasler & Süsstrunk 2003)."""
    return color.colourfulness(fake.float()).double()


def colorfulness_of_truth(real: Tensor) -> Tensor:
    """Return the colourfulness M3 of the truth."""
    return colorfulness(real, real)


def _mean_in_strips(
    per_pixel: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, window: int = 1
) -> Tensor:
    """Return the mean of `per_pixel` over each image, computed in strips of rows.

    Args:
        per_pixel: maps float64 strips (N, 3, rows, W), rows >= `window`, to values (N, ...).
    """
    total, count = torch.zeros(len(x), dtype=torch.float64, device=x.device), 0
    last = x.shape[2] - window + 1
    rows = max(STRIP_PIXELS // (len(x) * x.shape[3]), window)
    for first in range(0, last, rows):
        strip = slice(first, min(first + rows, last) + window - 1)
        values = per_pixel(x[:, :, strip].double(), y[:, :, strip].double()).flatten(1)
        total, count = total + values.sum(1, dtype=torch.float64), count + values.shape[1]
    return total / count


def _structural_similarity(x: Tensor, y: Tensor) -> Tensor:
    mean_x, mean_y = _smooth(x), _smooth(y)
    variances = _smooth(x * x + y * y) - mean_x**2 - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
    return similarity / ((mean_x**2 + mean_y**2 + SSIM_C1) * (variances + SSIM_C2))


def _smooth(x: Tensor) -> Tensor:
    """Return the Gaussian-weighted means of all windows inside the images, by separable convolution."""
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    gaussian = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    weights: list[float] = (gaussian / gaussian.sum()).tolist()
    for dim in (-2, -1):
        count = x.shape[dim] - SSIM_WINDOW + 1
        sums = x.narrow(dim, 0, count) * weights[0]
        for offset in range(1, SSIM_WINDOW):
            sums.add_(x.narrow(dim, offset, count), alpha=weights[offset])
        x = sums
    return x


def _lab(levels: Tensor) -> Tensor:
    return color.rgb_to_lab(levels.float() / 255)  # float32 is accurate enough, and twice as fast
