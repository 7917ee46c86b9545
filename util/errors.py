"""What the user did wrong, said in one line; and the one place that turns it into an exit status."""

import argparse
import errno
import logging
import re
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import NoReturn

from util.files import DISK_FULL_ERRORS

USAGE_STATUS = 2

NO_MEMORY = re.compile(r"out of memory|can.?t allocate memory|not enough memory|_ALLOC_FAILED|bad_alloc")
"""How torch and its libraries say that there is no memory left, where the error's type does not say it."""


LOST = re.compile(r"gloo.*(closed by peer|reset by peer|timed out)|NCCL.*(remote|timeout|aborted)", re.S)
"""How torch says that another process does not answer any more."""


class UserError(Exception):
    """A mistake in a flag, a file or a value: the message names it and says what to do; no traceback."""


class Parser(argparse.ArgumentParser):
    """A parser of command lines whose complaints are `UserError`s."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean X?"`` for the known name nearest to `word`, or a full stop if none is near."""
    nearest = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]}?" if nearest else "."


def explanation(error: Exception, to_save_memory: str) -> str | None:
    """Return what to tell the user of an error that is no mistake of the program's, else None."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK_FULL_ERRORS:
        return (
            f"{error.filename or 'a file'}: {error.strerror}. What was saved before is whole: make room, then"
            " go on from there (train.py: the same command with --continue_train)"
        )
    if isinstance(error, RuntimeError) and LOST.search(str(error)):
        return (
            "the connection to another process is lost: it has ended, and has said why if it could."
            " --continue_train goes on from the last saved state, as torchrun --max_restarts N does by itself"
        )
    if is_out_of_memory(error):
        wanted = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
        amount = f" ({wanted[1]} more were asked for)" if wanted else ""
        return f"out of memory{amount}. {to_save_memory}"
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a GPU or the machine had no memory left."""
    if isinstance(error, RuntimeError):
        return NO_MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def run_command(main: Callable[[list[str]], int], to_save_memory: str = "Try smaller or fewer images") -> int:
    """Run a command with logging set up; return its exit status.

    That is what `main` returns, 2 for what has an `explanation`, 130 for Ctrl-C.

    Args:
        to_save_memory: what to do where there is too little memory.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        return main(sys.argv[1:])
    except Exception as error:
        told = explanation(error, to_save_memory)
        if told is None:
            raise
        sys.stderr.write(f"{sys.argv[0]}: error: {told}\n")
        return USAGE_STATUS
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
