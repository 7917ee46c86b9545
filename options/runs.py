"""Check that the run which a command names exists, before data are listed or models are imported."""

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from util.errors import UserError, did_you_mean

log = logging.getLogger(__name__)

RUN_FILES = ("_net_", "_state.pth", "_opt.txt", "_opt.json")
"""Parts of the names of files by which a folder is recognised as a run."""


def check_run_exists(checkpoints_dir: str, name: str) -> None:
    """Raise a `UserError` that names the nearest run, and log all runs, if there is no folder of this run."""
    root = Path(checkpoints_dir)
    if (root / name).is_dir():
        return
    missing = f"--name {name}: there is no such checkpoint folder in --checkpoints_dir {checkpoints_dir}"
    if _is_run(root):
        raise UserError(
            f"{missing}, which is a run itself; write --checkpoints_dir {root.parent} --name {root.name}"
        )
    siblings = [str(root.parent / folder) for folder in _folders(root.parent)]
    runs = sorted(_runs(root))
    log.info("Runs in %s: %s", root, ", ".join(runs) or "none")
    nearest = _nearest(name, runs)
    others = [folder for folder in siblings if _is_run(Path(folder, name))]
    if not nearest and others:
        raise UserError(f"{missing}; did you mean --checkpoints_dir {others[0]}?")
    if not root.is_dir():
        hint = did_you_mean(str(root), siblings)
        raise UserError(f"--checkpoints_dir {checkpoints_dir}: there is no such checkpoint folder{hint}")
    if nearest:
        raise UserError(f"{missing}; did you mean --name {nearest}?")
    raise UserError(f"{missing}{'; the runs there are listed above' if runs else ', nor any other run'}")


def check_checkpoint(folder: Path, tag: str, flag: str, states: bool = False) -> None:
    """Raise a `UserError` that lists the checkpoints in a run's folder if `tag` is not among them.

    Args:
        flag: what chose the checkpoint, for the message.
        states: whether a state without weights is a checkpoint, too.
    """
    tags = {path.name.rpartition("_net_")[0] for path in folder.glob("*_net_*.pth")}
    if states:
        tags |= {path.name.removesuffix("_state.pth") for path in folder.glob("*_state.pth")}
    if not tags:
        raise UserError(f"{folder}: there are no weights (*_net_*.pth); check --name and --checkpoints_dir")
    if tag not in tags:
        numbers = sorted((each for each in tags if each.isdecimal()), key=int)
        listed = [*sorted(tags.difference(numbers)), *numbers]
        raise UserError(f"{flag}: {folder} has no such checkpoint, only {', '.join(listed)}")


def check_initial_weights(source: str, checkpoints_dir: str) -> None:
    """Raise a `UserError` if there is no file or folder `source` of ``--init_from``."""
    if not source or Path(source).exists():
        return
    root = Path(checkpoints_dir)
    siblings = [str(Path(source).parent / folder) for folder in _folders(Path(source).parent)]
    nearest = get_close_matches(source, siblings, n=1) or [
        str(root / run) for run in [_nearest(source, sorted(_runs(root)))] if run
    ]
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise UserError(f"--init_from {source}: there is no such file or folder{hint}")


def check_generator(folder: Path, tag: str, name: str, model: str) -> None:
    """Raise a `UserError` that says how to test a run which has other generators than network `name`.

    Args:
        model: the name of the chosen model.
    """
    path = folder / f"{tag}_net_{name}.pth"
    if path.exists():
        return
    if any((folder / f"{tag}_net_{other}.pth").exists() for other in ("G_A", "G_B")):
        raise UserError(
            f"{path}: there is no such file. The run has G_A and G_B, as of cycle_gan: for one direction say"
            " --model test --model_suffix _A (from A to B) or _B, with the folder of images as --dataroot;"
            " for both, --model cycle_gan"
        )
    if (folder / f"{tag}_net_G.pth").exists():
        advice = (
            "leave --model_suffix out" if model == "test" else "use the --model that was trained, or test"
        )
        raise UserError(f"{path}: there is no such file. The run has one generator, G: {advice}")


def checked_name(name: str) -> str:
    """Return the name of a run, which must lie in ``--checkpoints_dir``.

    Raises:
        UserError: It is empty, or leads out of the folder.
    """
    parts = name.split("/")
    if not name.strip():
        raise UserError("--name: it is empty; a run needs a name (is a shell variable unset?)")
    if name.startswith("/") or ".." in parts or not {*parts} - {"", "."}:
        raise UserError(
            f"--name {name}: it leads out of --checkpoints_dir; use a name without .. and a leading /"
        )
    return name


def _nearest(name: str, runs: list[str]) -> str | None:
    """Return the run that `name` most probably means: given by its path, without its suffix, or misspelt."""
    last = Path(name).name
    alike = [run for run in runs if run == last or Path(run).name == name]
    # A run with --suffix has a longer name.
    longer = [run for run in runs if run.startswith(f"{name}_")]
    lower = {run.lower(): run for run in reversed(runs)}
    close = get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    if alike or len(longer) == 1 or not close:
        return next(iter([*alike, *longer]), None)
    return lower[close[0]]


def _runs(root: Path) -> Iterator[str]:
    """Yield the names of the runs in a folder and its subfolders."""
    for name in _folders(root):
        if _is_run(root / name):
            yield name
        else:
            yield from (f"{name}/{inner}" for inner in _folders(root / name) if _is_run(root / name / inner))


def _is_run(folder: Path) -> bool:
    with suppress(OSError):
        return any(part in name for name in os.listdir(folder) for part in RUN_FILES)
    return False


def _folders(root: Path) -> list[str]:
    with suppress(OSError), os.scandir(root) as entries:
        return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return []
