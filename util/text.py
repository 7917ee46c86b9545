"""Text that is safe to show and to store: names with control characters or bytes that are not UTF-8.

A file name may contain every byte except "/" and NUL. Python represents bytes that cannot be decoded as
surrogates (PEP 383), which no encoding of text accepts; control characters can change a terminal's state or
begin a new line of a log.
"""

import codecs
import re

UNSAFE = "\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
"""Control characters, line and paragraph separators, controls of the writing direction, surrogates."""

_UNSAFE = re.compile(f"[{UNSAFE}]")
_UNSAFE_IN_LINES = re.compile(f"(?![\n\t])[{UNSAFE}]")
_UNSAFE_OR_BACKSLASH = re.compile(rf"[\\{UNSAFE}]")
_ESCAPE = re.compile(r"\\(?:\\|n|r|t|x[0-9a-f]{2}|u[0-9a-f]{4})")
_SHORT = {"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"}

_FORMULA = re.compile(r"'*[=+\-@\uff1d\uff0b\uff0d\uff20\t\r\n]")


def printable(text: str) -> str:
    r"""Return a text of one line for a terminal or a log, with unsafe characters escaped as in Python.

    Backslashes are kept, so that text which is printable already does not change.
    """
    return _UNSAFE.sub(_escape_character, text)


def printable_lines(text: str) -> str:
    """Return a text with unsafe characters escaped as by `printable`, except line ends and tabs."""
    return _UNSAFE_IN_LINES.sub(_escape_character, text)


def escape(name: str) -> str:
    r"""Return a name in printable characters; `unescape` returns the name.

    The escapes are those of Python and JSON: ``\n``, ``\x1b``, ``\udce9`` (the byte E9), ``\\``.
    """
    return _UNSAFE_OR_BACKSLASH.sub(_escape_character, name)


def unescape(text: str) -> str:
    """Return the name of which `escape` returned `text`."""
    return _ESCAPE.sub(lambda match: codecs.decode(match[0], "unicode_escape"), text)


def csv_cell(value: object) -> object:
    """Return a value as a cell of a CSV file: texts are escaped, and never formulas in a spreadsheet.

    A text that would be a formula gets an apostrophe in front, which spreadsheets take as "text follows".
    Numbers are kept, as texts too.
    """
    if not isinstance(value, str):
        return value
    cell = escape(value)
    return f"'{cell}" if _FORMULA.match(cell) and not is_number(cell) else cell


def csv_text(cell: str) -> str:
    """Return the text of which `csv_cell` returned `cell`."""
    return unescape(cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell)


def decode(data: bytes) -> str:
    """Return the text of a file in UTF-8, in UTF-16 with its mark, or in any encoding that extends ASCII.

    Bytes that are not UTF-8 become surrogates; line ends become newlines.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", errors="replace")
    else:
        text = data.decode("utf-8-sig", errors="surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _escape_character(match: re.Match[str]) -> str:
    character = match[0]
    number = ord(character)
    return _SHORT.get(character) or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")


def is_number(text: str) -> bool:
    """Return whether a text is a number, such as ``-1e-3``."""
    try:
        float(text)
    except ValueError:
        return False
    return True
