"""Batches in parts and activations that are computed again: less memory, the same training."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from models.colorization.rebalancing import ColorFrequencies
from models.layers import convolutions
from models.layers.recomputation import recompute_generators
from tests.support.models import CPU, TRAINED, assert_equal_states, trainer_and_batches, with_masks
from training.loss_scale import LossScale
from training.trainer import Trainer
from util.batch import Batch
from util.color import AB_BINS
from util.errors import UserError


def peak_bytes(act: Callable[[], object]) -> int:
    """Return how much memory tensors take at most while `act` runs, beyond what they took before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        act()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    taken = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        taken += event.nbytes()
        peak = max(peak, taken)
    return peak


def kept_bytes(trainer: Trainer, batch: Batch) -> int:
    """Return how much a training step keeps for its backward passes, weights aside."""
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.step(batch)
    return sum(kept)


def four(batch: Batch) -> Batch:
    """Return a batch of four images that are like those of a batch of two or more, and not the same."""
    images = torch.linspace(-0.1, 0.1, 4, dtype=batch.A.dtype).view(-1, 1, 1, 1)
    rows = [0, 1, 0, 1]
    A, B = (None if side is None else (side[rows] + images).clamp(-1, 1) for side in (batch.A, batch.B))
    paths_A, paths_B = (
        [f"{row}_{path}" for row, path in enumerate(2 * paths[:2])] if paths else []
        for paths in (batch.paths_A, batch.paths_B)
    )
    assert A is not None
    return replace(batch, A=A, B=B, paths_A=paths_A, paths_B=paths_B, index=torch.arange(4))


def in_parts(name: str, data: dict[str, Path], parts: int, *flags: str) -> tuple[Trainer, list[Batch]]:
    flags = ("--batch_size", "4", "--accumulate", str(parts), *flags)
    return trainer_and_batches(name, data, *flags)


def test_parts_have_their_samples_and_their_share_of_the_draws() -> None:
    draws = {"weight": torch.tensor(3.0), "z": torch.arange(10).view(5, 2)}
    images, names = torch.rand(5, 3, 4, 4), list("abcde")
    batch = Batch(images, None, names, [], torch.arange(5), torch.arange(5), draws)
    parts = list(batch.micro_batches(2, 1))
    assert [len(part) for part in parts] == [1, 2, 2]
    assert [path for part in parts for path in part.paths_A] == names
    assert torch.equal(torch.cat([part.A for part in parts]), images)
    assert torch.equal(torch.cat([part.draws["z"] for part in parts]), draws["z"])
    assert all(part.draws["weight"] == 3 and part.B is None for part in parts)
    assert [len(part) for part in batch.micro_batches(5, 1)] == [5]


@pytest.mark.parametrize("parts", [2, 4])
def test_cycle_gan_in_parts_is_cycle_gan(parts: int, data: dict[str, Path]) -> None:
    # The pools of 4 have one image a position: they are full after a step. An epoch ends with half a batch.
    flags = ["--precision", "fp64", "--pool_size", "4", "--netG", "resnet_6blocks", "--diffaug", "color"]
    whole, batches = in_parts("cycle_gan", data, 1, *flags)
    other, _ = in_parts("cycle_gan", data, parts, *flags)
    batches = with_masks("cycle_gan", batches)
    sizes = [len(batch) for batch in 2 * batches]
    assert sizes == [4, 2, 4, 2]
    for batch in 2 * batches:
        expected, found = (trainer.step(batch, monitor=True) for trainer in (whole, other))
        for name, loss in expected.losses.items():
            torch.testing.assert_close(found.losses[name], loss, rtol=1e-10, atol=1e-10)
        for name, visual in expected.visuals.items():
            torch.testing.assert_close(found.visuals[name], visual, rtol=0, atol=1e-10)
        for name, value in whole.model.diagnostics.values().items():
            if not name.endswith("_light"):  # a correlation within each part
                torch.testing.assert_close(
                    other.model.diagnostics.values()[name], value, rtol=1e-9, atol=1e-9
                )
    for name, net in whole.model.nets.items():
        for key, weight in net.state_dict().items():
            # A bias before an instance norm has no gradient but rounding errors, which Adam enlarges.
            limit = 1e-8 if key.endswith("bias") else 1e-10
            torch.testing.assert_close(other.model.nets[name].state_dict()[key], weight, rtol=0, atol=limit)


@pytest.mark.parametrize("name", TRAINED)
def test_every_model_trains_in_parts_and_resumes_to_the_bit(
    name: str, data: dict[str, Path], tmp_path: Path
) -> None:
    flags = ["--clip_grad", "1", "--ema_decay", "0.9"]
    trainer, (batch, *_) = in_parts(name, data, 2, *flags)
    batches = [four(batch), batch.select(slice(0, 3)), four(batch)]
    before = {n: {k: v.clone() for k, v in net.state_dict().items()} for n, net in trainer.model.nets.items()}
    losses, visuals = trainer.step(batches[0], monitor=True)
    assert all(math.isfinite(value.item()) and value.dim() == 0 for value in losses.values())
    assert all(len(image) == 4 for image in visuals.values())
    for n, net in trainer.model.nets.items():
        assert any(not torch.equal(value, before[n][k]) for k, value in net.state_dict().items()), n
    torch.save(trainer.state_dict(), tmp_path / "state.pth")
    resumed, _ = in_parts(name, data, 2, *flags)
    resumed.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    for later in batches[1:]:
        trainer.step(later)
        resumed.step(later)
    assert_equal_states(trainer, resumed)


def test_n_critic_r1_and_averages_count_steps_rather_than_parts(data: dict[str, Path]) -> None:
    flags = "--n_critic 2 --lambda_r1 1 --r1_every 2 --norm none --ema_decay 0.9"
    trainer, (batch, *_) = in_parts("pix2pix", data, 4, *flags.split())
    for iteration in range(1, 5):
        before = [parameter.clone() for parameter in trainer.model.nets["G"].parameters()]
        losses, _ = trainer.step(batch)
        changed = any(
            not torch.equal(one, other)
            for one, other in zip(before, trainer.model.nets["G"].parameters(), strict=True)
        )
        assert changed == ("D_r1" in losses) == (iteration % 2 == 0)
    assert trainer.ema is not None and trainer.ema.updates == 2
    steps = {
        name: optimizer.state_dict()["state"][0]["step"] for name, optimizer in trainer.optimizers.items()
    }
    assert steps == {"G": 2, "D": 4}


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("bad", [0, 3])
def test_what_is_not_finite_in_one_part_blocks_the_whole_update(
    policy: str, bad: int, data: dict[str, Path]
) -> None:
    trainer, (batch, *_) = in_parts("pix2pix", data, 2, "--on_nan", policy)
    before = {name: net.state_dict() for name, net in trainer.model.nets.items()}
    before = {name: {key: value.clone() for key, value in state.items()} for name, state in before.items()}
    A = batch.A.clone()
    A[bad] = torch.nan
    trainer.step(replace(batch, A=A))
    report = trainer.nonfinite.pop_report()
    assert report is not None and sorted(report.optimizers) == ["D", "G"]
    for name, net in trainer.model.nets.items():
        for key, value in net.state_dict().items():
            statistics = "running" in key or "tracked" in key
            assert torch.equal(value, before[name][key]) or (policy == "stop" and statistics), key
    trainer.step(batch)
    changed = any(
        not torch.equal(v, before["G"][k])
        for k, v in trainer.model.nets["G"].state_dict().items()
        if "weight" in k
    )
    assert changed == (policy == "skip")


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_the_weights_of_colours_do_not_depend_on_how_images_are_batched(size: int) -> None:
    """An image weighs what it would alone: one batch of six, parts of it, or smaller batches."""
    ab = torch.rand(6, 2, 8, 8, dtype=torch.float64)
    batch = Batch(ab, None, [""] * 6, [], torch.arange(6))
    whole, other = (ColorFrequencies(torch.device("cpu"), torch.float64) for _ in range(2))
    for _ in range(3):
        expected = whole.weights(ab, batch)
        parts = [batch.select(slice(first, first + size)) for first in range(0, 6, size)]
        weights = [other.weights(part.A, replace(part, share=size / 6)) for part in parts]
        torch.testing.assert_close(torch.cat(weights), expected)
    torch.testing.assert_close(other.frequencies, whole.frequencies)

    grey, before = torch.zeros(1, 2, 4, 4, dtype=torch.float64), whole.frequencies.clone()
    whole.weights(grey.expand(5, -1, -1, -1), Batch(grey, None, [], [], torch.arange(5)))
    expected = before * 0.99**5
    expected[AB_BINS.index((0, 0))] += 1 - 0.99**5
    torch.testing.assert_close(whole.frequencies, expected)


def test_float16_scales_the_parts_of_an_update_alike(data: dict[str, Path]) -> None:
    trainer, (batch, *_) = in_parts("pix2pix", data, 2)
    scaled, _ = in_parts("pix2pix", data, 2)
    scaled.loss_scale = LossScale(CPU)
    scaled.loss_scale.load_state_dict({"scale": torch.tensor(2.0**10), "good": torch.tensor(1998.0)})
    # D's update doubles the scale before G's is made
    for each in (trainer, scaled):
        each.step(batch)
    assert scaled.loss_scale.scale == 2.0**11
    for one, other in zip(
        trainer.model.nets["G"].parameters(), scaled.model.nets["G"].parameters(), strict=True
    ):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["pix2pix", "cycle_gan"])
def test_parts_take_a_part_of_the_memory(
    name: str, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Products of small maps keep patches of them: little beside real nets, much beside such small ones.
    monkeypatch.setattr(convolutions, "MAX_MATMUL_PIXELS", 0)
    peaks = []
    for parts in (1, 2, 4):
        trainer, (batch, *_) = in_parts(name, data, parts, "--netG", "resnet_6blocks")
        trainer.step(batch)  # the optimizers' state and the pools are there from now on
        peaks.append(peak_bytes(lambda trainer=trainer, batch=batch: trainer.step(batch)))
    assert peaks[1] < 0.6 * peaks[0] and peaks[2] < 0.36 * peaks[0], peaks


def test_a_batch_that_cannot_be_divided_is_refused(data: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"--accumulate 3: --batch_size 4 is not .* use --batch_size 6"):
        in_parts("pix2pix", data, 3)
    with pytest.raises(UserError, match="--batch_size 4 --accumulate 4: with batch norm"):
        in_parts("unified", data, 4)


CHECKPOINTED = [
    *((name, "") for name in TRAINED),
    ("pix2pix", "--netG resnet_6blocks --attention 1/2"),
    ("pix2pix", "--no_dropout --attention 1/2 --upsample bilinear"),
    ("cycle_gan", "--netG resnet_6blocks --norm batch --no_dropout false"),
    ("style_transfer", "--netG resnet_9blocks --style_mode adain"),
    ("pix2pix", "--precision bf16"),
    ("cycle_gan", "--netG resnet_6blocks --precision bf16"),
    ("pix2pix", "--accumulate 2"),
]


@pytest.mark.parametrize(("name", "flags"), CHECKPOINTED)
def test_recomputed_activations_change_no_bit(name: str, flags: str, data: dict[str, Path]) -> None:
    plain, batches = trainer_and_batches(name, data, *flags.split())
    other, _ = trainer_and_batches(name, data, *flags.split(), "--checkpointing")
    for batch in batches[:2]:
        kept = [kept_bytes(trainer, batch) for trainer in (plain, other)]
        assert kept[1] < kept[0]
    assert_equal_states(plain, other)
    visuals = [trainer.model.translate(batches[0]) for trainer in (plain, other)]
    assert all(torch.equal(visuals[1][label], image) for label, image in visuals[0].items())


@pytest.mark.parametrize("name", TRAINED)
def test_what_cannot_be_recomputed_is_refused(name: str, data: dict[str, Path]) -> None:
    flags = ["--checkpointing", "--spectral_norm"]
    with pytest.raises(UserError, match=r"--checkpointing: spectral norm .* --spectral_norm D"):
        trainer_and_batches(name, data, *flags, "GD")
    trainer, batches = trainer_and_batches(name, data, *flags, "D")
    trainer.step(batches[0])
    with pytest.raises(UserError, match="--checkpointing: this model has no generator"):
        recompute_generators({"D": torch.nn.Identity(), "G": torch.nn.Identity()})


@pytest.mark.parametrize(
    ("name", "netG", "most"), [("pix2pix", "unet_32", 0.6), ("cycle_gan", "resnet_6blocks", 0.4)]
)
def test_generators_keep_little_of_what_they_recompute(
    name: str, netG: str, most: float, data: dict[str, Path]
) -> None:
    kept = []
    for flags in ([], ["--checkpointing"]):
        # A discriminator of single pixels keeps next to nothing beside these generators.
        trainer, (batch, *_) = trainer_and_batches(
            name, data, "--netG", netG, "--ngf", "32", "--netD", "pixel", "--ndf", "1", *flags
        )
        kept.append(kept_bytes(trainer, batch))
    assert kept[1] < most * kept[0], kept
