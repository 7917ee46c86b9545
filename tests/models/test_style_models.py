"""Style transfer and the unified model: what each mode and task learns, and what is refused."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train as train_command
from data import DATASETS, create_loader
from models import MODELS, create_model
from models.base_model import BaseModel
from models.style.networks import AdainGenerator, style_code
from models.style.reference import parse_weights
from models.style_transfer_model import StyleTransferModel
from models.unified_model import UnifiedModel
from options.parse import parse
from options.test_options import TestOptions
from options.train_options import TrainOptions
from tests.support.environment import Command
from tests.support.models import create_trainer
from training.trainer import Trainer
from util.batch import Batch
from util.errors import UserError

CPU = torch.device("cpu")
SMALL = "--ngf 4 --ndf 4 --load_size 36 --crop_size 32 --num_threads 0 --vgg_weights random"


@pytest.fixture
def styles(tmp_path: Path) -> Path:
    """Three photos, yellow where they are bright, and two styles: red stripes and blue noise."""
    rng = np.random.default_rng(0)
    for phase in ("train", "test"):
        for number in range(3):
            grey = rng.integers(0, 256, (4, 4), dtype=np.uint8)
            photo = Image.fromarray(np.stack([grey, grey, 0 * grey + 90], 2)).resize((40, 40))
            save(photo, tmp_path / f"{phase}A" / f"{number}.png")
        stripes = np.zeros((40, 40, 3), np.uint8)
        stripes[:, ::4, 0] = 255
        noise = np.zeros((40, 40, 3), np.uint8)
        noise[..., 2] = rng.integers(128, 256, (40, 40))
        save(Image.fromarray(stripes), tmp_path / f"{phase}B" / "red.png")
        save(Image.fromarray(noise), tmp_path / f"{phase}B" / "blue.png")
    return tmp_path


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    image.save(path)


def train(root: Path, flags: str) -> tuple[Trainer, Iterator[Batch]]:
    argv = f"--dataroot {root} {SMALL} {flags}".split()
    options = parse(TrainOptions, argv, MODELS, DATASETS)
    trainer, loader = create_trainer(options), create_loader(options, CPU)
    return trainer, (batch.to(CPU) for epoch in range(100) for batch in loader.epoch(epoch))


def for_test(root: Path, flags: str) -> tuple[BaseModel, list[Batch]]:
    options = parse(TestOptions, f"--dataroot {root} {SMALL} {flags}".split(), MODELS, DATASETS)
    return create_model(options, CPU), [batch.to(CPU) for batch in create_loader(options, CPU).epoch(0)]


def test_each_photo_comes_with_a_style_drawn_for_it(styles: Path) -> None:
    (styles / "testB" / "red.png").unlink()
    (styles / "testB" / "blue.png").unlink()
    (styles / "testB").rmdir()
    options = parse(TrainOptions, f"--dataroot {styles} {SMALL} --model unified".split(), MODELS, DATASETS)
    dataset = DATASETS.get("style").from_options(options)
    assert len(dataset) == 3
    drawn = {Path(dataset[epoch, index].path_B).name for epoch in range(9) for index in range(3)}
    assert drawn == {"red.png", "blue.png"}
    assert dataset[4, 1].path_B == dataset[4, 1].path_B
    _, batches = for_test(styles, "--model style_transfer")
    assert all(batch.B is None for batch in batches)
    with pytest.raises(UserError, match="--direction BtoA"):
        for_test(styles, "--model style_transfer --direction BtoA")


@pytest.mark.parametrize("mode", ["fixed", "set", "adain"])
def test_results_take_on_the_style(styles: Path, mode: str) -> None:
    if mode == "fixed":
        (styles / "trainB" / "blue.png").unlink()
    flags = f"--model style_transfer --style_mode {mode} --netG resnet_6blocks --ngf 8 --lr 0.002"
    if mode == "adain":
        # How far it gets in so few steps varies with the seed, and even with the rounding of the images.
        flags = flags.replace("resnet_6blocks", "resnet_9blocks") + " --exact_resize"
    trainer, batches = train(styles, f"{flags} --batch_size 3 --lambda_style 1000 --lambda_adv 0")
    steps = 100 if mode == "adain" else 40
    losses = [trainer.step(next(batches)).losses["G_style"].item() for _ in range(steps)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 2


def test_unified_is_judged_in_training_as_in_testing(styles: Path) -> None:
    """In evaluation mode, for the statistics of one image would remove the style."""
    trainer, batches = train(styles, "--model unified --batch_size 2 --no_flip")
    model, batch = trainer.model, next(batches)
    trainer.step(batch)
    modes = [layer.training for net in model.nets.values() for layer in net.modules()]
    with trainer.as_tested():
        judged = model.translate(batch)["fake_style"]
    assert [layer.training for net in model.nets.values() for layer in net.modules()] == modes
    assert not torch.equal(judged, model.translate(batch)["fake_style"])
    model.eval()
    assert torch.equal(judged, model.translate(batch)["fake_style"])


def test_fixed_refuses_several_styles_before_the_first_step(styles: Path, tmp_path: Path) -> None:
    """Neither a folder is made, nor an earlier run of the name set aside."""
    flags = f"--dataroot {styles} {SMALL} --model style_transfer --netG resnet_6blocks --gpu_ids -1"
    refused = r"--style_mode fixed learns one style, but the data set has 2 such as .*\.png and .*\.png"
    with pytest.raises(UserError, match=refused):
        train_command.main([*flags.split(), "--checkpoints_dir", str(tmp_path / "checkpoints")])
    assert not (tmp_path / "checkpoints").exists()
    with pytest.raises(UserError, match=refused):  # as it is in unaligned data
        train_command.main([*flags.split(), "--dataset_mode", "unaligned"])
    with pytest.raises(UserError, match=r"--dataset_mode: the model needs images of both sides"):
        train_command.main([*flags.split(), "--dataset_mode", "single", "--dataroot", f"{styles}/trainA"])

    trainer, batches = train(styles, "--model style_transfer --netG resnet_6blocks")
    batch = next(batches)
    trainer.model.check_batch(batch)
    with pytest.raises(UserError, match=refused):  # of a data set that does not list its files
        trainer.model.check_batch(replace(batch, paths_B=["other.png"]))


def test_the_losses_follow_the_flags(styles: Path) -> None:
    common = "--model style_transfer --style_mode set --netG resnet_6blocks"
    trainer, batches = train(styles, f"{common} --lambda_adv 0 --lambda_tv 2")
    batch = next(batches)
    losses = trainer.step(batch).losses
    assert set(losses) == {"G_content", "G_style", "G_tv"} and set(trainer.model.nets) == {"G"}
    for flag, name in (("content", "G_content"), ("style", "G_style")):
        doubled, _ = train(styles, f"{common} --lambda_{flag} 2")
        found = doubled.step(batch).losses
        torch.testing.assert_close(found[name], 2 * losses[name])
        assert {"G_GAN", "D_real", "D_fake"} <= found.keys()


def test_noise_varies_the_results_and_repeats(styles: Path) -> None:
    flags = "--model style_transfer --nz 3 --netG resnet_6blocks --init_gain 0.5"
    model, (batch, *_) = for_test(styles, flags)
    fakes = [model.translate(batch)["fake_B"] for _ in range(2)]
    assert torch.equal(*fakes)
    other, _ = for_test(styles, f"{flags} --seed 1")
    other.nets["G"].load_state_dict(model.nets["G"].state_dict())
    assert not torch.allclose(other.translate(batch)["fake_B"], fakes[0])


def test_styles_given_by_images_are_mixed_by_their_shares(styles: Path) -> None:
    def model(style: str, shares: str = "", *flags: str) -> StyleTransferModel:
        argv = ["--dataroot", str(styles), *SMALL.split(), "--model", "style_transfer", "--style", style]
        argv += ["--style_mode", "adain", "--style_weights", shares, *flags]
        model = create_model(parse(TestOptions, argv, MODELS, DATASETS), CPU)
        assert isinstance(model, StyleTransferModel)
        return model

    red, blue = (str(styles / "trainB" / f"{name}.png") for name in ("red", "blue"))
    models = [model(f"{red}, {blue}", "3,1"), model(red), model(blue)]
    mixed, *ends = (model.given for model in models)
    adain = models[0].nets["G"]
    assert isinstance(adain, AdainGenerator) and mixed and all(ends)
    like = torch.zeros(1)
    moments = zip(*(style.moments(adain, like) for style in (mixed, *ends)), strict=True)
    for between, one, other in moments:
        torch.testing.assert_close(between, 0.75 * one + 0.25 * other)
    assert mixed.name == "red.png (0.75), blue.png (0.25)"
    batch = Batch(torch.rand(1, 3, 32, 40), None, ["p"], ["p"], torch.tensor([0]))
    assert models[0].captions(batch) == [{"fake_B": "fake_B: red.png (0.75), blue.png (0.25)"}]
    fakes = [model.translate(batch)["fake_B"] for model in models[1:]]
    assert not torch.allclose(*fakes)
    own = model(red, "", "--alpha", "0").translate(batch)["fake_B"]
    features = adain.encoder(batch.A)["relu4_1"]
    torch.testing.assert_close(own, adain.decoder(features), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [("1,x", "expected numbers"), ("1", "expected 2 numbers"), ("1,-1", "not below 0"), ("0,0", "not all 0")],
)
def test_shares_that_do_not_fit_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_weights(text, 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model style_transfer --style_mode adain --nz 2", "--nz 2"),
        ("--model style_transfer --style_mode adain --netG unet_32", "--netG unet_32"),
        ("--model style_transfer --style_mode adain --attention 1/2", "--attention 1/2"),
        ("--model style_transfer --input_nc 1", "--input_nc 1"),
        ("--model style_transfer --pool_size 5", "--pool_size 5"),
        ("--model unified --norm instance", "--norm instance: it would remove the style code"),
        ("--model unified --batch_size 1", "--batch_size 1"),
        ("--model unified --preprocess none", "--preprocess none"),
        ("--model unified --pool_size 5", "--pool_size 5"),
        ("--model unified --input_nc 3", "--input_nc 3"),
    ],
)
def test_what_cannot_work_is_refused(styles: Path, flags: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(styles, flags)


def test_unified_tests_with_the_statistics_of_training(styles: Path) -> None:
    options = parse(TestOptions, f"--dataroot {styles} --model unified".split(), MODELS, DATASETS)
    assert options.results.eval
    with pytest.raises(UserError, match="--eval false"):
        for_test(styles, "--model unified --eval false")


@pytest.mark.parametrize(
    ("task", "visuals", "networks"),
    [
        ("color", {"fake_B_rgb"}, {"G", "D_color"}),
        ("style", {"fake_style"}, {"G", "D_style"}),
        ("both", {"fake_B_rgb", "fake_style"}, {"G", "D_color", "D_style"}),
    ],
)
def test_unified_learns_the_tasks_that_are_asked_for(
    styles: Path, task: str, visuals: set[str], networks: set[str]
) -> None:
    trainer, batches = train(styles, f"--model unified --task {task} --batch_size 2")
    step = trainer.step(next(batches))
    assert set(trainer.model.nets) == networks
    assert {name for name in step.visuals if name.startswith("fake")} == visuals
    assert ("G_pixel" in step.losses) == (task != "style") and ("G_style" in step.losses) == (task != "color")
    assert set(trainer.model.watched_losses) <= step.losses.keys()


def test_unified_learns_both_tasks_together(styles: Path) -> None:
    flags = "--model unified --batch_size 3 --ngf 8 --lr 0.005 --lambda_style 100 --lambda_adv 0"
    trainer, batches = train(styles, flags)
    losses = [trainer.step(next(batches)).losses for _ in range(90)]
    for name in ("G_pixel", "G_style"):
        first, last = (np.mean([found[name].item() for found in part]) for part in (losses[:9], losses[-9:]))
        assert last < 0.7 * first, name


def test_unified_follows_the_style_and_does_without(styles: Path) -> None:
    model, batches = for_test(styles, "--model unified --norm none --init_type kaiming --batch_size 1")
    assert isinstance(model, UnifiedModel)
    batch = batches[0]
    visuals = model.translate(batch)
    assert not torch.allclose(visuals["fake_B_rgb"], visuals["fake_style"])
    codes = [style_code(model.G.encode(found.B)) for found in batches[:2] if found.B is not None]
    assert not torch.allclose(*codes)
    alone = model.translate(Batch(batch.A, None, ["p"], ["p"], torch.tensor([0])))
    assert set(alone) == {"real_A", "real_B_rgb", "fake_B_rgb"}
    assert torch.equal(alone["fake_B_rgb"], visuals["fake_B_rgb"])
    grey = model.translate(Batch(batch.A[:, :1], None, ["p"], ["p"], torch.tensor([0])))
    assert set(grey) == {"real_A", "fake_B_rgb"}


def test_adain_is_tested_without_a_file_of_vgg_and_says_that_it_is_untrained(
    command: Command, styles: Path
) -> None:
    arguments = ["--dataroot", styles, "--name", "run", "--model", "style_transfer", *SMALL.split()]
    adain = ["--style_mode", "adain", "--n_epochs", 1, "--n_epochs_decay", 0, "--batch_size", 3]
    trained = command("train.py", *arguments, *adain)
    assert "--vgg_weights random: UNTRAINED" in trained.stdout
    folder = Path(str(trained.args[-1])) / "run"
    assert "--vgg_weights random: untrained features" in (folder / "web" / "index.html").read_text()

    arguments = arguments[:-2]  # the weights come from the checkpoint
    style = ["--style", f"{styles}/testB/red.png,{styles}/testB/blue.png", "--style_weights", "1,3"]
    command("test.py", *arguments, *style, "--alpha", 0.5)
    results = folder.parents[1] / "results" / "run" / "test_latest"
    page = (results / "index.html").read_text()
    assert "--vgg_weights random: untrained features" in page and "red.png (0.25), blue.png (0.75)" in page

    (styles / "testB" / "blue.png").unlink()
    whole = [*arguments, "--load_size", 32]
    command("test.py", *whole)
    from_folder = (results / "images" / "0_fake_B.png").read_bytes()
    command("test.py", *whole, "--style", f"{styles}/testB/red.png")
    assert (results / "images" / "0_fake_B.png").read_bytes() == from_folder
