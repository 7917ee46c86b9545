"""What the trainer does alike for every model."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from data import DATASETS
from models import MODELS
from models.base_model import BaseModel, Update
from models.layers.running_mean import RunningMean
from options.base_options import CommandOptions
from options.parse import parse
from options.train_options import TrainOptions
from tests.support.models import CPU, TRAINED, trainer_and_batches, with_masks
from training.optimizers import parameters_of
from training.trainer import Trainer
from util.batch import Batch, Step
from util.errors import UserError

WITH_STATE = {"colorization": ["--rebalance"], "cycle_gan": ["--pool_size", "2", "--netG", "resnet_6blocks"]}


def tensors(trainer: Trainer) -> dict[str, Tensor]:
    """Return copies of what a step that is left out must not change."""
    nets = {f"{n}.{k}": v for n, net in trainer.model.nets.items() for k, v in net.state_dict().items()}
    state = {
        f"{name}.{number}": buffer
        for name, part in trainer.model.state.items()
        for number, buffer in enumerate(part.buffers())
    }
    return {name: tensor.clone() for name, tensor in (nets | state).items()}


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_a_step_that_is_left_out_changes_nothing(name: str, accumulate: str, data: dict[str, Path]) -> None:
    flags = ["--on_nan", "skip", "--batch_size", "4", "--accumulate", accumulate, *WITH_STATE.get(name, [])]
    trainer, batches = trainer_and_batches(name, data, *flags)
    batches = with_masks(name, batches)  # the image without weight is the one that is not finite
    trainer.step(batches[0])
    before = tensors(trainer)
    weights = {f"{n}.{key}" for n, net in trainer.model.nets.items() for key, _ in net.named_parameters()}
    A = batches[0].A.clone()
    A[-1] = torch.nan
    trainer.step(replace(batches[0], A=A))
    after, report = tensors(trainer), trainer.nonfinite.pop_report()
    assert report is not None and report.iteration == 2 and report.optimizers
    assert before.keys() == after.keys()
    for key, value in before.items():
        # dcgan's G sees no real image: its update is made.
        trained = key in weights and key[0] not in report.optimizers
        assert trained or torch.equal(after[key], value), key
    trainer.step(batches[0])
    assert any(not torch.equal(value, tensors(trainer)[key]) for key, value in before.items())


class Brightness(BaseModel):
    """A generator that is trained towards the mean brightness of all images so far, a state of its own."""

    def build(self, options: CommandOptions) -> dict[str, nn.Module]:
        self.brightness = self.state["brightness"] = RunningMean(self.device)
        return {"G": nn.Conv2d(3, 3, 1), "E_first": nn.Conv2d(3, 3, 1), "E_second": nn.Conv2d(3, 3, 1)}

    def train_step(self, batch: Batch, update: Update) -> Step:
        mean = self.brightness.update({"mean": batch.A.mean((0, 2, 3))}, batch)["mean"]
        loss = (self.nets["G"](batch.A).mean((0, 2, 3)) - mean).abs().sum()
        update("G", loss)
        update("E", self.nets["E_first"](batch.A).mean() ** 2 + self.nets["E_second"](batch.A).mean() ** 2)
        return Step({"G_mean": loss}, {})

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        return {"fake": self.nets["G"](batch.A)}


def brightness_trainer(*flags: str) -> Trainer:
    argv = ["--dataroot", ".", "--model", "template", "--batch_size", "4", *flags]
    options = parse(TrainOptions, argv, MODELS, DATASETS)
    return Trainer(Brightness(options, CPU), options)


def batch_of(A: Tensor) -> Batch:
    return Batch(A, None, [""] * len(A), [], torch.arange(len(A)))


@pytest.mark.parametrize("accumulate", ["1", "2", "4"])
def test_a_running_mean_counts_images_once_and_resumes(accumulate: str) -> None:
    trainer = brightness_trainer("--accumulate", accumulate, "--on_nan", "skip")
    batches = torch.rand(3, 4, 3, 8, 8).unbind()
    spoilt = batches[0].clone()
    spoilt[0, 0, 0, 0] = torch.nan
    for A in (batches[0], spoilt, batches[1]):
        trainer.step(batch_of(A))
    expected = torch.cat(batches[:2]).mean((0, 2, 3))
    mean = trainer.model.state["brightness"].state_dict()["means"]["mean"]
    torch.testing.assert_close(mean, expected)

    resumed = brightness_trainer("--accumulate", accumulate, "--on_nan", "skip")
    resumed.load_state_dict(deepcopy(trainer.state_dict()))
    for each in (trainer, resumed):
        each.step(batch_of(batches[2]))
    assert all(torch.equal(value, tensors(resumed)[key]) for key, value in tensors(trainer).items())


def test_networks_of_one_kind_share_an_optimizer() -> None:
    trainer = brightness_trainer()
    assert {name: len(parameters_of(o)) for name, o in trainer.optimizers.items()} == {"G": 2, "E": 4}


def test_a_state_without_a_part_is_refused(data: dict[str, Path]) -> None:
    trainer, _ = trainer_and_batches("pix2pix", data)
    averaged, _ = trainer_and_batches("pix2pix", data, "--ema_decay", "0.9")
    with pytest.raises(UserError, match="the saved state has no ema"):
        averaged.load_state_dict(trainer.state_dict())
