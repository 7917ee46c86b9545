"""Norm layers, with statistics of the batch over all ranks, of each image, or of another run."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

    Attributes:
        kept: statistics of the other run, one entry per call; None outside of `statistics_from`.
        recording: whether that run is in progress.
    """

    kept: deque[tuple[Tensor, Tensor]] | None = None
    recording = False

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance per image and channel, or those kept, (N, C, 1, 1) each.

        Args:
            x: (N, C, H, W).
        """
        if self.kept is None or self.recording:
            variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
            if self.kept is not None:
                self.kept.append((mean, variance))
            return mean, variance
        # A layer that is called several times per run gets its statistics in the order of the calls.
        self.kept.rotate(-1)
        return self.kept[-1]


class InstanceNorm2d(nn.InstanceNorm2d, ImageStatistics):
    """Instance norm without parameters that can also use the statistics of another run.

    Attributes:
        reference: whether to call torch's instance norm, see `use_reference_path`.
    """

    reference = False

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is not None:
            return normalise(x, *self.moments(x), self.eps)
        if self.reference or x.shape[2:].numel() == 1:  # torch's raises an error for a single pixel
            return super().forward(x)
        return normalise_per_image(x, self.eps)


class BatchNorm2d(nn.BatchNorm2d, ImageStatistics):
    """Batch norm over the batch of all ranks, or over each image of a training-mode batch.

    Attributes:
        separate: whether each image is normalised by its own statistics, see `separate_images`.
    """

    separate = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if not self.separate:
            return self._over_ranks(x) if distributed.is_data_parallel() else super().forward(x)
        if self.kept is not None:
            return normalise(x, *self.moments(x), self.eps, self.weight, self.bias)
        return normalise_per_image(x, self.eps, self.weight, self.bias)

    def _over_ranks(self, x: Tensor) -> Tensor:
        """Return x normalised with the statistics of the batch over all ranks."""
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        if x.is_cuda:
            running = self.running_mean, self.running_var
            setting = self.eps, self.momentum, dist.group.WORLD, distributed.world_size()
            return SyncBatchNorm.apply(x, self.weight, self.bias, *running, *setting)
        # torch's SyncBatchNorm does not support CPUs. Two passes: E[x²] - E[x]² loses precision.
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


def normalise_per_image(
    x: Tensor, eps: float, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Return x, (N, C, H, W), normalised per image and channel, in the memory format of x.

    Args:
        weight, bias: (C,), scale and shift of the normalised channels.
    """
    # F.instance_norm is slower than either call, does not keep channels_last, and returns wrong gradients for
    # single images whose gradient is channels_last (seen with torch 2.15 on a CPU).
    if x.is_contiguous():
        return F.group_norm(x, x.shape[1], weight, bias, eps)
    images = [F.batch_norm(image, None, None, weight, bias, training=True, eps=eps) for image in x.split(1)]
    return images[0] if len(images) == 1 else torch.cat(images)


def normalise(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return x, (N, C, H, W), normalised by given statistics.

    Args:
        mean, variance: per image and channel, (N, C, 1, 1).
        weight, bias: (C,), scale and shift of the normalised channels.
    """
    # Evaluation-mode batch norm on (1, N·C, H, W), which allocates nothing but its result.
    channels = x.reshape(1, -1, *x.shape[2:])
    scale, shift = (None if parameter is None else parameter.repeat(len(x)) for parameter in (weight, bias))
    return F.batch_norm(channels, mean.flatten(), variance.flatten(), scale, shift, eps=eps).view_as(x)


def norm_layer(norm: str, channels: int) -> nn.Module:
    """Return a norm layer: ``instance`` (no parameters, no running statistics), ``batch`` or ``none``."""
    if norm == "instance":
        return InstanceNorm2d(channels)
    if norm == "batch":
        return BatchNorm2d(channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm {norm}")


@contextmanager
def statistics_from(net: nn.Module, run: Callable[[], object]) -> Iterator[None]:
    """Call `run`, and let the norms of `net` use the statistics of that run within the context."""
    layers = [layer for layer in net.modules() if isinstance(layer, ImageStatistics)]
    try:
        for layer in layers:
            layer.kept, layer.recording = deque(), True
        run()
        for layer in layers:
            layer.recording = False
        yield
    finally:
        for layer in layers:
            layer.kept, layer.recording = None, False
