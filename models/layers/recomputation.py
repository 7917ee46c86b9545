"""Activations that are computed again in the backward pass instead of kept (Chen et al. 2016)."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext

from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint

from util.errors import UserError


class Recomputing(nn.Module):
    """A network that runs in segments, of which only what goes in is kept for the backward pass, if asked to.

    Attributes:
        recomputes: whether it is asked to.
    """

    recomputes = False

    def segment(self, layers: nn.Module, run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return ``run(*inputs)``.

        Args:
            layers: has all that `run` uses which has running statistics or draws random numbers.
        """
        if not self.recomputes or not is_grad_enabled():
            return run(*inputs)
        norms = [layer for layer in layers.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        random = any(isinstance(layer, nn.Dropout) for layer in layers.modules())
        # Without the state of random numbers nothing waits for the device.
        return checkpoint(
            run,
            *inputs,
            use_reentrant=False,
            preserve_rng_state=random,
            context_fn=lambda: (nullcontext(), UntouchedStatistics(norms)),
        )


class UntouchedStatistics:
    """Within it, norms change copies of their running statistics, for they have counted the batch before."""

    def __init__(self, norms: list[nn.modules.batchnorm._BatchNorm]):
        self.buffers = [norm._buffers for norm in norms]

    def __enter__(self) -> None:
        self.kept = [dict(buffers) for buffers in self.buffers]
        for buffers in self.buffers:
            buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})

    def __exit__(self, *_: object) -> None:
        for buffers, kept in zip(self.buffers, self.kept, strict=True):
            buffers.update(kept)


def recompute_generators(nets: Mapping[str, nn.Module]) -> None:
    """Let the generators among `nets` recompute, see `Recomputing`.

    Raises:
        UserError: they cannot, or not to the bit.
    """
    generators = {name: net for name, net in nets.items() if name.startswith("G")}
    found = [part for net in generators.values() for part in net.modules() if isinstance(part, Recomputing)]
    if not found:
        raise UserError(
            "--checkpointing: this model has no generator that can compute its activations again; leave it"
            " out, or use --accumulate to save memory"
        )
    if any(nn.utils.parametrize.is_parametrized(layer) for part in found for layer in part.modules()):
        raise UserError(
            "--checkpointing: spectral norm estimates anew in every pass, so that a second one would compute"
            " something else; leave it out, or say --spectral_norm D"
        )
    for part in found:
        part.recomputes = True
