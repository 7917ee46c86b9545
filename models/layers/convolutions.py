"""Convolutions with a fast path for small feature maps on a CPU, and without biases that a norm cancels."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.precision import at_least_float32

MAX_MATMUL_PIXELS = 64
"""Up to this many output pixels in a batch, unfold + matmul is faster than a convolution on a CPU."""


class Conv2d(nn.Conv2d):
    """A zero-padded convolution without groups and dilation, by unfold + matmul where that is faster.

    Attributes:
        reference: whether to call torch's convolution, see `use_reference_path`.
        uses_bias: whether the bias, if there is one, is added.
    """

    reference = False
    uses_bias = True

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias if self.uses_bias or self.reference else None
        kernel, stride, padding = self.kernel_size, self.stride, self.padding
        assert isinstance(padding, tuple)
        sides = zip(x.shape[2:], kernel, stride, padding, strict=True)
        height, width = ((side + 2 * pad - k) // step + 1 for side, k, step, pad in sides)
        if self.reference or not _matmul_is_faster(x, len(x) * height * width, self.weight):
            return self._conv_forward(x, self.weight, bias)
        patches = F.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2)
        product = F.linear(patches.flatten(0, 1), self.weight.flatten(1), bias).view(*patches.shape[:2], -1)
        # Copied, because a view of a single image may have strides that give wrong gradients in torch's batch
        # norm (seen with torch 2.15 on a CPU); `contiguous` does not change those of a single pixel.
        output = product.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        return output.view(len(x), -1, height, width)


class ConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution computed by matmul + fold where that is faster, see `Conv2d`."""

    reference = False
    uses_bias = True

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        bias = self.bias if self.uses_bias or self.reference else None
        kernel, stride, padding, extra = self.kernel_size, self.stride, self.padding, self.output_padding
        assert output_size is None and isinstance(padding, tuple)
        if self.reference or not _matmul_is_faster(x, len(x) * x.shape[2:].numel(), self.weight):
            return F.conv_transpose2d(x, self.weight, bias, stride, padding, extra)
        products = x.flatten(2).transpose(1, 2).flatten(0, 1) @ self.weight.flatten(1)
        patches = products.view(len(x), -1, products.shape[1]).transpose(1, 2)
        sides = zip(x.shape[2:], kernel, stride, padding, extra, strict=True)
        size = tuple((side - 1) * step - 2 * pad + k + add for side, k, step, pad, add in sides)
        # Overlapping patches are summed, which needs a higher precision than bf16.
        output = F.fold(at_least_float32(patches), size, kernel, padding=padding, stride=stride)
        return (output if bias is None else output + bias.view(-1, 1, 1)).to(products.dtype)


class ConvBeforeNorm2d(Conv2d):
    """A convolution that does not add its bias, because the instance norm after it cancels the bias.

    The bias remains a parameter, for checkpoints.
    """

    uses_bias = False


class ConvTransposeBeforeNorm2d(ConvTranspose2d):
    """A transposed convolution that does not add its bias, see `ConvBeforeNorm2d`."""

    uses_bias = False


def conv_before(norm: str, before: int, after: int, kernel: int, stride: int = 1, padding: int = 0) -> Conv2d:
    """Return a convolution from `before` to `after` channels that the norm layer `norm` follows.

    It has a bias only before instance norm, as in the peer's checkpoints.
    """
    if norm == "instance":
        return ConvBeforeNorm2d(before, after, kernel, stride, padding)
    return Conv2d(before, after, kernel, stride, padding, bias=False)


def deconv_before(
    norm: str, before: int, after: int, kernel: int, stride: int, padding: int, output_padding: int = 0
) -> ConvTranspose2d:
    """Return a transposed convolution that the norm layer `norm` follows, see `conv_before`."""
    if norm == "instance":
        return ConvTransposeBeforeNorm2d(before, after, kernel, stride, padding, output_padding)
    return ConvTranspose2d(before, after, kernel, stride, padding, output_padding, bias=False)


def _matmul_is_faster(x: Tensor, pixels: int, weight: Tensor) -> bool:
    eager = x.device.type == "cpu" and weight.is_contiguous() and not torch.compiler.is_compiling()
    return eager and pixels <= MAX_MATMUL_PIXELS
