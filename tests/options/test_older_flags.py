"""Older flags of the peer, on the command line and in option files of all its versions."""

import logging
from pathlib import Path

import pytest

from data import DATASETS
from models import MODELS
from options.older_flags import OLDER
from options.option import flags_of
from options.parse import parse
from options.records import read_record
from options.test_options import TestOptions
from options.train_options import TrainOptions
from util.errors import UserError

FIRST_FORM = """------------ Options -------------
align_data: True
batchSize: 2
display_id: 1
fineSize: 128
flip: False
gpu_ids: [0, 1]
how_many: 50
identity: 0.0
isTrain: True
loadSize: 143
lr_policy: lambda
max_dataset_size: inf
model: pix2pix
nThreads: 2
name: experiment name
niter: 30
niter_decay: 10
no_lsgan: True
norm: batch
ntest: inf
use_dropout: True
which_direction: BtoA
which_epoch: latest
which_model_netD: basic
which_model_netG: unet_128
-------------- End ----------------
"""

PRESENT_FORM = (
    "----------------- Options ---------------\n"
    "               batch_size: 1                             \n"
    "               display_id: 1                             \n"
    "                  isTrain: True                          \t[default: None]\n"
    "                    model: pix2pix                       \t[default: cycle_gan]\n"
    "                     name: run_unet_128                  \t[default: experiment_name]\n"
    "                     netG: unet_128                      \n"
    "                     norm: syncbatch                     \t[default: instance]\n"
    "                my_weight: 3.0                           \n"
    "                   suffix: {netG}                        \t[default: ]\n"
    "----------------- End -------------------\n"
)


def message(kind: type[TrainOptions] | type[TestOptions], *argv: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(kind, ["--dataroot", "d", "--model", "pix2pix", *argv], MODELS, DATASETS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("argv", "today"),
    [
        ("--niter 50", "today it is --n_epochs 50"),
        ("--niter=50 --niter_decay 20", "today they are --n_epochs 50 --n_epochs_decay 20"),
        ("--loadSize 143 --fineSize 128 --batchSize 4", "--load_size 143 --crop_size 128 --batch_size 4"),
        ("--which_model_netG unet_128 --which_model_netD pixel", "--netG unet_128 --netD pixel"),
        ("--which_direction BtoA --which_epoch 5 --nThreads 0", "--direction BtoA --epoch 5 --num_threads 0"),
        ("--no_lsgan --ngf 8", "today it is --gan_mode vanilla"),
        ("--resize_or_crop none", "today it is --preprocess none"),
        ("--use_dropout --align_data", "--no_dropout false --dataset_mode aligned"),
        ("--identity 0.5", "--lambda_identity 0.5; this model has no --lambda_identity"),
        ("--how_many 9 --ntest 9", "--num_test 9; --num_test is a flag of test.py"),
        ("--lambda_A 100", "today it is --lambda_L1 100"),
        ("--fp16 --tf_log", "--precision fp16 --log html,tensorboard"),
        ("-niter 5", "today it is --n_epochs 5"),
        ("--finesize 5", "today it is --crop_size 5"),
        ("--local-rank=0", "start the ranks with torchrun"),
        ("--no_vgg_loss", "it belongs to pix2pixHD"),
        # Abbreviations, of names of today and of older ones
        ("--serial", "did you mean --serial_batches?"),
        ("--gpu-ids 0", "did you mean --gpu_ids?"),
        ("--batchsize 4", "did you mean --batch_size?"),
        ("--nThr 4", "did you mean --num_threads?"),
        ("--n_ep 4", "flags are not abbreviated: it may be --n_epochs, --n_epochs_decay."),
        ("--which_model pixel", "it may be --netG, --netD."),
        ("--num_test 5", "--num_test: there is no such flag: it is a flag of test.py"),
    ],
)
def test_an_older_flag_is_named_with_todays(argv: str, today: str) -> None:
    assert today in message(TrainOptions, *argv.split())


def test_older_flags_of_testing() -> None:
    assert "today it is --num_test 9" in message(TestOptions, "--how_many", "9")
    assert "--niter 9: there is no such flag" in message(TestOptions, "--niter", "9")


def test_the_table_leads_to_flags_of_today() -> None:
    groups = [*TrainOptions.groups().values(), *TestOptions.groups().values()]
    groups += [MODELS.get(name).Options for name in MODELS.names()]
    flags = {name: flag for group in groups for name, flag in flags_of(group).items()}
    for name, older in OLDER.items():
        assert bool(older.flag) != bool(older.advice), name
        assert older.still or name not in flags, name
        for value in older.values.values() if older.flag else ():
            flags[older.flag].convert(value)


def test_names_of_values_in_other_versions_are_accepted() -> None:
    for given, norm in (("syncbatch", "batch"), ("sync_batch", "batch"), ("sync_instance", "instance")):
        argv = ["--dataroot", "d", "--model", "pix2pix", "--norm", given, "--lr_policy", "lambda"]
        options = parse(TrainOptions, argv, MODELS, DATASETS)
        assert (options.network.norm, options.optimization.lr_policy) == (norm, "linear")


def test_the_first_form_of_option_files_is_read(tmp_path: Path) -> None:
    file = tmp_path / "opt.txt"
    file.write_text(FIRST_FORM)
    options = parse(TrainOptions, ["--dataroot", "d", "--config", str(file)], MODELS, DATASETS)
    run, data, network, optimization = options.run, options.data, options.network, options.optimization
    assert (run.model, run.name, run.gpu_ids, run.epoch) == ("pix2pix", "experiment name", "0,1", "latest")
    assert (data.batch_size, data.load_size, data.crop_size, data.num_threads) == (2, 143, 128, 2)
    assert (data.dataset_mode, data.direction, data.no_flip) == ("aligned", "BtoA", True)
    assert (network.netG, network.netD, network.no_dropout) == ("unet_128", "basic", False)
    assert (optimization.n_epochs, optimization.n_epochs_decay) == (30, 10)
    assert (options.adversarial.gan_mode, options.logging.display_id) == ("vanilla", 0)


def test_the_present_form_of_option_files_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "train_opt.txt"
    file.write_bytes(PRESENT_FORM.replace("\n", "\r\n").encode("utf-16"))
    options = parse(TrainOptions, ["--dataroot", "d", "--config", str(file)], MODELS, DATASETS)
    # The name has the suffix already; nobody chose the peer's default of --display_id.
    assert (options.run_name, options.network.norm, options.logging.display_id) == (
        "run_unet_128",
        "batch",
        0,
    )
    assert "no such flags: my_weight" in caplog.text
    file.write_text("nothing\n")
    with pytest.raises(UserError, match="no options in it"):
        read_record(file)


@pytest.mark.parametrize("name", ["train_opt.txt", "opt.txt"])
def test_testing_takes_the_architecture_from_an_older_record(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).write_text(FIRST_FORM)
    argv = ["--dataroot", "d", "--model", "pix2pix", "--checkpoints_dir", str(tmp_path), "--name", "run"]
    options = parse(TestOptions, argv, MODELS, DATASETS)
    assert (options.network.netG, options.data.direction) == ("unet_128", "BtoA")


def test_the_command_line_overrides_unknown_values_in_files(tmp_path: Path) -> None:
    file = tmp_path / "run" / "train_opt.txt"
    file.parent.mkdir()
    file.write_text("netG: my_net\nmodel: my_model\ndataset_mode: mine\nlr_policy: mine\n")
    flags = ["--dataroot", "d", "--model", "pix2pix", "--netG", "unet_64"]
    run = ["--checkpoints_dir", str(tmp_path), "--name", "run"]
    assert parse(TestOptions, [*flags, *run], MODELS, DATASETS).network.netG == "unet_64"
    flags += ["--dataset_mode=aligned", "--lr_policy=step"]
    options = parse(TrainOptions, [*flags, "--config", str(file)], MODELS, DATASETS)
    assert (options.network.netG, options.optimization.lr_policy) == ("unet_64", "step")
    with pytest.raises(UserError, match="--netG my_net: no such choice"):
        parse(TestOptions, ["--dataroot", "d", "--model", "pix2pix", *run], MODELS, DATASETS)
