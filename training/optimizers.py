"""Optimizers: how they are made, their learning rates and their state."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from options.train_options import OptimizationOptions


def make_optimizers(nets: Mapping[str, nn.Module], options: OptimizationOptions) -> dict[str, Optimizer]:
    """Return an Adam optimizer for each kind of network: "G" for the networks G, G_A, G_B, ..., and so on.

    Its step honours ``found_inf``, as those of torch's fused optimizers do.
    """
    kinds: dict[str, list[nn.Parameter]] = {}
    for name, net in nets.items():
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        kinds.setdefault(name.split("_")[0], []).extend(trained)
    rates = {"G": options.lr_G, "D": options.lr_D}
    optimizers: dict[str, Optimizer] = {}
    for kind, parameters in kinds.items():
        lr = rates.get(kind) or options.lr
        group = {"params": parameters, "initial_lr": lr}
        optimizers[kind] = Adam([group], lr=lr, betas=(options.beta1, options.beta2), fused=True)
    return optimizers


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the parameters that an optimizer updates."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Set every learning rate to `factor` times its initial value."""
    for group in optimizer.param_groups:
        _set_rate(group, group["initial_lr"] * factor)


def rates(optimizers: Mapping[str, Optimizer], factor: float) -> dict[str, float]:
    """Return every optimizer's learning rate by name, given the factor, without reading from a device."""
    return {name: optimizer.param_groups[0]["initial_lr"] * factor for name, optimizer in optimizers.items()}


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def make_capturable(optimizer: Optimizer, device: torch.device) -> None:
    """Let the optimizer's steps be captured: learning rates become tensors, changed in place."""
    for group in optimizer.param_groups:
        group["capturable"] = device.type == "cuda"
        group["lr"] = torch.tensor(group["lr"], device=device)


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load a state_dict; initial learning rates and momentum stay this optimizer's.

    Raises:
        ValueError: it is that of other parameters.
    """
    own = optimizer.param_groups
    for number, own_parameter in enumerate(parameters_of(optimizer)):
        moments = state["state"].get(number, {})
        if any(moments[key].shape != own_parameter.shape for key in moments if key.startswith("exp_avg")):
            raise ValueError(f"the moments of parameter {number} have another shape than the parameter")
    optimizer.load_state_dict(dict(state))
    for group, saved in zip(own, optimizer.param_groups, strict=True):
        _set_rate(group, float(saved["lr"]))
    optimizer.param_groups = own
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            if value.shape == parameter.shape:  # in its memory format, which fused updates rely on
                entries[key] = torch.empty_like(parameter).copy_(value)
