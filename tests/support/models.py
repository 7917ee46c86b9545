"""Small models and batches for tests that iterate over the registry."""

from dataclasses import replace
from pathlib import Path

import torch

from data import DATASETS, create_loader
from models import MODELS, create_model
from options.option import flags_of
from options.parse import parse
from options.train_options import TrainOptions
from training.trainer import Trainer
from util.batch import Batch

SMALL = [
    "--ngf=4",
    "--ndf=4",
    "--netG=unet_32",
    "--load_size=36",
    "--crop_size=32",
    "--batch_size=2",
    "--num_threads=0",
]


CPU = torch.device("cpu")


TRAINED = [name for name in MODELS.names() if MODELS.get(name).trains]


def arguments(name: str, data: dict[str, Path], *flags: str) -> list[str]:
    mode = str(MODELS.get(name).defaults.get("dataset_mode", "unaligned"))
    return ["--dataroot", str(data[mode]), "--model", name, *SMALL, *example_flags(name), *flags]


def example_flags(name: str, command: str | None = None) -> list[str]:
    """Return the model's flags for tests that both commands have, and those of one command."""
    model = MODELS.get(name)
    own = flags_of(model.Options)
    return [
        f"--{flag}={value}"
        for flag, value in model.example_flags.items()
        if flag not in own or own[flag].phase in (None, command)
    ]


def trainer_and_batches(name: str, data: dict[str, Path], *flags: str) -> tuple[Trainer, list[Batch]]:
    options = parse(TrainOptions, arguments(name, data, *flags), MODELS, DATASETS)
    trainer = create_trainer(options)
    dtype = trainer.model.dtype
    return trainer, [batch.to(CPU, dtype) for batch in create_loader(options, CPU).epoch(1)]


def with_masks(name: str, batches: list[Batch]) -> list[Batch]:
    """Return the batches with masks if the model takes any; one image has no weight at all."""
    if not MODELS.get(name).takes_masks:
        return batches
    masks = [torch.rand(len(batch), 1, *batch.A.shape[2:]).to(batch.A) for batch in batches]
    masks[0][-1] = 0
    return [replace(batch, mask=mask) for batch, mask in zip(batches, masks, strict=True)]


def create_trainer(options: TrainOptions, device: torch.device = CPU) -> Trainer:
    return Trainer(create_model(options, device), options)


def assert_equal_states(one: Trainer, other: Trainer) -> None:
    def flat(value: object, path: str = "") -> dict[str, object]:
        if isinstance(value, dict):
            return {k: v for key, item in value.items() for k, v in flat(item, f"{path}.{key}").items()}
        if isinstance(value, list | tuple):
            return flat(dict(enumerate(value)), path)
        return {path: value}

    ours, theirs = flat(one.state_dict()), flat(other.state_dict())
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        same = torch.equal(value, theirs[key]) if isinstance(value, torch.Tensor) else value == theirs[key]
        assert same, key
