"""Gradients that are added up over the processes while the backward pass still computes others."""

from collections.abc import Sequence

from torch import Tensor, nn

from util import distributed


class GradientSync:
    """Sends the gradients of some parameters in a few messages, each as soon as it is complete.

    The backward pass reaches the last layers first, so messages hold the parameters from the last to the
    first (Li et al. 2020, "PyTorch Distributed", section 3.2). They go out in this order in every process,
    whatever the order in which they are completed.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self._messages = list(distributed.buckets(parameters[::-1]))
        self._number = {p: number for number, message in enumerate(self._messages) for p in message}
        self._missing: list[int] | None = None  # None: no gradients are to be sent now
        self._sent: list[distributed.AsyncAllReduce] = []
        self._loss: list[Tensor] = []
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def begin(self, loss: Tensor) -> None:
        """Send gradients from now on, and with them `loss`, 0-d: the backward pass is next."""
        self._missing = [len(message) for message in self._messages]
        self._loss = [loss]

    def finish(self) -> None:
        """Put the sums into the gradients and into the loss, when the backward pass is over."""
        while len(self._sent) < len(self._messages):
            self._send()  # some parameter in it has no gradient
        for message in self._sent:
            message.wait()
        self._missing, self._sent = None, []

    def _arrived(self, parameter: Tensor) -> None:
        if self._missing is None:
            return
        self._missing[self._number[parameter]] -= 1
        while len(self._sent) < len(self._messages) and not self._missing[len(self._sent)]:
            self._send()

    def _send(self) -> None:
        gradients = [p.grad for p in self._messages[len(self._sent)] if p.grad is not None]
        self._sent.append(distributed.AsyncAllReduce([*gradients, *self._loss]))
        self._loss = []
