"""Random changes of training images (``--augment``): drawn once per sample, applied to each of its images.

Geometry is the same for all images of a sample, label maps and masks; values change in the input alone unless
a word is written with ``:AB``.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil, cos, floor, radians, sin
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from options.augment_options import Augment
from util.errors import UserError
from util.parts import Kind, Part, Sides
from util.seeding import torch_rng

log = logging.getLogger(__name__)

Area = tuple[int, int, int, int]
"""Left, top, width and height, in pixels of the scaled image."""

HUE = 0.25
"""Change of the hue, in turns, per amount of ``color`` (the ratio of SimCLR: Chen et al. 2020, A)."""

RGB = 3

NUMBERS = ("labels", "instances")
"""The kinds of parts whose values are not interpolated."""


@dataclass(frozen=True)
class Augmentation:
    """The changes drawn for one sample.

    Attributes:
        vflip: whether to flip upside down.
        turns: quarter turns, counterclockwise; of windows that are not square, half turns only.
        angle: of the rotation, in degrees, clockwise.
        scale: factor of the size of what the image shows.
        shift: to the right and down, as fractions of the window's width and height.
        brightness, contrast, saturation: factors.
        hue: change of the hue, in turns.
        blur: standard deviation, in pixels.
        noise: standard deviation, as a fraction of the range of values.
        jpeg: quality.
        seed: of the noise.
        augment: the words, which say what applies to which images.
    """

    augment: Augment
    vflip: bool = False
    turns: int = 0
    angle: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    jpeg: int = 100
    seed: int = 0

    @property
    def moves(self) -> bool:
        """Whether pixels come from between the pixels of the scaled image."""
        return (self.angle, self.scale, self.shift) != (0.0, 1.0, (0.0, 0.0))


def draw(augment: Augment, rng: Random) -> Augmentation:
    """Draw the changes of a sample; what is drawn for a word does not depend on the other words."""
    vflip, turns = rng.random() < 0.5, rng.randrange(4)
    angle, scale, right, down, brightness, contrast, saturation, hue, blur, noise, jpeg = (
        rng.random() for _ in range(11)
    )

    def between(word: str, fraction: float, neutral: float = 0.0) -> float:
        low, high = augment.interval(word, neutral)
        return low + (high - low) * fraction

    return Augmentation(
        augment,
        vflip=vflip and "vflip" in augment.words,
        turns=turns if "rot90" in augment.words else 0,
        angle=between("rotate", angle),
        scale=between("scale", scale, 1.0),
        shift=(between("shift", right), between("shift", down)),
        brightness=1 + between("color", brightness),
        contrast=1 + between("color", contrast),
        saturation=1 + between("color", saturation),
        hue=HUE * between("color", hue),
        blur=between("blur", blur),
        noise=between("noise", noise),
        jpeg=round(between("jpeg", jpeg, 100)),
        seed=rng.getrandbits(62),
    )


def cut(
    pixels: NDArray[np.generic], window: Area, change: Augmentation | None, kind: Kind
) -> NDArray[np.generic]:
    """Return a window of an image with the geometric changes: rotated and scaled about the window's centre.

    What is around the window moves into its corners; beyond the image's edges it is the image reflected.

    Args:
        pixels: the scaled image, (C, H, W).
        kind: images and masks are interpolated (bilinear); of classes and objects, the nearest pixel's.
    """
    left, top, width, height = window
    if change is not None and change.moves:
        result = _move(pixels, window, change, "nearest" if kind in NUMBERS else "bilinear")
    else:
        result = pixels[:, top : top + height, left : left + width]
    if change is None:
        return result
    if change.vflip:
        result = result[:, ::-1]
    # Half turns keep the size of windows that are not square.
    return np.rot90(result, change.turns if width == height else change.turns & 2, (1, 2))


def surroundings(
    shape: Sequence[int], window: Area, change: Augmentation | None
) -> tuple[int, int, int, int]:
    """Return the left, top, right and bottom edge of what `cut` reads of an image (C, H, W)."""
    left, top, width, height = window
    if change is None or not change.moves:
        return left, top, left + width, top + height
    center_x, center_y = left + width / 2, top + height / 2
    half_x, half_y = width * (0.5 + abs(change.shift[0])), height * (0.5 + abs(change.shift[1]))
    sine, cosine = abs(sin(radians(change.angle))), abs(cos(radians(change.angle)))
    # With a border for the interpolation
    reach_x = (cosine * half_x + sine * half_y) / change.scale + 2
    reach_y = (cosine * half_y + sine * half_x) / change.scale + 2
    return (
        max(0, floor(center_x - reach_x)),
        max(0, floor(center_y - reach_y)),
        min(shape[2], ceil(center_x + reach_x)),
        min(shape[1], ceil(center_y + reach_y)),
    )


def recolor(image: Tensor, change: Augmentation, part: Part | None, *, is_input: bool) -> Tensor:
    """Return an image, (C, H, W), with the photometric changes, in its type and within its range.

    Args:
        image: in the file's units; only images change, not masks and numbers of classes and objects.
        is_input: whether it belongs to the input, or to the target, which only words with ``:AB`` change.

    Raises:
        UserError: Values are to change, and `part` is None: the data set does not say what they are.
    """
    augment = change.augment
    words = [word for word in augment.photometric if is_input or word in augment.both]
    if words and part is None:
        raise UserError(
            f"--augment: {words[0]} needs to know what images hold: this data set passes them to"
            f" Transform.apply without it; use BaseDataset.prepare there, or remove {words[0]}"
        )
    if not words or part is None or not part.is_image:
        return image
    values, kernels = part.values, import_kernels()
    fractions = (image.float() - values.low) / values.span
    if "color" in words:
        # The kernels know one and three channels; others are changed one by one.
        colors = fractions.clamp(0, 1) if len(image) == RGB else fractions.clamp(0, 1)[:, None]
        colors = kernels.adjust_brightness(colors, change.brightness)
        colors = kernels.adjust_contrast(colors, change.contrast)
        if len(image) == RGB:
            colors = kernels.adjust_saturation(colors, change.saturation)
            colors = kernels.adjust_hue(colors, change.hue)
        fractions = colors.view_as(fractions)
    if "blur" in words and change.blur > 0:
        fractions = _blur(fractions, change.blur)
    if "noise" in words:
        # Not the kernel of torchvision, whose numbers come from torch's global generator
        rng = torch_rng(f"noise {part.name}", change.seed)
        noise = torch.randn(fractions.shape, generator=rng)
        fractions = fractions + change.noise * noise
    result = fractions.clamp(0, 1) * values.span + values.low
    kept = values.cast(result.numpy())
    return torch.from_numpy(_as_jpeg(kept, change.jpeg) if "jpeg" in words else kept)


def import_kernels() -> Any:
    """Return torchvision's kernels."""
    # Here because it takes two seconds.
    from torchvision.transforms.v2 import functional

    return functional


def check(augment: Augment, sides: Sides, *, learns_input: bool = False) -> None:
    """Raise a `UserError` if a photometric word cannot apply to the images of a data set.

    Args:
        learns_input: whether what models learn to produce is made of the input, which a warning says.
    """
    damaging = [word for word in augment.photometric if word != "color"]
    if learns_input and damaging:
        log.warning(
            "--augment: %s also change what the model learns to produce: it is made of the input images",
            " and ".join(damaging),
        )
    if augment.photometric:
        import_kernels()  # in the main process, so that forked workers need not
    for word in augment.photometric:
        chosen = [sides.A, sides.B] if word in augment.both else [sides.A]
        parts = [part for side in chosen for part in side.parts if part.is_image]
        if not parts:
            images = any(part.is_image for part in sides.B.parts)
            advice = f"; write {word} with :AB to change the target" if images else "; remove it"
            raise UserError(
                f"--augment: {word} changes the values of images, and the input has none, only label"
                f" maps{advice}"
            )
        for part in parts:
            if word == "jpeg" and not _is_jpeg(part):
                raise UserError(
                    f"--augment: jpeg stores RGB and grey images with 8 bits, and {part.name} has"
                    f" {part.channels} channels of {part.values.dtype}; remove it"
                )


def _is_jpeg(part: Part) -> bool:
    return part.values.dtype == "uint8" and part.channels in (1, RGB)


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Return an image (C, H, W) blurred by a Gaussian kernel of three standard deviations to each side."""
    blur, radius = import_kernels().gaussian_blur, ceil(3 * sigma)
    # The reflected border must be smaller than the image.
    height, width = (2 * min(radius, length - 1) + 1 for length in image.shape[1:])
    if radius <= 4:
        return blur(image, [width, height], [sigma, sigma])
    # One axis after the other, and channels as images, is faster for large kernels alone.
    across = blur(image[:, None], [width, 1], [sigma, sigma])
    return blur(across, [1, height], [sigma, sigma])[:, 0]


def _as_jpeg(pixels: NDArray[np.generic], quality: int) -> NDArray[np.uint8]:
    """Return an image (C, H, W) as it is after JPEG compression; torchvision's kernel is deprecated."""
    file = BytesIO()
    image = Image.fromarray(
        pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    )
    image.save(file, "JPEG", quality=quality)
    result = np.array(Image.open(file))
    return result[None] if result.ndim == 2 else np.ascontiguousarray(result.transpose(2, 0, 1))


def _move(pixels: NDArray[np.generic], window: Area, change: Augmentation, mode: str) -> NDArray[np.generic]:
    """Return a window of an image (C, H, W), rotated, scaled and shifted about its centre."""
    left, top, width, height = window
    center_x, center_y = left + width / 2, top + height / 2
    right, down = change.shift[0] * width, change.shift[1] * height
    sine = sin(radians(change.angle)) / change.scale
    cosine = cos(radians(change.angle)) / change.scale

    x, y, end_x, end_y = surroundings(pixels.shape, window, change)
    around = torch.from_numpy(pixels[:, y:end_y, x:end_x])
    rows, columns = around.shape[1:]

    # From positions in the window to positions around it, both from -1 to 1
    origin_x = 2 * (center_x - x - cosine * right - sine * down) / columns - 1
    origin_y = 2 * (center_y - y + sine * right - cosine * down) / rows - 1
    matrix = [
        [cosine * width / columns, sine * height / columns, origin_x],
        [-sine * width / rows, cosine * height / rows, origin_y],
    ]
    grid = F.affine_grid(torch.tensor([matrix]), [1, 1, height, width], align_corners=False)

    # As torchvision's affine, which would fill the corners with one value
    result = F.grid_sample(around.float()[None], grid, mode, "reflection", align_corners=False)[0]
    return (result if around.is_floating_point() else result.round_().to(around.dtype)).numpy()
