"""Measure the communication of ranks in a training step: bytes, collectives and time.

    torchrun --nproc_per_node=2 scripts/benchmark_processes.py [--models pix2pix,cycle_gan] [-- FLAGS]

The flags are those of train.py; batches are random. Printed for each model: the bytes that a rank sends in a
step, their ratio to the size of all gradients, the number of collective calls, the time of a step, and the
share of communication in it, including the wait for other ranks.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from data import DATASETS  # noqa: E402
from models import MODELS, create_model  # noqa: E402
from models.base_model import BaseModel  # noqa: E402
from options.parse import parse  # noqa: E402
from options.train_options import TrainOptions  # noqa: E402
from scripts.benchmark import OWN_FLAGS  # noqa: E402
from training.optimizers import parameters_of  # noqa: E402
from training.trainer import Trainer  # noqa: E402
from util import console, distributed  # noqa: E402
from util.batch import Batch  # noqa: E402
from util.device import prepare_device  # noqa: E402


class Traffic:
    """Counts the bytes of torch's collectives and measures their time, waiting for each to complete."""

    def __init__(self, device: torch.device):
        self.device, self.bytes, self.messages, self.seconds = device, 0, 0, 0.0
        for name, position in (("all_reduce", 0), ("all_gather", 1)):
            setattr(dist, name, self._counted(getattr(dist, name), position))

    def _counted(self, operation: Callable[..., Any], position: int) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.bytes += args[position].nbytes
            self.messages += 1
            work = self.timed(lambda: operation(*args, **kwargs))
            return None if work is None else TimedWork(work, self)

        return run

    def timed(self, act: Callable[[], Any]) -> Any:
        """Call `act` and add its time to `seconds`."""
        self._wait()
        began = time.perf_counter()
        result = act()
        self._wait()
        self.seconds += time.perf_counter() - began
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class TimedWork:
    """An asynchronous collective, of which only the wait is timed: the rest overlaps with computation."""

    def __init__(self, work: dist.Work, traffic: Traffic):
        self.work, self.traffic = work, traffic

    def wait(self) -> Any:
        return self.traffic.timed(self.work.wait)


def measure(name: str, flags: list[str], traffic: Traffic, steps: int) -> None:
    """Measure a model and print its row of the table."""
    common = ["--dataroot", ".", "--model", name, *OWN_FLAGS.get(name, []), *flags]
    options = parse(TrainOptions, common, MODELS, DATASETS)
    model = create_model(options, traffic.device)
    trainer, batch = Trainer(model, options), draw(options, model)
    times, shares = [], []
    for turn in range(steps + 2):
        traffic.bytes = traffic.messages = 0
        traffic.seconds, began = 0.0, time.perf_counter()
        trainer.step(batch)
        seconds = time.perf_counter() - began
        if turn > 1:
            times.append(seconds)
            shares.append(traffic.seconds / seconds)
    parameters = {p for optimizer in trainer.optimizers.values() for p in parameters_of(optimizer)}
    gradients = sum(p.grad.nbytes for p in parameters if p.grad is not None)
    sent, share = traffic.bytes, statistics.median(shares)
    if distributed.rank() == 0:
        print(
            f"| {name} | {gradients / 1e6:.1f} | {sent / 1e6:.1f} | {sent / gradients:.4f} |"
            f" {traffic.messages} | {1000 * statistics.median(times):.0f} | {share:.1%} |",
            flush=True,
        )


def draw(options: TrainOptions, model: BaseModel) -> Batch:
    """Return this rank's rows of a batch of random images."""
    mine = distributed.rank_slice(options.data.batch_size, distributed.world_size(), distributed.rank())
    count, size = mine.stop - mine.start, options.data.crop_size
    photos = options.data.dataset_mode in ("colorization", "style")  # models compute their channels
    channels = (3, 3) if photos else (options.network.input_nc, options.network.output_nc)

    def image(channels: int) -> Tensor:
        return torch.rand(count, channels, size, size, device=model.device, dtype=model.dtype) * 2 - 1

    names = ["image"] * count
    A, B = map(image, channels)
    return Batch(A, B, names, names, torch.arange(count), total=options.data.batch_size)


def main() -> None:
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    trained = [name for name in MODELS.names() if MODELS.get(name).trains]
    parser.add_argument(
        "--models", default=",".join(trained), help="names separated by commas (default: all)"
    )
    parser.add_argument("--steps", type=int, default=5, help="timed steps (default: 5)")
    settings, flags = parser.parse_args(sys.argv[1:cut]), sys.argv[cut + 1 :]
    if "--batch_size" not in flags:
        flags += ["--batch_size", "2"]
    gpu_ids = "0" if torch.cuda.is_available() else "-1"
    device = prepare_device(gpu_ids, explicit=False, deterministic=False)
    if distributed.world_size() == 1:
        sys.exit("start it with torchrun --nproc_per_node=2 or more: a single rank does not communicate")
    if distributed.rank() == 0:
        print("| model | gradients MB | sent MB | ratio | messages | step ms | communication |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
    traffic = Traffic(device)
    for name in settings.models.split(","):
        measure(name, flags, traffic, settings.steps)
    distributed.shutdown()


if __name__ == "__main__":
    console.set_up()
    main()
