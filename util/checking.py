"""Checks of structured data read from disk: JSON files, and the states in checkpoints.

A shape describes the data that is expected:

- ``int``, ``str``, ``Tensor``, ...: a value of this type; ``int | None``: of one of these types. An int is
  valid as a float; a bool is neither. ``object`` is anything.
- ``[shape]``: a list or tuple of any length whose entries have the shape.
- ``{"name": shape, "name?": shape}``: an object with these keys; those with ``?`` may be missing. Other keys
  are ignored.
- ``{str: shape}``: an object whose keys have the type and whose values have the shape.
- a `Rule`: a value of a type that fulfils a condition, such as `COUNT`.

A file is read and checked in one call: ``read_json(path, {"mean": {str: float | None}, "files?": [str]})``.
"""

import errno
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import IO, Any, get_args

from util.errors import UserError, is_out_of_memory
from util.text import printable

JSON_LIMIT = 1 << 26
"""Bytes of a JSON file, or of a line of one, beyond which it is refused unread."""

MAX_SHOWN = 60
"""Characters of a value or key that an error message shows."""

TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    tuple: "a list",
    type(None): "null",
}


@dataclass(frozen=True)
class Rule:
    """A value of a type that fulfils a condition.

    Attributes:
        text: what is expected, for the error message: "a whole number not below 0".
    """

    kind: type
    fulfils: Callable[[Any], bool]
    text: str


MAX_COUNT = 1 << 62
"""What tensors can count, with space for more."""

COUNT = Rule(int, lambda value: 0 <= value < MAX_COUNT, "a whole number not below 0")
POSITIVE = Rule(int, lambda value: 0 < value < MAX_COUNT, "a whole number above 0")


def check(value: object, shape: object, source: str | Path, advice: str = "") -> Any:
    """Return `value` if it has the shape.

    Args:
        source: the file that the value comes from, for the error message.
        advice: what to do about it, for the end of the message.

    Raises:
        UserError: it has another shape; the message is one line that names the file and the key.
    """
    try:
        _check(value, shape, "")
    except _MismatchError as error:
        raise _refusal(source, str(error), advice) from None
    return value


@contextmanager
def loading(source: str | Path) -> Iterator[None]:
    """Within it, errors of loading a value of a wrong structure are a `UserError` that names the file.

    It is for parts of a state that only the object that loads them can judge, such as an optimizer's.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        if isinstance(error, _MismatchError):
            raise _refusal(source, str(error), "") from None
        reason = printable(str(error).split("\n")[0])
        raise _refusal(
            source, f"cannot be loaded ({type(error).__name__}: {_shortened(reason)})", ""
        ) from error


def require(value: object, shape: object, key: str) -> None:
    """Raise a `ValueError` unless `value`, found at `key` of what is being loaded, has the shape."""
    _check(value, shape, key)


def read_json(path: Path, shape: object, advice: str = "", limit: int = JSON_LIMIT) -> Any:
    """Return the content of a JSON file, checked as by `check`.

    Raises:
        UserError: it cannot be read, is not JSON, is larger than `limit` bytes or has another shape.
    """
    return parse_json(read_limited(path, limit), shape, path, advice)


def parse_json(text: bytes, shape: object, source: str | Path, advice: str = "") -> Any:
    """Return the value of a JSON text, checked as by `check`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal(source, f"not JSON ({_reason(error)})", advice) from None
    return check(value, shape, source, advice)


def read_json_lines(path: Path, shape: object, advice: str = "") -> Iterator[Any]:
    """Yield the values of a file with one JSON value per line, checked as by `check`; none without the file.

    A last line without an end is left out: it is being written.

    Raises:
        UserError: as `read_json`; the message names the line.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(path, error) from None
    with file:
        number = 0
        while (line := file.readline(JSON_LIMIT)).endswith(b"\n"):
            number += 1
            yield parse_json(line, shape, f"{path}: line {number}", advice)
        if len(line) >= JSON_LIMIT:
            raise _refusal(path, f"line {number + 1}: longer than {JSON_LIMIT} bytes", advice)


def read_limited(path: Path, limit: int = JSON_LIMIT) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Raises:
        UserError: it cannot be read, is larger, or is no regular file, such as a pipe, which could block.
    """
    try:
        with open_regular(path) as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(content) > limit:
        raise UserError(f"{path}: larger than {limit >> 20} MiB, which is not expected of such a file")
    return content


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading; an `OSError` if it is a folder, a pipe or a device, of which some block."""
    # Non-blocking: opening a named pipe would otherwise wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror or error})")


class _MismatchError(ValueError):
    """What was expected at a key, and what was found."""


def _check(value: object, shape: object, key: str) -> None:
    """Raise a `_MismatchError` unless `value`, found at `key`, has the shape. Recursion follows the shape."""
    if isinstance(shape, list):
        if not isinstance(value, list | tuple):
            raise _mismatch(key, "a list", value)
        for index, entry in enumerate(value):
            _check(entry, shape[0], f"{key}[{index}]")
    elif isinstance(shape, Mapping):
        if not isinstance(value, Mapping):
            raise _mismatch(key, "an object", value)
        _check_entries(value, shape, key)
    elif isinstance(shape, Rule):
        if not _is(value, shape.kind) or not shape.fulfils(value):
            raise _mismatch(key, shape.text, value)
    else:
        kinds = get_args(shape) if isinstance(shape, UnionType) else (shape,)
        if not any(_is(value, kind) for kind in kinds):
            raise _mismatch(key, " or ".join(_type_name(kind) for kind in kinds), value)


def _check_entries(value: Mapping[Any, object], shape: Mapping[Any, object], key: str) -> None:
    for name, inner in shape.items():
        if isinstance(name, type):
            for entry_name, entry in value.items():
                if not _is(entry_name, name):
                    raise _mismatch(f"a key of {key or 'the object'}", _type_name(name), entry_name)
                _check(entry, inner, _join(key, entry_name))
        elif (plain := name.removesuffix("?")) in value:
            _check(value[plain], inner, _join(key, plain))
        elif plain == name:
            raise _MismatchError(f"{_join(key, name)} is missing")


def _is(value: object, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind in (bool, object)
    if kind is float and isinstance(value, int):
        return abs(value) <= sys.float_info.max
    return isinstance(value, int | float if kind is float else kind)


def _join(key: str, name: object) -> str:
    text = printable(name) if isinstance(name, str) else _shown(name)
    return f"{key}.{_shortened(text)}" if key else _shortened(text)


def _mismatch(key: str, expected: str, value: object) -> _MismatchError:
    return _MismatchError(f"{f'{key}: ' if key else ''}expected {expected}, found {_shown(value)}")


def _shown(value: object) -> str:
    """Return a short description of a value, which may be of any size and depth."""
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return _shortened(ascii(value[: MAX_SHOWN + 1]))
    return _type_name(type(value))


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _type_name(kind: Any) -> str:
    return TYPE_NAMES.get(kind, f"a {getattr(kind, '__name__', kind)}")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return str(error)


def _refusal(source: str | Path, problem: str, advice: str) -> UserError:
    return UserError(f"{source}: {problem}{f'; {advice}' if advice else ''}")
