"""The precision of forward passes: autocast, and float32 where lower precision would do harm."""

import logging
import platform
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from util.errors import UserError

log = logging.getLogger(__name__)

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The arithmetic of forward passes, as ``--precision`` names it.

    ``tf32``, ``bf16`` and ``fp16`` keep weights, losses and the statistics of norms in float32.

    Args:
        name: ``fp64``, ``fp32``, ``tf32``, ``bf16`` or ``fp16``.
    """

    def __init__(self, name: str, device: torch.device):
        self.name, self.device, self.low = name, device, AUTOCAST.get(name)
        if name == "tf32" and device.type != "cuda":
            raise UserError("--precision tf32 needs an NVIDIA GPU; on a CPU use bf16 or fp32")
        if name == "bf16" and device.type == "cpu" and emulates_bf16():
            log.warning("--precision bf16: this CPU has no bf16 instructions; fp32 is faster here")
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name != "fp32"

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for forward passes."""
        return torch.autocast(self.device.type, self.low, enabled=self.low is not None)


def emulates_bf16() -> bool:
    """Return whether this CPU has no bfloat16 instructions that torch can detect."""
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return platform.machine() in ("x86_64", "AMD64") and not has


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32 if its precision is lower."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
