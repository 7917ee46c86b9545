"""Measure results against the truth, over batches and ranks.

All values are those of the images as they are saved: RGB with 8 bits per channel, or in the units of the
target's files.
"""

import logging
import math
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from util import distributed
from util.batch import Batch
from util.errors import UserError
from util.metrics.names import DOWNLOAD, METRICS, Metric, metrics_using, name_in, of_all_channels
from util.metrics.networks import LOADERS, Network, Unavailable
from util.metrics.summary import Summary
from util.metrics.target import Target

log = logging.getLogger(__name__)


class Metrics:
    """Accumulate the metrics of batches of images and reduce them over images and ranks.

    Each rank measures its own images, and all ranks call `compute` together. An image that was measured
    several times counts once.

    Attributes:
        names: the metrics that are measured.
        left_out: the metrics whose network is not available, or that the target does not allow, with the
            reason.
        target: the kind of the images.
    """

    def __init__(
        self,
        names: Collection[str],
        device: torch.device | str = "cpu",
        networks: Mapping[str, Network] | None = None,
        left_out: Mapping[str, str] | None = None,
        target: Target | None = None,
    ):
        """Measure `names`, except those whose network is not among `networks`.

        Args:
            networks: by the names of `NETWORK_FILES`; as ``inception`` any network from uint8 images
                (N, 3, H, W) to features (N, D).
            target: by default RGB with 8 bits, without masks.
        """
        self.device = torch.device(device)
        self.target = target or Target()
        self.left_out = reasons_against(names, self.target) | dict(left_out or {})
        self.networks = {
            name: network._replace(net=network.net.to(self.device))
            for name, network in (networks or {}).items()
        }
        self.names = tuple(
            name
            for name, metric in METRICS.items()
            if name in names
            and name not in self.left_out
            and (not metric.network or metric.network in self.networks)
        )
        measured = [METRICS[name] for name in self.names]
        self._per_image = {metric: metric.load() for metric in measured if metric.per == "image"}
        self._per_set = {metric: metric.load() for metric in measured if metric.per == "set"}
        self._references = {metric: metric.load(metric.reference) for metric in measured if metric.reference}
        self._reset()

    @property
    def needs_pairs(self) -> bool:
        """Whether some of the metrics compare each result with its own truth."""
        return bool(self._per_image)

    @classmethod
    def load(
        cls,
        names: Collection[str],
        device: torch.device | str = "cpu",
        weights: Mapping[str, str] | None = None,
        target: Target | None = None,
    ) -> Self:
        """Return the metrics with the networks that they need, leaving out those that cannot be measured.

        Args:
            weights: ``download`` or a path for each of `NETWORK_FILES`; by default all are downloaded.
            target: by default RGB with 8 bits, without masks.

        Raises:
            UserError: a given file of weights is missing, damaged or of another network.
        """
        networks: dict[str, Network] = {}
        left_out = reasons_against(names, target or Target())
        if distributed.rank() == 0:
            for reason in dict.fromkeys(left_out.values()):
                alike = [name for name in left_out if left_out[name] == reason]
                log.warning("--metrics %s: left out, it %s", ",".join(alike), reason)
        names = [name for name in names if name not in left_out]
        for network, load in LOADERS.items():
            users = metrics_using(network, names)
            try:
                if users:
                    networks[network] = load((weights or {}).get(network, DOWNLOAD))
            except Unavailable as error:
                left_out |= dict.fromkeys(users, str(error))
                if distributed.rank() == 0:
                    log.warning("--metrics %s: left out, it %s", ",".join(users), error)
        return cls(names, device, networks, left_out, target)

    @torch.no_grad()
    def update(
        self, fake: Tensor, real: Tensor, keys: Sequence[Hashable], weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Measure results and their truth, as `Target.as_saved` returns them, and accumulate the values.

        Args:
            keys: identify the images; an image that was measured before is not counted again.
            weight: the mask, (N, 1, H, W) in [0, 1].

        Returns:
            By metric, and by metric and channels as in ``mae[4]``, see `Target.channels`, (N,) float64 on the
            CPU; infinite or NaN where the metric is undefined.

        Raises:
            UserError: results and truth differ in size.
        """
        fake, real = fake.to(self.device), real.to(self.device)
        if fake.shape != real.shape:
            sizes = [f"{image.shape[3]} x {image.shape[2]}" for image in (fake, real)]
            raise UserError(f"{keys[0]}: {sizes[0]} pixels cannot be compared with a truth of {sizes[1]}")
        weight = None if weight is None else weight.to(self.device, torch.float64)
        values: dict[str, Tensor] = {}
        for metric, function in self._per_image.items():
            network = [self.networks[metric.network]] if metric.network else []
            for name, images, keywords in self._arguments(metric, [fake, real], weight):
                values[name_in(name, metric.name)] = function(*images, *network, **keywords).cpu()
        references: dict[str, Tensor] = {}
        for metric, function in self._references.items():
            for name, images, keywords in self._arguments(metric, [real], weight):
                references[name_in(name, metric.reference)] = function(*images, **keywords).cpu()
        for i, key in enumerate(keys if values else ()):
            self._values[key] = {name: column[i].item() for name, column in (values | references).items()}
        self.update_set("fake", fake, keys)
        self.update_set("real", real, keys)
        return values

    @torch.no_grad()
    def update_set(self, side: str, images: Tensor, keys: Sequence[Hashable]) -> None:
        """Add images, as `Target.as_saved` returns them, to the set ``fake`` or ``real``."""
        if self._per_set:
            features = self.networks["inception"].net(self.target.levels(images.to(self.device))).cpu()
            self._features[side].update(zip(keys, features, strict=True))

    @staticmethod
    def measures(name: str, labels: Collection[str], paired: bool) -> bool:
        """Return whether `update_visuals` measures metric `name` of images with these labels."""
        in_rgb = {"fake_B_rgb", "real_B_rgb"} <= set(labels)
        if METRICS[name].per == "image" and not paired:
            return in_rgb
        return in_rgb or {"fake_B", "real_B"} <= set(labels)

    def update_visuals(
        self, batch: Batch, visuals: Mapping[str, Tensor], paired: bool
    ) -> list[dict[str, float]]:
        """Measure a model's results for a batch; return the values of each image, empty without a truth.

        Args:
            visuals: (N, C, H, W) in [-1, 1], by the names that galleries show: fake_B_rgb is compared with
                real_B_rgb, otherwise fake_B with real_B.
            paired: whether real_B is the truth for fake_B; real_B_rgb always is the truth for fake_B_rgb.
        """
        in_rgb = visuals.keys() >= {"fake_B_rgb", "real_B_rgb"}
        labels = ("fake_B_rgb", "real_B_rgb") if in_rgb else ("fake_B", "real_B")
        values: dict[str, Tensor] = {}
        if self.names and visuals.keys() >= set(labels):
            fake, real = (self.target.as_saved(visuals[label]) for label in labels)
            if paired or in_rgb:
                values = self.update(fake, real, batch.index.tolist(), batch.mask)
            else:
                self.update_set("fake", fake, batch.paths_A)
                self.update_set("real", real, batch.paths_B)
        return [{name: column[i].item() for name, column in values.items()} for i in range(len(batch))]

    def compute(self) -> Summary:
        """Return the values over all images since the last call, and reset; empty on ranks other than 0."""
        shares = distributed.gather_objects((self._values, self._features, self.left_out))
        self._reset()
        if not shares:
            return Summary({}, {}, {}, {})
        values, left_out = (_merge(share[i] for share in shares) for i in (0, 2))
        fake, real = (_merge(share[1][side] for share in shares) for side in ("fake", "real"))
        means, reasons = self._means([values[key] for key in sorted(values)])
        by_channel = {name: means.pop(name) for name in list(means) if not of_all_channels(name)}
        references = (metric.reference for metric in self._references)
        reference = {name: means.pop(name) for name in references if name in means}
        protocol = {metric.name: self._protocol(metric) for metric in self._per_image}
        means |= self._compare_sets(fake, real, protocol, reasons)
        for name, reason in reasons.items():
            log.info("Left out of %s: %s", name, reason)
        means = {name: value for name, value in means.items() if name not in left_out}
        protocol = {name: protocol[name] for name in means}
        return Summary(means, reference, protocol, reasons | left_out, by_channel)

    def _reset(self) -> None:
        self._values: dict[Hashable, dict[str, float]] = {}
        self._features: dict[str, dict[Hashable, Tensor]] = {"fake": {}, "real": {}}

    def _arguments(
        self, metric: Metric, images: Sequence[Tensor], weight: Tensor | None
    ) -> Iterator[tuple[str, list[Tensor], dict[str, Tensor]]]:
        """Yield the arguments of a metric's function: the channels' name, their images, and keywords."""
        keywords = {} if weight is None or "weight" not in metric.takes else {"weight": weight}
        if self.target.is_rgb or "data_range" not in metric.takes:
            yield "", [self.target.levels(image) for image in images], keywords
            return
        spans = self.target.spans(self.device)
        for name, channels in self.target.channels.items():
            chosen = [image[:, channels] for image in images]
            yield name, chosen, keywords | {"data_range": spans[channels]}

    def _protocol(self, metric: Metric) -> str:
        protocol = self.target.protocol(metric)
        return f"{self.networks[metric.network].description}, {protocol}" if metric.network else protocol

    def _means(self, images: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, str]]:
        """Return the means of the finite values, and how many images each mean lacks and why."""
        undefined = {metric.name: metric.undefined for metric in self._per_image}
        means: dict[str, float] = {}
        reasons: dict[str, str] = {}
        for name in dict.fromkeys(name for values in images for name in values):
            numbers = [values[name] for values in images if name in values]
            finite = [number for number in numbers if math.isfinite(number)]
            if finite:
                means[name] = math.fsum(finite) / len(finite)
            if len(finite) < len(numbers) and of_all_channels(name):
                why = undefined.get(name) or "not finite"
                if self.target.masked:
                    why += ", or the mask is 0 everywhere"
                reasons[name] = f"{len(numbers) - len(finite)} of {len(numbers)} images: {why}"
        return means, reasons

    def _compare_sets(
        self,
        fake: Mapping[Any, Tensor],
        real: Mapping[Any, Tensor],
        protocol: dict[str, str],
        left_out: dict[str, str],
    ) -> dict[str, float]:
        """Return the metrics of two sets of features; add to `protocol`, or the reason to `left_out`."""
        if not self._per_set:
            return {}
        if min(len(fake), len(real)) < 2:
            too_few = f"needs two results and two real images at least (here {len(fake)} and {len(real)})"
            left_out |= {metric.name: too_few for metric in self._per_set}
            return {}
        stacked = [
            torch.stack([features[key] for key in sorted(features)]).to(self.device)
            for features in (fake, real)
        ]
        counts = f"{len(fake)} results, {len(real)} real images; {self.networks['inception'].description}"
        values: dict[str, float] = {}
        for metric, function in self._per_set.items():
            value, details = function(*stacked)
            values[metric.name] = value.item()
            preview = self.target.preview()
            protocol[metric.name] = "; ".join(
                text for text in (counts, details or metric.protocol, preview) if text
            )
        return values


def _merge(parts: Iterable[Mapping[Any, Any]]) -> dict[Any, Any]:
    return {key: value for part in parts for key, value in part.items()}


def reasons_against(names: Collection[str], target: Target) -> dict[str, str]:
    """Return why some of the metrics cannot be measured of such images, by name."""
    reasons = {name: target.why_not(metric) for name, metric in METRICS.items() if name in names}
    return {name: reason for name, reason in reasons.items() if reason}
