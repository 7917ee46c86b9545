"""Optimizers: how they are made, their learning rates, and their state."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from options.train_options import OptimizationOptions

MakeOptimizer = Callable[[str, Iterable[nn.Parameter]], Optimizer]
"""Makes the optimizer of a name; its step honours ``found_inf``, as those of torch's fused ones do."""


def adam(options: OptimizationOptions) -> MakeOptimizer:
    """Return how to make the Adam optimizer that the options describe."""

    def make_optimizer(name: str, parameters: Iterable[nn.Parameter]) -> Optimizer:
        lr = {"G": options.lr_G, "D": options.lr_D}.get(name) or options.lr
        group = {"params": list(parameters), "initial_lr": lr}
        return Adam([group], lr=lr, betas=(options.beta1, 0.999), fused=True)

    return make_optimizer


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Set every learning rate to `factor` times its initial value."""
    for group in optimizer.param_groups:
        _set_rate(group, group["initial_lr"] * factor)


def rates(optimizers: Mapping[str, Optimizer], factor: float) -> dict[str, float]:
    """Return every optimizer's learning rate by its name, given the factor; nothing is read from a device."""
    return {name: optimizer.param_groups[0]["initial_lr"] * factor for name, optimizer in optimizers.items()}


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def make_capturable(optimizer: Optimizer, device: torch.device) -> None:
    """Let an optimizer's steps be captured: learning rates become tensors, which can change afterwards."""
    for group in optimizer.param_groups:
        group["capturable"] = device.type == "cuda"
        group["lr"] = torch.tensor(group["lr"], device=device)


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Take over a state_dict; initial learning rates and momentum stay this optimizer's."""
    own = optimizer.param_groups
    optimizer.load_state_dict(dict(state))
    for group, saved in zip(own, optimizer.param_groups, strict=True):
        _set_rate(group, float(saved["lr"]))
    optimizer.param_groups = own
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            if value.shape == parameter.shape:  # in its memory format, which fused updates rely on
                entries[key] = torch.empty_like(parameter).copy_(value)
