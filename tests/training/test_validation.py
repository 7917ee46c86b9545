"""Validation between epochs: its numbers are test.py's, it keeps the best model, ends runs, and resumes."""

import itertools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import test
import train
from data import DATASETS
from models import MODELS, create_model
from models.pix2pix_model import Pix2PixModel
from options.parse import parse
from options.train_options import TrainOptions
from training.validation import Validation
from util.batch import Batch
from util.errors import UserError
from util.stopping import STOPPED_STATUS

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


def test_masked_bands_are_judged_in_their_units(tmp_path: Path) -> None:
    """The target has five bands in units of its own; validation and test.py agree."""
    rng = np.random.default_rng(0)
    for phase in ("train", "val"):
        for folder in "ABM":
            (tmp_path / f"{phase}{folder}").mkdir()
        for name in ("a", "b"):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                tmp_path / f"{phase}A/{name}.png"
            )
            bands = rng.uniform(-1000, 3000, (5, 32, 32)).astype(np.float32)
            np.save(tmp_path / f"{phase}B/{name}.npy", bands)
            mask = np.zeros((32, 32), np.uint8)
            mask[:16] = 255
            Image.fromarray(mask).save(tmp_path / f"{phase}M/{name}.png")
    flags = [f"--dataroot={tmp_path}", f"--checkpoints_dir={tmp_path}", "--model=pix2pix", "--mask=true"]
    flags += ["--crop_size=32", "--load_size=32", "--gpu_ids=-1", "--num_threads=0", "--name=run"]
    training = ["--netG=unet_32", "--ngf=2", "--ndf=2", "--no_html", "--n_epochs=1", "--n_epochs_decay=0"]
    training += ["--output_nc=5", "--output_range=-1000,3000", "--val_freq=1", "--best=mae"]
    train.main([*flags, *training])
    (record,) = found(tmp_path)
    assert list(record["metrics"]) == ["psnr", "ssim", "l1", "mae", "rmse"]

    test.main([*flags, "--phase=val", "--epoch=best", f"--results_dir={tmp_path}/results"])
    gallery = tmp_path / "results/run/val_best"
    document = json.loads((gallery / "metrics.json").read_text())
    means = document["mean"]
    overall = {name: value for name, value in means.items() if not name.endswith("]")}
    assert overall == pytest.approx(record["metrics"], rel=1e-6)
    bands = [means[f"mae[{band}]"] for band in range(1, 6)]
    assert means["mae"] == pytest.approx(sum(bands) / 5)
    for row in document["pictures"]:
        fake = tifffile.imread(gallery / f"native/{row['name']}_fake_B.tif")
        real = np.load(tmp_path / f"valB/{row['name']}.npy")
        errors = np.abs(fake.astype(np.float64) - real)[:, :16]
        assert row["mae"] == pytest.approx(errors.mean(), rel=1e-6)
        assert row["mae[5]"] == pytest.approx(errors[4].mean(), rel=1e-6)


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


def test_averages_are_judged_and_nothing_else_changes(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With --ema_decay samples, validation and --best judge the weights that test.py --ema uses."""
    averaged, plain = ["--n_epochs=3", "--ema_decay=0.8", "--lr=0.02"], tmp_path / "plain"
    pages = [f"--dataroot={pairs}", *(flag for flag in FLAGS if flag != "--no_html"), "--html_samples=1"]
    validation = ["--val_freq=1", "--best=psnr"]
    with caplog.at_level("INFO"):
        train.main([f"--checkpoints_dir={tmp_path}", *pages, *averaged, *validation])
    assert "samples, validation and --best judge the averaged weights" in caplog.text
    assert "(epoch: 1, validation, averaged weights) psnr" in caplog.text
    assert "<h2>epoch 1, averaged weights</h2>" in (tmp_path / "run/web/index.html").read_text()
    run(plain, pairs, *averaged)
    for kind in ("", "_ema"):
        weights_of = [torch.load(f / f"run/3_net_G{kind}.pth", weights_only=True) for f in (tmp_path, plain)]
        assert equal(*weights_of)

    records = found(tmp_path)
    values = [record["metrics"]["psnr"] for record in records]
    best = 1 + values.index(max(values))
    kept = torch.load(tmp_path / "run/best_net_G_ema.pth", weights_only=True)
    assert equal(kept, torch.load(tmp_path / f"run/{best}_net_G_ema.pth", weights_only=True))
    assert equal(weights(tmp_path, "best"), weights(tmp_path, str(best)))
    flags = ["--model=pix2pix", "--name=run", "--crop_size=32", "--gpu_ids=-1", "--num_threads=0"]
    places = [f"--dataroot={pairs}", f"--checkpoints_dir={tmp_path}", f"--results_dir={tmp_path}/results"]
    measured = []
    for choice in ([], ["--ema"]):
        test.main([*places, *flags, "--phase=val", "--epoch=best", "--metrics=psnr,l1", *choice])
        file = tmp_path / "results/run/val_best/metrics.json"
        measured.append(json.loads(file.read_text())["mean"])
    assert measured[1] == pytest.approx(records[best - 1]["metrics"], rel=1e-6) != measured[0]
    assert caplog.text.count("it was chosen by best_net_G_ema.pth; --ema") == 1

    places[0] = f"--dataroot={pairs / 'val'}"
    with pytest.raises(UserError, match="needs images of both sides"):
        test.main([*places, *flags, "--phase=val", "--epoch=best", "--dataset_mode=single"])
    assert file.exists()  # the earlier results are left alone


def test_a_best_value_of_other_weights_is_forgotten(
    data: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """States of older versions, which measured the plain weights, do not say whether they are averages."""
    flags = [f"--dataroot={data['aligned']}", *FLAGS, "--val_freq=1", "--val_phase=test", "--best=psnr"]
    before = {"watched": "psnr", "best": 30.0, "epoch": 4, "stale": 1}
    for ema_decay, expected in (("0", 4), ("0.9", 0)):
        options = parse(TrainOptions, [*flags, f"--ema_decay={ema_decay}"], MODELS, DATASETS)
        validation = Validation.from_options(options, torch.device("cpu"))
        assert validation is not None
        validation.load_state_dict(before)
        assert validation.best_epoch == expected
    assert "the best value so far is forgotten, as it is psnr of the plain weights" in caplog.text


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


def test_a_best_that_cannot_be_found_is_refused_at_the_start(data: dict[str, Path], tmp_path: Path) -> None:
    """Images without a truth, also where an earlier run has the name: it stays as it is."""
    earlier = tmp_path / "run" / "latest_net_G_A.pth"
    earlier.parent.mkdir()
    earlier.write_bytes(b"weights")
    flags = ["--model=cycle_gan", "--netG=resnet_6blocks", "--n_epochs=1", "--val_freq=1", "--val_phase=test"]
    with pytest.raises(UserError, match=r"--best l1: not found in validation: .* no truth"):
        run(tmp_path, data["unaligned"], *flags, "--best=l1")
    assert earlier.exists() and not (tmp_path / "run/train_opt.txt").exists()
    argv = [f"--dataroot={data['unaligned']}", *FLAGS, *flags, "--val_size=1", "--best=psnr"]
    options = parse(TrainOptions, argv, MODELS, DATASETS)
    validation = Validation.from_options(options, torch.device("cpu"))
    assert validation is not None
    validation.watched = "fid"
    with pytest.raises(UserError, match=r"--best fid: it needs two images"):
        validation.check(create_model(options, torch.device("cpu")))


def test_a_stop_signal_interrupts_it_and_a_resumed_run_repeats_it(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--n_epochs=2", "--val_freq=1", "--best=psnr", "--lr_policy=plateau"]
    through, cut = tmp_path / "through", tmp_path / "cut"
    run(through, pairs, *flags)
    translate, calls = Pix2PixModel.translate, itertools.count()

    def interrupted(self: Pix2PixModel, batch: Batch) -> dict[str, torch.Tensor]:
        if next(calls) == 1:
            os.kill(os.getpid(), signal.SIGHUP)
        return translate(self, batch)

    monkeypatch.setattr(Pix2PixModel, "translate", interrupted)
    assert run(cut, pairs, *flags) == STOPPED_STATUS
    assert found(cut) == []
    assert run(cut, pairs, *flags, "--continue_train") == 0
    assert found(cut) == found(through)
    for tag in ("best", "1", "2", "latest"):
        assert equal(weights(cut, tag), weights(through, tag))
