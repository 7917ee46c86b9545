"""A model, a generator, a metric, a sink and a data set, one new file each, pass the tests of all registries.

The files are added to a copy of the project; nothing else in it is changed.
"""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.environment import ONE_THREAD, ROOT

FILES = {
    "models/newcomer_model.py": '''
"""GAN-based restoration that also keeps the mean brightness of the training images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base_model import BaseModel, Update
from models.layers.running_mean import RunningMean
from models.networks import build_discriminator, build_generator
from models.objectives.losses import total
from options.base_options import CommandOptions
from options.option import option
from options.train_options import TrainOptions
from util.batch import Batch, Step


@dataclass(frozen=True)
class NewcomerOptions:
    """Flags of the newcomer."""

    lambda_rec: float = option(10.0, "weight of the reconstruction loss", minimum=0, phase="train")
    lambda_light: float = option(1.0, "weight of the brightness loss", minimum=0, phase="train")


class NewcomerModel(BaseModel):
    """G restores A; D judges single images; their mean brightness approaches that of all B."""

    Options = NewcomerOptions
    options: NewcomerOptions
    defaults: ClassVar[Mapping[str, object]] = {"dataset_mode": "newcomer"}
    fixed: ClassVar[Mapping[str, object]] = {"pool_size": 0}
    watched_losses = ("G_rec",)

    def build(self, options: CommandOptions) -> dict[str, nn.Module]:
        network = options.network
        self.state["light"] = RunningMean(self.device)
        nets: dict[str, nn.Module] = {"G": build_generator(network, network.input_nc, network.output_nc)}
        if isinstance(options, TrainOptions):
            nets["D"] = build_discriminator(network, network.output_nc)
        return nets

    def draws(self, count: int, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        noise = torch.randn(count, 1, 1, 1, generator=generator)
        return super().draws(count, iteration, generator) | {"noise": noise}

    def train_step(self, batch: Batch, update: Update) -> Step:
        real_A, real_B = batch.pair()
        G, D = self.nets["G"], self.nets["D"]
        fake_B = G(real_A + 0.01 * batch.draws["noise"].to(real_A.dtype))

        d = self.objective.discriminator(D, real_B, fake_B, batch.draws)
        update("D", total(d) / 2)

        light = self.light.update({"light": real_B.mean()}, batch)["light"]
        g = {
            "G_GAN": self.objective.generator(D, fake_B, batch.draws),
            "G_rec": self.options.lambda_rec * F.mse_loss(fake_B, real_B),
            "G_light": self.options.lambda_light * (fake_B.mean() - light).abs(),
        }
        update("G", total(g))
        losses = g | {f"D_{name}": loss for name, loss in d.items()}
        return Step(losses, visuals={"real_A": real_A, "fake_B": fake_B, "real_B": real_B})

    @property
    def light(self) -> RunningMean:
        light = self.state["light"]
        assert isinstance(light, RunningMean)
        return light

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        real_A, real_B = batch.pair()
        return {"real_A": real_A, "fake_B": self.nets["G"](real_A), "real_B": real_B}
''',
    "models/generators/newcomer.py": '''
"""Two convolutions: ``--netG newcomer_2convs``."""

from torch import nn

from models.layers.generator import Generator
from models.layers.norms import norm_layer
from models.registry import generator


@generator("newcomer_2convs")
class NewcomerGenerator(Generator):
    """A generator with one hidden layer."""

    smallest = 2

    def __init__(self, input_nc: int, output_nc: int, ngf: int, norm: str):
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(input_nc, ngf, 3, padding=1),
            norm_layer(norm, ngf),
            nn.ReLU(),
            nn.Conv2d(ngf, output_nc, 3, padding=1),
            nn.Tanh(),
        )
''',
    "util/metrics/newcomer.py": '''
"""The largest difference."""

from torch import Tensor

from util.metrics.names import metric


@metric("newcomer", higher_is_better=False, unit="levels", protocol="largest absolute difference, RGB")
def newcomer(fake: Tensor, real: Tensor) -> Tensor:
    """Return the largest difference of each image, (N,)."""
    return (fake.double() - real.double()).abs().flatten(1).amax(1)
''',
    "training/loggers/newcomer_sink.py": '''
"""A table of losses."""

from pathlib import Path
from typing import Self

from options.train_options import TrainOptions
from training.loggers.base import LossRecord, Sink
from training.progress import Progress


class NewcomerSink(Sink):
    """Appends losses to table.csv."""

    def __init__(self, path: Path):
        self.path = path
        self.files = (path,)
        path.touch()

    @classmethod
    def start(cls, options: TrainOptions, progress: Progress) -> Self:
        return cls(options.run_folder / "table.csv")

    def log_losses(self, record: LossRecord) -> None:
        values = (record.total_iters, *record.losses.values())
        with self.path.open("a") as file:
            file.write(",".join(map(str, values)) + "\\n")
''',
    "data/newcomer_dataset.py": '''
"""Images and their mirror images."""

from random import Random
from typing import Self

from torch import Tensor

from data.base_dataset import BaseDataset, Sample, check_channels
from data.image_folder import find_images
from data.shards import open_folder
from data.transforms import Transform
from options.base_options import CommandOptions


class NewcomerDataset(BaseDataset):
    """A is an image in ``dataroot/<phase>/``, B its mirror image."""

    paired = True
    layout = "phase"

    def __init__(self, paths: list[str], transform: Transform, *, grey: tuple[bool, bool], seed: int):
        super().__init__(transform, seed)
        self.paths, self.grey = paths, grey

    @classmethod
    def from_options(cls, options: CommandOptions) -> Self:
        data, network = options.data, options.network
        paths = find_images(open_folder(options.run.dataroot) / data.phase)[: data.max_dataset_size]
        grey = check_channels("input_nc", network.input_nc), check_channels("output_nc", network.output_nc)
        return cls(paths, Transform.from_options(data), grey=grey, seed=options.run.seed)

    def __len__(self) -> int:
        return len(self.paths)

    def sources(self) -> list[list[tuple[str, ...]]]:
        return [[(path,) for path in self.paths]]

    def read(self, index: int, rng: Random) -> Sample:
        A, B, path = self.first_good(self._open, index, len(self))
        decision = self.transform.decide(A, rng)
        A, B = (self.transform.apply(image, decision, path) for image in (A, B))
        return Sample(index, A, B, path, path)

    def _open(self, position: int) -> tuple[Tensor, Tensor, str]:
        path = self.paths[position]
        return self.scaled(path, self.grey[0]), self.scaled(path, self.grey[1]).flip(-1), path
''',
}
"""The new files; the names of tests that use them contain `newcomer`."""

REGISTRIES = {
    "tests/models/test_models.py": 10,
    "tests/models/test_networks.py": 15,
    "tests/util/metrics/test_registry.py": 4,
    "tests/training/loggers/test_sinks.py": 1,
    "tests/data/test_data.py": 2,
}
"""Files with tests that iterate over each kind, and the least number of tests of a new one."""

CODE = (".py", ".sh", ".js", ".css", ".md", ".toml", ".txt", "Makefile")
OUTPUTS = {"checkpoints", "results", "cache", "wandb"}


def not_code(folder: str, names: list[str]) -> set[str]:
    """Return the files and folders that are neither code nor documentation."""
    folders = {name for name in names if (Path(folder) / name).is_dir()}
    hidden = {name for name in folders if name.startswith((".", "__")) or name in OUTPUTS}
    return hidden | {name for name in set(names) - folders if not name.endswith(CODE)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's code with the new files."""
    copy = tmp_path_factory.mktemp("extension") / "project"
    shutil.copytree(ROOT, copy, ignore=not_code, symlinks=True)
    for path, content in FILES.items():
        assert not (copy / path).exists()
        (copy / path).write_text(content.lstrip())
    return copy


def run(project: Path, *arguments: object) -> str:
    """Run Python in the project, check that it succeeds, and return its output."""
    environment = {**ONE_THREAD, "PYTHONPATH": str(project), "MYPYPATH": str(project)}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def passed(project: Path, *arguments: str) -> Counter[str]:
    """Run the tests with a newcomer in their names, and return how many have passed, by file."""
    options = ("-q", "-rA", "-p", "no:cacheprovider", "-k", "newcomer")
    output = run(project, "-m", "pytest", *options, *arguments)
    return Counter(re.findall(r"^PASSED (.*?)::\S*newcomer\S*", output, re.MULTILINE))


def test_an_extension_is_one_file(project: Path) -> None:
    counts = passed(project, *REGISTRIES)
    assert counts.keys() == REGISTRIES.keys()
    assert all(counts[path] >= least for path, least in REGISTRIES.items()), counts


@pytest.mark.slow
def test_extensions_pass_the_whole_suite(project: Path) -> None:
    assert passed(project, "-m", "slow or not slow").keys() > REGISTRIES.keys()


@pytest.mark.slow
def test_extensions_pass_the_linters(project: Path) -> None:
    run(project, "-m", "ruff", "check", *FILES)
    run(project, "-m", "mypy", *FILES)


@pytest.mark.slow
def test_extensions_are_used_by_the_commands(project: Path, pairs: Path, tmp_path: Path) -> None:
    common = ["--dataroot", pairs, "--model", "newcomer", "--name", "run", "--checkpoints_dir", tmp_path]
    common += ["--gpu_ids", "-1", "--load_size", 36, "--crop_size", 32, "--metrics", "psnr,newcomer"]
    train = ["--netG", "newcomer_2convs", "--ngf", 4, "--ndf", 4, "--n_epochs", 2, "--n_epochs_decay", 0]
    train += ["--log", "newcomer", "--print_freq", 2, "--val_freq", 1, "--best", "newcomer"]
    run(project, "train.py", *common, *train)
    lines = (tmp_path / "run" / "table.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["2", "4", "6", "8", "10", "12"]
    run(project, "test.py", *common, "--epoch", "best", "--results_dir", tmp_path / "results")
    (metrics,) = tmp_path.glob("results/run/*/metrics.json")
    assert 0 < json.loads(metrics.read_text())["mean"]["newcomer"] <= 255
