"""Regularisation of adversarial training: each technique by itself, and models trained with it."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from models.objectives.gan import Objective
from models.objectives.losses import discriminator_loss, gradient_penalty, r1_penalty
from models.pix2pix_model import Pix2PixModel
from tests.support.models import CPU, TRAINED, assert_equal_states, trainer_and_batches
from training.ema import Ema
from util.errors import UserError

LOGITS = torch.tensor([-3.0, -0.5, 0.2, 1.7], dtype=torch.float64)
NETS = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Conv2d(4, 1, 3))


def test_label_smoothing_changes_only_the_target_of_real_images() -> None:
    p = torch.sigmoid(LOGITS)
    expected = -(0.9 * p.log() + 0.1 * (1 - p).log()).mean()
    loss = discriminator_loss("vanilla", LOGITS, real=True, smoothing=0.1)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    loss = discriminator_loss("lsgan", LOGITS, real=True, smoothing=0.1)
    torch.testing.assert_close(loss, ((LOGITS - 0.9) ** 2).mean(), rtol=1e-12, atol=0)
    for mode in ("vanilla", "lsgan"):
        smooth = discriminator_loss(mode, LOGITS, real=False, smoothing=0.1)
        assert torch.equal(smooth, discriminator_loss(mode, LOGITS, real=False))
        assert gradcheck(
            lambda x, m=mode: discriminator_loss(m, x, real=True, smoothing=0.1),
            LOGITS.clone().requires_grad_(),
        )


def test_r1_agrees_with_its_formula_and_has_its_gradient() -> None:
    torch.manual_seed(0)
    net, real = NETS.double(), torch.rand(2, 3, 6, 6, dtype=torch.float64)
    x = real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(x).sum(), x)
    expected = gradient.flatten(1).square().sum(1).mean() / 2
    torch.testing.assert_close(r1_penalty(net, real), expected, rtol=1e-12, atol=0)

    def of_weight(weight: torch.Tensor) -> torch.Tensor:
        return r1_penalty(lambda x: F.conv2d(F.softplus(F.conv2d(x, weight)), net[2].weight), real)

    assert gradcheck(of_weight, net[0].weight.detach().clone().requires_grad_())


def test_penalties_are_computed_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    net, (real, fake) = NETS.float(), torch.rand(2, 2, 3, 6, 6)
    alpha = torch.rand(2, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(real).dtype == torch.bfloat16
        penalties = gradient_penalty(net, real, fake, alpha), r1_penalty(net, real)
    assert penalties == (gradient_penalty(net, real, fake, alpha), r1_penalty(net, real))


def test_every_nth_step_has_an_r1_penalty_of_n_times_the_weight() -> None:
    objective, net = Objective("vanilla", lambda_r1=3.0, r1_every=4), NETS.float()
    real, fake = torch.rand(2, 2, 3, 6, 6)
    for iteration in range(1, 9):
        draws = objective.draws(("D",), 2, torch.Generator(), iteration)
        losses = objective.discriminator(net, real, fake, draws)
        assert ("r1" in losses) == (iteration % 4 == 0)
        if "r1" in losses:
            torch.testing.assert_close(losses["r1"], 3 * 4 * r1_penalty(net, real))


@pytest.mark.parametrize("name", TRAINED)
def test_every_discriminator_of_every_model_is_penalised(name: str, data: dict[str, Path]) -> None:
    norm = "none" if name == "unified" else "instance"
    flags = ["--gan_mode", "wgangp", "--lambda_r1", "10", "--r1_every", "2", "--diffaug", "color"]
    trainer, batches = trainer_and_batches(name, data, *flags, "--norm", norm)
    names = {net for net in trainer.model.nets if net.startswith("D")}
    penalised: list[tuple[str, int, bool]] = []
    discriminator_losses = trainer.model.objective.discriminator

    def discriminator(*arguments: object, name: str = "D") -> dict[str, torch.Tensor]:
        losses = discriminator_losses(*arguments, name=name)
        assert losses["gp"] > 0
        penalised.append((name, trainer.iteration, "r1" in losses))
        return losses

    trainer.model.objective.discriminator = discriminator
    for batch in (batches * 2)[:2]:
        trainer.step(batch)
    assert sorted(penalised) == [(net, step, step == 2) for net in sorted(names) for step in (1, 2)]


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        ("--gan_mode wgangp", "D_alpha"),
        ("--lambda_r1 10", "D_r1"),  # the first of 16 steps, which has no penalty
        ("--lambda_r1 10 --r1_every 1", "D_r1"),
        ("--diffaug color", "D_augment"),
    ],
)
def test_a_model_whose_draws_lack_those_of_the_objective_is_stopped(
    flags: str, missing: str, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, batches = trainer_and_batches("pix2pix", data, "--norm", "instance", *flags.split())
    trainer.step(batches[0])
    monkeypatch.setattr(Pix2PixModel, "draws", lambda *_: {})
    with pytest.raises(RuntimeError, match=f"the draws {missing} are missing"):
        trainer.step(batches[0])


def test_generators_need_the_augmentation_too() -> None:
    objective = Objective("vanilla", diffaug=("color",))
    with pytest.raises(RuntimeError, match="the draws D_augment are missing"):
        objective.generator(nn.Identity(), torch.rand(1, 3, 8, 8), {})


def test_discriminators_get_augmented_images_and_penalties_unchanged_ones() -> None:
    objective, seen = Objective("lsgan", diffaug=("cutout",), lambda_r1=1.0, r1_every=1), []

    class ZerosSeen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((x == 0).float().mean().item())
            return x.mean((1, 2, 3))

    real, fake = torch.rand(2, 4, 3, 8, 8) + 0.1
    draws = objective.draws(("D",), 4, torch.Generator().manual_seed(0), 1)
    objective.discriminator(ZerosSeen(), real, fake, draws)
    objective.generator(ZerosSeen(), fake, draws)
    assert seen[0] > 0.05 and seen[1] == 0 and seen[2] > 0.05  # D, its penalty, G


def test_instance_noise_is_added_to_all_inputs_of_discriminators() -> None:
    torch.manual_seed(0)
    objective, zeros = Objective("lsgan", instance_noise=0.5), torch.zeros(8, 3, 16, 16)
    assert objective.augment_for_discriminator(zeros, None, 0).std().item() == pytest.approx(0.5, rel=0.05)
    assert objective.discriminator(nn.Identity(), zeros, zeros, {})["fake"] > 0.2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--lambda_r1 1", "--lambda_r1 1: the gradient penalty needs .* --norm instance"),
        ("--gan_mode wgangp", "--lambda_gp 10: the gradient penalty needs"),
        ("--gan_mode hinge --label_smoothing 0.1", "--label_smoothing 0.1: --gan_mode hinge has no labels"),
        ("--diffaug flip", "--diffaug flip: expected none or some of"),
    ],
)
def test_invalid_flags_are_refused(flags: str, message: str, data: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=message):
        trainer_and_batches("pix2pix", data, *flags.split())


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def test_generators_are_updated_every_n_critic_steps(data: dict[str, Path]) -> None:
    trainer, batches = trainer_and_batches("pix2pix", data, "--n_critic", "3")
    changed = []
    for step in range(6):
        before = {name: weights(net) for name, net in trainer.model.nets.items()}
        trainer.step(batches[step % 3])
        changed.append(
            [name for name, net in trainer.model.nets.items() if not torch.equal(before[name], weights(net))]
        )
    assert changed == [["D"], ["D"], ["G", "D"]] * 2


def test_two_learning_rates(data: dict[str, Path]) -> None:
    trainer, _ = trainer_and_batches("pix2pix", data, "--lr_G", "0.0001", "--lr_D", "0.0004")
    trainer.set_learning_rate(0.5)
    rates = {name: o.param_groups[0]["lr"] for name, o in trainer.optimizers.items()}
    assert rates == {"G": 0.00005, "D": 0.0002}


def test_gradients_are_clipped(data: dict[str, Path]) -> None:
    trainer, batches = trainer_and_batches("pix2pix", data, "--clip_grad", "0.01")
    trainer.step(batches[0], monitor=True)
    assert trainer.model.diagnostics.values()["grad_G"] > 0.01  # before clipping
    for net in trainer.model.nets.values():
        norm = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).norm()
        assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_averages_follow_the_weights() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    average, ema = [weights(net).double()], Ema({"G": net}, 0.5)
    for update in range(1, 13):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.rand_like(parameter))
            net[1].running_mean.add_(1)
        ema.update({"G": net})
        keep = min(0.5, (1 + update) / (10 + update))
        average.append(keep * average[-1] + (1 - keep) * weights(net).double())
    torch.testing.assert_close(weights(ema.nets["G"]).double(), average[-1], rtol=1e-5, atol=1e-6)
    assert torch.equal(ema.nets["G"][1].running_mean, net[1].running_mean)


TECHNIQUES = {
    "ema": "--ema_decay 0.99",
    "hinge": "--gan_mode hinge --spectral_norm GD --norm none",
    "r1": "--lambda_r1 10 --r1_every 2 --norm none",
    "wgangp": "--gan_mode wgangp --n_critic 2 --norm none",
    "few": "--diffaug color,translation,cutout --instance_noise 0.1 --label_smoothing 0.1 --clip_grad 1",
}


@pytest.mark.parametrize("steps", [6, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("name", ["pix2pix", "cycle_gan", "dcgan"])
def test_each_technique_trains_and_resumes_to_the_bit(
    name: str, technique: str, steps: int, data: dict[str, Path], tmp_path: Path
) -> None:
    flags = TECHNIQUES[technique].split()
    trainer, batches = trainer_and_batches(name, data, *flags)
    for step in range(steps):
        if step == steps // 2:
            torch.save(trainer.state_dict(), tmp_path / "state.pth")
        losses = trainer.step(batches[step % len(batches)], monitor=step % 2 == 0).losses
        assert all(math.isfinite(value.item()) for value in losses.values()), step
    resumed, _ = trainer_and_batches(name, data, *flags)
    resumed.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True, map_location=CPU))
    for step in range(steps // 2, steps):
        resumed.step(batches[step % len(batches)], monitor=step % 2 == 0)
    assert_equal_states(trainer, resumed)
