"""How far images are from the truth: batches of uint8 images, (N, 3, H, W), to a number each, (N,)."""

from collections.abc import Callable

import torch
from torch import Tensor

from util.color import ciede2000, colourfulness, rgb_to_lab

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

STRIP = 1 << 16
"""Values are computed for about so many pixels at a time, which stay in a CPU's cache."""


def psnr(fake: Tensor, real: Tensor) -> Tensor:
    """Return 10 log₁₀(255² / MSE) over all channels, in dB; infinity where the images are equal."""
    error = _mean(lambda x, y: (x - y).square(), fake, real)
    return 10 * (255**2 / error).log10()


def l1(fake: Tensor, real: Tensor) -> Tensor:
    """Return the mean absolute difference in units of [-1, 1], as networks see images: 0 to 2."""
    return _mean(lambda x, y: (x - y).abs(), fake, real) / 127.5


def ssim(fake: Tensor, real: Tensor) -> Tensor:
    """Return the structural similarity (Wang et al. 2004), the mean of that of the channels.

    The window is a Gaussian of 11 x 11 pixels with a deviation of 1.5 that lies wholly within the image;
    variances are those of the population. An image with a side below 11 has none: NaN.
    """
    if min(fake.shape[-2:]) < SSIM_WINDOW:
        return torch.full((len(fake),), torch.nan, dtype=torch.float64, device=fake.device)
    return _mean(_structural_similarity, fake, real, SSIM_WINDOW)


def color_difference(fake: Tensor, real: Tensor) -> Tensor:
    """Return the mean CIEDE2000 difference of the pixels (Sharma et al. 2005)."""
    return _mean(lambda x, y: ciede2000(_lab(x), _lab(y)), fake, real)


def color_difference_of_grey(real: Tensor) -> Tensor:
    """Return the mean CIEDE2000 difference of images from what is left of them without colour."""

    def from_grey(_: Tensor, y: Tensor) -> Tensor:
        lab = _lab(y)
        return ciede2000(torch.cat([lab[:, :1], torch.zeros_like(lab[:, 1:])], 1), lab)

    return _mean(from_grey, real, real)


def colorfulness(images: Tensor) -> Tensor:
    """Return the colourfulness M3 (Hasler & Süsstrunk 2003)."""
    return colourfulness(images.float()).double()


def _mean(per_pixel: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, window: int = 1) -> Tensor:
    """Return the mean over each image of what is computed of (N, 3, rows, W), of windows' rows at least."""
    total, count = torch.zeros(len(x), dtype=torch.float64, device=x.device), 0
    last = x.shape[2] - window + 1
    rows = max(STRIP // (len(x) * x.shape[3]), window)
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
    """Return the weighted means of all windows that lie within the images."""
    places = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    gaussian = torch.exp(-places.square() / (2 * SSIM_SIGMA**2))
    weights: list[float] = (gaussian / gaussian.sum()).tolist()
    for dim in (-2, -1):
        count = x.shape[dim] - SSIM_WINDOW + 1
        sums = x.narrow(dim, 0, count) * weights[0]
        for place in range(1, SSIM_WINDOW):
            sums.add_(x.narrow(dim, place, count), alpha=weights[place])
        x = sums
    return x


def _lab(levels: Tensor) -> Tensor:
    return rgb_to_lab(levels.float() / 255)  # whose digits are enough here, in half the time
