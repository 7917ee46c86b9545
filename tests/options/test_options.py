"""Flags: the peer's names and defaults, precedence, messages, and the files that record them."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from data import DATASETS
from models import MODELS
from options.base_options import CommandOptions
from options.option import Fixed, cosmetic_flags, flags_of
from options.parse import parse, save
from options.records import read_opt_txt
from options.test_options import TestOptions
from options.train_options import TrainOptions
from tests.support.environment import ROOT
from util.errors import UserError

# Name and default of every flag of junyanz/pytorch-CycleGAN-and-pix2pix with --model pix2pix.
PEER_BASE = {
    "name": "experiment_name",
    "gpu_ids": "0",
    "checkpoints_dir": "./checkpoints",
    "model": "pix2pix",
    "input_nc": 3,
    "output_nc": 3,
    "ngf": 64,
    "ndf": 64,
    "netD": "basic",
    "netG": "unet_256",
    "n_layers_D": 3,
    "norm": "batch",
    "init_type": "normal",
    "init_gain": 0.02,
    "no_dropout": False,
    "dataset_mode": "aligned",
    "direction": "AtoB",
    "num_threads": 4,
    "batch_size": 1,
    "crop_size": 256,
    "max_dataset_size": None,
    "preprocess": "resize_and_crop",
    "display_winsize": 256,
    "epoch": "latest",
    "load_iter": 0,
    "verbose": False,
    "suffix": "",
    "use_wandb": False,
    "wandb_project_name": "CycleGAN-and-pix2pix",
}
PEER_TRAIN = PEER_BASE | {
    "load_size": 286,
    "serial_batches": False,
    "no_flip": False,
    "phase": "train",
    "display_freq": 400,
    "display_ncols": 4,
    "display_id": 0,  # the peer: 1
    "display_server": "http://localhost",
    "display_env": "main",
    "display_port": 8097,
    "update_html_freq": 1000,
    "print_freq": 100,
    "no_html": False,
    "save_latest_freq": 5000,
    "save_epoch_freq": 5,
    "save_by_iter": False,
    "continue_train": False,
    "epoch_count": 1,
    "n_epochs": 100,
    "n_epochs_decay": 100,
    "beta1": 0.5,
    "lr": 0.0002,
    "gan_mode": "vanilla",
    "pool_size": 0,
    "lr_policy": "linear",
    "lr_decay_iters": 50,
    "lambda_L1": 100.0,
}
PEER_TEST = PEER_BASE | {
    "load_size": 256,
    "batch_size": 4,
    "serial_batches": True,  # the peer's test.py sets these two itself
    "no_flip": True,
    "phase": "test",
    "results_dir": "./results/",
    "aspect_ratio": 1.0,
    "eval": False,
    "num_test": None,  # the peer: 50
}
OWN = {
    "debug": False,
    "deterministic": False,
    "bad_images": "skip",
    "exact_resize": False,
    "max_image_gb": 0.9,
    "precision": "fp32",
    "seed": 0,
    "config": "",
    "attention": "none",
    "attention_nets": "GD",
    "spectral_norm": "none",
    "upsample": "deconv",
    "padding": "reflect",
    "speed": "auto",
    "compile": False,
    "metrics": "psnr,ssim,l1",
    "lpips_weights": "download",
    "inception_weights": "download",
    "input_range": "8bit",
    "output_range": "8bit",
    "input_bands": "",
    "output_bands": "",
    "nan_value": None,
    "inputs": "",
    "outputs": "",
    "label_nc": 0,
    "label_ignore": None,
    "label_colors": "",
    "no_instance": False,
    "mask": False,
    "tiff_pages": "samples",
    "slice_axis": 2,
    "value_ranges": "",
    "display_range": "",
    "display_bands": "",
}
OWN_TRAIN = OWN | {
    "overfit": 0,
    "cuda_graph": "off",
    "log": "html",
    "html_samples": 4,
    "val_freq": 0,
    "val_phase": "val",
    "val_size": None,
    "best": "",
    "patience": None,
    "lambda_gp": 10.0,
    "on_nan": "stop",
    "save_latest_minutes": 15.0,
    "keep_last": None,
    "keep_state": "all",
    "init_from": "",
    "beta2": 0.999,
    "lambda_r1": 0.0,
    "r1_every": 16,
    "label_smoothing": 0.0,
    "n_critic": 1,
    "lr_G": 0.0,
    "lr_D": 0.0,
    "clip_grad": None,
    "accumulate": 1,
    "checkpointing": False,
    "ema_decay": 0.0,
    "diffaug": "none",
    "instance_noise": 0.0,
    "instance_noise_epochs": 0,
    "cache": "none",
    "cache_limit": 4.0,
    "cache_dir": "./cache/",
    "augment": "none",
}
OWN_TEST = OWN | {"tile": None, "ema": False, "format": "auto", "png_level": 1}


def train(*argv: str) -> TrainOptions:
    return parse(TrainOptions, ["--dataroot", "d", "--model", "pix2pix", *argv], MODELS, DATASETS)


def test(*argv: str) -> TestOptions:
    return parse(TestOptions, ["--dataroot", "d", "--model", "pix2pix", *argv], MODELS, DATASETS)


test.__test__ = False  # type: ignore[attr-defined]


def test_flags_and_defaults_are_the_peers_and_ours() -> None:
    assert train().values() == PEER_TRAIN | OWN_TRAIN | {"dataroot": "d"}
    assert test().values() == PEER_TEST | OWN_TEST | {"dataroot": "d"}


def test_testing_takes_one_image_at_a_time_where_nothing_is_cut() -> None:
    assert test("--preprocess", "none").data.batch_size == 1
    assert test("--preprocess", "scale_width").data.batch_size == 1
    assert test("--preprocess", "none", "--batch_size", "3").data.batch_size == 3
    assert test("--preprocess", "crop", "--batch_size", "1").data.batch_size == 1


def test_default_metrics_depend_on_the_output_range() -> None:
    assert test("--input_range", "full").metric_names == ("psnr", "ssim", "l1")
    assert test("--output_range", "full").metric_names == ("psnr", "ssim", "l1", "mae", "rmse")
    assert test("--output_range", "0,9", "--metrics", "psnr").metric_names == ("psnr",)


def test_options_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        train().data.batch_size = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lamda_L1", "5"], "--lamda_L1: there is no such flag; did you mean --lambda_L1?"),
        (["--netG", "unet_257"], "--netG unet_257: no such choice; did you mean unet_256?"),
        (["--model", "pix2pics"], "there is no such model; did you mean pix2pix?"),
        (["--dataset_mode", "alined"], "there is no such dataset; did you mean aligned?"),
        (["--dataroo", "x"], "did you mean --dataroot?"),  # no abbreviations
        (["--batch_size", "0"], "--batch_size 0: expected a whole number not below 1"),
        (["--batch_size", "2.5"], "--batch_size 2.5: expected a whole number"),
        (["--lr", "0"], "--lr 0.0: expected a number above 0"),
        (["--lr", "nan"], "--lr nan: expected a number"),
        (["--lambda_L1", "inf"], "--lambda_L1 inf: expected a number not below 0"),
        (["--n_epochs", "inf"], "--n_epochs inf: expected a whole number"),
        (["--beta1", "1"], "--beta1 1.0: expected a number not below 0 and below 1"),
        (["--netG", "zzz"], "--netG zzz: no such choice. Choices: "),
        (["--zzzzz", "1"], "--zzzzz: there is no such flag. --help lists"),
        (["--no_flip", "maybe"], "--no_flip maybe: expected true or false"),
        (["--lr"], "expected one argument"),
        (["facades"], "facades: a value without a flag"),
        (["--load_size", "200"], "--crop_size 256 is larger than the images"),
        (["--config", "none.json"], "none.json: cannot be read"),
        (["--num_test", "5"], "--num_test: there is no such flag"),
        (["--log", "html,tensorbord"], "--log tensorbord: no such choice; did you mean tensorboard?"),
        (
            ["--log", "paper"],
            "--log paper: no such choice. Choices, with commas: html, tensorboard, visdom, wandb",
        ),
        (["--log", ""], "--log : no such choice"),
    ],
)
def test_mistakes_are_named(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        train(*argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dataroot_is_required() -> None:
    with pytest.raises(UserError, match="--dataroot is required"):
        parse(TrainOptions, ["--model", "pix2pix"], MODELS, DATASETS)


def test_help_is_complete_and_true_for_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for flag in PEER_TRAIN | OWN_TRAIN:
        assert f"--{flag} " in text or f"--{flag}]" in text
    assert "--norm STR normalisation layers (one of instance, batch, none; default: batch)" in text
    assert "default: 100.0" in text[text.rindex("--lambda_L1") :]


def write(path: Path, values: dict[str, Any]) -> str:
    path.write_text(json.dumps(values))
    return str(path)


def test_precedence(tmp_path: Path) -> None:
    assert train().network.norm == "batch"  # the model's default over the group's
    config = write(tmp_path / "c.json", {"norm": "none", "ngf": 8, "no_flip": True, "max_dataset_size": None})
    options = train("--config", config, "--ngf", "16", "--no_flip", "false")
    assert (options.network.norm, options.network.ngf, options.data.no_flip) == ("none", 16, False)
    assert options.explicit == {"dataroot", "model", "config", "ngf", "no_flip"}


def test_the_config_file_may_choose_the_model_and_the_data(tmp_path: Path) -> None:
    config = write(tmp_path / "c.json", {"model": "pix2pix", "dataroot": "elsewhere", "lambda_L1": 3})
    options = parse(TrainOptions, ["--config", config], MODELS, DATASETS)
    assert (options.run.model, options.run.dataroot, options.model.lambda_L1) == ("pix2pix", "elsewhere", 3.0)


@pytest.mark.parametrize(("values", "message"), [({"ngff": 3}, "--ngf"), ({"ngf": "many"}, "--ngf many")])
def test_the_config_file_is_validated(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train("--config", write(tmp_path / "c.json", values))


def test_recorded_options_come_back(tmp_path: Path) -> None:
    options = train("--checkpoints_dir", str(tmp_path), "--name", "run", "--ngf", "8", "--suffix", "{netG}")
    save(options)
    folder = tmp_path / "run_unet_256"
    again = parse(TrainOptions, ["--config", str(folder / "train_opt.json")], MODELS, DATASETS)
    assert again.values() == options.values() | {"config": str(folder / "train_opt.json")}

    text = (folder / "train_opt.txt").read_text()
    assert f"{'ngf':>25}: {'8':<30}\t[default: 64]\n" in text
    assert f"{'max_dataset_size':>25}: {'inf':<30}\n" in text
    recorded = read_opt_txt(text)
    assert recorded.keys() == options.values().keys()
    assert (recorded["name"], recorded["suffix"], recorded["norm"]) == ("run_unet_256", "{netG}", "batch")


def test_a_training_record_serves_as_config_for_testing(tmp_path: Path) -> None:
    options = train("--checkpoints_dir", str(tmp_path), "--name", "run", "--ngf", "8", "--crop_size", "128")
    save(options)
    record = str(tmp_path / "run" / "train_opt.json")
    assert parse(TestOptions, ["--config", record], MODELS, DATASETS).run.model == "pix2pix"
    testing = parse(TestOptions, ["--config", record, "--model", "pix2pix"], MODELS, DATASETS)
    assert (testing.run.name, testing.network.ngf, testing.data.crop_size) == ("run", 8, 128)
    assert (testing.data.phase, testing.data.load_size, testing.data.no_flip) == ("test", 128, True)


def test_a_model_may_have_other_defaults_in_testing(tmp_path: Path) -> None:
    argv = ["--model", "dcgan", "--checkpoints_dir", str(tmp_path), "--name", "run"]
    training = parse(TrainOptions, [*argv, "--dataroot", "d", "--crop_size", "32"], MODELS, DATASETS)
    assert (training.data.dataset_mode, training.data.load_size) == ("images", 32)
    save(training)
    record = str(tmp_path / "run" / "train_opt.json")
    for config in ([], ["--config", record]):
        testing = parse(TestOptions, [*argv, *config, "--num_samples", "5"], MODELS, DATASETS)
        assert (testing.data.dataset_mode, testing.dataset.num_samples) == ("latent", 5)
        # The size belongs to this model's architecture.
        assert (testing.data.crop_size, testing.data.load_size) == (32, 32)
    chosen = write(tmp_path / "c.json", {"dataset_mode": "images", "dataroot": "d"})
    for given in (["--dataset_mode", "images", "--dataroot", "d"], ["--config", chosen]):
        testing = parse(TestOptions, [*argv, *given], MODELS, DATASETS)
        assert (testing.data.dataset_mode, testing.run.dataroot) == ("images", "d")
    with pytest.raises(UserError, match="--dataroot is required"):
        parse(TestOptions, [*argv, "--dataset_mode", "images"], MODELS, DATASETS)
    with pytest.raises(UserError, match="--num_samples: there is no such flag"):
        parse(TrainOptions, [*argv, "--dataroot", "d", "--num_samples", "5"], MODELS, DATASETS)


def recorded_run(folder: Path, form: str) -> list[str]:
    """A run trained with unusual flags, recorded by us or in the peer's form."""
    flags = ["--netG", "unet_128", "--ngf", "8", "--no_dropout", "--input_nc", "1", "--direction", "BtoA"]
    save(train("--checkpoints_dir", str(folder), "--name", "run", *flags))
    if form == "txt":
        (folder / "run" / "train_opt.json").unlink()
    return ["--checkpoints_dir", str(folder), "--name", "run"]


def architecture(options: CommandOptions) -> tuple[Any, ...]:
    network = options.network
    return network.netG, network.ngf, network.no_dropout, network.input_nc, options.data.direction


@pytest.mark.parametrize("form", ["json", "txt"])
def test_testing_takes_the_architecture_from_the_checkpoint(tmp_path: Path, form: str) -> None:
    argv = recorded_run(tmp_path, form)
    assert architecture(test(*argv)) == ("unet_128", 8, True, 1, "BtoA")
    overridden = test(*argv, "--ngf", "16", "--no_dropout", "false", "--direction", "AtoB")
    assert architecture(overridden) == ("unet_128", 16, False, 1, "AtoB")


def test_a_flag_without_effect_is_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    train("--n_layers_D", "5")
    assert "--n_layers_D 5 has no effect without --netD n_layers" in caplog.text
    caplog.clear()
    train("--n_layers_D", "5", "--netD", "n_layers")
    assert not caplog.text


@pytest.mark.parametrize(
    ("flags", "sinks"),
    [
        ("", ("html",)),
        ("--no_html", ()),
        ("--log none", ()),
        ("--log wandb,tensorboard", ("tensorboard", "wandb")),
        ("--display_id 3 --use_wandb", ("html", "visdom", "wandb")),
        ("--display_id -1 --log visdom,html --no_html", ("visdom",)),
    ],
)
def test_the_peers_flags_ask_for_sinks_too(flags: str, sinks: tuple[str, ...]) -> None:
    assert train(*flags.split()).sinks == sinks


FIXED = {"pool_size": Fixed(0, "it keeps no earlier fakes"), "netG": "unet_64", "no_dropout": True}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--pool_size 5",
            "--pool_size 5: pix2pix supports only --pool_size 0 (it keeps no earlier fakes)",
        ),
        ("--netG unet_128", "--netG unet_128: pix2pix supports only --netG unet_64"),
        ("--no_dropout false", "--no_dropout false: pix2pix supports only --no_dropout true"),
    ],
)
def test_a_model_supports_one_value_of_a_flag(
    flags: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(MODELS.get("pix2pix"), "fixed", FIXED)
    options = train("--pool_size", "0")
    assert (options.adversarial.pool_size, options.network.netG, options.network.no_dropout) == (
        0,
        "unet_64",
        True,
    )
    assert test().network.netG == "unet_64"  # and test.py, which has no --pool_size, accepts the model
    with pytest.raises(UserError) as caught:
        train(*flags.split())
    assert str(caught.value) == message
    name, value = flags.removeprefix("--").split()
    with pytest.raises(UserError, match="supports only"):
        train("--config", write(tmp_path / "c.json", {name: value}))


def test_a_data_set_supports_one_value_of_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DATASETS.get("single"), "fixed", {"direction": "AtoB"})
    assert train("--dataset_mode", "single").data.direction == "AtoB"
    with pytest.raises(UserError, match="--direction BtoA: --dataset_mode single supports only"):
        train("--dataset_mode", "single", "--direction", "BtoA")


def test_help_says_which_value_a_model_supports(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MODELS.get("pix2pix"), "fixed", FIXED)
    with pytest.raises(SystemExit):
        train("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "pix2pix supports only unet_64; default: unet_64)" in text
    assert "pix2pix supports only true; default: True)" in text


@pytest.mark.parametrize(
    "registered", [*map(MODELS.get, MODELS.names()), *map(DATASETS.get, DATASETS.names())]
)
def test_fixed_values_are_values_of_flags(registered: Any) -> None:
    groups = [*TrainOptions.groups().values(), *TestOptions.groups().values()]
    flags = {name: flag for group in groups for name, flag in flags_of(group).items()}
    for name, value in registered.fixed.items():
        value = value.value if isinstance(value, Fixed) else value
        assert flags[name].convert(value) == value


def test_cosmetic_flags_change_nothing_that_is_learned() -> None:
    cosmetic = cosmetic_flags(TrainOptions.groups().values())
    assert {"name", "print_freq", "num_threads", "cache", "log", "val_freq", "gpu_ids"} < cosmetic
    assert not {"model", "dataroot", "seed", "lr", "norm", "batch_size", "precision", "ema_decay"} & cosmetic


def test_suffix_names_a_flag() -> None:
    assert train("--suffix", "{netG}_{lr}", "--name", "n").run_name == "n_unet_256_0.0002"
    with pytest.raises(UserError, match="--suffix"):
        _ = train("--suffix", "{no_flag}").run_name


def test_a_name_may_be_any_text() -> None:
    assert train("--name", "inf", "--suffix", "None").run_name == "inf_None"


@pytest.mark.parametrize(
    ("flags", "fractions"),
    [("none", "none"), ("32", "1/8"), ("64,32", "1/4,1/8"), ("1/8", "1/8"), ("256", "1/1")],
)
def test_sizes_with_attention_become_fractions(flags: str, fractions: str, tmp_path: Path) -> None:
    argv = ["--attention", flags, "--checkpoints_dir", str(tmp_path), "--name", "run"]
    assert train(*argv).network.attention == fractions
    save(train(*argv))
    # Another size in testing leaves the network what it was.
    testing = test("--checkpoints_dir", str(tmp_path), "--name", "run", "--crop_size", "512")
    assert testing.network.attention == fractions


@pytest.mark.parametrize("wrong", ["33", "0", "", "1/3", "1/", "512", "a", "32;64"])
def test_other_sizes_with_attention_are_refused(wrong: str) -> None:
    with pytest.raises(UserError, match="--attention"):
        train("--attention", wrong)


def test_depths_with_attention_are_those_of_the_chosen_networks() -> None:
    network = train("--attention", "64,32", "--attention_nets", "G").network
    assert (network.attention_depths("G"), network.attention_depths("D")) == ((2, 3), ())


def test_options_are_parsed_without_torch() -> None:
    program = "import sys; import options.parse; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
