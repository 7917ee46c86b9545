"""Faster networks with the same results: memory formats, convolution algorithms, compilation."""

import shutil
from collections.abc import Iterable

import torch
from torch import nn

from models.layers.blocks import ReflectionPad2d
from models.layers.convolutions import Conv2d, ConvTranspose2d
from models.layers.norms import InstanceNorm2d
from options.base_options import CommandOptions
from util.errors import UserError

LOW_PRECISION = ("tf32", "bf16", "fp16")


def use_reference_path(nets: Iterable[nn.Module]) -> None:
    """Let networks call torch's own layers: slower, with the same results to float tolerance."""
    for net in nets:
        for layer in net.modules():
            if isinstance(layer, InstanceNorm2d | Conv2d | ConvTranspose2d):
                layer.reference = True


def memory_format(nets: Iterable[nn.Module], device: torch.device, precision: str) -> torch.memory_format:
    """Return the memory format in which networks are fastest."""
    kinds = {type(layer) for net in nets for layer in net.modules()}
    if device.type == "cuda":
        gains = precision in LOW_PRECISION
    elif precision == "fp32":
        # ResNets with reflection padding get faster. U-Nets get slower: the matrix products of their small
        # feature maps need the contiguous format.
        gains = InstanceNorm2d in kinds and ReflectionPad2d in kinds
    else:
        # Convolutions in bf16 are as fast in either format; instance norm gets faster.
        gains = InstanceNorm2d in kinds and precision in LOW_PRECISION
    return torch.channels_last if gains else torch.contiguous_format


def choose_convolutions(options: CommandOptions) -> None:
    """Let cuDNN benchmark convolution algorithms, unless sizes vary or results must be deterministic."""
    sizes_repeat = "crop" in options.data.preprocess
    torch.backends.cudnn.benchmark = sizes_repeat and not options.run.deterministic


def compile_networks(nets: Iterable[nn.Module], device: torch.device, training: bool) -> None:
    """Let torch.compile compile networks at their first call.

    Args:
        training: whether the weights change; if not, they become constants of the compiled code.

    Raises:
        UserError: the compiler is missing.
    """
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise UserError("--compile needs triton, which does not work here; leave --compile out")
    elif not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
        raise UserError(
            "--compile: on a CPU it needs a C++ compiler such as g++; install one, or leave --compile out"
        )
    # Imported here because it takes seconds.
    from torch._inductor import config

    config.fallback_random = True  # dropout masks equal those of networks that are not compiled
    config.freezing = not training
    for net in nets:
        net.compile()
