"""Diagnostics report planted problems, and nothing in healthy training."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.objectives.diagnostics import WINDOW, Diagnostics
from models.objectives.gan import Objective
from tests.support.environment import Command


class Scripted(nn.Module):
    """A discriminator that is right about a fraction of the images; real ones have a mean above 0."""

    def __init__(self, accuracy: float, mode: str = "vanilla"):
        super().__init__()
        self.accuracy, (self.no, self.yes) = accuracy, (0.0, 1.0) if mode == "lsgan" else (-6.0, 6.0)

    def forward(self, x: Tensor) -> Tensor:
        right = torch.rand(len(x), 1) < self.accuracy
        return torch.where(right == (x.mean((1, 2, 3))[:, None] > 0), self.yes, self.no)


def warnings(
    diagnostics: Diagnostics, objective: Objective, D: nn.Module, real: Tensor, fake: Tensor
) -> list[str]:
    """Return the new warnings of a monitored step."""
    diagnostics.start_step(monitor=True)
    objective.discriminator(D, real, fake, {})
    objective.generator(D, fake, {})
    values = {name: value.item() for name, value in diagnostics.values().items()}
    return diagnostics.warnings(values)


def images(count: int, level: float) -> Tensor:
    return level + torch.rand(count, 3, 32, 32) * 0.2 + torch.rand(count, 3, 1, 1) * 0.2


@pytest.mark.parametrize("mode", ["vanilla", "lsgan", "hinge"])
def test_a_discriminator_that_has_won_is_reported_once(mode: str) -> None:
    torch.manual_seed(0)
    objective = Objective(mode)
    by_step = [
        warnings(objective.diagnostics, objective, Scripted(1.0, mode), images(4, 0.2), images(4, -0.8))
        for _ in range(WINDOW + 5)
    ]
    reported = [text for texts in by_step for text in texts]
    assert len(reported) == 1 and by_step[WINDOW - 1] == reported
    assert reported[0].startswith("D has won (D_doubt 0.00") and "--lr_D" in reported[0]


class Constant(nn.Module):
    def __init__(self, logit: float):
        super().__init__()
        self.logit = logit

    def forward(self, x: Tensor) -> Tensor:
        return self.logit + 0.01 * torch.randn(len(x), 1)


@pytest.mark.parametrize(
    ("mode", "logit"), [("vanilla", 0.0), ("lsgan", 0.5), ("hinge", 0.0), ("vanilla", 1.3), ("lsgan", 0.0)]
)
def test_a_dead_discriminator_is_reported_once(mode: str, logit: float) -> None:
    torch.manual_seed(0)
    objective = Objective(mode)
    by_step = [
        warnings(objective.diagnostics, objective, Constant(logit), images(4, 0.2), images(4, -0.8))
        for _ in range(WINDOW + 5)
    ]
    reported = [text for texts in by_step for text in texts]
    assert len(reported) == 1 and by_step[WINDOW - 1] == reported
    assert reported[0].startswith("D is dead (D_doubt ") and "a lower --lambda_r1" in reported[0]


@pytest.mark.parametrize("doubts", [[1.0] * 15 + [0.85], [0.8, 1.2] * 8])
def test_a_discriminator_whose_doubt_is_near_one_on_the_mean_alone_is_not_dead(doubts: list[float]) -> None:
    diagnostics = Diagnostics()
    assert not any(diagnostics.warnings({"D_doubt": doubt}) for doubt in doubts)


def test_a_generator_that_ignores_its_input_is_reported() -> None:
    torch.manual_seed(0)
    objective, same = Objective("vanilla"), images(1, -0.8).expand(4, -1, -1, -1)
    by_step = [
        warnings(objective.diagnostics, objective, Scripted(0.7), images(4, 0.2), same)
        for _ in range(WINDOW + 1)
    ]
    assert not any(by_step[:-1]) and len(by_step[-1]) == 1
    assert by_step[-1][0].startswith("G has collapsed (diversity 0.000") and "--lambda_r1" in by_step[-1][0]


def test_healthy_training_raises_no_warning() -> None:
    torch.manual_seed(0)
    objective = Objective("vanilla")
    for _ in range(3 * WINDOW):
        assert not warnings(objective.diagnostics, objective, Scripted(0.8), images(4, 0.2), images(4, -0.8))
    values = {name: value.item() for name, value in objective.diagnostics.values().items()}
    assert set(values) == {"D_acc_real", "D_acc_fake", "D_doubt", "diversity", "G_over_D"}
    assert 0.7 < values["diversity"] < 1.4


def test_inverted_brightness_is_reported() -> None:
    diagnostics, before = Diagnostics(), torch.rand(1, 3, 16, 16)
    for step in range(WINDOW):
        diagnostics.start_step(monitor=True)
        diagnostics.record_translation("G_A", before, -before + 0.01 * torch.rand(1, 3, 16, 16))
        reported = diagnostics.warnings({name: value.item() for name, value in diagnostics.values().items()})
        assert bool(reported) == (step == WINDOW - 1)
    assert reported[0].startswith("G_A inverts (-1.00)") and "--lambda_identity" in reported[0]


def test_steps_that_are_not_monitored_record_nothing() -> None:
    diagnostics = Diagnostics()
    objective = Objective("vanilla", diagnostics=diagnostics)
    diagnostics.start_step(monitor=False)
    objective.discriminator(Scripted(1.0), images(1, 0.2), images(1, -0.8), {})
    diagnostics.record_gradients("G", [])
    assert diagnostics.values() == {} and diagnostics.state_dict()["pictures"] == {}


def test_diagnostics_resume() -> None:
    torch.manual_seed(0)
    objective, D = Objective("vanilla"), Scripted(1.0)
    for _ in range(WINDOW - 1):
        warnings(objective.diagnostics, objective, D, images(1, 0.2), images(1, -0.8))
    resumed = Objective("vanilla")
    resumed.diagnostics.load_state_dict(objective.diagnostics.state_dict())
    real, fake = images(1, 0.2), images(1, -0.8)
    reported = [warnings(o.diagnostics, o, D, real, fake) for o in (objective, resumed)]
    assert reported[0] == reported[1] != []
    values, expected = resumed.diagnostics.values(), objective.diagnostics.values()
    assert values.keys() == expected.keys()
    assert all(torch.equal(values[key], expected[key]) for key in values)


def test_diagnostics_are_logged_apart_from_the_losses(command: Command, pairs: Path, tmp_path: Path) -> None:
    flags = ["--netG", "unet_32", "--ngf", 4, "--ndf", 4, "--load_size", 36, "--crop_size", 32]
    flags += ["--n_epochs", 2, "--n_epochs_decay", 0, "--print_freq", 4, "--num_threads", 0]
    run = command("train.py", "--dataroot", pairs, "--name", "run", "--model", "pix2pix", *flags)
    lines = (tmp_path / "checkpoints" / "run" / "losses.jsonl").read_text().splitlines()
    first, *_, last = (json.loads(line) for line in lines)
    names = {"D_acc_real", "D_acc_fake", "D_doubt", "grad_G", "grad_D", "G_over_D"}
    assert first["diagnostics"].keys() == names and last["diagnostics"].keys() == names | {"diversity"}
    assert "NaN" not in "".join(lines)
    printed = [line for line in run.stdout.splitlines() if line.startswith("(epoch")]
    assert len(printed) == len(lines)
    for line in printed:
        assert re.fullmatch(r"\(.*\) G_GAN: \S+ G_L1: \S+ D_real: \S+ D_fake: \S+ ", line)
