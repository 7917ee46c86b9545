"""What the user did wrong, said in one line; and the one place that turns it into an exit status."""

import logging
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches

from util.files import NO_ROOM

USAGE_STATUS = 2


class UserError(Exception):
    """A mistake in a flag, a file or a value: the message names it and says what to do; no traceback."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean X?"`` for the known name nearest to `word`, or a full stop if none is near."""
    nearest = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]}?" if nearest else "."


def run_command(main: Callable[[list[str]], int]) -> int:
    """Run a command with logging set up; return its exit status.

    That is what `main` returns, 2 for a `UserError` and for a full disk, 130 for Ctrl-C.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        return main(sys.argv[1:])
    except UserError as error:
        sys.stderr.write(f"{sys.argv[0]}: error: {error}\n")
        return USAGE_STATUS
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        sys.stderr.write(
            f"{sys.argv[0]}: error: {error.filename or 'a file'}: {error.strerror}. What was saved before is"
            " whole: make room, then go on from there (train.py: the same command with --continue_train)\n"
        )
        return USAGE_STATUS
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
