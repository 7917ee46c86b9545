"""One measurement of ``benchmark.py`` in its own process: a job on stdin, its result on stdout, both JSON.

The project and the peer are imported inside functions, because their packages have the same names.
"""

import contextlib
import importlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[1]
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KEPT = 8
"""Batches that the timed steps cycle through."""


class Ours:
    """This project, used as train.py and test.py use it."""

    def __init__(self, job: dict[str, Any]):
        sys.path.insert(0, str(ROOT))
        from data import DATASETS, create_loader
        from models import MODELS, create_model
        from options.parse import parse
        from options.train_options import TrainOptions
        from util.device import prepare_device

        options = parse(TrainOptions, job["flags"], MODELS, DATASETS)
        self.device = prepare_device(options.run.gpu_ids, explicit=True, deterministic=False)
        self.precision = options.run.precision
        self.in_lab = options.data.dataset_mode == "colorization"
        self.loader = create_loader(options, self.device)
        self.options, self._create_model = options, create_model
        self.record = Path(job["record"]) if job["record"] else None

    @cached_property
    def model(self) -> Any:
        return self._create_model(self.options, self.device)

    @cached_property
    def trainer(self) -> Any:
        from training.trainer import Trainer

        return Trainer(self.model, self.options)

    def epoch(self, number: int) -> Iterable[Any]:
        return self.loader.epoch(number)

    def start(self, batches: list[Any]) -> list[Any]:
        if self.record:
            self._write_record(self.record, batches)
        return batches

    def export(self, folder: Path) -> None:
        """Write the networks' weights into a folder."""
        from util.weights import export_state_dict, weights_path

        folder.mkdir(parents=True, exist_ok=True)
        for name, net in self.model.nets.items():
            torch.save(export_state_dict(net), weights_path(folder, "latest", name))

    def record_options(self) -> None:
        """Write the options into the run's folder, as train.py does."""
        from options.parse import save

        save(self.options)

    def _write_record(self, record: Path, batches: list[Any]) -> None:
        """Write what the peer needs for the same first step: weights, images and the seed of dropout."""
        from util.color import to_L_ab
        from util.seeding import seed_for

        self.export(record)
        floats = [batch.to(torch.device("cpu")) for batch in batches]
        images = [to_L_ab(batch.A) if self.in_lab else batch.pair() for batch in floats]
        torch.save({"images": images, "seed": seed_for("dropout", self.model.seed, 1)}, record / "inputs.pt")

    def step(self, batch: Any) -> None:
        self.latest, _ = self.trainer.step(batch.to(self.device, self.model.dtype))

    def losses(self) -> dict[str, float]:
        return {name: loss.item() for name, loss in self.latest.items()}

    def translate(self, batch: Any) -> None:
        self.model.translate(batch.to(self.device, self.model.dtype))

    def count(self, batch: Any) -> int:
        return len(batch)


class Peer:
    """A checkout of the peer, used as its train.py does, on the images and weights that `Ours` recorded."""

    precision = "fp32"

    def __init__(self, job: dict[str, Any]):
        sys.path.insert(0, job["peer"])
        sys.argv = ["train.py", *job["flags"]]
        create_dataset: Any = importlib.import_module("data").create_dataset
        create_model: Any = importlib.import_module("models").create_model
        options_class: Any = importlib.import_module("options.train_options").TrainOptions

        self.options = options_class().parse()
        self.dataset = create_dataset(self.options)
        self._create_model, self.record = create_model, Path(job["record"] or "")

    @cached_property
    def model(self) -> Any:
        model = self._create_model(self.options)
        model.setup(self.options)
        return model

    @property
    def device(self) -> torch.device:
        return self.model.device

    def epoch(self, number: int) -> Iterable[Any]:
        return self.dataset

    def start(self, batches: list[Any]) -> list[Any]:
        self.model.save_dir = str(self.record)
        self.model.load_networks("latest")
        inputs = torch.load(self.record / "inputs.pt", weights_only=True)
        torch.manual_seed(inputs["seed"])
        sides = "AB" if self.options.direction == "AtoB" else "BA"
        names = {f"{side}_paths": [""] * self.options.batch_size for side in "AB"}
        return [dict(zip(sides, pair, strict=True)) | names for pair in inputs["images"]]

    def step(self, batch: Any) -> None:
        self.model.set_input(batch)
        self.model.optimize_parameters()

    def losses(self) -> dict[str, float]:
        return dict(self.model.get_current_losses())

    def translate(self, batch: Any) -> None:
        self.model.set_input(batch)
        self.model.test()

    def count(self, batch: Any) -> int:
        return len(batch["A_paths"])


def seconds(device: torch.device, function: Callable[..., object], *arguments: object) -> float:
    """Return the seconds of a call, until the device has completed it."""
    wait = torch.cuda.synchronize if device.type == "cuda" else int
    wait()
    began = time.perf_counter()
    function(*arguments)
    wait()
    return time.perf_counter() - began


def read(side: Ours | Peer, items: int) -> tuple[list[Any], float]:
    """Return the first batches of an epoch, and the samples read per second after the first batch."""
    batches: list[Any] = []
    count, began = 0, 0.0
    for batch in side.epoch(1):
        if batches:
            count += side.count(batch)
        else:  # the first batch includes imports
            began = time.perf_counter()
        whole = not batches or side.count(batch) == side.count(batches[0])
        if whole and len(batches) < KEPT:
            batches.append(batch)
        if count >= items:
            break
    if not count:
        sys.exit("--dataroot: there is only one batch; use more images or a lower --batch_size")
    return batches, count / (time.perf_counter() - began)


def later_epochs(job: dict[str, Any]) -> dict[str, Any]:
    """Measure the time from the start of an epoch after the first to its first batch."""
    side: Ours | Peer = Peer(job) if job["peer"] else Ours(job)
    times = []
    for number in range(1, 2 + job["steps"]):
        began = time.perf_counter()
        batches = iter(side.epoch(number))
        next(batches)
        times.append(1000 * (time.perf_counter() - began))
        for _ in batches:
            pass
    return {"first_batch_ms": statistics.median(times[1:])}


def export(job: dict[str, Any]) -> dict[str, Any]:
    """Write initial weights and the options, as a new training run does."""
    side = Ours(job)
    side.record_options()
    side.export(side.options.run_folder)
    return {}


def memory(device: torch.device) -> float:
    """Return the peak memory so far in MiB: of the GPU, or else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Time data loading, `steps` training steps after `warmup` ones, and as many translations."""
    side: Ours | Peer = Peer(job) if job["peer"] else Ours(job)
    batches, items_per_s = read(side, job["items"])
    batches = side.start(batches)
    side.step(batches[0])
    losses = side.losses()
    turns, steps, device = cycle(batches), job["steps"], side.device
    for batch in islice(turns, job["warmup"]):
        side.step(batch)
    step_s = [seconds(device, side.step, batch) for batch in islice(turns, steps)]
    peak_memory = memory(device)
    side.translate(batches[0])
    test_s = [seconds(device, side.translate, batch) for batch in islice(turns, steps)]
    flops = None
    if job["count_flops"]:
        with FlopCounterMode(display=False) as counter:
            side.step(batches[0])
        flops = counter.get_total_flops()
    return {
        "precision": side.precision,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "batch_size": side.count(batches[0]),
        "first_losses": losses,
        "step_ms": [1000 * time for time in step_s],
        "test_images_per_s": side.count(batches[0]) / statistics.median(test_s),
        "items_per_s": items_per_s,
        "memory_mib": peak_memory,
        "flops": flops,
    }


def peak(job: dict[str, Any]) -> dict[str, Any]:
    """Return the GFLOP/s of the fastest large convolution or matrix product."""
    device, dtype = torch.device(job["device"]), DTYPES[job["precision"]]
    width, images = (8192, 64) if device.type == "cuda" else (1024, 1)
    matrix = torch.randn(width, width, device=device).to(dtype)
    maps = torch.randn(images, 256, 64, 64, device=device).to(dtype)
    kernel = torch.randn(256, 256, 3, 3, device=device).to(dtype)
    product = min(seconds(device, torch.mm, matrix, matrix) for _ in range(job["calls"]))
    convolution = min(seconds(device, F.conv2d, maps, kernel, None, 1, 1) for _ in range(job["calls"]))
    rates = 2 * width**3 / product, 2 * maps.numel() * 256 * 9 / convolution
    return {"peak_gflops": max(rates) / 1e9}


def main() -> None:
    job = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # the peer prints
        tasks = {"measure": measure, "peak": peak, "later_epochs": later_epochs, "export": export}
        result = tasks[job["task"]](job)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
