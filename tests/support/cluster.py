"""A local Slurm cluster for tests."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.support.environment import ONE_THREAD, ROOT

SCRIPTS = ROOT / "scripts" / "slurm"


SMALL = "--model pix2pix --gpu_ids -1 --netG unet_32 --ngf 4 --ndf 4 --crop_size 32 --load_size 36 --no_html"


RUN = f"{SMALL} --num_threads 0 --save_latest_freq 1000000 --n_epochs_decay 0"


class Cluster:
    """A Slurm cluster with this machine as its only node, and the jobs in it."""

    def __init__(self, folder: Path, data: Path):
        self.folder, self.data = folder, data
        self.environment = {**ONE_THREAD, "SLURM_CONF": str(folder / "slurm.conf"), "PYTHON": sys.executable}
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def call(self, *command: str, folder: Path = ROOT) -> str:
        done = subprocess.run(command, cwd=folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def submit(self, script: str, *arguments: str, sbatch: str = "", folder: Path = ROOT) -> str:
        """Submit a job in `folder` that trains a small model, and return its ID; its log is ID.log."""
        options = f"--parsable --cpus-per-task=1 --output={self.folder}/%j.log {sbatch}".split()
        places = ["--dataroot", str(self.data), "--checkpoints_dir", str(self.folder / "checkpoints")]
        command = ["sbatch", *options, str(SCRIPTS / script), *arguments, *places, *RUN.split()]
        return self.call(*command, folder=folder)

    def job(self, number: str) -> str:
        return self.call("scontrol", "show", "job", number)

    def log(self, number: str) -> str:
        log = self.folder / f"{number}.log"
        return log.read_text() if log.exists() else ""

    def seconds(self, number: str) -> int:
        """Return how long a job ran."""
        hours, minutes, seconds = re.search(r"RunTime=(\d+):(\d+):(\d+)", self.job(number)).groups()
        return 3600 * int(hours) + 60 * int(minutes) + int(seconds)

    def wait(
        self,
        number: str,
        true: Callable[[], bool],
        seconds: float = 300,
        states: str = "FAILED|TIMEOUT|CANCELLED",
    ) -> None:
        """Wait until a condition is true; a job in one of these states is an error."""
        end = time.monotonic() + seconds
        while not true():
            state = self.job(number)
            assert time.monotonic() < end and not re.search(rf"JobState=({states})", state), (
                f"{state}\n{self.log(number)}"
            )
            time.sleep(0.5)

    def wait_for_start(self, number: str) -> None:
        """Wait until the run has completed two epochs."""
        self.wait(number, lambda: "End of epoch 2" in self.log(number))

    def wait_for_end(self, number: str) -> None:
        """Wait until the job, or all tasks of the array, are complete."""
        self.wait(number, lambda: set(re.findall(r"JobState=(\w+)", self.job(number))) == {"COMPLETED"})

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        run = self.folder / "checkpoints" / name
        nets = {net: torch.load(run / f"latest_net_{net}.pth", weights_only=True) for net in "GD"}
        return {f"{net}.{key}": value for net, state in nets.items() for key, value in state.items()}

    def is_the_same(self, one: str, other: str) -> bool:
        """Return whether the final weights of two runs are equal, bit for bit."""
        left, right = self.weights(one), self.weights(other)
        return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    daemons = ("sbatch", "slurmctld", "slurmd", "munged")
    path = f"{os.environ['PATH']}:/usr/sbin"
    if missing := [name for name in daemons if not shutil.which(name, path=path)]:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    data = tmp_path_factory.mktemp("pairs")
    make = [str(ROOT / "datasets" / "make_demo_dataset.py"), "--out", str(data), "--size", "32"]
    subprocess.run([sys.executable, *make, "--train", "40", "--val", "1", "--test", "1"], check=True)
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    script = str(ROOT / "tests" / "support" / "slurm" / "cluster.sh")
    try:
        subprocess.run([script, "start", str(folder)], check=True)
        yield Cluster(folder, data)
    finally:
        subprocess.run([script, "stop", str(folder)], check=True)
        shutil.rmtree(folder)
