"""Neural style transfer by optimising the pixels of an image (Gatys et al. 2016)."""

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
"""Default learning rates of the optimizers."""

HISTORY = 20
"""History size of L-BFGS; 100 gives hardly better images and a state five times as large."""

NOISE = 0.3
"""Standard deviation of initial noise."""


@dataclass(frozen=True)
class Method:
    """The losses, the initial image and the optimizer.

    Attributes:
        content_layers, style_layers: names such as ``relu4_2``.
        lambda_content, lambda_style, lambda_tv: weights of the losses; losses of weight 0 are not computed.
        style_blend: weights of the styles, relative to their sum.
        style_scale: size of the styles as a multiple of the image's.
        preserve_color: ``none``, ``luminance`` or ``histogram``, see `without_style_colours`.
        init: ``content``, or ``noise`` drawn with `seed`.
        optimizer, lr: one of `LEARNING_RATES`, and its learning rate.
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
    """Losses of an image against the content of one image and the style of others.

    A style is represented by Gram matrices of features. With several styles the target is their weighted
    mean, which has the same gradient as the weighted sum of their losses. All layers have the same weight:
    with Gram matrices divided by C·H·W this equals Gatys' published code, which divides them by H·W and
    weights layers by 1000 / C².

    Args:
        content: (1, 1 or 3, H, W) in [-1, 1].
        styles: of the same shape, in any size.
        features: must have the layers of `method` whose loss has a weight above 0.
    """

    def __init__(self, content: Tensor, styles: Sequence[Tensor], features: Features, method: Method):
        self.features, self.method = features, method
        self.content: dict[str, Tensor] = {}
        self.style: dict[str, Tensor] = {}
        with torch.no_grad():
            if method.lambda_content:
                self.content = _only(method.content_layers, features(content))
            if method.lambda_style:
                total_weight = sum(method.style_blend)
                for weight, style in zip(method.style_blend, styles, strict=True):
                    for layer, matrix in grams(_only(method.style_layers, features(style))).items():
                        self.style[layer] = self.style.get(layer, 0) + weight / total_weight * matrix

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """Return the weighted losses by name, 0-d each, of an image of the content's shape."""
        features, method, losses = self.features(image), self.method, {}
        if self.content:
            losses["content"] = method.lambda_content * feature_loss(features, self.content)
        if self.style:
            matrices = grams(_only(self.style, features))
            losses["style"] = method.lambda_style * feature_loss(matrices, self.style)
        if method.lambda_tv:
            losses["tv"] = method.lambda_tv * total_variation(image)
        return losses


class Painting:
    """An image whose pixels are optimised.

    torch's L-BFGS stops where gradients are small in absolute terms. The loss is therefore scaled so that its
    first value is the number of the image's values; only the ratios of the losses' weights matter.

    Args:
        start: the initial image, (1, C, H, W); optimised values may leave [-1, 1].
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
        """Make one optimizer step; return the losses before it, and their ``total``."""
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
        """Return the image and the state that further steps depend on."""
        return {
            "picture": self.image.detach(),
            "kind": self.kind,
            "optimizer": self.optimizer.state_dict(),
            "factor": self.factor,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state_dict`; the learning rate stays.

        Raises:
            UserError: the state is of an image of another shape, or of another optimizer.
        """
        saved, shape = tuple(state["picture"].shape), tuple(self.image.shape)
        if (saved, state["kind"]) != (shape, self.kind):
            raise UserError(
                f"--continue_train: the saved image, {saved} by {state['kind']}, does not fit this one,"
                f" {shape} by {self.kind}: give --content, --size, --preserve_color and --optimizer as"
                " before, or start again without --continue_train"
            )
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        self.factor = state["factor"]
        with torch.no_grad():
            self.image.copy_(state["picture"])


class StyleTransfer:
    """Optimises an image in the style of others, at increasing sizes.

    Args:
        content, styles: images in RGB.
        features: on the device to compute on.

    Attributes:
        size: the longer side of the image, in pixels.
        step: number of steps made at this size.
        painting: the image and its optimizer.
    """

    def __init__(
        self, content: Image.Image, styles: Sequence[Image.Image], features: Features, method: Method
    ):
        self.images = [content, *styles]
        self.features, self.method = features, method

    def start(self, size: int, before: Tensor | None = None) -> None:
        """Start at a size, from the image `before`, resized, or from the initial image."""
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
        """Continue at a larger size from the current image."""
        self.start(size, before=self.painting.image.detach())

    def make_step(self) -> dict[str, float]:
        """Make one step and return its losses.

        Raises:
            UserError: the image is no longer finite.
        """
        losses = self.painting.step()
        self.step += 1
        if not self.painting.image.isfinite().all():
            raise UserError(
                f"--lr {self.method.lr:g}: after step {self.step} at size {self.size} the image is no"
                " longer finite; lower it, or change --optimizer"
            )
        return losses

    def result(self) -> Tensor:
        """Return the image, (3, H, W) in [-1, 1]."""
        image = self.painting.image.detach().clamp(-1, 1)
        if self.method.preserve_color == "luminance":
            image = from_L_ab(to_L_ab(image)[0], to_L_ab(self.original)[1])
        return image[0]

    def state_dict(self) -> dict[str, Any]:
        """Return size and step, and the state of the painting."""
        return {"size": self.size, "step": self.step, "painting": self.painting.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state_dict`; for the errors see `Painting.load_state_dict`."""
        self.start(state["size"])
        self.painting.load_state_dict(state["painting"])
        self.step = state["step"]

    def _scaled(self, index: int) -> Tensor:
        """Return the content (index 0) or a style, scaled, (1, 3, H, W) in [-1, 1]."""
        image, scale = self.images[index], self.method.style_scale if index else 1.0
        width, height = (max(1, round(self.size * scale * side / max(image.size))) for side in image.size)
        least = self.features.least_side
        if min(width, height) < least:
            which = f"style image {index}" if index else "the content"
            raise UserError(
                f"--size {self.size}: {which} then has {width} x {height} pixels, and the deepest layer needs"
                f" sides of {least}; give a larger --size{' or --style_scale' if index else ''}"
            )
        pixels = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
        return normalise(tensor.to(next(self.features.parameters()).device), torch.float32)


def noise(like: Tensor, seed: int) -> Tensor:
    """Return normal noise around grey in the shape of `like`."""
    generator = torch_rng("initial noise", seed)
    return NOISE * torch.randn(like.shape, generator=generator).to(like)


def without_style_colours(
    mode: str, content: Tensor, styles: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return content and styles prepared so that the result keeps the content's colours.

    Gatys et al. 2016, "Preserving Color in Neural Artistic Style Transfer".

    Args:
        mode: ``luminance`` returns grey images, (1, 1, H, W), with the mean and deviation of the content's L.
            ``histogram`` gives the styles the mean and covariance of the content's colours. ``none`` changes
            nothing.
        content, styles: (1, 3, H, W) in [-1, 1].
    """
    if mode == "histogram":
        return content, [match_colours(style, content).clamp(-1, 1) for style in styles]
    if mode == "luminance":
        L, *style_Ls = (to_L_ab(image)[0] for image in (content, *styles))
        return _grey(L), [_grey(match_colours(style_L, L)) for style_L in style_Ls]
    return content, list(styles)


def _grey(L: Tensor) -> Tensor:
    """Return grey images for L / 50 - 1, clipped to [-1, 1]."""
    return from_L_ab(L, torch.zeros_like(L).expand(-1, 2, -1, -1))[:, :1]


def _only(layers: Iterable[str], features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {layer: features[layer] for layer in layers}
