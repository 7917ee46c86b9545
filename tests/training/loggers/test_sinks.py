"""The registry of sinks, TensorBoard and Weights & Biases read back, when sinks get images, and ``--log``."""

import json
import logging
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_experiment_plugin_data
from torch.distributed.run import get_args_parser
from wandb.proto.wandb_internal_pb2 import Record

import train
from data import DATASETS
from models import MODELS
from models.base_model import BaseModel
from options.option import flags_of
from options.parse import parse
from options.test_options import TestOptions
from options.train_options import TrainOptions
from tests.support.environment import ONE_THREAD, ROOT
from tests.support.training import FLAGS, training
from training import run
from training.loggers import SINKS, check_sinks
from training.loggers.base import Logger, LossRecord, MetricRecord, Sink
from training.loggers.tensorboard_sink import TensorBoardLog
from training.loggers.wandb_sink import WandbLog
from training.progress import Progress
from training.trainer import Trainer
from util.batch import Batch, Step
from util.errors import UserError


def record(step: int, loss: float = 0.5) -> LossRecord:
    return LossRecord(1, 0.5, step, step, 0.1, 0.1, 2e-4, {"G_L1": loss}, {"G": 1e-4, "D": 4e-4}, 5.0, 0.25)


def samples() -> list[dict[str, Any]]:
    return [{"real_A": np.full((4, 6, 3), 7, np.uint8), "grey": np.full((4, 6), 9, np.uint8)}]


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), {"scalars": 0, "images": 0})
    events.Reload()
    return events


def test_tensorboard_contains_a_run(pairs: Path, tmp_path: Path) -> None:
    flags = ["--log", "tensorboard", "--lr_D", "0.0004", "--n_epochs", "2", "--update_html_freq", "4"]
    flags += ["--val_freq", "2", "--val_phase", "train", "--metrics", "psnr"]
    assert training(pairs, tmp_path, *flags) == 0
    assert not (tmp_path / "run" / "web").exists()
    events = read(tmp_path / "run" / "tensorboard")
    lines = [json.loads(line) for line in (tmp_path / "run" / "losses.jsonl").read_text().splitlines()]
    assert [line["total_iters"] for line in lines] == [2, 4, 6, 8, 10, 12]

    def curve(tag: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in events.Scalars(tag)]

    def logged(*keys: str) -> list[tuple[int, Any]]:
        values = []
        for line in lines:
            value: Any = line
            for key in keys:
                value = value[key]
            values.append((line["total_iters"], pytest.approx(value, rel=1e-6)))
        return values

    assert "D_doubt" in lines[0]["diagnostics"]
    for name in lines[0]["diagnostics"]:
        assert curve(f"diagnostics/{name}") == logged("diagnostics", name)
    for loss in lines[0]["losses"]:
        assert curve(f"loss/{loss}") == logged("losses", loss)
    assert curve("learning_rate/G") == [(step, pytest.approx(0.0002)) for step in range(2, 13, 2)]
    assert curve("learning_rate/D") == [(step, pytest.approx(0.0004)) for step in range(2, 13, 2)]
    assert curve("speed/images_per_second") == logged("images_per_second")
    assert curve("memory/peak_GiB") == logged("peak_memory")
    for line in lines:
        assert line["images_per_second"] == pytest.approx(1 / (line["time"] + line["data"]))
        assert 0.05 < line["peak_memory"] < 64
    # every 4 images, and at the end of each epoch
    assert [event.step for event in events.Images("fake_B/1")] == [4, 6, 8, 12]
    assert events.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"
    experiment = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    columns = {info.name.tag for info in parse_experiment_plugin_data(experiment).metric_infos}
    assert columns == {*(f"loss/{loss}" for loss in lines[0]["losses"]), "metrics/psnr"}
    assert columns <= set(events.Tags()["scalars"])


def test_tensorboard_has_every_step_of_a_resumed_run_once(tmp_path: Path) -> None:
    def logs(progress: Progress, steps: range, value: float, complete: bool) -> None:
        log = TensorBoardLog(tmp_path, {"lr": 0.1, "inf": None}, progress)
        for step in steps:
            progress.images = step
            log.log_losses(record(step, value))
            log.log_metrics(MetricRecord(1, step, {"psnr": value}))
            log.log_visuals(1, samples())
        if complete:
            log.close()

    logs(Progress(), range(2, 13, 2), 1.0, complete=False)  # killed after 12, saved at 6
    logs(Progress(images=6), range(8, 11, 2), 2.0, complete=False)  # killed before it saved again
    logs(Progress(images=6), range(8, 15, 2), 3.0, complete=True)
    events = read(tmp_path)
    wanted = [(2, 1.0), (4, 1.0), (6, 1.0), (8, 3.0), (10, 3.0), (12, 3.0), (14, 3.0)]
    for tag in ("loss/G_L1", "metrics/psnr"):
        assert [(event.step, event.value) for event in events.Scalars(tag)] == wanted
    assert [event.step for event in events.Images("grey/1")] == [step for step, _ in wanted]

    logs(Progress(), range(2, 5, 2), 4.0, complete=True)  # a new run in the old folder
    assert [event.step for event in read(tmp_path).Scalars("loss/G_L1")] == [2, 4]


def complete(path: Path) -> list[Record]:
    """Return a file's records once wandb's service has written the last one, shortly after the end."""
    deadline = time.monotonic() + 30
    while not any(item.WhichOneof("record_type") == "exit" for item in history(path)):
        assert time.monotonic() < deadline, path
        time.sleep(0.02)
    return list(history(path))


def history(path: Path) -> Iterator[Record]:
    """Yield the records of a .wandb file: wandb's messages in LevelDB's log format."""
    content, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # it was the only part, or the last one
            yield Record.FromString(whole)
            whole = b""


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run wandb offline and silently, and stop its processes afterwards."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.teardown()


def test_wandb_contains_a_run_and_continues_it_when_it_resumes(tmp_path: Path, offline: None) -> None:
    def logs(images: int, resume: bool) -> tuple[str, list[Record]]:
        progress = Progress(images=images)
        log = WandbLog(tmp_path, "project", "run", {"lr": 0.1, "none": None}, progress, resume=resume)
        progress.images += 2
        log.log_losses(record(progress.images))
        log.log_visuals(1, samples())
        log.log_metrics(MetricRecord(1, progress.images, {"psnr": 21.5}))
        file, name = Path(log.run.settings.sync_file), log.run.id
        log.close()
        return name, complete(file)

    first, records = logs(0, resume=False)
    (run,) = (item.run for item in records if item.WhichOneof("record_type") == "run")
    assert (run.run_id, run.project, run.display_name) == (first, "project", "run")
    assert {item.key: item.value_json for item in run.config.update}["lr"] == "0.1"
    (history_item,) = (item.history for item in records if item.WhichOneof("record_type") == "history")
    values = {item.key or "/".join(item.nested_key): item.value_json for item in history_item.item}
    assert history_item.step.num == 2
    wanted = {
        "loss/G_L1": 0.5,
        "learning_rate/D": 4e-4,
        "speed/images_per_second": 5,
        "memory/peak_GiB": 0.25,
    }
    assert {name: float(values[name]) for name in wanted} == wanted
    assert (values["metrics/psnr"], values["grey/1/width"], values["epoch"]) == ("21.5", "6", "1")

    second, records = logs(2, resume=True)
    assert second == first
    assert [item.history.step.num for item in records if item.WhichOneof("record_type") == "history"] == [4]
    assert logs(0, resume=False)[0] != first


def test_wandb_that_fails_to_start_causes_one_warning(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def init(**arguments: Any) -> None:
        raise wandb.errors.UsageError("not logged in")

    monkeypatch.setattr(wandb, "init", init)
    assert training(pairs, tmp_path, "--use_wandb", "--n_epochs", "1", "--no_html") == 0
    warnings = [line.message for line in caplog.records if line.levelno >= logging.WARNING]
    assert warnings == ["--log wandb: UsageError: not logged in; training continues without it"]


@pytest.mark.parametrize("name", SINKS.names())
def test_every_sink_is_registered_by_its_file_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = SINKS.get(name)
    assert name in parse(TrainOptions, ["--dataroot", "d", "--log", name], MODELS, DATASETS).sinks
    assert sink.start.__func__ is not Sink.start.__func__  # type: ignore[attr-defined]
    flags = parse(TrainOptions, ["--dataroot", "d"], MODELS, DATASETS).values()
    assert sink.flags_read() <= flags.keys()
    if sink.package:  # its file is imported even where the package is absent
        monkeypatch.setitem(sys.modules, sink.package, None)
        monkeypatch.delitem(sys.modules, sink.__module__)
        assert SINKS.get(name).package == sink.package


def test_the_example_in_the_documentation_is_a_sink(pairs: Path, tmp_path: Path) -> None:
    passage = (ROOT / "docs" / "overview.md").read_text().split("**Your own logger**")[1]
    file = tmp_path / "table_sink.py"
    file.write_text(passage.split("```python\n")[1].split("```")[0])
    flags = ["--log", str(file), "--save_latest_freq", 4]
    assert training(pairs, tmp_path, *flags, "--n_epochs", 1) == 0
    assert training(pairs, tmp_path, *flags, "--n_epochs", 2, "--continue_train") == 0
    rows = [line.split(",") for line in (tmp_path / "run" / "losses.csv").read_text().splitlines()]
    lines = [json.loads(line) for line in (tmp_path / "run" / "losses.jsonl").read_text().splitlines()]
    assert [list(map(float, row)) for row in rows] == [
        [line["total_iters"], *line["losses"].values()] for line in lines
    ]
    assert len(rows) == 6 and not (tmp_path / "run" / "web").exists()


@pytest.mark.parametrize("name", [name for name in SINKS.names() if SINKS.get(name).package])
def test_an_absent_package_names_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = SINKS.get(name).package
    monkeypatch.setitem(sys.modules, package, None)
    argv = ["--dataroot", "nowhere", "--checkpoints_dir", str(tmp_path), *FLAGS, "--log", f"html,{name}"]
    with pytest.raises(
        UserError, match=f"--log {name} needs the package {package}: .*requirements-loggers.txt"
    ):
        train.main(argv)
    assert not list(tmp_path.iterdir())


def test_flags_of_sinks_that_are_not_chosen_cause_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def warnings(*flags: str) -> list[str]:
        caplog.clear()
        check_sinks(parse(TrainOptions, ["--dataroot", "d", *flags], MODELS, DATASETS))
        return [line.message for line in caplog.records]

    project = ("--log", "wandb", "--wandb_project_name", "p")
    display = ("--display_port", "1", "--display_freq", "2")
    assert warnings(*display, *project) == ["--display_port has no effect without --log visdom"]
    assert not warnings("--display_id", "1", *display, "--update_html_freq", "3")
    without_pages = "--update_html_freq has no effect without --log html or tensorboard"
    assert warnings(*project, "--update_html_freq", "3", "--html_samples", "2") == [without_pages]
    (warning,) = warnings("--log", "none", "--html_samples", "2")
    assert warning == f"--html_samples has no effect without --log {' or '.join(SINKS.names())}"


def test_torchrun_passes_on_every_flag(pairs: Path, tmp_path: Path) -> None:
    """torchrun itself parses train.py's flags for abbreviations of its own, such as --log for --log-dir."""
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    argv += [str(ROOT / "train.py"), "--dataroot", str(pairs), *FLAGS, "--checkpoints_dir", str(tmp_path)]
    argv += ["--n_epochs", "1", "--loggers", "tensorboard"]
    ran = subprocess.run(argv, capture_output=True, text=True, env=ONE_THREAD, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "run" / "tensorboard").is_dir() and not (tmp_path / "run" / "web").exists()

    parser = get_args_parser()
    groups = [group for kind in (TrainOptions, TestOptions) for group in kind.groups().values()]
    groups += [registry.get(name).Options for registry in (MODELS, DATASETS) for name in registry.names()]
    flags = {name for group in groups for name in flags_of(group)}
    assert {"log", "netG", "lambda_L1", "tile"} <= flags
    for name in flags - {"log"} | {"loggers"}:
        parser.parse_args(["train.py", f"--{name}", "value"])  # exits if it is ambiguous


class Counter(Sink):
    """Records how many images the run had seen at each call of `log_visuals`."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.shown: list[int] = []

    def log_visuals(self, epoch: int, samples: list[Any]) -> None:
        assert samples and "fake_B" in samples[0]
        self.shown.append(self.progress.images)


class LiveCounter(Counter):
    live = True


@pytest.mark.parametrize("kinds", [(), (Counter,), (LiveCounter,), (Counter, LiveCounter)])
def test_sinks_get_images_at_their_frequency_and_nothing_else_is_translated(
    kinds: tuple[type[Counter], ...], pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sinks: list[Counter] = []
    translated: list[int] = []

    def create_logger(options: Any, progress: Progress) -> Logger:
        sinks.extend(kind(progress) for kind in kinds)
        return Logger(options.run_folder, list(sinks))

    translate = BaseModel.translate

    steps: list[Batch] = []
    step = Trainer.step

    def counted_step(trainer: Trainer, batch: Batch, monitor: bool = False) -> Step:
        steps.append(batch)
        return step(trainer, batch, monitor)

    def counted(model: BaseModel, *arguments: Any) -> Any:
        translated.append(len(steps))
        return translate(model, *arguments)

    monkeypatch.setattr(run, "create_logger", create_logger)
    monkeypatch.setattr(Trainer, "step", counted_step)
    monkeypatch.setattr(BaseModel, "translate", counted)
    flags = ["--n_epochs", "2", "--update_html_freq", "5", "--display_freq", "4", "--html_samples", "1"]
    assert training(pairs, tmp_path, *flags) == 0
    wanted: dict[type[Counter], list[int]] = {Counter: [5, 6, 10, 12], LiveCounter: [4, 6, 8, 12, 12]}
    assert {type(sink): sink.shown for sink in sinks} == {kind: wanted[kind] for kind in kinds}
    turns = sorted([step for kind in kinds for step in wanted[kind]])
    if len(kinds) == 2:  # both are shown the same translations at the ends of epochs
        turns = [4, 5, 6, 8, 10, 12, 12]
    assert translated == turns
