"""Signs of the troubles that GAN training has: a discriminator that has won, collapse, inverted colours."""

from collections import deque
from collections.abc import Iterable, Mapping
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import get_total_norm

LOOKS = 16
"""So many watched steps, with one image of each, are what diversity and warnings judge by."""

THUMBNAIL = 16
WON, COLLAPSED, INVERTED = 0.02, 0.1, -0.5
"""Below this doubt a discriminator has won, below this diversity a generator has collapsed, and below this
correlation with its input it inverts."""

UNDECIDED = {"vanilla": (0.0, log(2)), "lsgan": (0.5, 0.25), "hinge": (0.0, 1.0)}
"""An undecided discriminator's logit, and its loss; a critic's values (wgangp) have no middle."""

ADVICE = {
    "won": "it is nearly always certain, so that the generator learns little from it; try a lower --lr_D,"
    " --label_smoothing 0.1, --instance_noise 0.1, --lambda_r1 10 or --diffaug color,translation,cutout",
    "collapsed": "its fakes are nearly all the same; try --lambda_r1 10, --gan_mode hinge with"
    " --spectral_norm D, a lower --lr, or --diffaug color,translation,cutout where images are few",
    "inverted": "what was light has become dark; try a higher --lambda_identity, or another --seed",
}


class Health:
    """Measures that show whether training is well, taken in the steps that are watched.

    Attributes:
        watching: whether the present step is looked at; the others cost nothing.
        share: how much of the batch is being computed; measures are means over its parts.
    """

    def __init__(self) -> None:
        self.watching, self.share = False, 1.0
        self._values: dict[str, Tensor] = {}
        self._adversarial: dict[str, Tensor] = {}
        self._images: dict[str, deque[Tensor]] = {}
        self._past: deque[dict[str, float]] = deque(maxlen=LOOKS)
        self._told: set[str] = set()

    def start_step(self, watching: bool) -> None:
        """Forget the step before, and decide whether to look at the next one."""
        self.watching = watching
        self._values, self._adversarial = {}, {}

    @torch.no_grad()
    def see_discriminator(
        self,
        name: str,
        mode: str,
        images: tuple[Tensor, Tensor],
        logits: tuple[Tensor, Tensor],
        loss: Tensor,
    ) -> None:
        """Take real and fake images that discriminator `name` was shown, and what it made of them."""
        if not self.watching:
            return
        real, fake = logits
        if mode in UNDECIDED:
            middle, worst = UNDECIDED[mode]
            self._add(f"{name}_acc_real", (real > middle).double().mean())
            self._add(f"{name}_acc_fake", (fake < middle).double().mean())
            self._add(f"{name}_doubt", loss.detach() / worst)
        if name + "D" not in self._adversarial:  # the first part of a batch
            self._see_diversity(name, images)
        self._compare(name, "D", loss)

    @torch.no_grad()
    def see_generator(self, name: str, loss: Tensor) -> None:
        """Take how far the generator was from fooling discriminator `name`."""
        if self.watching:
            self._compare(name, "G", loss)

    @torch.no_grad()
    def see_gradients(self, name: str, parameters: Iterable[nn.Parameter]) -> None:
        """Take the gradients of an update of optimizer `name`."""
        if self.watching:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            self._values[f"grad_{name}"] = get_total_norm(gradients)

    @torch.no_grad()
    def see_translation(self, name: str, before: Tensor, after: Tensor) -> None:
        """Take images, (N, C, H, W), and what generator `name` made of them; light should stay light."""
        if self.watching:
            light = [image.detach().float().mean(1).flatten() for image in (before, after)]
            self._add(f"{name}_light", torch.corrcoef(torch.stack(light))[0, 1])

    def values(self) -> dict[str, Tensor]:
        """Return the measures of the watched step by the names that logs show, 0-d on the device."""
        return dict(self._values)

    def warnings(self, values: Mapping[str, float]) -> list[str]:
        """Return what is wrong, by the `values` of the last watched steps; each trouble is told once."""
        self._past.append(dict(values))
        found = self._troubles() if len(self._past) == LOOKS else {}
        new = [text for key, text in found.items() if key not in self._told]
        self._told = set(found)
        return new

    def state_dict(self) -> dict[str, Any]:
        """Return what the next measures and warnings depend on."""
        images = {name: list(seen) for name, seen in self._images.items()}
        return {"pictures": images, "past": list(self._past), "told": sorted(self._told)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._images = {name: deque(seen, LOOKS) for name, seen in state["pictures"].items()}
        self._past, self._told = deque(state["past"], LOOKS), set(state["told"])

    def _add(self, name: str, value: Tensor) -> None:
        self._values[name] = self._values.get(name, 0) + self.share * value

    def _see_diversity(self, name: str, images: tuple[Tensor, Tensor]) -> None:
        small = [F.adaptive_avg_pool2d(image[:1].detach().float(), THUMBNAIL) for image in images]
        seen = self._images.setdefault(name, deque(maxlen=LOOKS))
        seen.append(torch.cat(small))
        if len(seen) > 1:
            real_spread, fake_spread = torch.stack(tuple(seen), 1).unbind(0)
            ratio = mean_distance(fake_spread) / mean_distance(real_spread).clamp(min=1e-8)
            self._values[f"diversity{name.removeprefix('D')}"] = ratio

    def _compare(self, name: str, side: str, loss: Tensor) -> None:
        before = self._adversarial.get(name + side, 0)
        self._adversarial[name + side] = before + self.share * loss.detach()
        if {name + "D", name + "G"} <= self._adversarial.keys():
            ratio = self._adversarial[name + "G"] / self._adversarial[name + "D"]
            self._values[f"G_over_{name}"] = ratio

    def _troubles(self) -> dict[str, str]:
        """Return what is wrong: a text for every measure that shows it."""
        keys = set.intersection(*(set(values) for values in self._past))
        means = {key: sum(values[key] for values in self._past) / LOOKS for key in sorted(keys)}
        found = {}
        for key, mean in means.items():
            if key.endswith("_doubt") and mean < WON:
                found[key] = f"{key.removesuffix('_doubt')} has won ({key} {mean:.3f}): {ADVICE['won']}"
            if key.startswith("diversity") and mean < COLLAPSED:
                found[key] = f"G has collapsed ({key} {mean:.3f} of the real images'): {ADVICE['collapsed']}"
            if key.endswith("_light") and mean < INVERTED:
                found[key] = f"{key.removesuffix('_light')} inverts ({mean:.2f}): {ADVICE['inverted']}"
        return found


def mean_distance(images: Tensor) -> Tensor:
    """Return the mean absolute difference of two images among (N, C, H, W), 0-d."""
    flat = images.flatten(1)
    return torch.pdist(flat, p=1).mean() / flat.shape[1]
