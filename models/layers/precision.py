"""Arithmetic below float32 where it does no harm: autocast, and the scale of losses that float16 needs."""

import logging
import platform
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from util.errors import UserError

log = logging.getLogger(__name__)

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_SCALE, GROWTH_STEPS = 2.0**16, 2000


class Precision:
    """How a model computes, by the name that ``--precision`` gives it.

    ``tf32``, ``bf16`` and ``fp16`` keep weights, losses and norms' statistics in float32.

    Args:
        name: ``fp64``, ``fp32``, ``tf32``, ``bf16`` or ``fp16``.
    """

    def __init__(self, name: str, device: torch.device):
        self.name, self.device, self.low = name, device, AUTOCAST.get(name)
        self.scale = torch.full((), FIRST_SCALE if name == "fp16" else 1.0, device=device)
        self._applied = self.scale  # to the losses whose gradients have not been unscaled yet
        self._good = torch.zeros((), device=device)
        self.scales = name == "fp16"
        if name == "tf32" and device.type != "cuda":
            raise UserError("--precision tf32: it is for NVIDIA's GPUs; on a CPU take bf16 or fp32")
        if name == "bf16" and device.type == "cpu" and emulates_bf16():
            log.warning("--precision bf16: this CPU has no instructions for it; fp32 is faster here")
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name != "fp32"

    def autocast(self) -> AbstractContextManager[Any]:
        """Return what to compute forward passes in."""
        return torch.autocast(self.device.type, self.low, enabled=self.low is not None)

    def backward(self, loss: Tensor, parameters: list[nn.Parameter]) -> None:
        """Add the gradients of a loss, scaled, to those of `parameters`."""
        if self.scales:
            self._applied = self.scale.clone()
        with torch.autocast(self.device.type, enabled=False):
            (loss * self.scale if self.scales else loss).backward(inputs=parameters)

    def unscale(self, parameters: list[nn.Parameter]) -> Tensor:
        """Take the scale out of added up gradients; return whether float16 was not enough for them, 0-d."""
        if not self.scales:
            return torch.zeros((), device=self.device)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, 1 / self._applied)
        bad = ~get_total_norm(gradients, torch.inf).isfinite()
        # In place, so that a captured step finds them where they were.
        self._good.copy_(torch.where(bad, 0.0, self._good + 1))
        grown = torch.where(self._good % GROWTH_STEPS == GROWTH_STEPS - 1, 2.0, 1.0)
        self.scale *= torch.where(bad, 0.5, grown)
        return bad.float()

    def state_dict(self) -> dict[str, Any]:
        """Return the scale of losses and how long it has been good."""
        return {"scale": self.scale.clone(), "good": self._good.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.scale.copy_(state["scale"])
        self._good.copy_(state["good"])


def emulates_bf16() -> bool:
    """Return whether this CPU lacks instructions for bfloat16, as far as one can tell."""
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return platform.machine() in ("x86_64", "AMD64") and not has


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32 if it has less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
