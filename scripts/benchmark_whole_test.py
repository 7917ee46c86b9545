"""What `benchmark.py --whole_test` times: test.py as a user starts it, from its start to its end."""

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
    """Return the seconds that each command took, by its name; the commands take turns.

    Raises:
        UserError: a command fails, or makes another number of images.
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
            made = len(list(folder.rglob("*_fake_B*")))
            if made < images:
                raise UserError(f"{name}: it made {made} of {images} images; give --dataroot more")
    return seconds


def summarise(model: str, found: Mapping[str, list[float]], images: int) -> list[dict[str, Any]]:
    """Return a row for every command: the median of its seconds, and the first one's relative to it."""
    medians = {name: statistics.median(times) for name, times in found.items()}
    first = next(iter(medians.values()))
    return [
        {
            **{"model": model, "variant": name, "pictures": images, "seconds": median},
            **{"all_seconds": found[name], "times_as_fast": first / median},
        }
        for name, median in medians.items()
    ]


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row for the table, under `COLUMNS`."""
    return (
        *(row["model"], row["variant"], str(row["pictures"])),
        *(f"{row['seconds']:.4g}", f"{row['times_as_fast']:.2f}"),
    )
