"""Errors shown to the user as one line, and the exit status of commands."""

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

from util import console
from util.files import DISK_FULL_ERRORS
from util.stopping import Stopped, StopSignals
from util.text import printable

USAGE_STATUS = 2

OUT_OF_MEMORY = re.compile(r"out of memory|can.?t allocate memory|not enough memory|_ALLOC_FAILED|bad_alloc")
"""Messages of torch and its libraries for exhausted memory, where the type of the error is unspecific."""

CONNECTION_LOST = re.compile(
    r"gloo.*(closed by peer|reset by peer|timed out)|NCCL.*(remote|timeout|aborted)", re.S
)
"""Messages of torch when another rank has ended or does not respond."""


ADVICE = {
    errno.EACCES: "change its permissions, or choose another folder",
    errno.EPERM: "change its permissions, or choose another folder",
    errno.EROFS: "choose a folder that can be written to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of the shell (ulimit -n), or lower --num_threads",
    errno.ESTALE: "the file server has lost it; start again",
    errno.EIO: "the disk or the file server fails",
}
"""What to do about errors of the operating system that name a file."""


class UserError(Exception):
    """An invalid flag, file or value; the message names it and says what to do. Shown without traceback."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UserError`; a word such as ``-1000,3000`` is a value, not a flag."""

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean X?"`` for the known name most similar to `word`, or a full stop."""
    nearest = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]}?" if nearest else "."


def user_message(error: Exception, memory_advice: str) -> str | None:
    """Return the message for an error that the user can resolve, or None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, RuntimeError) and CONNECTION_LOST.search(str(error)):
        return (
            "lost the connection to another rank; see its own error message. Resume from the last checkpoint"
            " with --continue_train; torchrun --max_restarts N does so automatically"
        )
    if is_out_of_memory(error):
        requested = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
        amount = f" (tried to allocate {requested[1]})" if requested else ""
        return f"out of memory{amount}. {memory_advice}"
    if isinstance(error, UnicodeEncodeError) and error.encoding != "utf-8":
        return (
            f"{error.object}: {error.encoding}, the encoding of the locale, does not have this name; set"
            " PYTHONUTF8=1, or LC_ALL=C.UTF-8"
        )
    return _file_message(error) if isinstance(error, OSError) else None


def _file_message(error: OSError) -> str | None:
    """Return the message of an error of the operating system; None if it does not concern a file."""
    files = [
        os.fsdecode(name) for name in (error.filename, error.filename2) if not isinstance(name, int | None)
    ]
    name, reason = " -> ".join(files), error.strerror or str(error)
    if error.errno in DISK_FULL_ERRORS:
        return (
            f"{name or 'a file'}: {reason}. Earlier files are intact: free disk space, then"
            " resume (train.py: the same command with --continue_train)"
        )
    if not name:
        return None
    return f"{name}: {reason}" + (f"; {ADVICE[error.errno]}" if error.errno in ADVICE else "")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the error means that a GPU or the machine is out of memory."""
    if isinstance(error, RuntimeError):
        return OUT_OF_MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def run_command(main: Callable[[list[str]], int], memory_advice: str = "Try smaller or fewer images") -> int:
    """Set up logging, run a command and return its exit status.

    The status is that returned by `main`, 2 for errors with a `user_message`, and 128 + N if signal N ends it
    (130 for Ctrl-C). What cannot be written to a standard stream is dropped.

    Args:
        memory_advice: what to do when out of memory, for the message.
    """
    console.set_up()
    try:
        with StopSignals(at_once=True):
            return main(sys.argv[1:])
    except Exception as error:
        message = user_message(error, memory_advice)
        if message is None:
            raise
        sys.stderr.write(printable(f"{sys.argv[0]}: error: {message}") + "\n")
        return USAGE_STATUS
    except Stopped as stopped:
        sys.stderr.write(f"stopped by {stopped}\n")
        return stopped.status
