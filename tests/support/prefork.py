"""Runs scripts in processes forked from this one, which has imported what they import: that takes seconds.

Reads a line of JSON for each script, waits for its end, and writes its exit status.
"""

import json
import os
import runpy
import sys

import torch._dynamo  # noqa: F401 (optimizers import it when they are made)

import test  # noqa: F401
import train  # noqa: F401


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            run(**request)
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(argv: list[str], cwd: str, out: str, err: str) -> None:
    """Be the process that runs a script."""
    for number, path in enumerate((os.devnull, out, err)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(cwd)
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
