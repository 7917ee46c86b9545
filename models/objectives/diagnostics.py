"""Diagnostics of GAN training: a discriminator that has won, mode collapse, inverted brightness."""

from collections import deque
from collections.abc import Iterable, Mapping
from math import log
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import get_total_norm

WINDOW = 16
"""Monitored steps that diversity and warnings are computed over; diversity uses one image of each."""

THUMBNAIL = 16
WON, COLLAPSED, INVERTED = 0.02, 0.1, -0.5
"""Thresholds of warnings about means over the window: of a discriminator's doubt, of a generator's diversity,
and of the correlation of a generator's input and output brightness."""

DEAD_DOUBT, DEAD_ACCURACY = 0.9, 0.6
"""A discriminator is dead if its doubt is at least this in every step of the window, and its mean accuracy at
most this. Where fakes are good the mean doubt is near 1 too, but not that of every step."""

UNDECIDED = {"vanilla": (0.0, log(2)), "lsgan": (0.5, 0.25), "hinge": (0.0, 1.0)}
"""Logit and loss of an undecided discriminator by GAN mode; a critic (wgangp) has no such value."""

ADVICE = {
    "won": "it is nearly always certain, so that the generator learns little from it; try a lower --lr_D,"
    " --label_smoothing 0.1, --instance_noise 0.1, --lambda_r1 10 with --norm instance, or --diffaug"
    " translation,cutout",
    "dead": "it does not tell real images from fakes, so that the generator learns nothing from it; try a"
    " lower --lambda_r1 or --instance_noise where there is one, a higher --lr_D, or --spectral_norm none",
    "collapsed": "its fakes are nearly all the same; try --lambda_r1 10 with --norm instance, --gan_mode"
    " hinge with --spectral_norm D, a lower --lr, or --diffaug translation,cutout where images are few",
    "inverted": "what was light has become dark; try a higher --lambda_identity, or another --seed",
}


class Diagnostics:
    """Measures of whether training goes well, recorded in monitored steps only.

    Attributes:
        enabled: whether the current step is monitored; other steps cost nothing.
        batch_fraction: fraction of the batch that the current micro-batch is; measures are means over
            micro-batches.
    """

    STATE: ClassVar[object] = {"pictures": {str: [Tensor]}, "past": [{str: float}], "told": [str]}
    """The shape of `state_dict`."""

    def __init__(self) -> None:
        self.enabled, self.batch_fraction = False, 1.0
        self._values: dict[str, Tensor] = {}
        self._adversarial: dict[str, Tensor] = {}
        self._thumbnails: dict[str, deque[Tensor]] = {}
        self._past: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self._reported: set[str] = set()

    def start_step(self, monitor: bool) -> None:
        """Discard the measures of the previous step, and record those of the next one if `monitor`."""
        self.enabled = monitor
        self._values, self._adversarial = {}, {}

    @torch.no_grad()
    def record_discriminator(
        self,
        name: str,
        mode: str,
        images: tuple[Tensor, Tensor],
        logits: tuple[Tensor, Tensor],
        loss: Tensor,
    ) -> None:
        """Record the accuracy and doubt of discriminator `name`, and the diversity of the fakes.

        Args:
            images: real and fake images before augmentation, (N, C, H, W) each.
            logits: the discriminator's, of real and of fake images.
            loss: mean of the losses on real and on fake images, without penalties.
        """
        if not self.enabled:
            return
        real, fake = logits
        if mode in UNDECIDED:
            undecided_logit, undecided_loss = UNDECIDED[mode]
            self._add(f"{name}_acc_real", (real > undecided_logit).double().mean())
            self._add(f"{name}_acc_fake", (fake < undecided_logit).double().mean())
            self._add(f"{name}_doubt", loss.detach() / undecided_loss)
        if name + "D" not in self._adversarial:  # the first micro-batch
            self._record_diversity(name, images)
        self._record_ratio(name, "D", loss)

    @torch.no_grad()
    def record_generator(self, name: str, loss: Tensor) -> None:
        """Record the adversarial loss of the generator against discriminator `name`."""
        if self.enabled:
            self._record_ratio(name, "G", loss)

    @torch.no_grad()
    def record_gradients(self, name: str, parameters: Iterable[nn.Parameter]) -> None:
        """Record the gradient norm of an update of optimizer `name`."""
        if self.enabled:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            self._values[f"grad_{name}"] = get_total_norm(gradients)

    @torch.no_grad()
    def record_translation(self, name: str, before: Tensor, after: Tensor) -> None:
        """Record the correlation of the brightness of generator `name`'s input and output, (N, C, H, W)."""
        if self.enabled:
            light = [image.detach().float().mean(1).flatten() for image in (before, after)]
            self._add(f"{name}_light", torch.corrcoef(torch.stack(light))[0, 1])

    def values(self) -> dict[str, Tensor]:
        """Return the measures of the monitored step by their names in logs, 0-d on the device."""
        return dict(self._values)

    def warnings(self, values: Mapping[str, float]) -> list[str]:
        """Add a step's `values` to the window and return new warnings; each is reported once."""
        self._past.append(dict(values))
        problems = self._problems() if len(self._past) == WINDOW else {}
        new = [text for key, text in problems.items() if key not in self._reported]
        self._reported = set(problems)
        return new

    def state_dict(self) -> dict[str, Any]:
        """Return the state that later measures and warnings depend on."""
        thumbnails = {name: list(window) for name, window in self._thumbnails.items()}
        return {"pictures": thumbnails, "past": list(self._past), "told": sorted(self._reported)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict`."""
        thumbnails = [image for window in state["pictures"].values() for image in window]
        if any(image.shape != (2, *image.shape[1:2], THUMBNAIL, THUMBNAIL) for image in thumbnails):
            raise ValueError("images of the window have another shape")
        self._thumbnails = {name: deque(window, WINDOW) for name, window in state["pictures"].items()}
        self._past, self._reported = deque(state["past"], WINDOW), set(state["told"])

    def _add(self, name: str, value: Tensor) -> None:
        self._values[name] = self._values.get(name, 0) + self.batch_fraction * value

    def _record_diversity(self, name: str, images: tuple[Tensor, Tensor]) -> None:
        """Record the mean distance of the window's fakes relative to that of its real images."""
        small = [F.adaptive_avg_pool2d(image[:1].detach().float(), THUMBNAIL) for image in images]
        window = self._thumbnails.setdefault(name, deque(maxlen=WINDOW))
        window.append(torch.cat(small))
        if len(window) > 1:
            real, fake = torch.stack(tuple(window), 1).unbind(0)
            ratio = mean_distance(fake) / mean_distance(real).clamp(min=1e-8)
            self._values[f"diversity{name.removeprefix('D')}"] = ratio

    def _record_ratio(self, name: str, side: str, loss: Tensor) -> None:
        """Add to the adversarial loss of a side, "D" or "G"; once both are known, record G's over D's."""
        sum_before = self._adversarial.get(name + side, 0)
        self._adversarial[name + side] = sum_before + self.batch_fraction * loss.detach()
        if {name + "D", name + "G"} <= self._adversarial.keys():
            ratio = self._adversarial[name + "G"] / self._adversarial[name + "D"]
            self._values[f"G_over_{name}"] = ratio

    def _problems(self) -> dict[str, str]:
        """Return a warning for each measure that shows a problem over the window."""
        keys = set.intersection(*(set(values) for values in self._past))
        means = {key: sum(values[key] for values in self._past) / WINDOW for key in sorted(keys)}
        problems = {}
        for key, mean in means.items():
            if key.endswith("_doubt") and mean < WON:
                problems[key] = f"{key.removesuffix('_doubt')} has won ({key} {mean:.3f}): {ADVICE['won']}"
            if key.endswith("_doubt") and self._is_dead(key.removesuffix("_doubt"), means):
                problems[key] = f"{key.removesuffix('_doubt')} is dead ({key} {mean:.3f}): {ADVICE['dead']}"
            if key.startswith("diversity") and mean < COLLAPSED:
                collapsed = f"G has collapsed ({key} {mean:.3f} of the real images')"
                problems[key] = f"{collapsed}: {ADVICE['collapsed']}"
            if key.endswith("_light") and mean < INVERTED:
                inverts = f"{key.removesuffix('_light')} inverts ({mean:.2f})"
                problems[key] = f"{inverts}: {ADVICE['inverted']}"
        return problems

    def _is_dead(self, name: str, means: Mapping[str, float]) -> bool:
        """Return whether discriminator `name` has been undecided, or worse, in every step of the window."""
        accuracy = sum(means.get(f"{name}_acc_{side}", 0.0) for side in ("real", "fake")) / 2
        doubts = (values[f"{name}_doubt"] for values in self._past)
        return accuracy <= DEAD_ACCURACY and min(doubts) >= DEAD_DOUBT


def mean_distance(images: Tensor) -> Tensor:
    """Return the mean absolute difference over all pairs of images, (N, C, H, W), 0-d."""
    flat = images.flatten(1)
    return torch.pdist(flat, p=1).mean() / flat.shape[1]
