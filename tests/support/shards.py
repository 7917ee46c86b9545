"""Shards, and data sets that read them."""

from pathlib import Path

import torch

from data import DATASETS, create_loader
from data.base_dataset import BaseDataset
from models import MODELS
from options.parse import parse
from options.train_options import TrainOptions
from tests.support.commands import load_command

make_shards = load_command("datasets/make_shards.py")


def pack(folder: Path, out: Path, mode: str, *arguments: str) -> Path:
    """Pack a folder for the data set `mode` into `out`, and return `out`."""
    flags = ["--dataroot", str(folder), "--out", str(out), "--dataset_mode", mode, *arguments]
    assert make_shards.main(flags) == 0
    return out


def dataset(dataroot: object, mode: str, *flags: str) -> BaseDataset:
    """Return the data set `mode` with this root, as training makes it."""
    argv = ["--dataset_mode", mode, "--dataroot", str(dataroot), "--model", "pix2pix", "--gpu_ids", "-1"]
    argv += ["--load_size", "28", "--crop_size", "24", "--num_threads", "0", *flags]
    return create_loader(parse(TrainOptions, argv, MODELS, DATASETS), torch.device("cpu")).dataset
