"""Convolutions that are computed as it is fastest for the size of their feature maps."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.precision import at_least_float32

MOST_PIXELS = 64
"""With so few pixels over all images of a batch a convolution on a CPU is fastest as one matrix product."""


class Conv2d(nn.Conv2d):
    """A convolution, of small feature maps on a CPU computed as one matrix product.

    It has neither groups nor dilation and is padded with zeros.

    Attributes:
        reference: compute as torch's own does, see `models.speed.use_reference_path`.
        uses_bias: whether a bias, if there is one, is added.
    """

    reference = False
    uses_bias = True

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias if self.uses_bias or self.reference else None
        kernel, stride, padding = self.kernel_size, self.stride, self.padding
        assert isinstance(padding, tuple)
        sides = zip(x.shape[2:], kernel, stride, padding, strict=True)
        height, width = ((side + 2 * around - k) // step + 1 for side, k, step, around in sides)
        if self.reference or not _product_pays(x, len(x) * height * width, self.weight):
            return self._conv_forward(x, self.weight, bias)
        patches = F.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2)
        found = F.linear(patches.flatten(0, 1), self.weight.flatten(1), bias).view(*patches.shape[:2], -1)
        # A view of a single image could have strides with which the gradients of torch's batch norm are
        # wrong (seen with torch 2.15 on a CPU); `contiguous` does not mend those of a single pixel.
        own = found.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        return own.view(len(x), -1, height, width)


class ConvTranspose2d(nn.ConvTranspose2d):
    """The same for a transposed convolution."""

    reference = False
    uses_bias = True

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        bias = self.bias if self.uses_bias or self.reference else None
        kernel, stride, padding, more = self.kernel_size, self.stride, self.padding, self.output_padding
        assert output_size is None and isinstance(padding, tuple)
        if self.reference or not _product_pays(x, len(x) * x.shape[2:].numel(), self.weight):
            return F.conv_transpose2d(x, self.weight, bias, stride, padding, more)
        products = x.flatten(2).transpose(1, 2).flatten(0, 1) @ self.weight.flatten(1)
        patches = products.view(len(x), -1, products.shape[1]).transpose(1, 2)
        sides = zip(x.shape[2:], kernel, stride, padding, more, strict=True)
        size = tuple((side - 1) * step - 2 * around + k + add for side, k, step, around, add in sides)
        # Where patches overlap they are added up, which takes more digits than bf16 has.
        found = F.fold(at_least_float32(patches), size, kernel, padding=padding, stride=stride)
        return (found if bias is None else found + bias.view(-1, 1, 1)).to(products.dtype)


class ConvBeforeNorm2d(Conv2d):
    """A convolution whose bias is left out, because the instance norm after it would take it away again.

    The bias stays among the parameters, for checkpoints.
    """

    uses_bias = False


class ConvTransposeBeforeNorm2d(ConvTranspose2d):
    """The same for a transposed convolution."""

    uses_bias = False


def conv_before(norm: str, before: int, after: int, kernel: int, stride: int = 1, padding: int = 0) -> Conv2d:
    """Return a convolution from `before` to `after` channels that a norm follows.

    It has a bias before instance norm alone, where the peer's checkpoints have one.
    """
    if norm == "instance":
        return ConvBeforeNorm2d(before, after, kernel, stride, padding)
    return Conv2d(before, after, kernel, stride, padding, bias=False)


def deconv_before(
    norm: str, before: int, after: int, kernel: int, stride: int, padding: int, output_padding: int = 0
) -> ConvTranspose2d:
    """Return a transposed convolution that a norm follows, see `conv_before`."""
    if norm == "instance":
        return ConvTransposeBeforeNorm2d(before, after, kernel, stride, padding, output_padding)
    return ConvTranspose2d(before, after, kernel, stride, padding, output_padding, bias=False)


def _product_pays(x: Tensor, pixels: int, weight: Tensor) -> bool:
    plain = x.device.type == "cpu" and weight.is_contiguous() and not torch.compiler.is_compiling()
    return plain and pixels <= MOST_PIXELS
