"""Validation between epochs: its numbers are test.py's, it keeps the best model, ends runs, and resumes."""

import json
from pathlib import Path

import pytest
import torch

import test
import train
from data import DATASETS
from models import MODELS
from options.parse import parse
from options.train_options import TrainOptions
from util.errors import UserError

FLAGS = ["--model=pix2pix", "--netG=unet_32", "--ngf=4", "--ndf=4", "--norm=instance", "--load_size=36"]
FLAGS += ["--crop_size=32", "--gpu_ids=-1", "--num_threads=0", "--no_html", "--name=run", "--lr=0.01"]
FLAGS += ["--n_epochs_decay=0", "--metrics=psnr,l1", "--save_epoch_freq=1"]


def run(folder: Path, dataroot: Path, *flags: str) -> int:
    return train.main([f"--dataroot={dataroot}", f"--checkpoints_dir={folder}", *FLAGS, *flags])


def found(folder: Path) -> list[dict[str, dict[str, float]]]:
    return [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]


def weights(folder: Path, tag: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"run/{tag}_net_G.pth", weights_only=True)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_best_model_is_kept_and_its_numbers_are_test_s(pairs: Path, tmp_path: Path) -> None:
    run(tmp_path, pairs, "--n_epochs=4", "--val_freq=1", "--best=psnr")
    records = found(tmp_path)
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    values = [record["metrics"]["psnr"] for record in records]
    best = 1 + values.index(max(values))
    kept = weights(tmp_path, "best")
    assert [epoch for epoch in range(1, 5) if equal(kept, weights(tmp_path, str(epoch)))] == [best]

    flags = ["--model=pix2pix", "--name=run", "--crop_size=32", "--gpu_ids=-1", "--num_threads=0"]
    places = [f"--dataroot={pairs}", f"--checkpoints_dir={tmp_path}", f"--results_dir={tmp_path}/results"]
    test.main([*places, *flags, "--phase=val", "--epoch=best", "--metrics=psnr,l1"])
    measured = json.loads((tmp_path / "results/run/val_best/metrics.json").read_text())["mean"]
    assert measured == pytest.approx(records[best - 1]["metrics"], rel=1e-6)


def test_it_changes_nothing_ends_early_and_resumes(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped after two epochs and continued, a run finds what one that went through finds."""
    validation = ["--val_freq=1", "--best=l1", "--val_size=1", "--patience=2"]
    plain, through, cut = (tmp_path / name for name in ("plain", "through", "cut"))
    run(plain, pairs, "--n_epochs=2")
    with caplog.at_level("INFO"):
        run(through, pairs, "--n_epochs=40", *validation)
    assert "--patience 2: no better l1 since epoch" in caplog.text
    assert equal(weights(plain, "2"), weights(through, "2"))
    values = [record["metrics"]["l1"] for record in found(through)]
    assert len(values) < 40 and values.index(min(values)) == len(values) - 3

    run(cut, pairs, "--n_epochs=2", *validation)
    for _ in range(2):  # the second time it has ended
        run(cut, pairs, "--n_epochs=40", *validation, "--continue_train")
        assert found(cut) == found(through)


def test_flags_of_validation_alone_are_said_to_do_nothing(
    pairs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parse(TrainOptions, [f"--dataroot={pairs}", *FLAGS, "--val_size=2"], MODELS, DATASETS)
    for name in ("metrics", "val_size"):
        assert f"--{name} has no effect in training without --val_freq" in caplog.text
    assert caplog.text.count("--val_freq") == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--best=psnr"], "--best psnr needs --val_freq"),
        (["--val_freq=1", "--best=pnsr"], "--best pnsr: no such metric"),
        (["--val_freq=1", "--patience=3"], "--patience 3 needs --best"),
        (["--val_freq=1", "--val_phase=other"], "other"),
    ],
)
def test_what_cannot_be_is_refused(flags: list[str], message: str, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, pairs, "--n_epochs=1", *flags)


def test_a_best_that_cannot_be_found_ends_a_saved_run(data: dict[str, Path], tmp_path: Path) -> None:
    """Images without a truth."""
    flags = ["--model=cycle_gan", "--netG=resnet_6blocks", "--n_epochs=1", "--val_freq=1", "--val_phase=test"]
    with pytest.raises(UserError, match=r"--best l1: not found in validation: .* no truth"):
        run(tmp_path, data["unaligned"], *flags, "--best=l1")
    assert (tmp_path / "run/latest_state.pth").exists()
