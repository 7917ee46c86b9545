"""Find a class by the name of its file, so that a new model or data set is one new file."""

import importlib
import inspect
from pathlib import Path
from typing import Generic, TypeVar

from util.errors import UserError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """The classes of one package: ``<package>/<name>_<kind>.py`` holds the class registered as ``<name>``.

    The class is the subclass of `base` that the file defines; a file defines exactly one.
    """

    def __init__(self, package: str, kind: str, flag: str, base: type[T]):
        self.package = package
        self.kind = kind
        self.flag = flag
        self.base = base

    def names(self) -> list[str]:
        """Return every registered name in alphabetical order."""
        folder = Path(importlib.import_module(self.package).__file__ or "").parent
        found = (path.stem.removesuffix(f"_{self.kind}") for path in folder.glob(f"*_{self.kind}.py"))
        return sorted(name for name in found if name != "base")

    def get(self, name: str) -> type[T]:
        """Return the class registered as `name`.

        Raises:
            UserError: no file of that name exists; the message lists what does.
        """
        if name not in self.names():
            raise UserError(
                f"{self.flag} {name}: there is no such {self.kind}{did_you_mean(name, self.names())}"
                f" Choices: {', '.join(self.names())}"
            )
        module = importlib.import_module(f"{self.package}.{name}_{self.kind}")
        own = [
            member
            for _, member in inspect.getmembers(module, inspect.isclass)
            if issubclass(member, self.base) and member.__module__ == module.__name__
        ]
        if len(own) != 1:
            raise TypeError(
                f"{module.__name__} defines {len(own)} subclasses of {self.base.__name__}, not one"
            )
        return own[0]
