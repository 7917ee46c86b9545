"""torchrun with the exit status of its workers: 75 if train.py was stopped and can be resumed.

torchrun itself exits with 1. SIGTERM, SIGUSR1 and similar signals are ignored here: Slurm sends them to every
process of a step, while torchrun would send them to the workers again, and kill those that have not saved
within 30 s.
"""

import signal
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from util.stopping import SIGNALS, STOPPED_STATUS, stop_signals

HANDLED = (signal.SIGINT, signal.SIGHUP)
IGNORED = tuple(number for number in SIGNALS if number not in HANDLED)


def main(argv: list[str]) -> int:
    for number in IGNORED:
        # Not SIG_IGN: workers would inherit it and miss a signal that comes before they set their handler.
        signal.signal(number, lambda *_: None)
    handled = [number.name for number in stop_signals() if number in HANDLED]
    parser = run.get_args_parser()
    parser.allow_abbrev = False  # else it takes train.py's --log for an abbreviation of its own flags
    arguments = parser.parse_args(["--signals-to-handle", ",".join(handled), *argv])
    try:
        run.run(arguments)
    except ChildFailedError as error:
        statuses = {failure.exitcode for failure in error.failures.values()}
        if statuses <= {STOPPED_STATUS, *(-number for number in IGNORED)}:
            return STOPPED_STATUS
        sys.stderr.write(f"{error}\n")
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
