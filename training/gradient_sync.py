"""Gradients all-reduced over the ranks while the backward pass still computes others."""

from collections.abc import Sequence

from torch import Tensor, nn

from util import distributed


class GradientSync:
    """All-reduces the gradients of some parameters in buckets, each as soon as it is complete.

    The backward pass reaches the last layers first, so buckets hold the parameters from the last to the first
    (Li et al. 2020, "PyTorch Distributed", section 3.2). All ranks send them in this order, however they are
    completed.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self._buckets = list(distributed.buckets(parameters[::-1]))
        self._bucket_of = {p: number for number, bucket in enumerate(self._buckets) for p in bucket}
        self._missing: list[int] | None = None  # gradients by bucket; None outside of `begin` and `finish`
        self._sent: list[distributed.AsyncAllReduce] = []
        self._loss: list[Tensor] = []
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def begin(self, loss: Tensor) -> None:
        """All-reduce the gradients of the backward pass that follows, and with them `loss`, 0-d."""
        self._missing = [len(bucket) for bucket in self._buckets]
        self._loss = [loss]

    def finish(self) -> None:
        """Wait for the sums and put them into the gradients and the loss, after the backward pass."""
        while len(self._sent) < len(self._buckets):
            self._send()  # a parameter in it has no gradient
        for bucket in self._sent:
            bucket.wait()
        self._missing, self._sent = None, []

    def _arrived(self, parameter: Tensor) -> None:
        if self._missing is None:
            return
        self._missing[self._bucket_of[parameter]] -= 1
        while len(self._sent) < len(self._buckets) and not self._missing[len(self._sent)]:
            self._send()

    def _send(self) -> None:
        gradients = [p.grad for p in self._buckets[len(self._sent)] if p.grad is not None]
        self._sent.append(distributed.AsyncAllReduce([*gradients, *self._loss]))
        self._loss = []
