"""Metrics of single images: uint8 batches, (N, 3, H, W), to (N,) float64.

Functions with the parameter `data_range` also measure float64 images in the files' units, (N, C, H, W):
`data_range` is the length of each channel's range, (C, 1, 1), and None for 8-bit images. `weight` is the
mask, (N, 1, H, W) in [0, 1].
"""

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
    protocol_in_units="-10 log10(MSE), all channels together, each divided by the length of its range",
    undefined="equal to the truth, where it is infinite",
)
def psnr(
    fake: Tensor, real: Tensor, *, data_range: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Return 10 log₁₀(255² / MSE) over all channels, in dB; infinity where the images are equal."""
    levels = _levels_per_unit(data_range)
    error = _mean_in_strips(lambda x, y: ((x - y) * levels).square(), fake, real, weight=weight)
    return 10 * (255**2 / error).log10()


@metric(
    "ssim",
    higher_is_better=True,
    protocol="Wang et al. 2004: Gaussian window 11 x 11, sigma 1.5, K1 0.01, K2 0.03, population covariance,"
    " whole windows only, mean over R, G and B",
    protocol_in_units="Wang et al. 2004: Gaussian window 11 x 11, sigma 1.5, K1 0.01, K2 0.03, population"
    " covariance, whole windows only, data range the length of each channel's range, mean over the channels",
    undefined="a side below the window's 11 pixels",
)
def ssim(
    fake: Tensor, real: Tensor, *, data_range: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Return the structural similarity (Wang et al. 2004), averaged over the channels.

    The 11 x 11 Gaussian window (sigma 1.5) lies wholly inside the image, and variances are those of the
    population. NaN for images with a side below 11. The mask weights a window by its value at the centre.
    """
    if min(fake.shape[-2:]) < SSIM_WINDOW:
        return torch.full((len(fake),), torch.nan, dtype=torch.float64, device=fake.device)
    levels = _levels_per_unit(data_range)

    def similarity(x: Tensor, y: Tensor) -> Tensor:
        return _structural_similarity(x * levels, y * levels)

    return _mean_in_strips(similarity, fake, real, SSIM_WINDOW, weight)


@metric(
    "l1",
    higher_is_better=False,
    unit="0 to 2",
    protocol="mean absolute difference in units of [-1, 1], 0 to 2",
)
def l1(
    fake: Tensor, real: Tensor, *, data_range: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Return the mean absolute difference of the images in [-1, 1]: 0 to 2."""
    levels = _levels_per_unit(data_range)
    return _mean_in_strips(lambda x, y: (x - y).abs() * levels, fake, real, weight=weight) / 127.5


@metric(
    "mae",
    higher_is_better=False,
    unit="file's units",
    protocol="mean absolute difference in levels, 0 to 255",
    protocol_in_units="mean absolute difference in the file's units",
)
def mae(
    fake: Tensor, real: Tensor, *, data_range: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Return the mean absolute difference in the images' own units, whatever their `data_range` is."""
    return _mean_in_strips(lambda x, y: (x - y).abs(), fake, real, weight=weight)


@metric(
    "rmse",
    higher_is_better=False,
    unit="file's units",
    protocol="root of the image's mean squared difference in levels, 0 to 255",
    protocol_in_units="root of the image's mean squared difference in the file's units",
)
def rmse(
    fake: Tensor, real: Tensor, *, data_range: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Return the root mean squared difference in the images' own units, whatever their `data_range` is."""
    return _mean_in_strips(lambda x, y: (x - y).square(), fake, real, weight=weight).sqrt()


@metric(
    "ciede2000",
    higher_is_better=False,
    protocol="mean over the pixels, sRGB to Lab with D65",
    reference="ciede2000_of_grey",
)
def ciede2000(fake: Tensor, real: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Return the mean CIEDE2000 colour difference of the pixels (Sharma et al. 2005)."""
    return _mean_in_strips(lambda x, y: color.ciede2000(_lab(x), _lab(y)), fake, real, weight=weight)


def ciede2000_of_grey(real: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Return the mean CIEDE2000 difference between images and their lightness alone."""

    def from_grey(_: Tensor, y: Tensor) -> Tensor:
        lab = _lab(y)
        return color.ciede2000(torch.cat([lab[:, :1], torch.zeros_like(lab[:, 1:])], 1), lab)

    return _mean_in_strips(from_grey, real, real, weight=weight)


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


def _levels_per_unit(data_range: Tensor | None) -> Tensor | float:
    """Return the factor, (C, 1, 1), that gives images the data range 255; 1 for 8-bit images."""
    return 1.0 if data_range is None else 255 / data_range


def _mean_in_strips(
    per_pixel: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    window: int = 1,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the mean of `per_pixel` over each image, computed in strips of rows.

    Args:
        per_pixel: maps float64 strips (N, C, rows, W), rows >= `window`, to values of all windows inside
            them, (N, C, rows - window + 1, W - window + 1) or the same without C.
        weight: (N, 1, H, W), the weight of each pixel, for a window that of its centre. An image whose
            weights are all 0 has the mean NaN.
    """
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    count: Tensor | int = 0
    last = x.shape[2] - window + 1
    rows = max(STRIP_PIXELS // (len(x) * x.shape[3]), window)
    for first in range(0, last, rows):
        strip = slice(first, min(first + rows, last) + window - 1)
        values = per_pixel(x[:, :, strip].double(), y[:, :, strip].double())
        if weight is None:
            count = count + values[0].numel()
        else:
            weights = _at_centres(weight[:, :, strip], window)
            weights = (weights if values.dim() == 4 else weights[:, 0]).expand_as(values)
            values = values * weights
            count = count + weights.flatten(1).sum(1, dtype=torch.float64)
        total = total + values.flatten(1).sum(1, dtype=torch.float64)
    return total / count


def _at_centres(weight: Tensor, window: int) -> Tensor:
    """Return the values at the centres of the windows inside images, (..., H, W)."""
    border = window // 2
    return weight[..., border : weight.shape[-2] - border, border : weight.shape[-1] - border]


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
