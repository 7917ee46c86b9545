"""The scale of losses that float16 gradients need (Micikevicius et al. 2018, section 3.2)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

FIRST_SCALE, GROWTH_STEPS = 2.0**16, 2000


class LossScale:
    """Scales losses up before the backward pass and gradients down after it.

    An overflow halves the scale; `GROWTH_STEPS` steps without one double it.
    """

    STATE: ClassVar[object] = {"scale": Tensor, "good": Tensor}
    """The shape of `state_dict`."""

    def __init__(self, device: torch.device):
        self.scale = torch.full((), FIRST_SCALE, device=device)
        self._applied = self.scale.clone()  # to the losses whose gradients have not been unscaled yet
        self._good = torch.zeros((), device=device)

    def apply(self, loss: Tensor) -> Tensor:
        """Return the scaled loss."""
        self._applied.copy_(self.scale)
        return loss * self.scale

    def unscale(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Divide the gradients by the scale; return 1 if they overflowed float16, else 0: 0-d float32."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, 1 / self._applied)
        bad = ~get_total_norm(gradients, torch.inf).isfinite()
        # In place, so that a captured step finds them where they were.
        self._good.copy_(torch.where(bad, 0.0, self._good + 1))
        grown = torch.where(self._good % GROWTH_STEPS == GROWTH_STEPS - 1, 2.0, 1.0)
        self.scale *= torch.where(bad, 0.5, grown)
        return bad.float()

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and the number of steps since the last overflow."""
        return {"scale": self.scale.clone(), "good": self._good.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict`."""
        self.scale.copy_(state["scale"])
        self._good.copy_(state["good"])
