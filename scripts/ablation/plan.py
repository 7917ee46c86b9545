"""What an ablation consists of: every combination of flags' values, with every seed, and how far each is."""

import itertools
import json
import logging
import math
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from data import DATASETS
from models import MODELS
from options.option import cosmetic_flags
from options.parse import parse
from options.test_options import TestOptions
from options.train_options import TrainOptions
from scripts.comparison.runs import WITHOUT_EFFECT, Values, read_flags, text
from training.checkpoint import state_path
from util.errors import UserError

LONGEST_NAME = 120
"""Characters of a run's name; file systems take 255 bytes, of which results need some."""

OWN = {
    "name": "--name before the --",
    "suffix": "--name before the --",
    "seed": "--seeds N",
    "continue_train": "nothing: what was cut goes on by itself",
    "epoch_count": "--n_epochs",
    "epoch": "--init_from with a file",
    "load_iter": "--init_from with a file",
}
"""Flags of train.py that the ablation sets itself, and what to give instead."""


@dataclass(frozen=True)
class PlannedRun:
    """One training run and its test.

    Attributes:
        values: train.py's flags as train_opt.json will have them.
        cosmetic: the names of those that leave what is learned unchanged.
        train, test: the command lines, without the program.
        results: the folder of the gallery.
    """

    name: str
    values: Values
    cosmetic: frozenset[str]
    last_epoch: int
    folder: Path
    results: Path
    train: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def log(self) -> Path:
        """The file with the output of train.py and test.py."""
        return self.folder / "ablation.log"

    @property
    def tested(self) -> Path:
        """The file that records a complete test."""
        return self.folder / "tested.json"


def parse_vary(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of every flag ``FLAG=VALUE,VALUE``; semicolons part values that contain commas."""
    found: dict[str, list[str]] = {}
    for given in texts:
        flag, _, listed = given.partition("=")
        values = [value.strip() for value in listed.split(";" if ";" in listed else ",")]
        if not re.fullmatch(r"\w+", flag) or not all(values):
            raise UserError(
                f"--vary {given}: expected a flag without its dashes, =, and values, such as"
                " norm=instance,batch or 'attention=none;32,64'"
            )
        if flag in OWN or flag == "checkpoints_dir":
            raise UserError(
                f"--vary {given}: --{flag} cannot be varied; give {OWN.get(flag, 'it after the --')}"
            )
        if flag in found or len(set(values)) < len(values):
            raise UserError(f"--vary {given}: twice the same {'flag' if flag in found else 'value'}")
        found[flag] = values
    return found


def plan(
    name: str, vary: Mapping[str, Sequence[str]], seeds: int, flags: Sequence[str], test_flags: Sequence[str]
) -> list[PlannedRun]:
    """Return all runs: the seeds of the first combination, then those of the next one.

    Args:
        flags: of train.py, for all runs.
        test_flags: of test.py, for all runs.

    Raises:
        UserError: a flag or value that train.py or test.py would refuse, or combinations that are the same.
    """
    _refuse_own(flags, OWN, "after the --")
    _refuse_own(test_flags, ("name", "suffix", "checkpoints_dir", "config", "model"), "--test_flags")
    combinations = [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]
    names = run_names(combinations)
    quiet = _SaidOnce()
    parser_log = logging.getLogger("options.parse")
    parser_log.addFilter(quiet)
    try:
        runs = [
            _planned(name, f"{run}_seed{seed}".lstrip("_"), combination, seed, flags, test_flags)
            for run, combination in zip(names, combinations, strict=True)
            for seed in range(seeds)
        ]
    finally:
        parser_log.removeFilter(quiet)
    _refuse_equal(runs)
    return runs


def run_names(combinations: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a name for every combination that every file system takes: norm=instance_attention=1-8."""
    names = []
    for combination in combinations:
        plain = "_".join(f"{flag}={value}" for flag, value in combination.items())
        names.append(re.sub(r"[^\w.=+-]", "-", plain.replace(",", "+"), flags=re.ASCII))
    # Names that differ in case alone are the same to some file systems.
    folded = [name.casefold() for name in names]
    for position, combination in enumerate(combinations):
        if folded.count(folded[position]) > 1 or len(names[position]) > LONGEST_NAME:
            digest = sha256(json.dumps(combination).encode()).hexdigest()[:8]
            names[position] = f"{names[position][: LONGEST_NAME - 9]}_{digest}"
    return names


def _planned(
    group: str,
    name: str,
    combination: Mapping[str, str],
    seed: int,
    flags: Sequence[str],
    test_flags: Sequence[str],
) -> PlannedRun:
    given = [*flags, *(f"--{flag}={value}" for flag, value in combination.items())]
    base = parse(TrainOptions, given, MODELS, DATASETS).run.checkpoints_dir
    place = [f"--name={name}", "--suffix=", f"--checkpoints_dir={Path(base) / group}"]
    place += ["--epoch=latest", "--load_iter=0"]
    train = [*given, *place, f"--seed={seed}", "--continue_train=false"]
    options = parse(TrainOptions, train, MODELS, DATASETS)
    values = json.loads(json.dumps(options.values()))

    with tempfile.TemporaryDirectory() as temporary:
        config = Path(temporary) / "train_opt.json"
        config.write_text(json.dumps(values))
        checked = [f"--config={config}", *place, *test_flags]
        results_dir = parse(TestOptions, checked, MODELS, DATASETS).results.results_dir
        last = f"--results_dir={Path(results_dir) / group}"
        tested = parse(TestOptions, [*checked, last], MODELS, DATASETS)
    test = [f"--config={options.run_folder / 'train_opt.json'}", *place, *test_flags, last]
    return PlannedRun(
        name,
        values,
        WITHOUT_EFFECT | cosmetic_flags((type(options.model), type(options.dataset))),
        options.optimization.last_epoch,
        options.run_folder,
        tested.results_folder,
        tuple(train),
        tuple(test),
    )


class _SaidOnce(logging.Filter):
    """Lets the parser's warnings through, each once for all combinations."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        told = record.getMessage()
        new = record.levelno >= logging.WARNING and told not in self._said
        self._said.add(told)
        return new


def _refuse_own(flags: Sequence[str], own: Iterable[str], where: str) -> None:
    for flag in own:
        if any(word.split("=")[0] == f"--{flag}" for word in flags):
            instead = f"; give {OWN[flag]}" if flag in OWN else ""
            raise UserError(f"--{flag} {where}: the ablation sets it itself{instead}")


def _refuse_equal(runs: Sequence[PlannedRun]) -> None:
    seen: dict[str, str] = {}
    for run in runs:
        key = json.dumps({name: value for name, value in run.values.items() if name not in run.cosmetic})
        if key in seen:
            raise UserError(
                f"--vary: {seen[key]} and {run.name} are the same run; leave one of the values out"
            )
        seen[key] = run.name


def refuse_other_runs(runs: Sequence[PlannedRun]) -> None:
    """Raise a `UserError` if a run's folder holds one that was trained with other flags."""
    together = runs[0].folder.parent
    if (together / "train_opt.json").exists():
        raise UserError(f"{together}: is a run itself, where no others belong; choose another --name")
    for run in runs:
        if not (run.folder / "train_opt.json").exists():
            continue
        then = read_flags(run.folder)
        changed = [
            f"--{name} {text(run.values[name])} (there: {text(then[name])})"
            for name in sorted(run.values.keys() & then.keys() - run.cosmetic)
            if run.values[name] != then[name]
        ]
        if changed:
            raise UserError(
                f"{run.folder}: holds a run with other flags: {', '.join(changed)}. Give the same flags,"
                " another --name, or remove the folder"
            )


def is_trained(run: PlannedRun) -> bool:
    """Return whether the run's last state is that after its last epoch, or where ``--patience`` ended it."""
    path = state_path(run.folder, "latest")
    if not path.exists():
        return False
    try:
        # Mapped, so that of a large file little is read; whether all of it is sound train.py finds out.
        state: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception:
        return False  # damaged: train.py says so and goes on from the state before
    patience = run.values["patience"] or math.inf
    out_of_patience = state.get("validation", {"stale": 0})["stale"] >= patience
    return out_of_patience or state["progress"]["epoch"] > run.last_epoch


def is_tested(run: PlannedRun) -> bool:
    """Return whether the results are those of these weights and these flags of test.py."""
    weights = state_path(run.folder, "latest")
    if not (run.tested.exists() and weights.exists() and (run.results / "index.html").exists()):
        return False
    newer = run.tested.stat().st_mtime_ns >= weights.stat().st_mtime_ns
    return newer and json.loads(run.tested.read_text()) == list(run.test)


def split_flags(given: str) -> list[str]:
    """Return the words of ``--test_flags``."""
    try:
        return shlex.split(given)
    except ValueError as error:
        raise UserError(f"--test_flags {given}: {error}; close the quotation") from None
