"""Models and data sets by name and by the path of their file."""

import json
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from data import DATASETS
from data.base_dataset import BaseDataset
from data.loader import collate
from models import MODELS
from models.base_model import BaseModel
from options.parse import parse, save
from options.test_options import TestOptions
from options.train_options import TrainOptions
from tests.support.environment import ROOT, Command
from util.errors import UserError
from util.registry import Registry, label

MODEL = """
from dataclasses import dataclass
from models.template_model import TemplateModel, TemplateOptions
from options.option import option
import {name}_constants

@dataclass(frozen=True)
class MyOptions(TemplateOptions):
    \"\"\"Flags of mine.\"\"\"
    depth: int = option({name}_constants.DEPTH, "how deep it is", architecture=True)

class MyModel(TemplateModel):
    Options = MyOptions
"""
DATASET = """
from data.template_dataset import TemplateDataset

class MyDataset(TemplateDataset):
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, which is not on the import path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def write_files(folder: Path, name: str) -> list[str]:
    """Write a model, with a module that it imports, and a data set; return the flags that choose them."""
    (folder / f"{name}_model.py").write_text(MODEL.format(name=name))
    (folder / f"{name}_constants.py").write_text("DEPTH = 3\n")
    (folder / f"{name}_dataset.py").write_text(DATASET)
    return ["--model", f"./{name}_model.py", "--dataset_mode", f"{folder.name}/../{name}_dataset.py"]


def test_files_elsewhere_are_found_again_by_their_recorded_path(
    folder: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / folder.name).mkdir()
    flags = write_files(folder, "recorded")
    argv = ["--dataroot", str(pairs), *flags, "--name", "run", "--suffix", "{model}_{dataset_mode}"]
    options = parse(TrainOptions, argv, MODELS, DATASETS)
    assert (options.model.depth, options.run_name) == (3, "run_recorded_recorded")
    save(options)
    record = folder / "checkpoints" / "run_recorded_recorded" / "train_opt.json"
    values = json.loads(record.read_text())
    paths = [str(folder / f"recorded_{kind}.py") for kind in ("model", "dataset")]
    assert [values["model"], values["dataset_mode"]] == paths

    monkeypatch.chdir("/")
    for kind in (TrainOptions, TestOptions):
        again = parse(kind, ["--config", str(record)], MODELS, DATASETS)
        assert MODELS.get(again.run.model).__name__ == "MyModel" and again.model.depth == 3
        assert DATASETS.get(again.data.dataset_mode).__name__ == "MyDataset"


def test_spawned_workers_read_a_data_set_from_a_file(folder: Path, pairs: Path) -> None:
    write_files(folder, "spawned")
    argv = ["--dataroot", str(pairs), "--dataset_mode", "spawned_dataset.py", "--model", "pix2pix"]
    options = parse(TrainOptions, argv, MODELS, DATASETS)
    dataset = DATASETS.get(options.data.dataset_mode).from_options(options)
    loader = DataLoader(
        dataset,
        2,
        sampler=[(1, 0), (1, 1)],
        num_workers=1,
        multiprocessing_context="spawn",
        collate_fn=collate,
    )
    [collated] = list(loader)
    assert len(collated.batches[0]) == 2 and not collated.rejected


def test_files_elsewhere_train_resume_and_test(command: Command, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / tmp_path.name).mkdir()
    flags = write_files(tmp_path, "trained")
    small = ["--dataroot", pairs, "--gpu_ids", "-1", "--netG", "unet_32", "--ngf", 2, "--crop_size", 32]
    train = ["--n_epochs_decay", 0, "--num_threads", 2, "--no_html", "--load_size", 36]
    text = command("train.py", *flags, "--help").stdout
    assert "--depth INT" in text and "--blur_radius FLOAT" in text
    command("train.py", *flags, *small, *train, "--n_epochs", 1)
    command("train.py", *flags, *small, *train, "--n_epochs", 2, "--continue_train")
    record = tmp_path / "checkpoints" / "experiment_name" / "train_opt.json"
    output = command("test.py", "--config", record, "--dataroot", pairs).stdout
    assert "3 images: " in output


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("./absent_model.py", None, "absent_model.py: there is no such file"),
        ("nowhere/mine", None, "nowhere/mine: there is no such file"),
        ("empty_model.py", "x = 1", "empty_model.py defines 0 subclasses of BaseModel, expected one"),
        (
            "two_model.py",
            "from models.template_model import TemplateModel\n"
            "class A(TemplateModel): pass\n"
            "class B(TemplateModel): pass",
            "two_model.py defines 2 subclasses of BaseModel, expected one",
        ),
        ("statistics.py", "", "statistics.py: cannot be imported by its name: Python has another module"),
        ("a.b_model.py", "", "a.b_model.py: cannot be imported by its name; rename the file"),
    ],
)
def test_files_that_cannot_be_used_are_named(name: str, text: str | None, message: str, folder: Path) -> None:
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(UserError) as caught:
        parse(TrainOptions, ["--dataroot", "d", "--model", name], MODELS, DATASETS)
    assert str(caught.value).startswith("--model /") and message in str(caught.value)


def test_a_path_in_the_package_is_a_name() -> None:
    assert MODELS.canonical(str(ROOT / "models" / "pix2pix_model.py")) == "pix2pix"
    assert MODELS.get(str(ROOT / "models" / "pix2pix_model.py")) is MODELS.get("pix2pix")
    assert MODELS.canonical("pix2pix") == "pix2pix"
    sinks: Registry[object] = Registry("training.loggers", "sink", "--log", object)
    assert sinks.canonical(str(ROOT / "training" / "loggers" / "html_sink.py")) == "html"
    base = str(ROOT / "data" / "base_dataset.py")
    assert DATASETS.canonical(base) == base  # not registered


def test_short_names() -> None:
    assert [label(name) for name in ("pix2pix", "./my_model.py", "/a/b_dataset.py", "c.py")] == [
        "pix2pix",
        "my",
        "b",
        "c",
    ]


def test_names_and_classes_of_the_registries() -> None:
    registries: list[tuple[Registry, type]] = [(MODELS, BaseModel), (DATASETS, BaseDataset)]
    for registry, base in registries:
        assert "template" in registry.names() and "base" not in registry.names()
        assert all(issubclass(registry.get(name), base) for name in registry.names())
