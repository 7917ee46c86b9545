"""Norms, and what they normalise by: a batch, each image, or another run."""

from collections import deque

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.modules._functions import SyncBatchNorm

from models.layers.precision import at_least_float32
from util import distributed


class ImageStatistics(nn.Module):
    """A layer that uses the mean and the variance of each image's feature maps.

    Within `statistics_from` they are those of another run of the network.
    """

    kept: deque[tuple[Tensor, Tensor]] | None = None
    recording = False

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance of each map of x, or those kept: (N, C, H, W) to (N, C, 1, 1)."""
        if self.kept is None or self.recording:
            variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
            if self.kept is not None:
                self.kept.append((mean, variance))
            return mean, variance
        # A layer that is called several times in a run gets them in the same order, run after run.
        self.kept.rotate(-1)
        return self.kept[-1]


class InstanceNorm2d(nn.InstanceNorm2d, ImageStatistics):
    """Instance norm without parameters that can also use the statistics of another run.

    Attributes:
        reference: compute as torch's own instance norm, see `models.speed.use_reference_path`.
    """

    reference = False

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is not None:
            return normalise(x, *self.moments(x), self.eps)
        if self.reference or x.shape[2:].numel() == 1:  # of a single pixel torch's own says what is wrong
            return super().forward(x)
        return normalise_each(x, self.eps)


class BatchNorm2d(nn.BatchNorm2d, ImageStatistics):
    """Batch norm that can also treat each image of a training-mode batch as a batch of its own.

    Where several processes train, its statistics are those of the whole batch.
    """

    separate = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if not self.separate:
            return self._over_processes(x) if distributed.is_data_parallel() else super().forward(x)
        if self.kept is not None:
            return normalise(x, *self.moments(x), self.eps, self.weight, self.bias)
        return normalise_each(x, self.eps, self.weight, self.bias)

    def _over_processes(self, x: Tensor) -> Tensor:
        """Return x normalised with the statistics of the batch over all processes."""
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        if x.is_cuda:
            running = self.running_mean, self.running_var
            setting = self.eps, self.momentum, dist.group.WORLD, distributed.world_size()
            return SyncBatchNorm.apply(x, self.weight, self.bias, *running, *setting)
        # torch's own refuses CPUs. In two passes, because a difference of large sums has few digits.
        wide, axes = at_least_float32(x), (0, 2, 3)
        count = wide.new_tensor([x[:, 0].numel()])
        *_, total = sums = distributed.AllReduceSum.apply(torch.cat([wide.sum(axes), count]))
        centred = wide - (sums[:-1] / total).view(1, -1, 1, 1)
        variance = distributed.AllReduceSum.apply(centred.square().sum(axes)) / total
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            self.running_mean.lerp_((sums[:-1] / total).to(self.running_mean), self.momentum)
            self.running_var.lerp_((variance * total / (total - 1)).to(self.running_var), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)


def normalise_each(x: Tensor, eps: float, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Return x, (N, C, H, W), each map of each image normalised by itself, in the memory format that x has.

    Args:
        weight, bias: (C,), what channels are scaled by and shifted by then.
    """
    # F.instance_norm takes longer than either, does not keep channels_last, and gives wrong gradients for
    # single images whose gradient is channels_last (seen with torch 2.15 on a CPU).
    if x.is_contiguous():
        return F.group_norm(x, x.shape[1], weight, bias, eps)
    found = [F.batch_norm(image, None, None, weight, bias, training=True, eps=eps) for image in x.split(1)]
    return found[0] if len(found) == 1 else torch.cat(found)


def normalise(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return x, (N, C, H, W), normalised by given statistics of each image and channel, (N, C, 1, 1).

    Args:
        weight, bias: (C,), what channels are scaled by and shifted by then.
    """
    # Images as more channels of a single one: batch norm in evaluation needs no memory beside its result.
    channels = x.reshape(1, -1, *x.shape[2:])
    scale, shift = (None if each is None else each.repeat(len(x)) for each in (weight, bias))
    return F.batch_norm(channels, mean.flatten(), variance.flatten(), scale, shift, eps=eps).view_as(x)


def norm_layer(norm: str, channels: int) -> nn.Module:
    """Return a norm: ``instance`` (no parameters, no running statistics), ``batch`` or ``none``."""
    if norm == "instance":
        return InstanceNorm2d(channels)
    if norm == "batch":
        return BatchNorm2d(channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm {norm}")
