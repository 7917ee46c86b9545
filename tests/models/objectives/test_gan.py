"""Regularisation of adversarial training: each technique by itself, and models trained with it."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from models.dcgan_networks import DcganDiscriminator
from models.discriminators.patch import PatchDiscriminator
from models.objectives.augmentation import augment
from models.objectives.gan import Objective
from models.objectives.losses import discriminator_loss, gradient_penalty, r1_penalty, total
from models.pix2pix_model import Pix2PixModel
from tests.support.models import CPU, TRAINED, assert_equal_states, trainer_and_batches
from tests.support.recorder import CpuRecorder
from tests.support.training import training
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
    (gradient,) = torch.autograd.grad(net(x).mean((1, 2, 3)).sum(), x)
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
    flags = ["--gan_mode", "wgangp", "--lambda_r1", "10", "--r1_every", "2", "--diffaug", "cutout"]
    trainer, batches = trainer_and_batches(name, data, *flags, "--norm", norm)
    names = {net for net in trainer.model.nets if net.startswith("D")}
    penalised: list[tuple[str, int, bool]] = []
    discriminator_losses = trainer.model.objective.discriminator

    def discriminator(*arguments: object, name: str = "D", **source: object) -> dict[str, torch.Tensor]:
        losses = discriminator_losses(*arguments, name=name, **source)
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


class Seen(nn.Module):
    """A discriminator whose logit is the mean square of an image; it keeps its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inputs.append(x.detach())
        return x.square().mean((1, 2, 3))[:, None]


def test_penalties_are_those_of_what_discriminators_see() -> None:
    torch.manual_seed(0)
    policy, D, alpha = ("color", "translation", "cutout"), Seen(), torch.rand(4, 1, 1, 1)
    objective = Objective("wgangp", 1.0, 1.0, 1, diffaug=policy, instance_noise=0.3)
    real, fake = torch.rand(2, 4, 3, 8, 8)
    draws = objective.draws(("D",), 4, torch.Generator().manual_seed(0), 1) | {"D_alpha": alpha}
    losses = objective.discriminator(D, real, fake, draws)
    objective.generator(D, fake, draws)
    both, between, at_real, generated = D.inputs
    fakes, reals = both.chunk(2)
    torch.testing.assert_close(at_real, reals)
    assert not torch.equal(generated, fakes)
    # The augmentation is affine: it maps the point between two images to that between their augmentations.
    noise = reals - augment(real, policy, draws["D_augment"][:, 0])
    other = augment(fake, policy, draws["D_augment"][:, 0]) + noise
    torch.testing.assert_close(between, alpha * reals + (1 - alpha) * other)
    assert 0.2 < noise.std() < 0.4

    def augmented(x: torch.Tensor) -> torch.Tensor:
        return D(augment(x, policy, draws["D_augment"][:, 0]) + noise)

    torch.testing.assert_close(losses["r1"], r1_penalty(augmented, real))
    torch.testing.assert_close(losses["gp"], gradient_penalty(augmented, real, fake, alpha))


@pytest.mark.parametrize("policy", [("color",), ("translation", "cutout")])
def test_penalties_through_augmentation_have_their_gradient(policy: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    decisions, x = torch.rand(2, 7, dtype=torch.float64), torch.rand(2, 3, 5, 5, dtype=torch.float64)

    def of_weight(weight: torch.Tensor) -> torch.Tensor:
        return r1_penalty(lambda x: F.softplus(F.conv2d(augment(x, policy, decisions), weight)), x)

    assert gradcheck(of_weight, torch.rand(1, 3, 3, 3, dtype=torch.float64, requires_grad=True))


def test_penalties_do_not_depend_on_the_number_of_patches() -> None:
    torch.manual_seed(0)
    weight, (real, fake) = torch.rand(1, 3, 8, 8), torch.rand(2, 2, 3, 8, 8)

    def patches(count: int) -> list[torch.Tensor]:
        def net(x: torch.Tensor) -> torch.Tensor:
            return F.conv2d(x.square(), weight).expand(-1, 1, count, count)

        return [r1_penalty(net, real), gradient_penalty(net, real, fake, torch.full((2, 1, 1, 1), 0.5))]

    torch.testing.assert_close(patches(30), patches(1))


def test_the_penalty_of_one_logit_an_image_is_that_of_the_logit() -> None:
    torch.manual_seed(0)
    D, real = DcganDiscriminator(32, 3, 4, "none", 2).double(), torch.rand(3, 3, 32, 32).double()
    x, label = real.clone().requires_grad_(), torch.tensor([0, 1, 1])
    (gradient,) = torch.autograd.grad(D(x, label).sum(), x)
    expected = gradient.flatten(1).square().sum(1).mean() / 2
    assert torch.equal(r1_penalty(lambda x: D(x, label), real), expected)


@pytest.mark.parametrize("mode", ["vanilla", "wgangp"])
def test_a_penalised_patch_discriminator_separates_images_of_any_size(mode: str) -> None:
    """Under a penalty on the sum of the logits, R1 keeps D undecided, and gradients fall with the patches."""
    weights = {"vanilla": {"lambda_r1": 10.0, "r1_every": 4}, "wgangp": {"lambda_gp": 10.0}}[mode]
    gradients = []
    for side in (32, 64):
        torch.manual_seed(0)
        objective = Objective(mode, **weights)
        D = PatchDiscriminator(3, 8, 2, "instance")
        optimizer = torch.optim.Adam(D.parameters(), 2e-3, (0.5, 0.9))
        for iteration in range(1, 81):
            real, fake = torch.rand(2, 4, 3, side, side)
            real = F.avg_pool2d(real, 3, 1, 1) * 2
            draws = objective.draws(("D",), 4, torch.Generator().manual_seed(iteration), iteration)
            losses = objective.discriminator(D, real, fake, draws)
            optimizer.zero_grad()
            total(losses).backward()
            optimizer.step()
        if mode == "vanilla":
            assert (losses["real"] + losses["fake"]) / 2 < 0.5 * math.log(2)
        fake = fake.requires_grad_()
        (gradient,) = torch.autograd.grad(objective.generator(D, fake, {}) * len(fake), fake)
        gradients.append(gradient.flatten(1).norm(dim=1).mean())
    assert 0.4 < gradients[1] / gradients[0] < 2.5


def test_instance_noise_is_added_to_all_inputs_of_discriminators() -> None:
    torch.manual_seed(0)
    objective, zeros = Objective("lsgan", instance_noise=0.5), torch.zeros(8, 3, 16, 16)
    assert objective.view({}, "D", 0, None)(zeros).std().item() == pytest.approx(0.5, rel=0.05)
    assert objective.discriminator(nn.Identity(), zeros, zeros, {})["fake"] > 0.2


def test_instance_noise_falls_to_zero_also_in_replayed_steps(data: dict[str, Path]) -> None:
    flags = ["--instance_noise", "0.5", "--instance_noise_epochs", "2", "--norm", "none", "--lambda_r1", "1"]
    eager, batches = trainer_and_batches("pix2pix", data, f"--lr={2**-12}", "--r1_every=1", *flags)
    captured, _ = trainer_and_batches("pix2pix", data, f"--lr={2**-12}", "--r1_every=1", *flags)
    captured.capture_steps(recorder := CpuRecorder())
    for step in range(8):
        for trainer in (eager, captured):
            trainer.model.objective.epochs_done = step / 3
        assert_close = torch.testing.assert_close
        for ours, theirs in zip(eager.step(batches[0]), captured.step(batches[0]), strict=True):
            assert_close(ours, theirs, rtol=0, atol=0)
        std = eager.model.draws(1, step, torch.Generator())["instance_noise"].item()
        assert std == pytest.approx(max(0, 0.5 * (1 - step / 6)))
    assert recorder.replays > 2
    assert_equal_states(eager, captured)


def test_instance_noise_falls_over_the_epochs_of_a_run_and_goes_on_when_resumed(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise: list[float] = []

    def draws(*arguments: object) -> dict[str, torch.Tensor]:
        decisions = original(*arguments)
        noise.append(decisions["instance_noise"].item())
        return decisions

    original = Objective.draws
    monkeypatch.setattr(Objective, "draws", draws)
    flags = ["--instance_noise", 0.3, "--instance_noise_epochs", 2, "--overfit", 2]
    assert training(pairs, tmp_path, *flags, "--n_epochs", 1) == 0
    assert training(pairs, tmp_path, *flags, "--n_epochs", 3, "--continue_train") == 0
    assert noise == pytest.approx([0.3, 0.225, 0.15, 0.075, 0, 0])


def test_the_gradient_penalty_needs_images_of_one_size() -> None:
    objective = Objective("wgangp", lambda_gp=10.0)
    draws = objective.draws(["D"], 1, torch.Generator(), 1)
    with pytest.raises(UserError, match=r"--gan_mode wgangp: .* 16 x 16 and 16 x 24"):
        objective.discriminator(NETS.float(), torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 24), draws)


def test_color_leaves_the_condition_of_pairs_alone(data: dict[str, Path]) -> None:
    trainer, batches = trainer_and_batches("pix2pix", data, "--diffaug", "color")
    inputs: list[torch.Tensor] = []
    trainer.model.nets["D"].register_forward_pre_hook(lambda net, args: inputs.append(args[0].detach()))
    trainer.step(batches[0])
    fakes, reals, generated = inputs  # batch norm: each in a call of its own
    for pair in inputs:
        assert torch.equal(pair[:, :3], batches[0].A)
    assert not torch.equal(reals[:, 3:], batches[0].B) and not torch.equal(fakes[:, 3:], generated[:, 3:])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--lambda_r1 1", "--lambda_r1 1: the gradient penalty needs .* --norm instance"),
        ("--gan_mode wgangp", "--lambda_gp 10: the gradient penalty needs"),
        ("--gan_mode hinge --label_smoothing 0.1", "--label_smoothing 0.1: --gan_mode hinge has no labels"),
        ("--diffaug flip", "--diffaug flip: expected none or some of"),
        ("--diffaug color --output_nc 4", r"--diffaug color: .* 4 channels \(--output_nc\); .*cutout"),
        ("--instance_noise_epochs 3", "--instance_noise_epochs 3 needs --instance_noise"),
    ],
)
def test_invalid_flags_are_refused(flags: str, message: str, data: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=message):
        trainer_and_batches("pix2pix", data, *flags.split())


@pytest.mark.parametrize(
    ("name", "flags", "channels"),
    [
        ("colorization", [], r"2 channels \(--output_nc\)"),
        ("memory_colorization", [], r"2 channels \(--output_nc\)"),
        ("cycle_gan", ["--input_nc=4", "--lambda_identity=0"], r"4 channels \(--input_nc\)"),
        ("dcgan", ["--input_nc=2"], r"2 channels \(--input_nc\)"),
        ("cycle_gan", ["--label_nc=3", "--lambda_identity=0"], r"judges hold classes .*\(--input_nc\)"),
        ("pix2pix", ["--outputs=B1,B2,B3"], r"hold .* several images \(--output_nc\)"),
    ],
)
def test_color_is_refused_for_images_that_are_not_rgb_or_grey(
    name: str, flags: list[str], channels: str, data: dict[str, Path]
) -> None:
    with pytest.raises(UserError, match=f"--diffaug color,cutout: .* {channels}; use --diffaug cutout"):
        trainer_and_batches(name, data, "--diffaug=color,cutout", *flags)


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


def test_both_decay_rates_of_adam_are_flags(data: dict[str, Path]) -> None:
    trainer, _ = trainer_and_batches("pix2pix", data, "--beta1", "0", "--beta2", "0.9")
    assert {o.param_groups[0]["betas"] for o in trainer.optimizers.values()} == {(0.0, 0.9)}


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


def test_averages_are_lent_to_the_networks() -> None:
    """Also when an error ends the translation; afterwards the weights have their values and addresses."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    ema, x = Ema({"G": net}, 0.5), torch.rand(1, 1, 2, 2)
    average = ema.nets["G"].eval()(x)
    with torch.no_grad():
        net[0].weight.add_(1)
        net[1].running_mean.add_(1)
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match="unreadable"), ema.applied_to({"G": net}):
        assert torch.equal(net.eval()(x), average)
        raise ValueError("unreadable")
    for name, tensor in net.state_dict().items():
        assert tensor.data_ptr() == before[name][0] and torch.equal(tensor, before[name][1])
    assert torch.equal(ema.nets["G"](x), average)
    ema.restart({"G": net})
    assert torch.equal(ema.nets["G"](x), net(x))


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
