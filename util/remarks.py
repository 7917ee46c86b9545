"""Remarks about input files, each kind shown once, in whatever process it is noticed."""

import logging
from contextvars import ContextVar
from typing import NamedTuple

log = logging.getLogger(__name__)


class Remark(NamedTuple):
    """What the user should know about a file; only the first remark of a kind is shown."""

    kind: str
    text: str


_collected: ContextVar[list[Remark] | None] = ContextVar("collected", default=None)
_shown: set[str] = set()


def remark(kind: str, text: str) -> None:
    """Show a remark, or add it to the list of the enclosing `collecting`."""
    collected = _collected.get()
    if collected is None:
        show(Remark(kind, text))
    else:
        collected.append(Remark(kind, text))


def show(one: Remark) -> None:
    """Log a remark as a warning unless one of its kind has been logged."""
    if one.kind not in _shown:
        _shown.add(one.kind)
        log.warning("%s", one.text)


class collecting:
    """Within it, remarks are added to a list: worker processes return them instead of logging them.

    A class, because a generator as a context manager takes several times as long, once per sample.
    """

    __slots__ = ("_remarks", "_token")

    def __init__(self, remarks: list[Remark]):
        self._remarks = remarks

    def __enter__(self) -> None:
        self._token = _collected.set(self._remarks)

    def __exit__(self, *_: object) -> None:
        _collected.reset(self._token)
