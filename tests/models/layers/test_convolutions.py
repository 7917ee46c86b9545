"""The matrix products of small feature maps equal torch's convolutions."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.layers.convolutions import (
    MAX_MATMUL_PIXELS,
    Conv2d,
    ConvBeforeNorm2d,
    ConvTranspose2d,
    ConvTransposeBeforeNorm2d,
)

Layer = Conv2d | ConvTranspose2d

FORMATS = (torch.contiguous_format, torch.channels_last)


def layers() -> Iterator[tuple[Layer, int]]:
    """Yield layers and a side of their input."""
    torch.manual_seed(0)
    yield Conv2d(6, 5, 4, 2, 1), 2
    yield Conv2d(6, 5, 4, 2, 1), 7
    yield Conv2d(6, 5, 3, bias=False), 5
    yield ConvBeforeNorm2d(6, 5, 4, 2, 1), 8
    yield ConvTranspose2d(6, 5, 4, 2, 1), 1
    yield ConvTranspose2d(6, 5, 3, 2, 1, 1), 4
    yield ConvTransposeBeforeNorm2d(6, 5, 4, 2, 1), 3


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that each call of unfold or fold adds its name to: only matrix products need them."""
    calls: list[str] = []
    for name in ("unfold", "fold"):
        plain = getattr(F, name)

        def counted(*args: object, name: str = name, plain: object = plain, **kwargs: object) -> Tensor:
            calls.append(name)
            return plain(*args, **kwargs)  # type: ignore[operator]

        monkeypatch.setattr(F, name, counted)
    return calls


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("x_format", FORMATS)
@pytest.mark.parametrize("gradient_format", FORMATS)
def test_matrix_products_equal_convolutions(
    count: int, x_format: torch.memory_format, gradient_format: torch.memory_format, products: list[str]
) -> None:
    for number, (layer, side) in enumerate(layers(), start=1):
        layer.double()
        x = torch.randn(count, 6, side, side, dtype=torch.float64).contiguous(memory_format=x_format)
        x.requires_grad_()
        output = layer(x)
        assert len(products) == number
        bias = layer.bias if layer.uses_bias else None
        shape = layer.stride, layer.padding
        if isinstance(layer, Conv2d):
            expected = F.conv2d(x, layer.weight, bias, *shape)  # type: ignore[arg-type]
        else:
            expected = F.conv_transpose2d(x, layer.weight, bias, *shape, layer.output_padding)  # type: ignore[arg-type]
        # Contiguous: with the strides of a view torch's batch norm has wrong gradients.
        assert output.stride() == torch.empty(output.shape).stride()
        torch.testing.assert_close(output, expected)
        direction = torch.randn_like(expected).contiguous(memory_format=gradient_format)
        inputs = [x, *(parameter for parameter in (layer.weight, bias) if parameter is not None)]
        for gradient, expected_gradient in zip(
            torch.autograd.grad(output, inputs, direction),
            torch.autograd.grad(expected, inputs, direction),
            strict=True,
        ):
            torch.testing.assert_close(gradient, expected_gradient)


def test_larger_feature_maps_use_torchs_convolutions(products: list[str]) -> None:
    side = int(MAX_MATMUL_PIXELS**0.5)
    for layer, x in (
        (Conv2d(2, 2, 4, 2, 1), torch.rand(1, 2, 2 * side, 2 * side)),
        (ConvTranspose2d(2, 2, 4, 2, 1), torch.rand(1, 2, side, side)),
    ):
        layer(x)
        assert len(products) == 1
        layer(x.repeat(2, 1, 1, 1))
        assert len(products) == 1
        layer.reference = True
        layer(x)
        assert products.pop() and not products


def test_in_bf16_overlapping_patches_are_summed_in_float32() -> None:
    torch.manual_seed(0)
    layer, x = ConvTranspose2d(64, 64, 4, 2, 1), torch.rand(1, 64, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
    assert layer.bias is not None
    rounded = [tensor.bfloat16().double() for tensor in (x, layer.weight, layer.bias)]
    expected = F.conv_transpose2d(*rounded, 2, 1)  # type: ignore[call-overload]
    assert output.dtype == torch.bfloat16
    error = (output.double() - expected).norm() / expected.norm()
    assert error < 0.0028  # 0.0024, as of a convolution, which rounds its result alone; summed in bf16 0.0034


def test_matrix_products_have_second_derivatives() -> None:
    layer = Conv2d(3, 4, 4, 2, 1).double()
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x).square(), x)
