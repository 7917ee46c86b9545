"""Train and test all combinations of flag values with several seeds, and write a page that compares them.

    python scripts/ablate.py --name norms --vary norm=instance,batch --vary attention=none,32 --seeds 3 \
        -- --dataroot ./datasets/facades --model pix2pix --direction BtoA

The flags after -- are passed to train.py in every run. Runs are in <checkpoints_dir>/<name>/, results and the
page in <results_dir>/<name>/. The same command continues after Ctrl-C (status 75) or failed runs (status 1):
complete runs are skipped, interrupted ones are resumed.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from scripts.ablation.plan import parse_vary, plan, refuse_other_runs, split_flags  # noqa: E402
from scripts.ablation.run import Worker, run_here  # noqa: E402
from scripts.ablation.slurm import run_on_slurm  # noqa: E402
from scripts.comparison.page import write_comparison  # noqa: E402
from scripts.comparison.runs import read_run  # noqa: E402
from training.run_lock import RunLock  # noqa: E402
from util.errors import Parser, UserError, run_command  # noqa: E402
from util.stopping import STOPPED_STATUS, StopSignals  # noqa: E402

FAILED_STATUS = 1
SLURM_FLAGS = ("partition", "time", "cpus_per_task", "gpus_per_node", "sbatch")

log = logging.getLogger(__name__)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Return the values of the flags, with the flags of train.py after ``--`` as ``flags``."""
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = Parser(
        description=(__doc__ or "").split("\n")[0],
        epilog="Flags after -- are passed to train.py in every run.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="FLAG=V,V",
        help="values of a flag of train.py; repeat it for more flags. Separate values that contain commas by"
        " semicolons: 'attention=none;32,64'",
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of each combination: seeds 0 to N - 1 (1)")
    parser.add_argument(
        "--name", default="ablation", help="name of its folders of runs and results (ablation)"
    )
    parser.add_argument("--phase", default="test", help="part of the data set to test on (test)")
    parser.add_argument(
        "--test_flags", default="", metavar="FLAGS", help='flags of test.py: "--num_test 50 --eval"'
    )
    parser.add_argument("--samples", type=int, default=8, help="input images on the page (8)")
    parser.add_argument("--jobs", type=int, help="runs at a time (1; with --gpus one per GPU)")
    parser.add_argument("--gpus", default="", help="GPUs to spread the runs over: 0,1,2")
    slurm = parser.add_argument_group("Slurm", "needs the package submitit")
    slurm.add_argument(
        "--slurm", action="store_true", help="submit each run as a job, at most --jobs at a time"
    )
    slurm.add_argument("--partition", help="the partition")
    slurm.add_argument(
        "--time",
        type=int,
        metavar="MINUTES",
        help="time limit of a job; it is queued again until the run is complete (60)",
    )
    slurm.add_argument("--cpus_per_task", type=int, help="CPUs of a job (8)")
    slurm.add_argument("--gpus_per_node", type=int, help="GPUs of a job (none)")
    slurm.add_argument(
        "--sbatch", action="append", metavar="KEY=VALUE", help="another option of sbatch, such as account=lab"
    )
    settings = parser.parse_args(argv[:cut])
    settings.flags = argv[cut + 1 :]
    check(settings)
    return settings


def check(settings: argparse.Namespace) -> None:
    """Raise a `UserError` for invalid values."""
    for name in ("seeds", "jobs", "samples", "time", "cpus_per_task"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: expected 1 or more")
    if Path(settings.name).name != settings.name or settings.name == "..":
        raise UserError(f"--name {settings.name}: expected a folder name without a path")
    if not settings.vary and settings.seeds == 1:
        raise UserError("--vary: there is nothing to compare; give --vary FLAG=VALUE,VALUE, or --seeds")
    settings.gpus = [gpu.strip() for gpu in settings.gpus.split(",")] if settings.gpus else []
    if not all(gpu.isdecimal() for gpu in settings.gpus) or len(set(settings.gpus)) < len(settings.gpus):
        raise UserError(f"--gpus {','.join(settings.gpus)}: expected distinct GPU numbers, such as 0,1,2")
    if settings.gpus and any(word.split("=")[0] == "--gpu_ids" for word in settings.flags):
        raise UserError("--gpu_ids after the --: --gpus assigns the GPUs; leave one of them out")
    given = [name for name in SLURM_FLAGS if getattr(settings, name) is not None]
    if given and not settings.slurm:
        raise UserError(f"--{given[0]}: only valid with --slurm; add it or leave this out")
    if settings.slurm and settings.gpus:
        raise UserError("--gpus: Slurm chooses a job's GPUs; give --gpus_per_node")


def main(argv: list[str]) -> int:
    settings = parse_arguments(argv)
    test_flags = [f"--phase={settings.phase}", *split_flags(settings.test_flags)]
    vary = parse_vary(settings.vary)
    runs = plan(settings.name, vary, settings.seeds, settings.flags, test_flags)
    refuse_other_runs(runs)
    log.info("%d runs; logs: %s", len(runs), runs[0].folder.parent / "*" / runs[0].log.name)
    lock = RunLock(runs[0].folder.parent, "is running an ablation")
    with lock, StopSignals() as stop:
        if settings.slurm:
            workers = run_on_slurm(runs, settings, stop)
        else:
            workers = run_here(runs, settings.jobs or len(settings.gpus) or 1, settings.gpus, stop)
        unfinished = [worker for worker in workers if worker.state != "done"]
        if unfinished and stop.received:
            log.info(
                "Stopped by %s with %d runs left; the same command continues", stop.received, len(unfinished)
            )
            return STOPPED_STATUS
    log.info("Page: %s", write_page(settings, workers))
    for worker in unfinished:
        log.error("%s: %s", worker.run.name, worker.reason)
    if any(worker.state == "failed" for worker in workers):
        return FAILED_STATUS
    return STOPPED_STATUS if unfinished else 0


def write_page(settings: argparse.Namespace, workers: Sequence[Worker]) -> Path:
    """Write the comparison of all runs; incomplete runs are shown without results."""
    records = []
    for worker in workers:
        run = worker.run
        results = run.results if worker.state == "done" else None
        records.append(read_run(run.name, run.folder, results, run.values, worker.reason))
    folder = workers[0].run.results.parent.parent
    return write_comparison(records, folder, f"Ablation: {settings.name}", samples=settings.samples)


if __name__ == "__main__":
    sys.exit(run_command(main))
