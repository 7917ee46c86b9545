"""The generators and discriminators that ``--netG`` and ``--netD`` offer.

A network registers itself in a file of its own in ``models/generators/`` or ``models/discriminators/``:

    @generator("dilated_4blocks")
    class DilatedGenerator(Generator):
        multiple, smallest = 4, 8

        def __init__(self, input_nc: int, output_nc: int, ngf: int, norm: str):
            super().__init__()
            self.model = nn.Sequential(...)

The constructor's parameters are the flags that the network follows; the others are not passed, and giving
them is reported to have no effect.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import nn

from models.layers.discriminator import Discriminator
from models.layers.generator import Generator
from options.base_options import NetworkOptions
from options.option import flags_of
from util.errors import UserError, did_you_mean

Net = TypeVar("Net", bound=nn.Module)
Constructor = TypeVar("Constructor", bound=Callable[..., nn.Module])

PARAMETERS = {"dropout": "no_dropout", "n_layers": "n_layers_D"}
"""Parameters of constructors that are named differently from the flag that they follow."""

CHANNELS = ("input_nc", "output_nc")


@dataclass(frozen=True)
class Choice(Generic[Net]):
    """A registered network.

    Attributes:
        constructor: returns the network.
        fixed: the arguments that the name stands for, such as ``n_blocks`` of ``resnet_9blocks``.
        example: values of network flags with which tests build it, beyond ``ngf`` and ``ndf`` of 4.
    """

    constructor: Callable[..., Net]
    fixed: Mapping[str, object]
    example: Mapping[str, object]

    @property
    def parameters(self) -> list[str]:
        """The parameters of the constructor that follow flags."""
        names = inspect.signature(self.constructor).parameters
        return [name for name in names if name not in self.fixed and name not in CHANNELS]

    @property
    def flags(self) -> list[str]:
        """The flags that the network follows."""
        return [PARAMETERS.get(name, name) for name in self.parameters]


class NetworkRegistry(Generic[Net]):
    """Networks by the name that a flag gives them; called with a name, it registers a constructor.

    Args:
        flag: the flag that chooses among them.
        package: the package whose modules register them; they are imported at the first use of the names.
    """

    def __init__(self, flag: str, package: str):
        self.flag, self.package = flag, package
        self._choices: dict[str, Choice[Net]] = {}

    def __call__(
        self, name: str, *, example: Mapping[str, object] | None = None, **fixed: object
    ) -> Callable[[Constructor], Constructor]:
        """Return a decorator that registers a class or function under `name`.

        Args:
            example: see `Choice`.
            fixed: arguments of the constructor that the name stands for.

        Raises:
            ValueError: the name is taken.
            TypeError: the constructor has a parameter that no flag provides.
        """

        def register(constructor: Constructor) -> Constructor:
            choice: Choice[Any] = Choice(constructor, fixed, example or {})
            if name in self._choices:
                raise ValueError(f"--{self.flag} {name} is registered twice")
            if unknown := set(choice.flags) - flags_of(NetworkOptions).keys():
                raise TypeError(f"--{self.flag} {name}: no flag provides the parameters {sorted(unknown)}")
            self._choices[name] = choice
            return constructor

        return register

    def names(self) -> tuple[str, ...]:
        """Return the names of all networks: by the names of their files, in the order of registration."""
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        # Sorted, as any module may have been imported before the others.
        return tuple(sorted(self._choices, key=lambda name: self._choices[name].constructor.__module__))

    def get(self, name: str) -> Choice[Net]:
        """Return the network that a name stands for.

        Raises:
            UserError: there is no such name.
        """
        names = self.names()
        if name not in names:
            raise UserError(
                f"--{self.flag} {name}: no such choice{did_you_mean(name, names)} Choices: {', '.join(names)}"
            )
        return self._choices[name]

    def following(self, flag: str) -> tuple[str, ...]:
        """Return the names of the networks that follow a flag."""
        return tuple(name for name in self.names() if flag in self._choices[name].flags)


generator: NetworkRegistry[Generator] = NetworkRegistry("netG", "models.generators")
discriminator: NetworkRegistry[Discriminator] = NetworkRegistry("netD", "models.discriminators")
