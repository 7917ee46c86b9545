"""Losses that are not finite do not get into the weights, and are named."""

from math import inf, isnan, nan
from pathlib import Path

import torch
from torch import Tensor, nn

from data import DATASETS
from models import MODELS
from models.base_model import BaseModel, Update
from options.base_options import CommandOptions
from options.parse import parse
from options.train_options import TrainOptions
from tests.support.environment import Command
from tests.support.models import CPU
from training.nonfinite import PATIENCE, NonFiniteGuard
from training.trainer import Trainer
from util.batch import Batch, Step


class Toy(BaseModel):
    """Two layers with an optimizer each; the input decides the losses."""

    def build(self, options: CommandOptions) -> dict[str, nn.Module]:
        return {"G": nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), "D": nn.Conv2d(1, 1, 1)}

    def train_step(self, batch: Batch, update: Update) -> Step:
        d = self.nets["D"](batch.A).mean()
        update("D", d)
        g = self.nets["G"](batch.B).pow(2).mean() if batch.B is not None else d
        update("G", g)
        return Step({"D_real": d, "G_GAN": g}, {})

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        return {}


def toy(policy: str) -> Trainer:
    argv = ["--dataroot", ".", "--model", "template", "--on_nan", policy, "--lr", "0.1", "--beta1", "0.9"]
    options = parse(TrainOptions, argv, MODELS, DATASETS)
    return Trainer(Toy(options, CPU), options)


def batch(for_D: float, for_G: float) -> Batch:
    A, B = (
        torch.full((1, 1, 4, 4), float(for_D)),
        torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)),
    )
    return Batch(A, B * for_G, ["a.png"], ["b.png"], torch.tensor([0]))


def number(iteration: int) -> Tensor:
    return torch.tensor(float(iteration), dtype=torch.float64)


def snapshot(trainer: Trainer) -> list[Tensor]:
    steps = [entry["step"] for optimizer in trainer.optimizers.values() for entry in optimizer.state.values()]
    return [
        tensor.clone()
        for net in trainer.model.nets.values()
        for tensor in (*net.state_dict().values(), *steps)
    ]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_stop_keeps_the_weights_of_before_the_first_bad_loss() -> None:
    trainer = toy("stop")
    for _ in range(3):
        trainer.step(batch(1, 1))
    assert trainer.nonfinite.pop_report() is None
    before = [parameter.clone() for net in trainer.model.nets.values() for parameter in net.parameters()]
    trainer.step(batch(nan, 1))
    trainer.step(batch(1, inf))
    assert same([parameter for net in trainer.model.nets.values() for parameter in net.parameters()], before)
    report = trainer.nonfinite.pop_report()
    assert report is not None and report.fatal
    assert (report.iteration, report.optimizers, report.steps) == (4, ["D"], 2)
    assert report.losses.keys() == {"D_real"} and isnan(report.losses["D_real"])


def test_skip_leaves_a_bad_step_out_as_if_it_had_never_been() -> None:
    trainer, plain = toy("skip"), toy("skip")
    plain.load_state_dict(trainer.state_dict())
    for for_D, for_G in ((1, 1), (nan, nan), (2, inf), (3, 2)):
        trainer.step(batch(for_D, for_G))
    plain.step(batch(1, 1))
    # D's own loss is finite in the third step: it learns.
    plain.update("D", plain.model.nets["D"](batch(2, 1).A).mean())
    plain.step(batch(3, 2))
    assert same(snapshot(trainer), snapshot(plain))
    report = trainer.nonfinite.pop_report()
    assert report is not None and not report.fatal
    assert (report.iteration, report.optimizers, report.steps) == (2, ["D", "G"], 2)
    assert trainer.nonfinite.pop_report() is None


def test_skip_sees_a_gradient_that_is_not_finite() -> None:
    guard, weight = NonFiniteGuard("skip"), nn.Parameter(torch.tensor([0.0]))
    loss = weight.sqrt().sum()  # 0, with an infinite slope
    loss.backward()
    assert guard.blocks("G", loss, [weight]).item() == 1
    guard.end_step(number(1), {"G_L1": loss})
    report = guard.pop_report()
    assert report is not None and (report.losses, report.optimizers) == ({}, ["G"])


def test_skip_gives_up_when_nothing_else_comes() -> None:
    trainer = toy("skip")
    for count in range(PATIENCE):
        trainer.step(batch(nan, 1))
        if count == PATIENCE // 2:
            found = trainer.nonfinite.pop_report()
            assert found is not None and not found.fatal
    found = trainer.nonfinite.pop_report()
    assert found is not None and found.fatal


def test_a_step_with_other_losses_keeps_its_own_record() -> None:
    guard = NonFiniteGuard("skip")
    guard.end_step(number(1), {"a": torch.tensor(1.0)})
    guard.end_step(number(2), {"a": torch.tensor(1.0), "b": torch.tensor(nan)})
    guard.end_step(number(3), {"a": torch.tensor(inf)})
    found = guard.pop_report()
    assert found is not None and (found.iteration, list(found.losses), found.steps) == (2, ["b"], 2)


def test_a_broken_network_is_named() -> None:
    trainer = toy("stop")
    assert trainer.non_finite_nets() == []
    with torch.no_grad():
        trainer.model.nets["D"].bias.fill_(nan)
    assert trainer.non_finite_nets() == ["D"]


def test_a_run_that_diverges_ends_with_its_good_state_untouched(
    command: Command, pairs: Path, tmp_path: Path
) -> None:
    flags = (
        "--model pix2pix --gpu_ids -1 --netG unet_32 --ngf 4 --ndf 4 --crop_size 32 --load_size 32 --name run"
    )
    common = [
        "--dataroot",
        pairs,
        *flags.split(),
        "--n_epochs_decay",
        0,
        "--print_freq",
        1,
        "--num_threads",
        0,
    ]
    command("train.py", *common, "--n_epochs", 1)
    folder = tmp_path / "checkpoints" / "run"
    good = (folder / "latest_state.pth").read_bytes()
    diverging = [*common, "--continue_train", "--n_epochs", 2, "--lr", 1e30]
    error = command("train.py", *diverging, status=2).stderr
    for part in (
        "iteration ",
        "not finite: ",
        "G_GAN = ",
        "in the update of ",
        "train/",
        "--lr",
        "--on_nan skip",
    ):
        assert part in error
    assert (folder / "latest_state.pth").read_bytes() == good
    copy = torch.load(folder / "nan_state.pth", weights_only=True)
    weights = {name: t for net in copy["model"]["nets"].values() for name, t in net.items()}
    assert all(t.isfinite().all() for name, t in weights.items() if "running" not in name)
    assert (folder / "nan_net_G.pth").exists()
