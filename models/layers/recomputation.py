"""Activation checkpointing: activations are recomputed in the backward pass (Chen et al. 2016)."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import ClassVar

from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint

from util.errors import UserError


class Recomputing(nn.Module):
    """A network that can run in segments, of which only the inputs are kept for the backward pass.

    Attributes:
        supports_checkpointing: whether the network runs in segments at all.
        recomputes: whether the activations within segments are recomputed.
    """

    supports_checkpointing: ClassVar[bool] = True
    recomputes = False

    def segment(self, layers: nn.Module, run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return ``run(*inputs)``, recomputed in the backward pass if `recomputes`.

        Args:
            layers: contains every layer in `run` that has running statistics or draws random numbers.
        """
        if not self.recomputes or not is_grad_enabled():
            return run(*inputs)
        norms = [layer for layer in layers.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        random = any(isinstance(layer, nn.Dropout) for layer in layers.modules())
        # Saving the random state synchronises with the device, so it is saved only where it is needed.
        return checkpoint(
            run,
            *inputs,
            use_reentrant=False,
            preserve_rng_state=random,
            context_fn=lambda: (nullcontext(), UntouchedStatistics(norms)),
        )


class UntouchedStatistics:
    """Let norms update copies of their running statistics, which already contain the batch."""

    def __init__(self, norms: list[nn.modules.batchnorm._BatchNorm]):
        self.buffers = [norm._buffers for norm in norms]

    def __enter__(self) -> None:
        self.originals = [dict(buffers) for buffers in self.buffers]
        for buffers in self.buffers:
            buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})

    def __exit__(self, *_: object) -> None:
        for buffers, originals in zip(self.buffers, self.originals, strict=True):
            buffers.update(originals)


def recompute_generators(nets: Mapping[str, nn.Module]) -> None:
    """Let the generators among `nets` recompute their activations, see `Recomputing`.

    Raises:
        UserError: a generator cannot, or not with the same results.
    """
    generators = [net for name, net in nets.items() if name.startswith("G")]
    parts = [part for net in generators for part in net.modules() if isinstance(part, Recomputing)]
    if not parts or not all(part.supports_checkpointing for part in parts):
        raise UserError(
            "--checkpointing: this model has no generator that can compute its activations again; leave it"
            " out, or use --accumulate to save memory"
        )
    if any(nn.utils.parametrize.is_parametrized(layer) for part in parts for layer in part.modules()):
        raise UserError(
            "--checkpointing: spectral norm updates its estimate in every pass, so that a second one would"
            " compute something else; leave it out, or say --spectral_norm D"
        )
    for part in parts:
        part.recomputes = True
