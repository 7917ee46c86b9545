"""``--debug`` and ``--overfit``."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import test
from data import DATASETS, Loader, create_loader
from models import MODELS
from models.generators.unet import UnetGenerator
from options.parse import parse
from options.test_options import TestOptions
from options.train_options import TrainOptions
from tests.support.shards import pack
from tests.support.training import training

CPU = torch.device("cpu")


def options(*flags: str) -> TrainOptions:
    return parse(TrainOptions, ["--dataroot", "d", *flags], MODELS, DATASETS)


def test_debug_runs_everything_in_one_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config = tmp_path / "c.json"
    config.write_text(json.dumps({"num_threads": 8, "compile": True, "cuda_graph": "auto"}))
    debug = options("--debug", "--config", str(config))
    assert (debug.data.num_threads, debug.speed.compile, debug.speed.cuda_graph) == (0, False, "off")
    assert "--debug: --num_threads 0 --cuda_graph off --compile false" in caplog.text
    assert options("--debug", "--num_threads", "2").data.num_threads == 2  # an explicit flag wins
    testing = parse(TestOptions, ["--dataroot", "d", "--debug"], MODELS, DATASETS)
    assert (testing.data.num_threads, testing.speed.compile) == (0, False)


def test_debug_names_the_operation_whose_gradient_is_nan(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = UnetGenerator.forward

    def broken(net: UnetGenerator, x: torch.Tensor) -> torch.Tensor:
        y = forward(net, x)
        return y + (y * 0).sqrt()  # 0, with an infinite derivative times 0

    monkeypatch.setattr(UnetGenerator, "forward", broken)
    line = r"return y \+ \(y \* 0\)\.sqrt\(\)"
    with pytest.warns(UserWarning, match=line), pytest.raises(RuntimeError, match="nan values"):
        training(pairs, tmp_path, "--debug", "--n_epochs", 1)
    assert not torch.is_anomaly_enabled()


def test_debug_changes_nothing_else(pairs: Path, tmp_path: Path) -> None:
    losses = []
    for name, flags in (("plain", ()), ("debug", ("--debug",))):
        assert training(pairs, tmp_path / name, "--n_epochs", 1, *flags) == 0
        lines = (tmp_path / name / "run" / "losses.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["losses"] for line in lines])
    assert losses[0] == losses[1] and losses[0]


def samples(loader: Loader, epoch: int, start: int = 0) -> list[tuple[Any, ...]]:
    """The samples of an epoch in their order."""
    found = []
    for batch in loader.epoch(epoch, start):
        for i in range(len(batch)):
            B = None if batch.B is None else batch.B[i].tolist()
            found.append((int(batch.index[i]), batch.A[i].tolist(), B, batch.paths_A[i], batch.paths_B[i]))
    return found


MODES = [mode for mode in DATASETS.names() if DATASETS.get(mode).trains]


@pytest.mark.parametrize(
    ("mode", "stream"), [*((mode, False) for mode in MODES), ("aligned", True), ("unaligned", True)]
)
def test_overfitting_repeats_the_first_samples_as_they_are(
    mode: str, stream: bool, data: dict[str, Path], tmp_path: Path
) -> None:
    root = str(data[mode])
    if stream:
        shards = pack(data[mode], tmp_path / "shards", mode, "--per_shard", "2")
        names = ",".join(sorted(path.name for path in shards.glob("*.tar")))
        root = f"pipe:cat {shards}/{{{names}}}"
    argv = ["--dataset_mode", mode, "--dataroot", root, "--model", "pix2pix", "--load_size", "28"]
    argv += ["--crop_size", "24", "--num_threads", "0", "--batch_size", "2", "--gpu_ids", "-1"]
    loader = create_loader(parse(TrainOptions, [*argv, "--overfit", "3"], MODELS, DATASETS), CPU)
    assert len(loader) == 3
    first = samples(loader, 1)
    assert len(first) == 3 and {sample[0] for sample in first} <= {0, 1, 2}
    assert samples(loader, 2) == first and samples(loader, 7) == first
    assert samples(loader, 7, start=2) == first[2:]  # where a run resumes
    usual = create_loader(parse(TrainOptions, argv, MODELS, DATASETS), CPU)
    assert samples(usual, 1) != samples(usual, 2)


def test_a_model_learns_the_images_that_it_overfits(pairs: Path, tmp_path: Path) -> None:
    flags = [
        "--overfit",
        2,
        "--n_epochs",
        60,
        "--lr",
        0.01,
        "--no_dropout",
        "--norm",
        "instance",
        "--no_html",
    ]
    assert training(pairs, tmp_path, *flags, "--model", "template", "--val_freq", 60) == 0
    folder = tmp_path / "run"
    losses = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert len(losses) == 60 and losses[-1]["total_iters"] == 120
    assert losses[-1]["losses"]["G_L1"] < losses[0]["losses"]["G_L1"] / 2
    (metrics,) = (folder / "metrics.jsonl").read_text().splitlines()  # on all images of val
    assert json.loads(metrics)["metrics"].keys() >= {"psnr", "ssim"}


def test_a_resumed_run_overfits_the_same_images(pairs: Path, tmp_path: Path) -> None:
    def lines(folder: Path) -> list[dict[str, float]]:
        lines = (folder / "run" / "losses.jsonl").read_text().splitlines()
        return [json.loads(line)["losses"] for line in lines]

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    flags = ["--overfit", 3, "--print_freq", 1]
    assert training(pairs, whole, *flags, "--n_epochs", 2) == 0
    assert training(pairs, resumed, *flags, "--n_epochs", 1) == 0
    assert training(pairs, resumed, *flags, "--n_epochs", 2, "--continue_train") == 0
    assert lines(resumed) == lines(whole) and len(lines(whole)) == 6


def test_test_prints_its_options(pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert training(pairs, tmp_path, "--n_epochs", 1) == 0
    caplog.set_level(logging.INFO)
    places = ["--checkpoints_dir", str(tmp_path), "--results_dir", str(tmp_path / "results")]
    argv = ["--dataroot", str(pairs), "--name", "run", "--model", "pix2pix", "--gpu_ids", "-1", *places]
    assert test.main([*argv, "--crop_size", "32"]) == 0
    saved = (tmp_path / "results" / "run" / "test_latest" / "test_opt.txt").read_text()
    assert saved in [f"{line.message}\n" for line in caplog.records]
