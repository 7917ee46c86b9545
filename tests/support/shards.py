"""Shards that tests pack and data sets that read them."""

from pathlib import Path

import torch

from data import DATASETS, create_loader
from data.base_dataset import BaseDataset
from datasets import make_shards
from models import MODELS
from options.parse import parse
from options.train_options import TrainOptions

PACKED_AS = {"style": "unaligned", "template": "colorization", "images": "colorization"}
"""How folders are packed for data sets that make_shards.py does not name."""


def pack(folder: Path, out: Path, mode: str, *arguments: str) -> Path:
    mode = PACKED_AS.get(mode, mode)
    flags = ["--dataroot", str(folder), "--out", str(out), "--dataset_mode", mode, *arguments]
    assert make_shards.main(flags) == 0
    return out


def dataset(dataroot: object, mode: str, *flags: str) -> BaseDataset:
    argv = ["--dataset_mode", mode, "--dataroot", str(dataroot), "--model", "pix2pix", "--gpu_ids", "-1"]
    argv += ["--load_size", "28", "--crop_size", "24", "--num_threads", "0", *flags]
    return create_loader(parse(TrainOptions, argv, MODELS, DATASETS), torch.device("cpu")).dataset
