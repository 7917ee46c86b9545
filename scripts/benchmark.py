"""Time training, data loading and testing of the models, for variants of flags and for the peer.

    python scripts/benchmark.py [--models pix2pix,cycle_gan] [--peer DIR] [-- FLAGS OF TRAIN.PY]
    python scripts/benchmark.py --models pix2pix --variant "fp32=" --variant "fp64=--precision fp64"
    python scripts/benchmark.py --models pix2pix --whole_test 50 [--peer DIR] [-- FLAGS OF TEST.PY]

Every measurement runs in its own process, and the variants alternate. The table has medians, and in brackets
their ratios to the first variant: above 1 is faster for rates, and more for times and memory. With
--whole_test, whole processes of test.py are timed.
"""

import argparse
import json
import logging
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from data import DATASETS  # noqa: E402
from data.facades import draw_pair  # noqa: E402
from models import MODELS  # noqa: E402
from options.parse import parse  # noqa: E402
from options.train_options import TrainOptions  # noqa: E402
from scripts import benchmark_whole_test as whole_test  # noqa: E402
from util.errors import Parser, UserError, run_command  # noqa: E402
from util.files import write_text  # noqa: E402

PEER = "peer"
PEERS_MODELS = ("colorization", "cycle_gan", "pix2pix")
OWN_FLAGS = {
    "memory_colorization": ["--resnet_weights", "random"],
    "style_transfer": ["--vgg_weights", "random", "--style_mode", "set"],
    "unified": ["--vgg_weights", "random"],
}
"""Flags with which models run on any images and without downloads; speed does not depend on weights."""
SIDE_BY_SIDE = ("aligned", "template")
MEASURED = ("images_per_s", "items_per_s", "first_batch_ms", "test_images_per_s", "memory_mib")
COLUMNS = (
    *("model", "variant", "step ms", "images/s", "data items/s", "first batch ms", "test images/s"),
    *("memory MiB", "GFLOP/step", "of peak", "first losses"),
)

log = logging.getLogger(__name__)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Return the values of the flags, with the flags of train.py after ``--`` as ``further``."""
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = Parser(
        description=(__doc__ or "").split("\n")[0],
        epilog="Flags after -- are passed to all variants and to the peer.",
        allow_abbrev=False,
    )
    parser.add_argument("--models", help="names separated by commas (default: all models that train)")
    parser.add_argument(
        "--variant",
        action="append",
        metavar="NAME=FLAGS",
        help="flags of train.py to compare; repeat it for more variants",
    )
    parser.add_argument("--peer", type=Path, help="a checkout of junyanz/pytorch-CycleGAN-and-pix2pix")
    parser.add_argument("--dataroot", type=Path, help="folder of images (default: generated ones)")
    for name, default, text in (
        ("crop_size", 256, "side of the images in pixels"),
        ("batch_size", None, "images per batch (default: the model's, mostly 1)"),
        ("threads", None, "threads of torch (default: torch's choice)"),
        ("rounds", 3, "processes per variant"),
        ("warmup", 3, "warm-up steps before the timed ones"),
        ("steps", 5, "timed training steps and translated batches per process"),
        ("items", 32, "data items to read"),
    ):
        note = "" if default is None else f" (default: {default})"
        parser.add_argument(f"--{name}", type=int, default=default, help=text + note)
    parser.add_argument("--whole_test", type=int, metavar="N", help="time test.py instead, on N images")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument("--markdown", type=Path, help="file to write the table to")
    settings = parser.parse_args(argv[:cut])
    settings.further = argv[cut + 1 :]
    check(settings)
    return settings


def check(settings: argparse.Namespace) -> None:
    """Raise a `UserError` for invalid values."""
    for name in ("crop_size", "batch_size", "threads", "rounds", "warmup", "steps", "items", "whole_test"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: expected 1 or more")
    if settings.peer and not (settings.peer / "models" / "pix2pix_model.py").is_file():
        raise UserError(
            f"--peer {settings.peer}: there is no models/pix2pix_model.py; give the folder of a checkout"
        )
    for name in ("json", "markdown"):
        file = getattr(settings, name)
        if file and not file.absolute().parent.is_dir():
            raise UserError(f"--{name} {file}: there is no folder {file.parent}; create it first")


def variants(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return the flags by name of variants ``NAME=FLAGS``."""
    flags_by_name: dict[str, list[str]] = {}
    for text in texts:
        name, equals, flags = text.partition("=")
        if not (name and equals) or name.startswith("-"):
            raise UserError(
                f'--variant {text}: expected a name, =, and flags, such as "fp64=--precision fp64"'
            )
        if name in flags_by_name or name == PEER:
            raise UserError(f"--variant {text}: the name {name} is taken; choose another")
        try:
            flags_by_name[name] = shlex.split(flags)
        except ValueError as error:
            raise UserError(f"--variant {text}: {error}; close the quotation") from None
    return flags_by_name


def plan(settings: argparse.Namespace, model: str, folder: Path) -> dict[str, list[str]]:
    """Return the flags to time for one model, by variant; images are generated if there is no --dataroot."""
    size = settings.crop_size
    common = ["--model", model, "--crop_size", str(size), "--load_size", str(size * 286 // 256)]
    common += ["--checkpoints_dir", str(folder)]
    common += ["--batch_size", str(settings.batch_size)] if settings.batch_size else []
    common += [] if torch.cuda.is_available() else ["--gpu_ids", "-1"]
    common += [*OWN_FLAGS.get(model, []), *settings.further]
    flags = {name: [*common, *own] for name, own in variants(settings.variant or ["ours="]).items()}
    if model in OWN_FLAGS:
        log.info("%s: with %s", model, shlex.join(OWN_FLAGS[model]))
    if settings.peer and model in PEERS_MODELS:
        flags[PEER] = common
    elif settings.peer:
        log.info("%s: timed without the peer, which lacks it", model)
    return {name: ["--dataroot", images(settings, given, folder), *given] for name, given in flags.items()}


def images(settings: argparse.Namespace, flags: list[str], folder: Path) -> str:
    """Return the data root for a variant, after checking its flags."""
    options = parse(TrainOptions, ["--dataroot", ".", *flags], MODELS, DATASETS)
    if settings.dataroot:
        return str(settings.dataroot)
    root = draw(folder, options.data.crop_size, settings.items + options.data.batch_size)
    return str(root / ("pairs" if options.data.dataset_mode in SIDE_BY_SIDE else "apart"))


def draw(folder: Path, size: int, count: int) -> Path:
    """Draw façades, once per size: side by side in pairs/, and separately in apart/; return their folder."""
    side, root = max(32, size + size % 2), folder / f"{size}_{count}"
    for number in range(1, 1 if root.exists() else count + 1):
        pair = draw_pair(side, 0, "train", number)
        photo, labels = pair.crop((0, 0, side, side)), pair.crop((side, 0, 2 * side, side))
        places = {"pairs/train": pair, "apart/train": photo, "apart/trainA": photo, "apart/trainB": labels}
        for place, image in places.items():
            (root / place).mkdir(parents=True, exist_ok=True)
            image.save(root / place / f"{number:04d}.png")
    return root


def environment(threads: int | None) -> dict[str, str]:
    """Return the environment of a timed process."""
    return {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}


def work(what: str, job: Mapping[str, Any], threads: int | None) -> dict[str, Any]:
    """Run a job in a worker process and return its result.

    Raises:
        UserError: it failed; the message is the last line of its output.
    """
    command = [sys.executable, str(ROOT / "scripts" / "benchmark_worker.py")]
    done = subprocess.run(
        command, input=json.dumps(job), capture_output=True, text=True, env=environment(threads)
    )
    if done.returncode:
        lines, mark = done.stderr.strip().splitlines() or ["no message"], "util.errors.UserError: "
        if mark not in lines[-1]:
            log.info(done.stderr)
        raise UserError(f"{what}: {lines[-1].removeprefix(mark)}")
    return json.loads(done.stdout)


def measure(
    settings: argparse.Namespace, model: str, flags: Mapping[str, list[str]], folder: Path
) -> dict[str, list[dict[str, Any]]]:
    """Run the processes of all variants in turn, and return their results by variant."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in flags}
    record, first = folder / f"record_{model}", next(iter(flags))
    for turn in range(settings.rounds):
        for name, given in flags.items():
            writes = PEER in flags and name == first and turn == 0
            job = {
                "task": "measure",
                "flags": ["--num_threads", "0", *given],
                "peer": str(settings.peer.resolve()) if name == PEER else None,
                "record": str(record) if writes or name == PEER else None,
                "count_flops": turn == 0,
                **{key: getattr(settings, key) for key in ("warmup", "steps", "items")},
            }
            log.info("%s, %s, process %d of %d", model, name, turn + 1, settings.rounds)
            run = work(f"{model}, {name}", job, settings.threads)
            later = {**job, "task": "later_epochs", "flags": given, "record": None}
            results[name].append(run | work(f"{model}, {name}", later, settings.threads))
    return results


def summarise(
    model: str, results: Mapping[str, list[dict[str, Any]]], peaks: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return a row of medians for every variant, with their ratios to those of the first."""
    rows: list[dict[str, Any]] = []
    for name, runs in results.items():
        times = [time for run in runs for time in run["step_ms"]]
        step_ms, first = statistics.median(times), runs[0]
        row = {"model": model, "variant": name, "step_ms": step_ms, "all_step_ms": times}
        row["images_per_s"] = 1000 * first["batch_size"] / step_ms
        row |= {key: statistics.median(run[key] for run in runs) for key in MEASURED[1:]}
        row |= {key: first[key] for key in ("batch_size", "precision", "device", "threads", "flops")}
        row["gflops"] = first["flops"] / step_ms / 1e6
        row["of_peak"] = row["gflops"] / peaks[first["precision"]]
        row["first_losses"] = first["first_losses"]
        base = rows[0] if rows else row
        row["ratios"] = {key: row[key] / base[key] for key in MEASURED}
        row["losses_differ"] = difference(base["first_losses"], row["first_losses"])
        rows.append(row)
    return rows


def difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float | None:
    """Return the largest relative difference of the common losses; None if there are none."""
    pairs = [(ours[name], theirs[name]) for name in ours.keys() & theirs.keys()]
    return max((abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in pairs), default=None)


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a row, under `COLUMNS`."""
    measured = [f"{row[key]:.4g} (x{row['ratios'][key]:.2f})" for key in MEASURED]
    differ = "" if row["losses_differ"] is None else f"{row['losses_differ']:.1e}"
    work_done = f"{row['flops'] / 1e9:.4g}", f"{row['of_peak']:.0%}"
    return (row["model"], row["variant"], f"{row['step_ms']:.4g}", *measured, *work_done, differ)


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns; the first line is its head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    return "\n".join([text[0], "| " + " | ".join("-" * width for width in widths) + " |", *text[1:]])


def machine() -> dict[str, Any]:
    """Return the hardware, the version of torch and the time."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1] for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0].strip() if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "when": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def main(argv: list[str]) -> int:
    settings, hardware = parse_arguments(argv), machine()
    if settings.whole_test:
        time_whole_tests(settings, argv, hardware)
        return 0
    trained = [name for name in MODELS.names() if MODELS.get(name).trains]
    models = settings.models.split(",") if settings.models else trained
    peaks: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plans = {model: plan(settings, model, folder) for model in models}
        for model, flags in plans.items():
            results = measure(settings, model, flags, folder)
            for run in (runs[0] for runs in results.values()):
                if run["precision"] not in peaks:
                    job = {"task": "peak", "calls": 10, **{key: run[key] for key in ("precision", "device")}}
                    peaks[run["precision"]] = work("the peak", job, settings.threads)["peak_gflops"]
            rows += summarise(model, results, peaks)
    report(settings, {"machine": hardware, "command": argv, "peak_gflops": peaks, "results": rows})
    return 0


def time_whole_tests(settings: argparse.Namespace, argv: list[str], hardware: Mapping[str, Any]) -> None:
    """Time whole processes of test.py; all variants of a model read the same weights."""
    rows: list[dict[str, Any]] = []
    count, own = settings.whole_test, variants(settings.variant or ["ours="])
    alone = argparse.Namespace(**{**vars(settings), "variant": None, "peer": None, "items": count})
    with tempfile.TemporaryDirectory() as temporary:
        for model in settings.models.split(",") if settings.models else PEERS_MODELS:
            folder = Path(temporary) / model
            trained = [*plan(alone, model, folder)["ours"], "--name", "whole_test"]
            job = {"task": "export", "flags": trained, "peer": None, "record": None}
            work(f"{model}, writing weights", job, settings.threads)
            # Generated images are all in the phase train.
            common = [*trained, "--phase", "train", "--num_test", str(count)]
            common += ["--load_size", str(settings.crop_size)]
            commands = {name: [str(ROOT / "test.py"), *common, *flags] for name, flags in own.items()}
            if settings.peer and model in PEERS_MODELS:
                commands[PEER] = [str(settings.peer.resolve() / "test.py"), *common]
            started = {name: [sys.executable, *command] for name, command in commands.items()}
            turns = settings.rounds, count, folder, environment(settings.threads)
            rows += whole_test.summarise(model, whole_test.take_turns(started, *turns), count)
    text = table([whole_test.COLUMNS, *map(whole_test.cells, rows)])
    write(settings, {"machine": hardware, "command": argv, "results": rows}, text)


def report(settings: argparse.Namespace, record: Mapping[str, Any]) -> None:
    """Log the table and write the files of --json and --markdown."""
    rows = record["results"]
    peaks = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in record["peak_gflops"].items())
    text = (
        f"Measured peak: {peaks}. {rows[0]['threads']} threads. Memory: the peak of the"
        f" {'process' if rows[0]['device'] == 'cpu' else 'GPU'} in training. First batch: of an epoch after"
        " the first, with worker processes. First losses: their largest relative difference from those of the"
        f" first variant.\n\n{table([COLUMNS, *map(cells, rows)])}"
    )
    write(settings, record, text)


def write(settings: argparse.Namespace, record: Mapping[str, Any], text: str) -> None:
    """Log the hardware and `text`, and write the files of --json and --markdown."""
    on = record["machine"]
    where = f"{on['cpu']}, {on['cores']} cores, GPU: {on['gpu'] or 'none'}, torch {on['torch']}"
    text = f"{where}; {on['when']}.\n{text}"
    log.info("\n%s", text)
    if settings.json:
        write_text(settings.json, json.dumps(record, indent=1) + "\n")
    if settings.markdown:
        command = shlex.join(record["command"])
        write_text(settings.markdown, f"    python scripts/benchmark.py {command}\n\n{text}\n")


if __name__ == "__main__":
    sys.exit(run_command(main))
