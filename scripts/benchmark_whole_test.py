"""``benchmark.py --whole_test``: time whole processes of test.py."""

import logging
import statistics
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from util.errors import UserError

COLUMNS = ("model", "variant", "images", "seconds", "times as fast")

log = logging.getLogger(__name__)


def take_turns(
    commands: Mapping[str, list[str]], rounds: int, images: int, results: Path, environment: dict[str, str]
) -> dict[str, list[float]]:
    """Run commands alternately, and return the seconds of their runs by name.

    Raises:
        UserError: a command fails or writes too few images.
    """
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds):
        for name, given in commands.items():
            folder = results / f"{name}_{turn}"
            log.info("%s, test.py %d of %d", name, turn + 1, rounds)
            began = time.perf_counter()
            command = [*given, "--results_dir", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            seconds[name].append(time.perf_counter() - began)
            if done.returncode:
                raise UserError(f"{name}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
            written = len(list(folder.rglob("*_fake_B*")))
            if written < images:
                raise UserError(f"{name}: wrote {written} of {images} images; --dataroot needs more")
    return seconds


def summarise(model: str, seconds: Mapping[str, list[float]], images: int) -> list[dict[str, Any]]:
    """Return a row for every command: its median time, and its speed relative to the first command."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    first = next(iter(medians.values()))
    return [
        {
            **{"model": model, "variant": name, "pictures": images, "seconds": median},
            **{"all_seconds": seconds[name], "times_as_fast": first / median},
        }
        for name, median in medians.items()
    ]


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a row, under `COLUMNS`."""
    return (
        *(row["model"], row["variant"], str(row["pictures"])),
        *(f"{row['seconds']:.4g}", f"{row['times_as_fast']:.2f}"),
    )
