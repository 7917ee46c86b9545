"""`option()`: a dataclass field that is a command-line flag."""

from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from math import isfinite
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_type_hints

from util.errors import UserError, did_you_mean

TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


class Group(Protocol):
    """A dataclass whose fields are made by `option`."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


G = TypeVar("G", bound=Group)


@dataclass(frozen=True)
class SameAs:
    """A default that is the value of another flag."""

    flag: str

    def value(self, values: Mapping[str, Any]) -> Any:
        """Return the default, given the values of all flags."""
        return values[self.flag]

    def __str__(self) -> str:
        return f"the value of --{self.flag}"


@dataclass(frozen=True)
class Unless:
    """A default that is `then` where `flag` has one of the `special` values."""

    default: Any
    flag: str
    special: tuple[str, ...]
    then: Any

    def value(self, values: Mapping[str, Any]) -> Any:
        """Return the default, given the values of all flags."""
        return self.then if values[self.flag] in self.special else self.default

    def __str__(self) -> str:
        return f"{self.default}, with --{self.flag} {' or '.join(self.special)} {self.then}"


@dataclass(frozen=True)
class Fixed:
    """The only value of a flag that a model or data set supports, with the reason."""

    value: object
    reason: str = ""


@dataclass(frozen=True)
class Flag:
    """One flag: its name, type, default and rules.

    Attributes:
        type: str, int, float or bool; with `optional` also None, written ``inf`` (no limit).
        default: the value unless one is given; `dataclasses.MISSING` if the flag is required.
        phase: the only command that has the flag, ``train`` or ``test``; None for both.
        needs: (flag, values): the flag has no effect unless the other flag has one of these values.
        architecture: whether test.py reads the value from the checkpoint's options.
        cosmetic: whether the flag leaves what a run learns unchanged.
        alias: a second name of the flag on the command line.
        synonyms: other names of values: the value, by name.
        nonempty: whether an empty text is refused.
    """

    name: str
    type: type
    optional: bool
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    above: float | None = None
    below: float | None = None
    phase: str | None = None
    needs: tuple[str, tuple[str, ...]] | None = None
    architecture: bool = False
    cosmetic: bool = False
    alias: str = ""
    synonyms: Mapping[str, str] = field(default_factory=dict)
    nonempty: bool = False

    def convert(self, value: object, source: str = "") -> Any:
        """Return `value`, a string or a JSON value, as this flag's type.

        Args:
            source: the file that the value comes from, for the error message.

        Raises:
            UserError: The value has the wrong type, is not a choice, or is out of range.
        """
        where = f"{source}: " if source else ""
        if self.optional and (value is None or str(value) == "inf"):
            return None
        try:
            result: Any = self._as_bool(str(value)) if self.type is bool else self.type(str(value))
            if value is None or (self.type is float and not isfinite(result)):
                raise ValueError
            if self.type is str and ("\0" in result or (self.nonempty and not result.strip())):
                raise ValueError
        except ValueError:
            shown = value if str(value).strip() else repr(value)
            raise UserError(f"{where}--{self.name} {shown}: expected {self._expected()}") from None
        result = self.synonyms.get(result, result) if self.type is str else result
        if self.choices and result not in self.choices:
            hint = did_you_mean(str(result), self.choices)
            raise UserError(
                f"{where}--{self.name} {result}: no such choice{hint} Choices: {', '.join(self.choices)}"
            )
        outside = (
            (self.minimum is not None and result < self.minimum)
            or (self.above is not None and result <= self.above)
            or (self.below is not None and result >= self.below)
        )
        if outside:
            raise UserError(f"{where}--{self.name} {result}: expected {self._expected()}")
        return result

    @staticmethod
    def _as_bool(text: str) -> bool:
        if text.lower() not in TRUE + FALSE:
            raise ValueError(text)
        return text.lower() in TRUE

    def _expected(self) -> str:
        kind = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}[self.type]
        if self.nonempty:
            kind = "a string that is not empty; is a shell variable unset?"
        if self.minimum is not None:
            kind += f" not below {self.minimum:g}"
        if self.above is not None:
            kind += f" above {self.above:g}"
        if self.below is not None:
            kind += f" and below {self.below:g}"
        return kind + (" or inf" if self.optional else "")


@dataclass(frozen=True)
class NoOptions:
    """The options of a model or data set without flags of its own."""


def option(default: Any, help: str, **rules: Any) -> Any:
    """Return a dataclass field that is a flag; `rules` are attributes of `Flag`."""
    return field(default=default, kw_only=True, metadata={"help": help, **rules})


def flags_of(group: type[Group]) -> dict[str, Flag]:
    """Return the flags of a group, in the order of its fields."""
    hints = get_type_hints(group)
    flags = {}
    for item in fields(group):
        kinds = get_args(hints[item.name]) or (hints[item.name],)
        flags[item.name] = Flag(item.name, kinds[0], type(None) in kinds, item.default, **item.metadata)
    return flags


def build(group: type[G], values: Mapping[str, object]) -> G:
    """Return the group with its own entries of `values`."""
    return group(**{item.name: values[item.name] for item in fields(group) if item.name in values})


def cosmetic_flags(groups: Iterable[type[Group]]) -> frozenset[str]:
    """Return the names of the flags in `groups` that leave what a run learns unchanged."""
    return frozenset(flag.name for group in groups for flag in flags_of(group).values() if flag.cosmetic)
