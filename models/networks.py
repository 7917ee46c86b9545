"""The generator and the discriminator that ``--netG`` and ``--netD`` choose, with initial weights.

Names and shapes in their state_dicts are those of junyanz/pytorch-CycleGAN-and-pix2pix, so that weights are
exchanged with it in both directions.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from models.layers.discriminator import Discriminator
from models.layers.generator import Generator
from models.layers.initialization import initialise, normalise_spectrum
from models.registry import PARAMETERS, Choice, discriminator, generator
from options.base_options import NetworkOptions
from options.option import flags_of
from util.errors import UserError

Net = TypeVar("Net", bound=nn.Module)


def build_generator(options: NetworkOptions, input_nc: int, output_nc: int) -> Generator:
    """Return the generator that ``--netG`` names.

    Raises:
        UserError: there is no such generator, or it has no feature maps of the sizes in ``--attention``.
    """
    choice = generator.get(options.netG)
    net = choice.constructor(input_nc, output_nc, **choice.fixed, **_arguments(choice, options, "G"))
    return init_network(net, options, "G")


def build_discriminator(options: NetworkOptions, input_nc: int) -> Discriminator:
    """Return the discriminator that ``--netD`` names, for images of `input_nc` channels.

    Raises:
        UserError: there is no such discriminator, or it has no feature maps of the sizes in ``--attention``.
    """
    choice = discriminator.get(options.netD)
    net = choice.constructor(input_nc, **choice.fixed, **_arguments(choice, options, "D"))
    return init_network(net, options, "D")


def init_network(net: Net, options: NetworkOptions, side: str) -> Net:
    """Return a new network with initial weights and, where ``--spectral_norm`` says so, spectral norm.

    Args:
        side: "G" for a generator, "D" for a discriminator, "M" for another network.
    """
    initialise(net, options.init_type, options.init_gain)
    if side in options.spectral_norm:
        normalise_spectrum(net)
    return net


def flag_rules() -> dict[str, dict[str, Any]]:
    """Return the rules of network flags that depend on the registered networks, by flag.

    They are attributes of `options.option.Flag`: the choices of ``--netG`` and ``--netD``, and which of these
    a flag needs that only some generators, or only some discriminators, follow.
    """
    rules: dict[str, dict[str, Any]] = {
        "netG": {"choices": generator.names()},
        "netD": {"choices": discriminator.names()},
    }
    for flag in flags_of(NetworkOptions):
        generators, discriminators = generator.following(flag), discriminator.following(flag)
        if not discriminators and generators and generators != generator.names():
            rules[flag] = {"needs": ("netG", generators)}
        if not generators and discriminators and discriminators != discriminator.names():
            rules[flag] = {"needs": ("netD", discriminators)}
    return rules


def allow_only(reason: str, options: NetworkOptions, **only: object) -> None:
    """Raise a `UserError` with the reason for a flag that does not have the one value that a model has."""
    for name, value in only.items():
        if getattr(options, name) != value:
            raise UserError(f"--{name} {getattr(options, name)}: {reason}; say --{name} {value}, or nothing")


def _arguments(choice: Choice[Any], options: NetworkOptions, side: str) -> Mapping[str, object]:
    """Return the arguments for a constructor's parameters that follow flags."""
    depths = options.attention_depths(side)
    if depths and "attention" not in choice.flags:
        chosen, without = (options.netG, "D") if side == "G" else (options.netD, "G")
        raise UserError(
            f"--attention: --net{side} {chosen} has no feature maps for it; add --attention_nets {without}"
        )
    values = {"attention": depths, "dropout": not options.no_dropout}
    return {
        name: values[name] if name in values else getattr(options, PARAMETERS.get(name, name))
        for name in choice.parameters
    }
