"""What makes networks fast without changing what they compute: formats, algorithms, compilation."""

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
    """Let networks compute plainly, as torch's own layers do: slower, and the same to float tolerance."""
    for net in nets:
        for layer in net.modules():
            if isinstance(layer, InstanceNorm2d | Conv2d | ConvTranspose2d):
                layer.reference = True


def memory_format(nets: Iterable[nn.Module], device: torch.device, precision: str) -> torch.memory_format:
    """Return the memory format in which networks compute fastest."""
    kinds = {type(layer) for net in nets for layer in net.modules()}
    if device.type == "cuda":
        gains = precision in LOW_PRECISION
    elif precision == "fp32":
        # Residual networks with reflection padding gain; U-Nets lose, whose small feature maps are products
        # in the usual format.
        gains = InstanceNorm2d in kinds and ReflectionPad2d in kinds
    else:
        # Plain formats are as fast for bf16 convolutions; it is norms of single images that gain.
        gains = InstanceNorm2d in kinds and precision in LOW_PRECISION
    return torch.channels_last if gains else torch.contiguous_format


def choose_convolutions(options: CommandOptions) -> None:
    """Let a GPU try out which convolutions are fastest where sizes repeat, unless bits have to repeat too."""
    sizes_repeat = "crop" in options.data.preprocess
    torch.backends.cudnn.benchmark = sizes_repeat and not options.run.deterministic


def compile_networks(nets: Iterable[nn.Module], device: torch.device, training: bool) -> None:
    """Have torch compile networks when they are first called.

    Args:
        training: their weights change; otherwise they are built into the compiled code.

    Raises:
        UserError: what compiles is missing.
    """
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise UserError("--compile: it needs triton, which does not work here; leave --compile out")
    elif not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
        raise UserError(
            "--compile: on a CPU it needs a C++ compiler such as g++; install one, or leave it out"
        )
    # Imported here, because it takes seconds.
    from torch._inductor import config

    config.fallback_random = True  # the masks of dropout shall be those of networks that are not compiled
    config.freezing = not training
    for net in nets:
        net.compile()
