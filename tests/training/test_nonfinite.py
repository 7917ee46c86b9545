"""Losses that are not finite do not get into the weights, and are named."""

from math import inf, isnan, nan
from pathlib import Path

import torch
from torch import Tensor, nn

from models.base_model import BaseModel
from tests.support.environment import Command
from training.nonfinite import PATIENCE, LossGuard
from util.batch import Batch, Step


class Toy(BaseModel):
    """Two layers with an optimizer each; the input decides what its losses come to."""

    def __init__(self, policy: str):
        super().__init__(
            {"G": nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), "D": nn.Conv2d(1, 1, 1)},
            torch.device("cpu"),
            torch.float32,
            0,
        )
        self.guard = LossGuard(policy)
        self.optimizers = {
            name: torch.optim.Adam(net.parameters(), lr=0.1, fused=True) for name, net in self.nets.items()
        }

    @classmethod
    def from_options(cls, options: object, device: torch.device) -> "Toy":
        raise NotImplementedError

    def train_step(self, batch: Batch) -> Step:
        d = self.nets["D"](batch.A).mean()
        self.minimize("D", d)
        g = self.nets["G"](batch.B).pow(2).mean() if batch.B is not None else d
        self.minimize("G", g)
        return Step({"D_real": d, "G_GAN": g}, {})

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        return {}


def batch(for_D: float, for_G: float) -> Batch:
    A, B = (
        torch.full((1, 1, 4, 4), float(for_D)),
        torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)),
    )
    return Batch(A, B * for_G, ["a.png"], ["b.png"], torch.tensor([0]))


def number(iteration: int) -> Tensor:
    return torch.tensor(float(iteration), dtype=torch.float64)


def snapshot(model: Toy) -> list[Tensor]:
    steps = [entry["step"] for optimizer in model.optimizers.values() for entry in optimizer.state.values()]
    return [tensor.clone() for net in model.nets.values() for tensor in (*net.state_dict().values(), *steps)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_stop_keeps_the_weights_of_before_the_first_bad_loss() -> None:
    model = Toy("stop")
    for _ in range(3):
        model.step(batch(1, 1))
    assert model.guard.look() is None
    before = [parameter.clone() for net in model.nets.values() for parameter in net.parameters()]
    model.step(batch(nan, 1))
    model.step(batch(1, inf))
    assert same([parameter for net in model.nets.values() for parameter in net.parameters()], before)
    sickness = model.guard.look()
    assert sickness is not None and sickness.fatal
    assert (sickness.iteration, sickness.networks, sickness.steps) == (4, ["D"], 2)
    assert sickness.losses.keys() == {"D_real"} and isnan(sickness.losses["D_real"])


def test_skip_leaves_a_bad_step_out_as_if_it_had_never_been() -> None:
    model, plain = Toy("skip"), Toy("skip")
    plain.load_state_dict(model.state_dict())
    for for_D, for_G in ((1, 1), (nan, nan), (2, inf), (3, 2)):
        model.step(batch(for_D, for_G))
    plain.step(batch(1, 1))
    # D's own loss is finite in the third step: it learns.
    plain.minimize("D", plain.nets["D"](batch(2, 1).A).mean())
    plain.step(batch(3, 2))
    assert same(snapshot(model), snapshot(plain))
    sickness = model.guard.look()
    assert sickness is not None and not sickness.fatal
    assert (sickness.iteration, sickness.networks, sickness.steps) == (2, ["D", "G"], 2)
    assert model.guard.look() is None


def test_skip_sees_a_gradient_that_is_not_finite() -> None:
    guard, weight = LossGuard("skip"), nn.Parameter(torch.tensor([0.0]))
    loss = weight.sqrt().sum()  # 0, with an infinite slope
    loss.backward()
    assert guard.blocks("G", loss, [weight]).item() == 1
    guard.end_step(number(1), {"G_L1": loss})
    sickness = guard.look()
    assert sickness is not None and (sickness.losses, sickness.networks) == ({}, ["G"])


def test_skip_gives_up_when_nothing_else_comes() -> None:
    model = Toy("skip")
    for count in range(PATIENCE):
        model.step(batch(nan, 1))
        if count == PATIENCE // 2:
            found = model.guard.look()
            assert found is not None and not found.fatal
    found = model.guard.look()
    assert found is not None and found.fatal


def test_a_step_with_other_losses_keeps_its_own_record() -> None:
    guard = LossGuard("skip")
    guard.end_step(number(1), {"a": torch.tensor(1.0)})
    guard.end_step(number(2), {"a": torch.tensor(1.0), "b": torch.tensor(nan)})
    guard.end_step(number(3), {"a": torch.tensor(inf)})
    found = guard.look()
    assert found is not None and (found.iteration, list(found.losses), found.steps) == (2, ["b"], 2)


def test_a_broken_network_is_named() -> None:
    model = Toy("stop")
    assert model.broken_nets() == []
    with torch.no_grad():
        model.nets["D"].bias.fill_(nan)
    assert model.broken_nets() == ["D"]


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
    for part in ("iteration ", "not finite: ", "G_GAN = ", "in updating ", "train/", "--lr", "--on_nan skip"):
        assert part in error
    assert (folder / "latest_state.pth").read_bytes() == good
    copy = torch.load(folder / "nan_state.pth", weights_only=True)
    weights = {name: t for net in copy["model"]["nets"].values() for name, t in net.items()}
    assert all(t.isfinite().all() for name, t in weights.items() if "running" not in name)
    assert (folder / "nan_net_G.pth").exists()
