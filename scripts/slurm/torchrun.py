"""torchrun with the exit status of what it runs: 75 where train.py was stopped and can go on.

torchrun alone ends with status 1 then. SIGTERM and SIGUSR1, which Slurm sends to every process of a step, are
left to the processes that train: torchrun would pass them on a second time, and kill what has not saved
within 30 s.
"""

import signal
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from util.stopping import STOPPED_STATUS

LEFT_ALONE = (signal.SIGTERM, signal.SIGUSR1)


def main(argv: list[str]) -> int:
    for number in LEFT_ALONE:
        # Not SIG_IGN: the processes would be born with it, and live on if it came before they are ready.
        signal.signal(number, lambda *_: None)
    parser = run.get_args_parser()
    parser.allow_abbrev = False  # else it takes train.py's --log for an abbreviation of its own flags
    arguments = parser.parse_args(["--signals-to-handle", "SIGINT,SIGHUP", *argv])
    try:
        run.run(arguments)
    except ChildFailedError as error:
        statuses = {failure.exitcode for failure in error.failures.values()}
        if statuses <= {STOPPED_STATUS, *(-number for number in LEFT_ALONE)}:
            return STOPPED_STATUS
        sys.stderr.write(f"{error}\n")
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
