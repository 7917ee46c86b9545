"""The scripts: valid command lines, and downloads with helpful errors."""

import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from data import DATASETS
from models import MODELS
from options.base_options import CommandOptions
from options.parse import parse
from options.test_options import TestOptions
from options.train_options import TrainOptions
from scripts import download
from tests.support.environment import ONE_THREAD, ROOT

COMMANDS = sorted((ROOT / "scripts").glob("t*_*.sh"))


def command(script: Path) -> tuple[str, list[str]]:
    """Return the Python script that a shell script starts, and its arguments."""
    text = script.read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^exec .*?/\.\./(.*)$", text, re.MULTILINE)
    name, *arguments = shlex.split(line.replace('py" ', "py ").replace('"$@"', ""))
    return name, arguments


@pytest.mark.parametrize("script", COMMANDS, ids=lambda path: path.name)
def test_the_command_lines_are_valid(script: Path, tmp_path: Path) -> None:
    name, arguments = command(script)
    kind: type[CommandOptions] = TrainOptions if name == "train.py" else TestOptions
    assert name == f"{script.name.split('_')[0]}.py"
    options = parse(kind, [*arguments, "--checkpoints_dir", str(tmp_path)], MODELS, DATASETS)
    assert options.run_name != "experiment_name"
    assert script.stat().st_mode & 0o100


def test_the_colorization_cycle_gan_has_the_architecture_of_its_script() -> None:
    _, arguments = command(ROOT / "scripts" / "train_cyclegan_colorization.sh")
    network = parse(TrainOptions, arguments, MODELS, DATASETS).network
    assert (network.netG, network.norm, network.attention) == ("unet_256", "instance", "1/8")
    assert (network.input_nc, network.output_nc) == (1, 3)


def test_a_shell_script_passes_on_further_flags(tmp_path: Path) -> None:
    flags = ["--dataroot", str(tmp_path / "absent"), "--gpu_ids", "-1"]
    script = ["bash", str(ROOT / "scripts" / "train_pix2pix.sh"), *flags]
    result = subprocess.run(
        script, capture_output=True, text=True, cwd=tmp_path, env={**ONE_THREAD, "PYTHON": sys.executable}
    )
    assert result.returncode == 2
    assert "absent: there is no such folder" in result.stderr


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands in for the download server."""
    monkeypatch.setattr(download, "HOST", (tmp_path / "server").as_uri())
    return tmp_path / "server"


def test_an_archive_is_unpacked_and_a_model_is_saved_where_test_py_reads_it(
    server: Path, tmp_path: Path
) -> None:
    archive = server / "pix2pix" / "datasets" / "maps.tar.gz"
    archive.parent.mkdir(parents=True)
    (tmp_path / "1.txt").write_text("one")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "1.txt", "maps/train/1.txt")
    root = tmp_path / "project"
    assert download.main(["pix2pix_dataset", "maps", "--root", str(root)]) == 0
    assert (root / "datasets" / "maps" / "train" / "1.txt").read_text() == "one"
    assert [path.name for path in (root / "datasets").iterdir()] == ["maps"]

    weights = server / "cyclegan" / "pretrained_models" / "horse2zebra.pth"
    weights.parent.mkdir(parents=True)
    torch.save({"w": torch.ones(1)}, weights)
    assert download.main(["cyclegan_model", "horse2zebra", "--root", str(root)]) == 0
    assert (root / "checkpoints" / "horse2zebra_pretrained" / "latest_net_G.pth").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cyclegan_dataset", "horse2cow"], "there is no such cyclegan_dataset. Choices: ae_photos"),
        (["pix2pix_dataset", "cityscapes"], "https://www.cityscapes-dataset.com"),
        (["pix2pix_model", "sat2map"], "cannot be downloaded"),
    ],
)
def test_a_failed_download_is_reported_in_one_line(
    server: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert download.main([*arguments, "--root", str(tmp_path / "project")]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.pth"))


MODULES = {"__init__.py", "benchmark_whole_test.py", "benchmark_worker.py"}
PYTHON_COMMANDS = sorted(path for path in (ROOT / "scripts").glob("*.py") if path.name not in MODULES)


@pytest.mark.slow
@pytest.mark.parametrize("script", PYTHON_COMMANDS, ids=lambda path: path.name)
def test_commands_start_in_any_folder(script: Path, tmp_path: Path) -> None:
    """Also beside a package `datasets`, as Hugging Face's."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("raise ImportError('another package')")
    environment = {**ONE_THREAD, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(script), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0 and result.stdout.startswith("usage: "), result.stderr


@pytest.mark.slow
def test_before_push(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "test_before_push.py"
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "All commands succeeded." in result.stdout
