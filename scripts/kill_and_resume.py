"""Kill a small training run at random times, resume it each time, and compare it with an uninterrupted one.

    python scripts/kill_and_resume.py [--kills 200] [--model pix2pix|cycle_gan] [--seed 0] [--folder FOLDER]

Every process is killed (SIGKILL) at a random time, often while it saves, which it does after every step.
Afterwards there must be an undamaged state. At the end weights, optimizers, image pools and logs must equal
those of the uninterrupted run, bit for bit.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from data.facades import write_pairs  # noqa: E402
from training.checkpoint import load_state  # noqa: E402
from training.loggers.base import MEASURED  # noqa: E402
from util import console  # noqa: E402
from util.errors import UserError  # noqa: E402

SMALL = "--gpu_ids -1 --load_size 36 --crop_size 32 --netG resnet_6blocks --ngf 4 --ndf 4 --n_epochs_decay 2"
OFTEN = "--save_latest_freq 1 --print_freq 1 --update_html_freq 5 --save_epoch_freq 2 --html_samples 1"
FLAGS = {
    "pix2pix": f"--model pix2pix --dataroot pairs {SMALL} {OFTEN}",
    "cycle_gan": f"--model cycle_gan --dataroot unpaired {SMALL} {OFTEN} --pool_size 4",
}


def make_data(folder: Path) -> None:
    """Draw pairs, and also write their halves to two folders."""
    write_pairs(folder / "pairs", {"train": 8, "val": 1, "test": 1}, size=32)
    for path in sorted((folder / "pairs" / "train").iterdir()):
        for side, left in (("A", 0), ("B", 32)):
            target = folder / "unpaired" / f"train{side}" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).crop((left, 0, left + 32, 32)).save(target)


def start(folder: Path, name: str, flags: str, workers: int) -> "subprocess.Popen[bytes]":
    """Start a training run, or resume it if it exists."""
    begun = (folder / "checkpoints" / name / "train_opt.json").exists()
    argv = [sys.executable, str(ROOT / "train.py"), *flags.split(), "--name", name]
    argv += ["--num_threads", str(workers), *(["--continue_train"] if begun else [])]
    with (folder / f"{name}.txt").open("a") as output:
        return subprocess.Popen(
            argv,
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def differences(one: Path, other: Path) -> Iterator[str]:
    """Yield the differences of the runs in two folders, except times."""
    logs = [
        [re.sub(r"time: .*?\) ", "", line) for line in (run / "loss_log.txt").read_text().splitlines()[1:]]
        for run in (one, other)
    ]
    if logs[0] != logs[1]:
        yield f"loss_log.txt: {len(logs[0])} and {len(logs[1])} lines"
    records = [
        [
            json.loads(line) | dict.fromkeys(MEASURED, 0)
            for line in (run / "losses.jsonl").read_text().splitlines()
        ]
        for run in (one, other)
    ]
    if records[0] != records[1]:
        yield f"losses.jsonl: {len(records[0])} and {len(records[1])} records"
    sections = [re.findall(r'data-epoch="\d+"', (run / "web/index.html").read_text()) for run in (one, other)]
    if sections[0] != sections[1]:
        yield f"the training pages: {sections}"
    for tag in sorted(path.name for path in one.glob("*_state.pth")):
        left, right = (torch.load(run / tag, weights_only=True) for run in (one, other))
        for part in ("model", "learning_rate", "progress"):
            a, b = _flat(left[part]), _flat(right[part])
            if a.keys() != b.keys():
                yield f"{tag}: {part}: {sorted(a.keys() ^ b.keys())}"
            yield from (f"{tag}: {part}{key}" for key in a if key in b and not _same(a[key], b[key]))


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, item in items for k, v in _flat(item, f"{path}.{key}").items()}
    return {path: value}


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="number of kills (default: 200)")
    parser.add_argument("--model", choices=FLAGS, default="pix2pix")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of 8 steps (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times")
    parser.add_argument(
        "--folder", type=Path, help="folder to work in and to keep (default: a temporary one)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        make_data(folder)
        return kill_and_compare(
            folder, options.model, options.kills, options.epochs, random.Random(options.seed)
        )


def kill_and_compare(folder: Path, model: str, kills: int, epochs: int, rng: random.Random) -> int:
    """Kill runs `kills` times and complete the last one; return the exit status."""
    flags, runs = f"{FLAGS[model]} --n_epochs {epochs - 2}", folder / "checkpoints"
    began = time.monotonic()
    if start(folder, "whole", flags, workers=0).wait():
        print(f"The uninterrupted run failed: {folder / 'whole.txt'}")
        return 1
    seconds = time.monotonic() - began
    print(f"Uninterrupted: {epochs * 8} steps in {seconds:.1f} s", flush=True)

    killed, complete = 0, 0
    while killed < kills or (runs / f"killed_{complete}").exists():
        name = f"killed_{complete}"
        process = start(folder, name, flags, workers=rng.choice((0, 1, 2)))
        try:
            status = process.wait(timeout=rng.uniform(0, seconds) if killed < kills else None)
        except subprocess.TimeoutExpired:
            with_workers = rng.random() < 0.5
            (os.killpg if with_workers else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
            try:
                state = load_state(runs / name, "latest")
            except UserError as error:
                print(f"After kill {killed}: {error}")
                return 1
            at = f"undamaged state at step {state['progress']['pictures']}" if state else "nothing saved yet"
            print(f"kill {killed}: {at}", flush=True)
            continue
        errors = [f"exit status {status}"] if status else list(differences(runs / "whole", runs / name))
        if errors:
            print(f"{name} differs, see {folder / (name + '.txt')}:", *errors, sep="\n  ")
            return 1
        complete += 1
    print(f"{killed} kills, {complete} runs completed: all equal the uninterrupted run, bit for bit.")
    return 0


if __name__ == "__main__":
    console.set_up()
    sys.exit(main())
