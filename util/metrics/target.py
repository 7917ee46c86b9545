"""What the images to measure hold: their units, ranges, channels and masks."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from util.image_io import to_levels
from util.metrics.names import Metric
from util.parts import RGB_B, Part, Side

MANY_CHANNELS = 4
"""Images with as many channels are measured by channel, too."""


@dataclass(frozen=True)
class Target:
    """The kind of the results and their truth.

    One RGB or grey image with 8 bits is measured as RGB levels, uint8 (N, 3, H, W); everything else in the
    units of its files, float64 (N, C, H, W).

    Attributes:
        masked: whether masks weight the pixels.
    """

    side: Side = RGB_B
    masked: bool = False

    @cached_property
    def is_rgb(self) -> bool:
        """Whether it is measured as RGB levels."""
        return self.side.is_8bit and len(self.side.parts) == 1 and self.side.channels < MANY_CHANNELS

    @cached_property
    def channels(self) -> dict[str, list[int]]:
        """The channels to measure together: "" all; by name those of each of several parts, and single ones.

        A channel's name is its number in the file, from 1; with several parts ``B2``, or ``B2.4`` for a
        channel of a part that has several. Label maps are not measured.
        """
        together: list[int] = []
        parts: dict[str, list[int]] = {}
        single: dict[str, list[int]] = {}
        several = len(self.side.parts) > 1
        end = 0
        for part in self.side.parts:
            numbers = list(range(end, end + part.channels))
            end += part.channels
            if part.is_image:
                together += numbers
                parts[part.name] = numbers
                if not several or part.channels > 1:
                    bands = part.bands or range(1, part.channels + 1)
                    prefix = f"{part.name}." if several else ""
                    single |= {f"{prefix}{band}": [i] for band, i in zip(bands, numbers, strict=True)}
        if len(together) < MANY_CHANNELS:
            single = {}
        return {"": together, **(parts if several else {}), **single}

    def spans(self, device: torch.device) -> Tensor:
        """Return the length of the range of each channel, (C, 1, 1) float64."""
        return self.side.spans(device)

    def why_not(self, metric: Metric) -> str:
        """Return why a metric cannot be measured; "" if it can."""
        if self.masked and "weight" not in metric.takes:
            return "cannot be weighted by masks"
        if self.is_rgb:
            return ""
        if not self.channels[""]:
            return "is for images, not for label maps"
        if "data_range" in metric.takes or (len(self.side.parts) == 1 and self.side.channels in (1, 3)):
            return ""
        kind = "several images" if len(self.side.parts) > 1 else f"an image of {self.side.channels} channels"
        return f"needs an RGB or grey image, and the target is {kind}"

    def as_saved(self, images: Tensor) -> Tensor:
        """Return a model's images, (N, C, H, W) in [-1, 1], as they are measured.

        Values are clipped to the range, and rounded where files hold integers.
        """
        if self.is_rgb:
            return to_levels(images)
        units = self.side.in_units(images.detach().clamp(-1, 1))
        for part, values in self.side.split(units):
            if np.dtype(part.values.dtype).kind != "f":
                values.round_()
        return units

    def levels(self, images: Tensor) -> Tensor:
        """Return images as `as_saved` returns them as RGB, uint8 (N, 3, H, W): the range is 0 to 255."""
        if images.dtype == torch.uint8:
            return images
        values = self.side.parts[0].values
        return to_levels((images - values.low) * (2 / values.span) - 1)

    def protocol(self, metric: Metric) -> str:
        """Return how a metric is computed of such images."""
        text = metric.protocol
        if not self.is_rgb and "data_range" in metric.takes:
            text = f"{metric.protocol_in_units or text}; {self._ranges()}"
        elif preview := self.preview():
            text = f"{text}; {preview}"
        return f"{text}; pixels weighted by masks" if self.masked else text

    def preview(self) -> str:
        """Return how metrics of RGB images see images that are not 8-bit; "" for those that are."""
        return "" if self.is_rgb else f"of 8-bit previews: {self._ranges()} as 0 to 255"

    def _ranges(self) -> str:
        images = [part for part in self.side.parts if part.is_image]
        ranges = list(dict.fromkeys(map(_range, images)))
        if len(ranges) == 1:
            return f"range {ranges[0]}"
        return "ranges " + ", ".join(f"{_range(part)} ({part.name})" for part in images)


def _range(part: Part) -> str:
    return f"{part.values.low:.9g} to {part.values.high:.9g} of {part.values.dtype}"
