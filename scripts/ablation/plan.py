"""The runs of an ablation: every combination of flag values with every seed, and which are complete."""

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

from data import DATASETS
from models import MODELS
from options.option import cosmetic_flags
from options.parse import argument_text, parse
from options.test_options import TestOptions
from options.train_options import TrainOptions
from scripts.comparison.runs import WITHOUT_EFFECT, Values, read_flags
from training.checkpoint import peek_state, state_id, state_path
from util.checking import COUNT, check, read_json
from util.errors import UserError
from util.files import write_text

MAX_NAME_LENGTH = 120
"""Characters of a run's name; file systems allow 255 bytes, including the names of results."""

TESTED = {"state": str, "flags": [str]}
"""The shape of `PlannedRun.tested`."""

OWN = {
    "name": "--name before the --",
    "suffix": "--name before the --",
    "seed": "--seeds N",
    "continue_train": "nothing: interrupted runs are resumed",
    "epoch_count": "--n_epochs",
    "epoch": "--init_from with a file",
    "load_iter": "--init_from with a file",
}
"""Flags of train.py that the ablation sets itself, and what to use instead."""


@dataclass(frozen=True)
class PlannedRun:
    """One training run and its test.

    Attributes:
        values: train.py's flags as train_opt.json records them.
        cosmetic: names of flags that do not change the trained weights.
        train, test: the arguments of train.py and test.py.
        results: folder of the gallery.
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
        """File with the output of train.py and test.py."""
        return self.folder / "ablation.log"

    @property
    def tested(self) -> Path:
        """File that records a complete test."""
        return self.folder / "tested.json"


def parse_vary(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return the values by flag of texts ``FLAG=VALUE,VALUE``; semicolons separate values with commas."""
    vary: dict[str, list[str]] = {}
    for given in texts:
        flag, _, joined = given.partition("=")
        values = [value.strip() for value in joined.split(";" if ";" in joined else ",")]
        if not re.fullmatch(r"\w+", flag) or not all(values):
            raise UserError(
                f"--vary {given}: expected FLAG=VALUE,VALUE without dashes, such as"
                " norm=instance,batch or 'attention=none;32,64'"
            )
        if flag in OWN or flag == "checkpoints_dir":
            raise UserError(
                f"--vary {given}: --{flag} cannot be varied; use {OWN.get(flag, 'it after the --')}"
            )
        if flag in vary or len(set(values)) < len(values):
            raise UserError(f"--vary {given}: the same {'flag' if flag in vary else 'value'} twice")
        vary[flag] = values
    return vary


def plan(
    name: str, vary: Mapping[str, Sequence[str]], seeds: int, flags: Sequence[str], test_flags: Sequence[str]
) -> list[PlannedRun]:
    """Return all runs: the seeds of the first combination, then those of the next.

    Args:
        flags: flags of train.py for all runs.
        test_flags: flags of test.py for all runs.

    Raises:
        UserError: train.py or test.py would refuse a flag or value, or two combinations are the same run.
    """
    _refuse_own(flags, OWN, "after the --")
    _refuse_own(test_flags, ("name", "suffix", "checkpoints_dir", "config", "model"), "--test_flags")
    combinations = [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]
    names = run_names(combinations)
    once = _OnceFilter()
    parser_log = logging.getLogger("options.parse")
    parser_log.addFilter(once)
    try:
        runs = [
            _planned(name, f"{run}_seed{seed}".lstrip("_"), combination, seed, flags, test_flags)
            for run, combination in zip(names, combinations, strict=True)
            for seed in range(seeds)
        ]
    finally:
        parser_log.removeFilter(once)
    _refuse_equal(runs)
    return runs


def run_names(combinations: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a name for every combination that is valid on all file systems: norm=instance_attention=1-8."""
    names = []
    for combination in combinations:
        plain = "_".join(f"{flag}={value}" for flag, value in combination.items())
        names.append(re.sub(r"[^\w.=+-]", "-", plain.replace(",", "+"), flags=re.ASCII))
    # Some file systems ignore case.
    folded = [name.casefold() for name in names]
    for position, combination in enumerate(combinations):
        if folded.count(folded[position]) > 1 or len(names[position]) > MAX_NAME_LENGTH:
            digest = sha256(json.dumps(combination).encode()).hexdigest()[:8]
            names[position] = f"{names[position][: MAX_NAME_LENGTH - 9]}_{digest}"
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
        write_text(config, json.dumps(values))
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


class _OnceFilter(logging.Filter):
    """Passes every warning of the parser once, instead of once per combination."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = record.levelno >= logging.WARNING and message not in self._seen
        self._seen.add(message)
        return new


def _refuse_own(flags: Sequence[str], own: Iterable[str], where: str) -> None:
    for flag in own:
        if any(word.split("=")[0] == f"--{flag}" for word in flags):
            instead = f"; use {OWN[flag]}" if flag in OWN else ""
            raise UserError(f"--{flag} {where}: the ablation sets it itself{instead}")


def _refuse_equal(runs: Sequence[PlannedRun]) -> None:
    seen: dict[str, str] = {}
    for run in runs:
        key = json.dumps({name: value for name, value in run.values.items() if name not in run.cosmetic})
        if key in seen:
            raise UserError(
                f"--vary: {seen[key]} and {run.name} are the same run; leave out one of the values"
            )
        seen[key] = run.name


def refuse_other_runs(runs: Sequence[PlannedRun]) -> None:
    """Raise a `UserError` if a run's folder holds one that was trained with other flags."""
    parent = runs[0].folder.parent
    if (parent / "train_opt.json").exists():
        raise UserError(f"{parent}: is itself a run; choose another --name for the ablation")
    for run in runs:
        if not (run.folder / "train_opt.json").exists():
            continue
        then = read_flags(run.folder)
        changed = [
            f"--{name} {argument_text(run.values[name])} (there: {argument_text(then[name])})"
            for name in sorted(run.values.keys() & then.keys() - run.cosmetic)
            if run.values[name] != then[name]
        ]
        if changed:
            raise UserError(
                f"{run.folder}: holds a run with other flags: {', '.join(changed)}. Use the same flags"
                " or another --name, or remove the folder"
            )


def is_trained(run: PlannedRun) -> bool:
    """Return whether the saved state is that after the last epoch, or where ``--patience`` ended training."""
    path = state_path(run.folder, "latest")
    if not path.exists():
        return False
    shape = {"progress": {"epoch": COUNT}, "validation?": {"stale": COUNT}}
    try:
        state = check(peek_state(path), shape, path)
    except UserError:
        return False  # damaged: train.py reports it and resumes from the previous state
    patience = run.values["patience"] or math.inf
    out_of_patience = state.get("validation", {"stale": 0})["stale"] >= patience
    return out_of_patience or state["progress"]["epoch"] > run.last_epoch


def is_tested(run: PlannedRun) -> bool:
    """Return whether the results were made with the present weights and flags of test.py."""
    weights = state_path(run.folder, "latest")
    if not (run.tested.exists() and weights.exists() and (run.results / "index.html").exists()):
        return False
    try:
        # Records of earlier versions, lists of flags, do not tell the weights: tested again.
        tested = read_json(run.tested, TESTED)
    except UserError:
        return False
    return bool(tested == record_of_test(run, state_id(weights)))


def record_of_test(run: PlannedRun, weights: str) -> dict[str, object]:
    """Return the content of `PlannedRun.tested` after a test of the weights with this `state_id`."""
    return {"state": weights, "flags": list(run.test)}


def split_flags(given: str) -> list[str]:
    """Return the arguments in ``--test_flags``."""
    try:
        return shlex.split(given)
    except ValueError as error:
        raise UserError(f"--test_flags {given}: {error}; close the quotation") from None
