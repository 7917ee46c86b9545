"""What test.py and validation measure: how far images are from the truth, how much alike two sets are.

    python -m util.metrics FOLDER_A FOLDER_B --metrics psnr,ssim

compares the images of two folders. All numbers are those of images as they are saved: RGB in 256 levels.
"""

import logging
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from util import distributed
from util.batch import Batch
from util.errors import UserError, did_you_mean
from util.image_io import to_levels
from util.metrics import images as image_metrics
from util.metrics.features import (
    DOWNLOAD,
    LPIPS_LEAST,
    Network,
    Unavailable,
    frechet_distance,
    kernel_distance,
    kid_subsets,
    load_inception,
    load_lpips,
)
from util.metrics.summary import Summary

log = logging.getLogger(__name__)

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
"""By a metric's name, as metrics.json has it."""

DEFAULT_METRICS = "psnr,ssim,l1"

SET_METRICS = ("fid", "kid")
"""What is measured of all images together."""

IMAGE_METRICS = tuple(name for name in HIGHER_IS_BETTER if name not in SET_METRICS)
"""What is measured of each image and its truth."""

PROTOCOL = {
    "psnr": "10 log10(255^2 / MSE), all channels together",
    "ssim": "Wang et al. 2004: Gaussian window 11 x 11, sigma 1.5, K1 0.01, K2 0.03, population covariance,"
    " whole windows only, mean over R, G and B",
    "l1": "mean absolute difference in units of [-1, 1], 0 to 2",
    "ciede2000": "mean over the pixels, sRGB to Lab with D65",
    "colorfulness": "M3 of Hasler and Suesstrunk 2003, of the results",
}
NOT_FINITE = {
    "psnr": "equal to the truth, where it is infinite",
    "ssim": f"a side below the window's {image_metrics.SSIM_WINDOW} pixels",
    "lpips": f"a side below {LPIPS_LEAST} pixels",
}
"""Why some images do not count in a mean."""

REFERENCES = {"ciede2000": "ciede2000_of_grey", "colorfulness": "colorfulness_of_truth"}
"""What to compare metrics of colour with: their value for the truth without colour, and for the truth."""

OF_PAIRS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "psnr": image_metrics.psnr,
    "ssim": image_metrics.ssim,
    "l1": image_metrics.l1,
    "ciede2000": image_metrics.color_difference,
    "colorfulness": lambda fake, real: image_metrics.colorfulness(fake),
    "ciede2000_of_grey": lambda fake, real: image_metrics.color_difference_of_grey(real),
    "colorfulness_of_truth": lambda fake, real: image_metrics.colorfulness(real),
}


def parse_names(text: str) -> tuple[str, ...]:
    """Return the metrics in the value of ``--metrics``: names with commas, or none.

    Raises:
        UserError: there is no such metric.
    """
    names = tuple(dict.fromkeys(text.split(","))) if text != "none" else ()
    for name in names:
        if name not in HIGHER_IS_BETTER:
            hint = did_you_mean(name, HIGHER_IS_BETTER)
            raise UserError(
                f"--metrics {name}: no such metric{hint} There are {', '.join(HIGHER_IS_BETTER)}, or none"
            )
    return names


class Metrics:
    """Measures batches of images, remembers what it found, and sums it up.

    Of several processes each measures its own images, and all call `compute` together. An image that
    several have measured counts once.

    Attributes:
        names: the metrics that were asked for and can be had.
        left_out: those that cannot, with the reason.
    """

    def __init__(
        self,
        names: Collection[str],
        device: torch.device | str = "cpu",
        *,
        inception: Network | None = None,
        lpips: Network | None = None,
        left_out: Mapping[str, str] | None = None,
    ):
        """Measure `names`, of which `fid` and `kid` need features of `inception`, and `lpips` a network.

        Any network will do as `inception` that maps uint8 images (N, 3, H, W) to (N, D).
        """
        self.left_out = dict(left_out or {})
        self.names = tuple(name for name in HIGHER_IS_BETTER if name in names and name not in self.left_out)
        self.device = torch.device(device)
        self.inception, self.lpips = (
            network and network._replace(net=network.net.to(self.device)) for network in (inception, lpips)
        )
        self._forget()

    @classmethod
    def load(
        cls,
        names: Collection[str],
        device: torch.device | str = "cpu",
        lpips_weights: str = DOWNLOAD,
        inception_weights: str = DOWNLOAD,
    ) -> Self:
        """Return the metrics with the networks that they need; without its network one is left out.

        Raises:
            UserError: a file of weights that was given is none.
        """
        networks: dict[str, Network] = {}
        left_out: dict[str, str] = {}
        for network, users, load in (
            ("lpips", ("lpips",), partial(load_lpips, lpips_weights)),
            ("inception", SET_METRICS, partial(load_inception, inception_weights)),
        ):
            wanted = [name for name in users if name in names]
            try:
                if wanted:
                    networks[network] = load()
            except Unavailable as error:
                left_out |= dict.fromkeys(wanted, str(error))
                if distributed.rank() == 0:
                    log.warning("--metrics %s: left out, it %s", ",".join(wanted), error)
        return cls(names, device, left_out=left_out, **networks)

    @torch.no_grad()
    def update(
        self,
        fake: Tensor,
        real: Tensor,
        keys: Sequence[Hashable],
    ) -> dict[str, Tensor]:
        """Measure results and their truth, uint8 (N, 3, H, W); remember what was found.

        Args:
            keys: what tells the images apart: one that comes again is not counted again.

        Returns:
            Each image's values by metric, (N,) float64 on the CPU; infinite and NaN where there is none.

        Raises:
            UserError: results and truth differ in size.
        """
        fake, real = fake.to(self.device), real.to(self.device)
        found = self._measure_pairs(fake, real, keys)
        self.update_set("fake", fake, keys)
        self.update_set("real", real, keys)
        return found

    @torch.no_grad()
    def update_set(self, side: str, images: Tensor, keys: Sequence[Hashable]) -> None:
        """Add uint8 images (N, 3, H, W) to ``fake`` or ``real``, which `SET_METRICS` compare."""
        if self.inception:
            features = self.inception.net(images.to(self.device)).cpu()
            self._features[side].update(zip(keys, features, strict=True))

    def update_visuals(
        self, batch: Batch, visuals: Mapping[str, Tensor], paired: bool
    ) -> list[dict[str, float]]:
        """Measure what a model has made of a batch; return each image's values, none without a truth.

        Args:
            visuals: (N, 3 or 1, H, W) in [-1, 1] by the names that galleries show: fake_B_rgb is compared
                with real_B_rgb, or else fake_B with real_B.
            paired: whether real_B is the truth for fake_B; real_B_rgb always is that for fake_B_rgb.
        """
        in_rgb = visuals.keys() >= {"fake_B_rgb", "real_B_rgb"}
        labels = ("fake_B_rgb", "real_B_rgb") if in_rgb else ("fake_B", "real_B")
        found: dict[str, Tensor] = {}
        if self.names and visuals.keys() >= set(labels):
            fake, real = (to_levels(visuals[label]) for label in labels)
            if paired or in_rgb:
                found = self.update(fake, real, batch.index.tolist())
            else:
                self.update_set("fake", fake, batch.paths_A)
                self.update_set("real", real, batch.paths_B)
        return [{name: values[i].item() for name, values in found.items()} for i in range(len(batch))]

    def compute(self) -> Summary:
        """Return what was found since the last time, of all processes on process 0 (elsewhere nothing)."""
        shares = distributed.gather_objects((self._values, self._features, self.left_out))
        self._forget()
        if not shares:
            return Summary({}, {}, {}, {})
        values = _merged(share[0] for share in shares)
        left_out = _merged(share[2] for share in shares)
        mean, reasons = _means([values[key] for key in sorted(values)])
        reference = {name: mean.pop(name) for name in REFERENCES.values() if name in mean}
        protocol = PROTOCOL | ({"lpips": self.lpips.description} if self.lpips else {})
        if self.inception:
            fake, real = (_merged(share[1][side] for share in shares) for side in ("fake", "real"))
            mean |= self._compare_sets(fake, real, protocol, reasons)
        for name, reason in reasons.items():
            log.info("Left out of %s: %s", name, reason)
        mean = {name: value for name, value in mean.items() if name not in left_out}
        return Summary(mean, reference, {name: protocol[name] for name in mean}, reasons | left_out)

    def _forget(self) -> None:
        self._values: dict[Hashable, dict[str, float]] = {}
        self._features: dict[str, dict[Hashable, Tensor]] = {"fake": {}, "real": {}}

    def _measure_pairs(self, fake: Tensor, real: Tensor, keys: Sequence[Hashable]) -> dict[str, Tensor]:
        if fake.shape != real.shape:
            sizes = [f"{image.shape[3]} x {image.shape[2]}" for image in (fake, real)]
            raise UserError(f"{keys[0]}: {sizes[0]} pixels cannot be compared with a truth of {sizes[1]}")
        found: dict[str, Tensor] = {}
        for name in self.names:
            if name in OF_PAIRS:
                found[name] = OF_PAIRS[name](fake, real).cpu()
            elif name == "lpips" and self.lpips:
                found[name] = _lpips(self.lpips, fake, real).cpu()
        hidden = {
            other: OF_PAIRS[other](fake, real).cpu() for name, other in REFERENCES.items() if name in found
        }
        for i, key in enumerate(keys if found else ()):
            self._values[key] = {name: each[i].item() for name, each in (found | hidden).items()}
        return found

    def _compare_sets(
        self,
        fake: Mapping[Any, Tensor],
        real: Mapping[Any, Tensor],
        protocol: dict[str, str],
        left_out: dict[str, str],
    ) -> dict[str, float]:
        """Return the metrics of two sets of features; say how, or why not, in `protocol` and `left_out`."""
        assert self.inception
        wanted = [name for name in SET_METRICS if name in self.names]
        if min(len(fake), len(real)) < 2:
            too_few = f"needs two results and two real images at least (here {len(fake)} and {len(real)})"
            left_out |= dict.fromkeys(wanted, too_few)
            return {}
        one, other = (
            torch.stack([features[key] for key in sorted(features)]).to(self.device)
            for features in (fake, real)
        )
        counts = f"{len(fake)} results, {len(real)} real images; {self.inception.description}"
        subsets, size = kid_subsets(len(fake), len(real))
        protocol["fid"] = f"{counts}; unbiased covariances"
        protocol["kid"] = f"{counts}; kernel (x.y / {one.shape[1]} + 1)^3, unbiased squared MMD," + (
            f" mean over {subsets} random subsets of {size}, seed 0" if subsets > 1 else " of all images"
        )
        distances = {"fid": frechet_distance, "kid": kernel_distance}
        return {name: distances[name](one, other).item() for name in wanted}


def _lpips(network: Network, fake: Tensor, real: Tensor) -> Tensor:
    if min(fake.shape[-2:]) < LPIPS_LEAST:
        return torch.full((len(fake),), math.nan, dtype=torch.float64)
    return network.net(fake.float() / 127.5 - 1, real.float() / 127.5 - 1).flatten().double()


def _merged(parts: Iterable[Mapping[Any, Any]]) -> dict[Any, Any]:
    return {key: value for part in parts for key, value in part.items()}


def _means(images: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, str]]:
    """Return the means of the finite values, and for how many images and why there is none."""
    means: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for name in [*IMAGE_METRICS, *REFERENCES.values()]:
        numbers = [values[name] for values in images if name in values]
        finite = [number for number in numbers if math.isfinite(number)]
        if finite:
            means[name] = math.fsum(finite) / len(finite)
        if len(finite) < len(numbers):
            reasons[name] = f"{len(numbers) - len(finite)} of {len(numbers)} images: {NOT_FINITE[name]}"
    return means, reasons
