"""A running mean of what a model measures of its training images."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from util import distributed
from util.batch import Batch


class RunningMean:
    """Keeps means over the training images seen so far, by name.

    Every image counts once, over all ranks and when a batch is computed in parts. Means of a batch that are
    not finite are left out. Put into `BaseModel.state`, it is saved, and unchanged by steps that
    ``--on_nan skip`` leaves out. Its tensors are changed in place, as CUDA graphs need.
    """

    STATE: ClassVar[object] = {"count": Tensor, "means": {str: Tensor}}
    """The shape of `state_dict`."""

    def __init__(self, device: torch.device):
        self.count = torch.zeros((), device=device)
        self.means: dict[str, Tensor] = {}

    def update(self, means: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Add the means over the images of `batch`, this rank's part of them; return the running means.

        Args:
            batch: what `train_step` was given.
        """
        values = {name: value.detach() for name, value in means.items()}
        if distributed.is_data_parallel():
            values = {name: value * (len(batch) / batch.global_size) for name, value in values.items()}
            distributed.all_reduce_sum(list(values.values()))
        finite = torch.stack([value.isfinite().all() for value in values.values()]).all()
        self.count += torch.where(finite, batch.global_size, 0)
        for name, value in values.items():
            mean = self.means.setdefault(name, torch.zeros_like(value))
            new = mean.lerp(value, (batch.global_size / self.count).to(value))
            mean.copy_(torch.where(finite, new, mean))
        return {name: self.means[name].clone() for name in values}

    def buffers(self) -> Iterable[Tensor]:
        """Return the tensors that a step which is left out must not change."""
        return [self.count, *self.means.values()]

    def state_dict(self) -> dict[str, Any]:
        """Return the means and how many images they are of."""
        means = {name: mean.clone() for name, mean in self.means.items()}
        return {"count": self.count.clone(), "means": means}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state_dict`."""
        self.count.copy_(state["count"])
        self.means = {name: mean.to(self.count.device) for name, mean in state["means"].items()}
