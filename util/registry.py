"""Find a class by the name or the path of its file, so that a new model or data set is one new file."""

import importlib
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from util.errors import UserError, did_you_mean

T = TypeVar("T")


def registered_names(package: str, kind: str) -> list[str]:
    """Return the names of ``<package>/<name>_<kind>.py`` in alphabetical order; nothing is imported."""
    names = (path.stem.removesuffix(f"_{kind}") for path in _folder_of(package).glob(f"*_{kind}.py"))
    return sorted(name for name in names if name != "base")


def _folder_of(package: str) -> Path:
    return Path(__file__).resolve().parents[1].joinpath(*package.split("."))


class Registry(Generic[T]):
    """Classes by name: ``<package>/<name>_<kind>.py`` defines the class `name`. Other files go by their path.

    The class is the only subclass of `base` that the file defines.

    Args:
        flag: the flag that chooses a class, for error messages.
    """

    def __init__(self, package: str, kind: str, flag: str, base: type[T]):
        self.package = package
        self.kind = kind
        self.flag = flag
        self.base = base

    def names(self) -> list[str]:
        """Return the names of the classes in the package, in alphabetical order."""
        return registered_names(self.package, self.kind)

    def canonical(self, name: str) -> str:
        """Return the name under which any process, in any working directory, gets the same class.

        It is an absolute path for a file outside of the package.
        """
        if not is_path(name):
            return name
        path = Path(os.path.abspath(os.path.expanduser(name)))
        short = path.stem.removesuffix(f"_{self.kind}")
        if short in self.names() and path.resolve() == _folder_of(self.package) / f"{short}_{self.kind}.py":
            return short
        return str(path)

    def get(self, name: str) -> type[T]:
        """Return the class with this name, or from the file at this path.

        Raises:
            UserError: There is no such name or file, or the file does not define exactly one such class.
        """
        name = self.canonical(name)
        if is_path(name):
            module = self._import_file(Path(name))
        elif name in self.names():
            module = importlib.import_module(f"{self.package}.{name}_{self.kind}")
        else:
            raise UserError(
                f"{self.flag} {name}: there is no such {self.kind}{did_you_mean(name, self.names())}"
                f" Choices: {', '.join(self.names())}, or the path of a file such as ./my_{self.kind}.py"
            )
        classes = [
            member
            for _, member in inspect.getmembers(module, inspect.isclass)
            if issubclass(member, self.base) and member.__module__ == module.__name__
        ]
        if len(classes) != 1:
            raise UserError(
                f"{self.flag} {name}: {module.__file__} defines {len(classes)} subclasses of"
                f" {self.base.__name__}, expected one"
            )
        return classes[0]

    def _import_file(self, path: Path) -> ModuleType:
        """Import a file as the module that is named like it, with its folder on the import path.

        So worker processes can import it too when they are spawned, and the file can import its neighbours.
        """
        if not path.is_file():
            raise UserError(f"{self.flag} {path}: there is no such file")
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # last: its files must not replace modules of ours
        importlib.invalidate_caches()
        spec = None if "." in path.stem else importlib.util.find_spec(path.stem)
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != path.resolve():
            there_is = f": Python has another module {path.stem} ({spec.origin})" if spec else ""
            raise UserError(f"{self.flag} {path}: cannot be imported by its name{there_is}; rename the file")
        return importlib.import_module(path.stem)


def is_path(name: str) -> bool:
    """Return whether a name of a model or data set is the path of a file."""
    return name.endswith(".py") or os.sep in name


def label(name: str) -> str:
    """Return the short name of a model or data set, given its name or path: ``my`` for ``./my_model.py``."""
    return Path(name).stem.removesuffix("_model").removesuffix("_dataset") if is_path(name) else name
