"""Standard streams and log lines that never end a run, whatever the terminal, the pipe or the encoding."""

import io
import logging
import os
import select
import sys
from contextlib import suppress
from pathlib import PurePath
from typing import TYPE_CHECKING, TextIO

from util.text import printable, printable_lines

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


class Output(io.FileIO):
    """A standard stream whose errors cost one remark: what cannot be written is dropped.

    A reader that has ended, as in ``train.py | head``, costs no remark.

    Args:
        remarks: the descriptor to which the remark is written.
    """

    def __init__(self, descriptor: int, remarks: int):
        super().__init__(descriptor, "w", closefd=False)
        self.remarks = remarks
        self.failed = False

    def write(self, data: "Buffer", /) -> int:
        while not self.failed:
            try:
                written = super().write(data)
                if written is not None:
                    return written
                select.select([], [self], [])  # the descriptor does not block, and its reader is slow
            except OSError as error:
                self.failed = True
                if not isinstance(error, BrokenPipeError):
                    self._remark(error)
        return memoryview(data).nbytes

    def _remark(self, error: OSError) -> None:
        name = {1: "standard output", 2: "standard error"}.get(self.fileno(), "output")
        with suppress(OSError):
            os.write(self.remarks, f"{name}: {error.strerror}; nothing more is shown there\n".encode())


class LineFormatter(logging.Formatter):
    """Formats messages in printable characters; line ends and tabs are kept in the text, not in arguments."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            args = tuple(_printable_argument(argument) for argument in record.args)
            record = logging.makeLogRecord({**record.__dict__, "args": args})
        return printable_lines(super().format(record))


def set_up() -> None:
    """Make standard streams robust, and log to standard output."""
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        _open_if_closed(descriptor, mode)
    # Streams that something else has replaced are left alone.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _robust(sys.stdout, 1, remarks=2)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _robust(sys.stderr, 2, remarks=1)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(LineFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _open_if_closed(descriptor: int, mode: int) -> None:
    """Open a standard descriptor; otherwise the next file that is opened would get what is printed."""
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, mode)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)


def _robust(stream: TextIO | None, descriptor: int, remarks: int) -> TextIO:
    """Return a stream for a descriptor like `stream`, which is None if it was closed when Python started."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
    with suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(Output(descriptor, remarks)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=getattr(stream, "line_buffering", True),
        write_through=getattr(stream, "write_through", False),
    )


def _printable_argument(argument: object) -> object:
    return printable(str(argument)) if isinstance(argument, str | PurePath | BaseException) else argument
