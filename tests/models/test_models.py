"""Every registered model: one step, save, load, translate."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data import DATASETS, create_loader
from models import MODELS, create_model
from models.layers.initialization import initialise
from options.option import flags_of
from options.parse import parse
from options.test_options import TestOptions
from options.train_options import GAN_MODES, TrainOptions
from tests.support.models import (
    CPU,
    TRAINED,
    arguments,
    assert_equal_states,
    create_trainer,
    trainer_and_batches,
    with_masks,
)
from util.batch import Batch
from util.errors import UserError
from util.parts import Part, Side, Sides


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_updates_every_network_and_repeats(name: str, data: dict[str, Path]) -> None:
    trainer, batches = trainer_and_batches(name, data)
    before = {n: {k: v.clone() for k, v in net.state_dict().items()} for n, net in trainer.model.nets.items()}
    losses, visuals = trainer.step(batches[0])
    assert losses and all(math.isfinite(value.item()) and value.dim() == 0 for value in losses.values())
    assert not any(t.requires_grad for t in (*losses.values(), *visuals.values()))
    assert trainer.model.watched_losses and set(trainer.model.watched_losses) <= losses.keys()
    for n, net in trainer.model.nets.items():
        assert any(not torch.equal(value, before[n][k]) for k, value in net.state_dict().items()), n
    for image in visuals.values():
        assert image.shape[0] == 2 and image.shape[2:] == (32, 32) and image.abs().max() <= 1

    again, _ = trainer_and_batches(name, data)
    torch.rand(5)  # the state of torch's own generator must not matter
    again.step(batches[0])
    assert_equal_states(trainer, again)


@pytest.mark.parametrize("name", TRAINED)
def test_a_loaded_model_goes_on_exactly(name: str, data: dict[str, Path], tmp_path: Path) -> None:
    trainer, batches = trainer_and_batches(name, data)
    trainer.step(batches[0])
    torch.save(trainer.state_dict(), tmp_path / "state.pth")
    resumed, _ = trainer_and_batches(name, data, "--seed", "0", "--init_gain", "0.5")
    resumed.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    for batch in batches[1:]:
        trainer.step(batch)
        resumed.step(batch)
    assert_equal_states(trainer, resumed)


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize("evaluate", [False, True])
def test_translation_does_not_depend_on_the_batch(name: str, evaluate: bool, data: dict[str, Path]) -> None:
    argv = arguments(name, data, "--precision", "fp64")
    options = parse(TestOptions, argv, MODELS, DATASETS)
    model = create_model(options, CPU)
    for net in model.nets.values():
        initialise(net, "kaiming", 1)  # signals that no norm has to enlarge
    if evaluate:
        model.eval()

    def visuals(batch_size: int) -> dict[str, torch.Tensor]:
        argv = arguments(name, data, "--batch_size", str(batch_size), "--num_test", "3")
        loader = create_loader(parse(TestOptions, argv, MODELS, DATASETS), CPU)
        found = [model.translate(batch.to(CPU, model.dtype)) for batch in loader.epoch(0)]
        return {key: torch.cat([v[key] for v in found]) for key in found[0]}

    together, alone = visuals(3), visuals(1)
    assert len(next(iter(alone.values()))) == 3
    for key, image in alone.items():
        torch.testing.assert_close(together[key], image, rtol=0, atol=1e-10)
    generated = [image for key, image in alone.items() if not key.startswith("real")]
    assert generated and not any(torch.allclose(fake[0], fake[1]) for fake in generated)


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize("netG", ["unet_32", "resnet_6blocks"])
def test_any_size_is_padded_and_cropped_back(name: str, netG: str, data: dict[str, Path]) -> None:
    argv = arguments(name, data, "--preprocess", "none", "--netG", netG)
    if name in ("dcgan", "unified") or (name == "memory_colorization" and netG != "unet_32"):
        with pytest.raises(UserError, match=f"--netG {netG}"):
            create_model(parse(TestOptions, argv, MODELS, DATASETS), CPU)
        return
    model = create_model(parse(TestOptions, argv, MODELS, DATASETS), CPU)
    image = torch.rand(1, 3, 37, 50) * 2 - 1
    visuals = model.translate(Batch(image, image, ["p"], ["p"], torch.tensor([0])))
    assert {tuple(v.shape[2:]) for v in visuals.values()} == {(37, 50)}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--crop_size 48 --load_size 48", "multiples of 32; take --crop_size 32"),
        ("--netG resnet_6blocks --crop_size 16 --load_size 16", "the discriminator needs sides of 24"),
        ("--gan_mode wgangp --norm batch", "use --norm instance, or --lambda_gp 0"),
        ("--pool_size 50", "--pool_size 0"),
        ("--dataset_mode single", "--dataset_mode: the model needs images of both sides"),
        ("--model test", "--model test is for test.py alone"),
        ("--model cycle_gan --dataset_mode unaligned --output_nc 1", "use --lambda_identity 0"),
        ("--model cycle_gan --dataset_mode single", "--dataset_mode: the model needs"),
    ],
)
def test_what_cannot_work_is_refused(flags: str, message: str, data: dict[str, Path]) -> None:
    mode = next((mode for mode in data if f"--dataset_mode {mode}" in flags), "aligned")
    with pytest.raises(UserError) as caught:
        trainer, batches = trainer_and_batches("pix2pix", data, "--dataroot", str(data[mode]), *flags.split())
        trainer.step(batches[0])
    assert message in str(caught.value)


RGB_ONLY = [name for name in MODELS.names() if "input_range" in MODELS.get(name).fixed]
"""Models of RGB images with 8 bits."""


@pytest.mark.parametrize("name", sorted({*MODELS.names()} - {*RGB_ONLY}))
def test_a_model_takes_any_number_of_channels(name: str, data: dict[str, Path]) -> None:
    own, fixed = flags_of(MODELS.get(name).Options), MODELS.get(name).fixed
    output_nc = 5 if "output_nc" in fixed else 2  # what is generated has the channels of the input
    flags = ["--input_nc=5", *([] if "output_nc" in fixed else ["--output_nc=2"])]
    flags += ["--lambda_identity=0"] if "lambda_identity" in own else []
    A, B = torch.rand(2, 5, 32, 32) * 2 - 1, torch.rand(2, output_nc, 32, 32) * 2 - 1
    batch = Batch(A, B, ["a", "b"], ["a", "b"], torch.arange(2))
    if name in TRAINED:
        trainer = create_trainer(parse(TrainOptions, arguments(name, data, *flags), MODELS, DATASETS))
        for monitor in (True, False):
            step = trainer.step(batch, monitor)
            assert all(math.isfinite(loss.item()) for loss in step.losses.values())
    flags = [flag for flag in flags if "identity" not in flag]
    model = create_model(parse(TestOptions, arguments(name, data, *flags), MODELS, DATASETS), CPU)
    visuals = model.translate(batch)
    for label, image in (*visuals.items(), *model.overview().items()):
        of_A = (label.startswith("real") and not label.endswith("_B")) or label in ("fake_A", "rec_A")
        assert image.shape[-3] == (5 if of_A else output_nc), label


def test_models_of_rgb_images_say_so() -> None:
    assert {"colorization", "memory_colorization", "style_transfer", "unified"} == {*RGB_ONLY}


@pytest.mark.parametrize("name", RGB_ONLY)
@pytest.mark.parametrize(
    "flag",
    ["--input_range=full", "--output_range=0,9", "--label_nc=3", "--inputs=A1,A2", "--outputs=B1", "--mask"],
)
def test_models_of_rgb_images_refuse_others_with_the_reason(
    name: str, flag: str, data: dict[str, Path]
) -> None:
    option, _, value = flag.partition("=")
    with pytest.raises(
        UserError, match=rf"^{option} {value or 'true'}: {name} supports (only|no) .*\(.+ .+\)$"
    ):
        parse(TrainOptions, arguments(name, data, flag), MODELS, DATASETS)


@pytest.mark.parametrize("name", TRAINED)
def test_a_mask_weights_losses_or_is_refused(name: str, data: dict[str, Path]) -> None:
    if not MODELS.get(name).takes_masks:
        with pytest.raises(UserError, match=r"^--mask"):
            create_trainer(parse(TrainOptions, arguments(name, data, "--mask"), MODELS, DATASETS))
        return
    trainers, batches = zip(*(trainer_and_batches(name, data) for _ in range(2)), strict=True)
    (masked, *_) = with_masks(name, batches[0])
    assert masked.mask is not None and masked.B is not None
    plain, weighted = (
        trainer.step(batch).losses for trainer, batch in zip(trainers, (batches[1][0], masked), strict=True)
    )
    watched = trainers[0].model.watched_losses
    assert all(not torch.equal(plain[loss], weighted[loss]) for loss in watched)


def test_identity_losses_are_refused_where_one_side_is_a_map_of_classes(data: dict[str, Path]) -> None:
    def build(*flags: str) -> None:
        argv = arguments("cycle_gan", data, "--label_nc=3", *flags)
        create_model(parse(TrainOptions, argv, MODELS, DATASETS), CPU)

    with pytest.raises(UserError, match=r"--lambda_identity 0\.5 .* map of classes: use --lambda_identity 0"):
        build()
    build("--lambda_identity=0")
    build("--input_range=labels", "--output_range=labels")


def test_the_brightness_of_class_maps_is_not_measured(data: dict[str, Path]) -> None:
    trainer, batches = trainer_and_batches("cycle_gan", data)
    labels = Side((Part("A", "labels", channels=3),))
    for sides, measured in ((Sides(), True), (Sides(A=labels), False)):
        trainer.step(replace(batches[0], sides=sides), monitor=True)
        assert ("G_A_light" in trainer.model.diagnostics.values()) == measured


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("gan_mode", GAN_MODES)
def test_every_objective_trains(name: str, gan_mode: str, data: dict[str, Path]) -> None:
    norm = "none" if name == "unified" else "instance"
    trainer, batches = trainer_and_batches(name, data, "--gan_mode", gan_mode, "--norm", norm)
    for batch in batches:
        losses, _ = trainer.step(batch)
    assert all(math.isfinite(value.item()) for value in losses.values())


@pytest.mark.parametrize("gan_mode", GAN_MODES)
@pytest.mark.parametrize("norm", ["instance", "none"])
def test_the_penalty_is_applied_where_it_belongs(gan_mode: str, norm: str, data: dict[str, Path]) -> None:
    trainer, batches = trainer_and_batches("pix2pix", data, "--gan_mode", gan_mode, "--norm", norm)
    losses = trainer.step(batches[0]).losses
    assert ("D_gp" in losses) == (gan_mode == "wgangp")
    if gan_mode == "wgangp":
        trainer, _ = trainer_and_batches(
            "pix2pix", data, "--gan_mode", "wgangp", "--lambda_gp", "0", "--norm", norm
        )
        assert "D_gp" not in trainer.step(batches[0]).losses


def test_pix2pix_learns_its_pairs(data: dict[str, Path]) -> None:
    trainer, batches = trainer_and_batches(
        "pix2pix", data, "--lr", "0.002", "--direction", "BtoA", "--no_flip"
    )
    start = trainer.step(batches[0]).losses["G_L1"].item()
    for _ in range(40):
        end = trainer.step(batches[0]).losses["G_L1"].item()
    assert end < start / 2


def test_grey_to_colour(data: dict[str, Path]) -> None:
    trainer, batches = trainer_and_batches("pix2pix", data, "--input_nc", "1")
    visuals = trainer.step(batches[0]).visuals
    assert [visuals[key].shape[1] for key in ("real_A", "fake_B", "real_B")] == [1, 3, 3]


def test_learning_rates_are_set_from_their_initial_value(data: dict[str, Path]) -> None:
    trainer, _ = trainer_and_batches("pix2pix", data)
    for factor in (0.5, 0.1):
        trainer.set_learning_rate(factor)
        assert {group["lr"] for o in trainer.optimizers.values() for group in o.param_groups} == {
            2e-4 * factor
        }


def test_cycle_gan_counts_the_penalty_and_the_identity_where_asked(data: dict[str, Path]) -> None:
    def losses(*flags: str) -> dict[str, torch.Tensor]:
        trainer, batches = trainer_and_batches("cycle_gan", data, *flags)
        return trainer.step(batches[0]).losses

    plain, penalised = losses("--gan_mode", "wgangp", "--lambda_gp", "0"), losses("--gan_mode", "wgangp")
    assert penalised["D_A"] > plain["D_A"] + 0.1
    without = losses("--lambda_identity", "0")
    assert plain["idt_A"] > 0 and plain["idt_B"] > 0
    assert without["idt_A"] == 0 and without["idt_B"] == 0  # logged as 0, as the peer does
    unequal = losses("--lambda_identity", "0", "--input_nc", "1")
    assert all(math.isfinite(value.item()) for value in unequal.values())


def test_cycle_gan_shows_both_directions_of_images_of_unequal_size(data: dict[str, Path]) -> None:
    argv = arguments("cycle_gan", data, "--preprocess", "none", "--input_nc", "1")
    model = create_model(parse(TestOptions, argv, MODELS, DATASETS), CPU)
    A, B = torch.zeros(1, 1, 37, 50), torch.zeros(1, 3, 20, 64)
    visuals = model.translate(Batch(A, B, ["a"], ["b"], torch.tensor([0])))
    shapes = {name: tuple(image.shape[1:]) for name, image in visuals.items()}
    grey, colour = (1, 37, 50), (3, 20, 64)
    assert shapes == {
        "real_A": grey,
        "fake_B": (3, 37, 50),
        "rec_A": grey,
        "real_B": colour,
        "fake_A": (1, 20, 64),
        "rec_B": colour,
    }


def test_a_resumed_model_keeps_the_flags_of_its_command_line(data: dict[str, Path]) -> None:
    trainer, batches = trainer_and_batches("pix2pix", data)
    trainer.set_learning_rate(0.5)
    trainer.step(batches[0])
    resumed, _ = trainer_and_batches("pix2pix", data, "--lr", "0.01", "--beta1", "0.9")
    resumed.load_state_dict(trainer.state_dict())
    resumed.set_learning_rate(0.5)
    for optimizer in resumed.optimizers.values():
        assert [(group["lr"], group["betas"]) for group in optimizer.param_groups] == [(0.005, (0.9, 0.999))]
    with pytest.raises(UserError, match="network G: these weights are of another architecture"):
        trainer_and_batches("pix2pix", data, "--ngf", "8")[0].load_state_dict(trainer.state_dict())


def test_flags_of_discriminators_without_one_are_named(
    data: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    trainer_and_batches("template", data, "--gan_mode", "hinge", "--lr_D", "0.1")
    unused = [record.message.split()[0] for record in caplog.records if "has no effect" in record.message]
    assert unused == ["--gan_mode", "--lr_D", "--ndf"]  # the last one is of all tests
    caplog.clear()
    trainer_and_batches("pix2pix", data, "--gan_mode", "hinge", "--lr_D", "0.1")
    assert "no effect" not in caplog.text
