"""Neural style transfer (Gatys et al. 2016): the pixels of an image are what is optimised."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from models.objectives.losses import feature_loss, grams, total, total_variation
from models.objectives.perceptual import Features
from util.batch import normalise
from util.color import from_L_ab, match_colours, to_L_ab
from util.errors import UserError
from util.seeding import torch_rng

LEARNING_RATES = {"lbfgs": 1.0, "adam": 0.05}
"""The optimizers, and how long their steps are unless told."""

HISTORY = 20
"""Steps that L-BFGS remembers: the image of 100 is hardly better, and its state five times as large."""

NOISE = 0.3
"""The deviation of an initial image of noise."""


@dataclass(frozen=True)
class Method:
    """What is compared, and how the image is made.

    Attributes:
        content_layers, style_layers: names such as ``relu4_2``.
        lambda_content, lambda_style, lambda_tv: weights of the losses; what weighs nothing is not computed.
        style_blend: a weight for each style, of which the share in their sum counts.
        style_scale: size of the styles as a multiple of the image's.
        preserve_color: ``none``, ``luminance`` or ``histogram``, see `without_style_colours`.
        init: ``content``, or ``noise`` drawn by `seed`.
        optimizer, lr: one of `LEARNING_RATES`, and the length of its steps.
    """

    content_layers: Sequence[str]
    style_layers: Sequence[str]
    lambda_content: float
    lambda_style: float
    lambda_tv: float
    style_blend: Sequence[float]
    style_scale: float
    preserve_color: str
    init: str
    seed: int
    optimizer: str
    lr: float


class StyleLoss:
    """How far an image is from the content of one image and from the style of others.

    Style is Gram matrices of features. With several styles the goal is their weighted mean, which has the
    same gradient as the weighted losses against each. All layers weigh the same: with Gram matrices divided
    by C·H·W that is what Gatys' published code does with matrices divided by H·W and weights 1000 / C².

    Args:
        content: (1, 1 or 3, H, W) in [-1, 1].
        styles: the same of any size.
        features: must have the layers of `method` that weigh anything.
    """

    def __init__(self, content: Tensor, styles: Sequence[Tensor], features: Features, method: Method):
        self.features, self.method = features, method
        self.content: dict[str, Tensor] = {}
        self.style: dict[str, Tensor] = {}
        with torch.no_grad():
            if method.lambda_content:
                self.content = _only(method.content_layers, features(content))
            if method.lambda_style:
                whole = sum(method.style_blend)
                for share, style in zip(method.style_blend, styles, strict=True):
                    for layer, found in grams(_only(method.style_layers, features(style))).items():
                        self.style[layer] = self.style.get(layer, 0) + share / whole * found

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """Return the weighted losses by name, 0-d each, for an image of the content's shape."""
        found, method, losses = self.features(image), self.method, {}
        if self.content:
            losses["content"] = method.lambda_content * feature_loss(found, self.content)
        if self.style:
            losses["style"] = method.lambda_style * feature_loss(grams(_only(self.style, found)), self.style)
        if method.lambda_tv:
            losses["tv"] = method.lambda_tv * total_variation(image)
        return losses


class Painting:
    """An image that becomes what a loss asks for, a step at a time.

    torch's L-BFGS stands still where gradients are small in absolute terms. So it gets the loss in a unit in
    which the first one is the number of the image's values: the ratios of weights alone matter.

    Args:
        start: the image to begin with, (1, C, H, W); later ones may leave [-1, 1].
        loss: returns losses by name.
        optimizer: one of `LEARNING_RATES`.
    """

    def __init__(
        self, start: Tensor, loss: Callable[[Tensor], Mapping[str, Tensor]], optimizer: str, lr: float
    ):
        self.image = nn.Parameter(start.clone(memory_format=torch.contiguous_format))
        self.loss, self.kind = loss, optimizer
        self.factor: float | None = None
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.LBFGS([self.image], lr, max_iter=1, history_size=HISTORY)
            if optimizer == "lbfgs"
            else torch.optim.Adam([self.image], lr)
        )

    def step(self) -> dict[str, float]:
        """Make a step; return the losses of the image before it, and their ``total``."""
        values: dict[str, float] = {}

        def evaluate() -> float:
            losses = self.loss(self.image)
            objective = total(losses)
            values.update({name: loss.item() for name, loss in losses.items()}, total=objective.item())
            if self.factor is None:
                self.factor = self.image.numel() / (values["total"] or 1.0)
            self.optimizer.zero_grad()
            (self.factor * objective).backward()
            return self.factor * values["total"]

        self.optimizer.step(evaluate)
        return values

    def state_dict(self) -> dict[str, Any]:
        """Return the image and all that further steps depend on."""
        return {
            "picture": self.image.detach(),
            "kind": self.kind,
            "optimizer": self.optimizer.state_dict(),
            "factor": self.factor,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, but for the learning rate.

        Raises:
            UserError: it belongs to an image of another shape, or to another optimizer.
        """
        theirs, ours = tuple(state["picture"].shape), tuple(self.image.shape)
        if (theirs, state["kind"]) != (ours, self.kind):
            raise UserError(
                f"--continue_train: the saved image, {theirs} by {state['kind']}, does not fit this one,"
                f" {ours} by {self.kind}: give --content, --size, --preserve_color and --optimizer as before,"
                " or begin anew without --continue_train"
            )
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        self.factor = state["factor"]
        with torch.no_grad():
            self.image.copy_(state["picture"])


class StyleTransfer:
    """Paints an image in the style of others, at one size after the other.

    Args:
        content, styles: images in RGB.
        features: on the device to compute on.

    Attributes:
        size: the longer side of what is being painted.
        step: how many steps are made at this size.
        painting: what has become of the image.
    """

    def __init__(
        self, content: Image.Image, styles: Sequence[Image.Image], features: Features, method: Method
    ):
        self.images = [content, *styles]
        self.features, self.method = features, method

    def start(self, size: int, before: Tensor | None = None) -> None:
        """Begin with a size: with the image `before`, enlarged, or else with the initial one."""
        method, self.size, self.step = self.method, size, 0
        self.original, *styles = (self._scaled(index) for index in range(len(self.images)))
        content, styles = without_style_colours(method.preserve_color, self.original, styles)
        if before is not None:
            start = F.interpolate(before, size=content.shape[2:], mode="bicubic", align_corners=False)
        else:
            start = noise(content, method.seed) if method.init == "noise" else content
        loss = StyleLoss(content, styles, self.features, method)
        self.painting = Painting(start, loss, method.optimizer, method.lr)

    def enlarge(self, size: int) -> None:
        """Go on at a larger size with the image as it is."""
        self.start(size, before=self.painting.image.detach())

    def make_step(self) -> dict[str, float]:
        """Make a step and return its losses.

        Raises:
            UserError: the image is not finite any more.
        """
        losses = self.painting.step()
        self.step += 1
        if not self.painting.image.isfinite().all():
            raise UserError(
                f"--lr {self.method.lr:g}: after step {self.step} at size {self.size} the image is not"
                " finite any more; lower it, or change --optimizer"
            )
        return losses

    def result(self) -> Tensor:
        """Return the image, (3, H, W) in [-1, 1]."""
        image = self.painting.image.detach().clamp(-1, 1)
        if self.method.preserve_color == "luminance":
            image = from_L_ab(to_L_ab(image)[0], to_L_ab(self.original)[1])
        return image[0]

    def state_dict(self) -> dict[str, Any]:
        """Return how far it is, and all that further steps depend on."""
        return {"size": self.size, "step": self.step, "painting": self.painting.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; for the errors see `Painting.load_state_dict`."""
        self.start(state["size"])
        self.painting.load_state_dict(state["painting"])
        self.step = state["step"]

    def _scaled(self, index: int) -> Tensor:
        """Return the content (0) or a style in its size, (1, 3, H, W) in [-1, 1]."""
        image, scale = self.images[index], self.method.style_scale if index else 1.0
        width, height = (max(1, round(self.size * scale * side / max(image.size))) for side in image.size)
        least = self.features.least_side
        if min(width, height) < least:
            which = f"style image {index}" if index else "the content"
            raise UserError(
                f"--size {self.size}: {which} has {width} x {height} pixels then, and the deepest layer needs"
                f" {least} a side; give a larger --size{' or --style_scale' if index else ''}"
            )
        pixels = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
        return normalise(tensor.to(next(self.features.parameters()).device), torch.float32)


def noise(like: Tensor, seed: int) -> Tensor:
    """Return normal noise around grey: a function of `seed` and of the shape of `like`."""
    generator = torch_rng("initial noise", seed)
    return NOISE * torch.randn(like.shape, generator=generator).to(like)


def without_style_colours(
    mode: str, content: Tensor, styles: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return content and styles such that the result can have the content's colours.

    Gatys et al. 2016, "Preserving Color in Neural Artistic Style Transfer".

    Args:
        mode: ``luminance`` makes all grey, (1, 1, H, W), and gives L of the styles the mean and deviation of
            the content's. ``histogram`` gives the styles the mean and covariance of the content's colours.
            ``none`` changes nothing.
        content, styles: (1, 3, H, W) in [-1, 1].
    """
    if mode == "histogram":
        return content, [match_colours(style, content).clamp(-1, 1) for style in styles]
    if mode == "luminance":
        L, *others = (to_L_ab(image)[0] for image in (content, *styles))
        return _grey(L), [_grey(match_colours(other, L)) for other in others]
    return content, list(styles)


def _grey(L: Tensor) -> Tensor:
    """Return the grey images with this L / 50 - 1, clipped to [-1, 1]."""
    return from_L_ab(L, torch.zeros_like(L).expand(-1, 2, -1, -1))[:, :1]


def _only(layers: Iterable[str], features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {layer: features[layer] for layer in layers}
