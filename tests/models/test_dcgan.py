"""Images from noise: the networks, what a sample depends on, overviews, and training by class."""

import math
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import DATASETS, create_loader
from models import MODELS, create_model
from models.dcgan_model import DcganModel, grid, spherical
from models.dcgan_networks import SIDES, DcganDiscriminator, DcganGenerator, check_side
from models.layers.initialization import initialise
from models.layers.norms import BatchNorm2d
from options.parse import parse
from options.test_options import TestOptions
from options.train_options import TrainOptions
from tests.support.environment import Command
from tests.support.models import create_trainer
from training.trainer import Trainer
from util.architecture import infer_flags
from util.batch import Batch
from util.errors import UserError
from util.seeding import numpy_rng

CPU = torch.device("cpu")
SMALL = ["--model", "dcgan", "--crop_size", "28", "--ngf", "4", "--ndf", "4", "--gpu_ids", "-1"]


def images(folder: Path, classes: int = 2, count: int = 4, side: int = 28) -> Path:
    """A folder for every class: noise around the class's own brightness."""
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(count):
            noise = numpy_rng("images", label, number).integers(0, 20, (side, side, 3))
            pixels = (noise + 200 * label // max(1, classes - 1)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{number}.png")
    return folder


def for_training(root: Path, *flags: str) -> tuple[Trainer, DcganModel, list[Batch]]:
    argv = ["--dataroot", str(root), *SMALL, "--num_threads", "0", *flags]
    options = parse(TrainOptions, argv, MODELS, DATASETS)
    trainer = create_trainer(options)
    model = trainer.model
    assert isinstance(model, DcganModel)
    return trainer, model, [batch.to(CPU, model.dtype) for batch in create_loader(options, CPU).epoch(1)]


def for_testing(*flags: str) -> tuple[DcganModel, list[Batch]]:
    options = parse(TestOptions, [*SMALL, "--num_threads", "0", *flags], MODELS, DATASETS)
    model = create_model(options, CPU)
    assert isinstance(model, DcganModel)
    initialise(model.G, "kaiming", 1)
    return model, [batch.to(CPU, model.dtype) for batch in create_loader(options, CPU).epoch(0)]


def test_generated_images_have_the_channels_and_units_of_the_input() -> None:
    model, (batch, *_) = for_testing("--input_nc=5", "--input_range=-10,30", "--num_samples=2")
    fake, side = model.translate(batch)["fake"], batch.sides.of("fake")
    assert (fake.shape[1], side.channels) == (5, 5)
    torch.testing.assert_close(side.in_units(fake), (fake.double() + 1) * 20 - 10)
    with pytest.raises(
        UserError, match=r"--output_range full: dcgan supports only .*values of --input_range"
    ):
        for_testing("--output_range=full")


@pytest.mark.parametrize("size", sorted(SIDES))
@pytest.mark.parametrize("classes", [0, 3])
def test_every_size_comes_out_and_goes_in(size: int, classes: int) -> None:
    label = (torch.tensor([0, 2]),) if classes else ()
    for upsample in ("deconv", "nearest", "bilinear"):
        G = DcganGenerator(size, 5, 1, 2, "batch", classes, upsample)
        fake = G(torch.randn(2, 5), *label)
        assert fake.shape == (2, 1, size, size) and fake.abs().max() <= 1
    assert DcganDiscriminator(size, 1, 2, "batch", classes)(fake, *label).shape == (2, 1)


def test_the_sizes_are_those_of_the_base_times_a_power_of_two() -> None:
    assert sorted(SIDES) == [28, 32, 40, 48, 56, 64, 80, 96, 112, 128]
    assert (SIDES[28], SIDES[64], SIDES[128]) == ((7, 2), (4, 4), (4, 5))
    for wrong, nearest in ((16, 28), (27, 28), (36, 32), (60, 56), (61, 64), (256, 128)):
        with pytest.raises(UserError, match=f"--crop_size {wrong}: .*; take --crop_size {nearest}$"):
            check_side(wrong)


def test_the_layers_of_64_pixels_are_the_papers() -> None:
    G, D = DcganGenerator(64, 100, 3, 64, "batch"), DcganDiscriminator(64, 3, 64, "batch")
    made = [layer for layer in G.model if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in made] == [512, 256, 128, 64, 3]
    assert [layer.bias is None for layer in made] == [True, True, True, True, False]
    assert [(layer.kernel_size[0], layer.stride[0], layer.padding[0]) for layer in made[:2]] == [
        (4, 1, 0),
        (4, 2, 1),
    ]
    seen = [layer for layer in D.model if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in seen] == [64, 128, 256, 512]
    assert [layer.bias is None for layer in seen] == [False, True, True, True]
    assert D.last.kernel_size == (4, 4)
    for net, norms in ((G, 4), (D, 3)):
        assert sum(isinstance(layer, BatchNorm2d) for layer in net.model) == norms


def test_the_projection_is_the_inner_product_with_the_classs_vector() -> None:
    D = DcganDiscriminator(28, 1, 2, "none", 3)
    x, label = torch.randn(2, 1, 28, 28), torch.tensor([2, 0])
    assert D.project is not None
    expected = D(x) + (D.project.weight[label] * D.model(x)).sum((1, 2, 3))[:, None]
    torch.testing.assert_close(D(x, label), expected)
    assert not torch.allclose(D(x, label), D(x, torch.tensor([1, 1])))


def test_dropout_of_the_discriminator_changes_no_names() -> None:
    plain, dropped = (DcganDiscriminator(28, 1, 4, "batch", 2, dropout) for dropout in (0.0, 0.3))
    assert plain.state_dict().keys() == dropped.state_dict().keys()
    dropped.load_state_dict(plain.state_dict())
    x, label = torch.randn(2, 1, 28, 28), torch.tensor([0, 1])
    assert torch.equal(plain(x, label), plain(x, label))
    assert not torch.equal(dropped(x, label), dropped(x, label))
    dropped.load_state_dict(plain.state_dict())
    assert torch.equal(plain.eval()(x, label), dropped.eval()(x, label))
    rates = [layer.p for layer in dropped.modules() if isinstance(layer, torch.nn.Dropout)]
    assert rates == [0.3, 0.3] and not any(isinstance(layer, torch.nn.Dropout) for layer in plain.modules())


def test_uniform_noise_is_uniform_in_training_samples_and_overviews(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noises(*flags: str) -> list[torch.Tensor]:
        seen = []
        _, model, batches = for_training(folder, "--nz", "50", *flags)
        seen.append(model.draws(64, 1, torch.Generator().manual_seed(0))["z"])
        monkeypatch.setattr(model, "generate", lambda z: seen.append(z) or torch.zeros(len(z), 3, 28, 28))
        model.translate(batches[0])
        model.overview()
        return seen

    folder = images(tmp_path / "x")
    uniform = noises("--noise", "uniform")
    normal = noises()
    for z in normal:
        assert z.abs().max() > 2 and z.std().item() == pytest.approx(1, abs=0.1)
    quarters = torch.tensor([-0.5, 0.0, 0.5])
    for z in uniform:
        assert z.abs().max() <= 1 and z.std().item() == pytest.approx(3**-0.5, abs=0.05)
        parts = torch.bucketize(z, quarters).flatten().bincount(minlength=4) / z.numel()
        torch.testing.assert_close(parts, torch.full((4,), 0.25), rtol=0, atol=0.06)
    assert len(uniform) == len(normal) == 4
    for one, other in zip(uniform, normal, strict=True):
        torch.testing.assert_close(one, 2 * torch.distributions.Normal(0, 1).cdf(other) - 1)


def test_dropout_and_uniform_noise_resume_exactly(tmp_path: Path) -> None:
    flags = ["--noise", "uniform", "--dropout_D", "0.3", "--batch_size", "2"]
    folder = images(tmp_path / "x")
    through, _, batches = for_training(folder, *flags)
    for batch in batches[:2]:
        through.step(batch)
    resumed, _, _ = for_training(folder, *flags)
    resumed.load_state_dict(deepcopy(through.state_dict()))
    losses = [trainer.step(batches[2]).losses for trainer in (through, resumed)]
    assert losses[0] == losses[1]
    plain, _, _ = for_training(folder, "--batch_size", "2")
    plain.load_state_dict(deepcopy(through.state_dict()))  # the names of weights are the same


def test_its_weights_are_not_taken_for_a_patch_discriminators() -> None:
    for net in (DcganGenerator(28, 5, 1, 2, "batch"), DcganDiscriminator(28, 1, 2, "batch")):
        assert infer_flags(net.state_dict()) == {}


def test_noise_of_unit_length_stays_so_on_the_way() -> None:
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    half = math.sqrt(0.5)
    torch.testing.assert_close(spherical(one, other, torch.tensor([[0.5]])), torch.tensor([[half, half]]))
    torch.testing.assert_close(spherical(one, other, torch.tensor([[0.0]])), one)
    torch.testing.assert_close(spherical(one, other, torch.tensor([[1.0]])), other)


def test_a_grid_goes_row_by_row() -> None:
    images = torch.arange(16.0).view(16, 1, 1, 1).expand(16, 3, 2, 4)
    joined = grid(images)
    assert joined.shape == (3, 4, 32)
    assert joined[1, ::2, ::4].tolist() == [list(map(float, range(8))), list(map(float, range(8, 16)))]


def test_a_sample_depends_on_the_seed_and_its_number_alone() -> None:
    def samples(*flags: str) -> torch.Tensor:
        model, batches = for_testing("--num_samples", "5", *flags)
        assert all(batch.A.shape[1:] == (1, 1, 1) and batch.B is None for batch in batches)
        return torch.cat([model.translate(batch)["fake"] for batch in batches])

    five = samples()
    assert five.shape == (5, 3, 28, 28) and not torch.allclose(five[0], five[1])
    torch.testing.assert_close(samples("--batch_size", "2"), five)
    torch.testing.assert_close(samples("--num_samples", "3"), five[:3])
    torch.testing.assert_close(samples("--eval"), five)
    # The same weights with another seed.
    model, batches = for_testing("--num_samples", "5")
    model.seed = 1
    assert not torch.allclose(model.translate(batches[0])["fake"], five, atol=1e-3)


def test_overviews_are_the_same_every_time_and_leave_training_alone(tmp_path: Path) -> None:
    trainer, model, batches = for_training(images(tmp_path / "images"))
    trainer.step(batches[0])
    before = {name: value.clone() for name, value in model.G.state_dict().items()}
    one, other = model.overview(), model.overview()
    assert {name: tuple(image.shape) for name, image in one.items()} == {
        "samples": (3, 224, 224),
        "interpolation": (3, 224, 224),
    }
    assert all(torch.equal(one[name], other[name]) and not one[name].requires_grad for name in one)
    assert model.G.training
    assert all(torch.equal(value, before[name]) for name, value in model.G.state_dict().items())
    # Ends of a row differ more than neighbours.
    columns = one["interpolation"].split(28, 2)
    assert (columns[0] - columns[-1]).abs().mean() > (columns[0] - columns[1]).abs().mean()


def test_by_class_there_is_a_row_for_each(tmp_path: Path) -> None:
    trainer, model, batches = for_training(images(tmp_path / "images", classes=3), "--num_classes", "3")
    losses, _ = trainer.step(batches[0])
    assert all(math.isfinite(loss.item()) for loss in losses.values())
    assert model.overview()["classes"].shape == (3, 3 * 28, 8 * 28)
    assert not torch.allclose(*(model.generate(torch.ones(1, 100), torch.tensor([c])) for c in (0, 1)))


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_classes_are_learnt(norm: str, tmp_path: Path) -> None:
    root = images(tmp_path / "images", classes=2, count=16)
    flags = ["--num_classes", "2", "--norm", norm, "--lr", "0.002", "--nz", "4", "--ngf", "8", "--ndf", "8"]
    trainer, model, batches = for_training(root, *flags)
    for _ in range(120):
        trainer.step(batches[0])
    z = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    dark, light = (model.generate(z, torch.full((8,), label)).mean() for label in (0, 1))
    assert light - dark > 0.4


def test_gradients_are_penalised_by_class_too(tmp_path: Path) -> None:
    flags = ["--gan_mode", "wgangp", "--norm", "instance", "--num_classes", "2", "--lambda_r1", "1"]
    trainer, _, batches = for_training(images(tmp_path / "images"), *flags, "--r1_every", "1")
    assert {"D_gp", "D_r1"} <= trainer.step(batches[0]).losses.keys()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--crop_size 60", "--crop_size 60: dcgan makes images with sides of 28"),
        ("--preprocess none", "--preprocess none: dcgan trains on images of one size"),
        ("--pool_size 50", "--pool_size 50: dcgan supports only --pool_size 0"),
        (
            "--netG unet_32",
            "--netG unet_32: dcgan supports only --netG resnet_9blocks (it has its own networks",
        ),
        ("--attention 14", "--attention 1/2: dcgan supports only --attention none"),
        (
            "--output_nc 1",
            "--output_nc 1: dcgan supports only --output_nc 3 (the images have the channels of --input_nc)",
        ),
        ("--no_dropout", "--no_dropout true: dcgan supports only --no_dropout false"),
        ("--gan_mode wgangp", "use --norm instance"),
        ("--num_classes 5", "--num_classes 5: the images in"),
        ("--dataset_mode latent", "--dataset_mode latent is for test.py only"),
    ],
)
def test_what_it_cannot_do_is_refused(flags: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        for_training(images(tmp_path / "images"), *flags.split())
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_train_and_test_as_users_run_them(command: Command, tmp_path: Path) -> None:
    root = images(tmp_path / "images", classes=2)
    flags = ["--n_epochs", 1, "--n_epochs_decay", 0, "--input_nc", 1, "--num_classes", 2, "--num_threads", 0]
    command("train.py", "--dataroot", root, "--name", "run", *SMALL, *flags)
    page = tmp_path / "checkpoints" / "run" / "web"
    shown = {path.name for path in (page / "images").iterdir()}
    assert {"epoch001_fake.png", "epoch001_samples_4.png", "epoch001_classes_4.png"} <= shown

    # Architecture, size and classes come from the checkpoint; no images are needed.
    record = tmp_path / "checkpoints" / "run" / "train_opt.json"
    for config in ([], ["--config", record]):
        test = ["--name", "run", "--model", "dcgan", "--gpu_ids", -1, "--num_samples", 3]
        found = command("test.py", *test, "--num_threads", 0, *config)
        assert "3 images: " in found.stdout
    results = tmp_path / "results" / "run" / "test_latest"
    assert {path.name for path in (results / "images").iterdir()} == {
        *(f"overview_{name}.png" for name in ("samples", "interpolation", "classes")),
        *(f"sample_000{number}_fake.png" for number in (1, 2, 3)),
    }
    text = (results / "index.html").read_text()
    assert text.index("overview_samples.png") < text.index("sample_0001_fake.png")
    with Image.open(results / "images" / "overview_classes.png") as image:
        assert image.size == (8 * 28, 2 * 28)
