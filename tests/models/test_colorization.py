"""Colorization with and without a memory: losses, what is shown, whose colours are used."""

import hashlib
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import test as test_command
import train as train_command
from data import DATASETS, create_loader
from models import MODELS, create_model
from models.base_model import BaseModel
from models.colorization.memory import color_distribution
from models.colorization.rebalancing import ColorFrequencies
from models.memory_colorization_model import MemoryColorizationModel, given_colors
from models.objectives.backbones import Fingerprint, load_resnet18, load_vgg
from models.objectives.perceptual import Features, layer_index
from options.parse import parse
from options.test_options import TestOptions
from options.train_options import TrainOptions
from tests.support.models import create_trainer
from training.trainer import Trainer
from util.batch import Batch
from util.color import AB_BINS, AB_SCALE, rgb_to_lab, to_L_ab
from util.errors import UserError
from util.metrics.measure import Metrics

CPU = torch.device("cpu")
SMALL = ["--netG", "unet_32", "--ngf", "4", "--ndf", "4", "--load_size", "32", "--crop_size", "32"]
SMALL += ["--num_threads", "0", "--batch_size", "2"]
MEMORY = ["--resnet_weights", "random", "--memory_size", "8"]


def made(kind: type, name: str, folder: Path, *flags: str) -> tuple[BaseModel, list[Batch]]:
    argv = ["--dataroot", str(folder), "--model", name, *SMALL, *(MEMORY if "memory" in name else []), *flags]
    options = parse(kind, argv, MODELS, DATASETS)
    model = create_model(options, CPU)
    return model, [batch.to(CPU, model.dtype) for batch in create_loader(options, CPU).epoch(1)]


def trained(name: str, folder: Path, *flags: str) -> tuple[Trainer, list[Batch]]:
    argv = ["--dataroot", str(folder), "--model", name, *SMALL, *(MEMORY if "memory" in name else []), *flags]
    options = parse(TrainOptions, argv, MODELS, DATASETS)
    trainer = create_trainer(options)
    return trainer, [batch.to(CPU, trainer.model.dtype) for batch in create_loader(options, CPU).epoch(1)]


def flat_images(folder: Path, colors: list[tuple[int, int, int]], phase: str = "train") -> Path:
    """Images of one colour each, with the same light and dark places."""
    (folder / phase).mkdir(parents=True)
    shade = np.linspace(0.6, 1, 32)[None, :, None]
    for i, color in enumerate(colors):
        pixels = np.broadcast_to(np.array(color) * shade, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / phase / f"{i}.png")
    return folder


def test_the_networks_see_the_peers_scaling(pairs: Path) -> None:
    _, batches = made(TrainOptions, "colorization", pairs)
    L, ab = to_L_ab(batches[0].A)
    lab = rgb_to_lab((batches[0].A + 1) / 2)
    torch.testing.assert_close(L, lab[:, :1] / 50 - 1)
    torch.testing.assert_close(ab, lab[:, 1:] / 110)


def test_losses_and_networks_follow_the_flags(pairs: Path) -> None:
    def losses(*flags: str) -> set[str]:
        trainer, batches = trained("colorization", pairs, *flags)
        found = trainer.step(batches[0]).losses
        assert ("D" in trainer.model.nets) == ("D_real" in found)
        return set(found)

    adversarial = {"G_GAN", "D_real", "D_fake"}
    assert losses() == adversarial | {"G_L1"}
    assert losses("--lambda_GAN", "0") == {"G_L1"}
    assert losses("--lambda_perceptual", "1", "--vgg_weights", "random") == adversarial | {
        "G_L1",
        "G_perceptual",
    }
    improved = ["--norm", "instance", "--attention", "8", "--lambda_L1", "0", "--rebalance"]
    assert losses(*improved) == adversarial | {"G_L1"}


def test_the_adversarial_weight_and_the_perceptual_loss_reach_the_generator(pairs: Path) -> None:
    def generator(*flags: str) -> Tensor:
        trainer, batches = trained("colorization", pairs, "--lambda_L1", "0", *flags)
        trainer.step(batches[0])
        return torch.cat([parameter.flatten() for parameter in trainer.model.nets["G"].parameters()])

    start = torch.cat(
        [p.flatten() for p in made(TrainOptions, "colorization", pairs)[0].nets["G"].parameters()]
    )
    nothing = generator("--lambda_GAN", "0")
    assert torch.equal(nothing, start)
    assert not torch.equal(generator("--lambda_GAN", "0.5"), start)
    perceptual = ["--lambda_GAN", "0", "--lambda_perceptual", "1", "--vgg_weights", "random"]
    assert not torch.equal(generator(*perceptual), start)


def test_grey_files_need_no_ground_truth(tmp_path: Path) -> None:
    folder = flat_images(tmp_path, [(200, 30, 30), (90, 90, 90)], "test")
    Image.open(folder / "test" / "1.png").convert("L").save(folder / "test" / "2.png")
    model, batches = made(TestOptions, "colorization", folder, "--batch_size", "3")
    assert [batch.index.tolist() for batch in batches] == [[0], [1, 2]]
    colour, grey = (model.translate(batch) for batch in batches)
    assert set(colour) == {"real_A", "real_B_rgb", "fake_B_rgb"} and set(grey) == {"real_A", "fake_B_rgb"}
    assert grey["fake_B_rgb"].shape == (2, 3, 32, 32) and grey["real_A"].shape == (2, 1, 32, 32)
    metrics = Metrics(["ciede2000"])
    measured = [
        metrics.update_visuals(*pair, paired=True) for pair in zip(batches, (colour, grey), strict=True)
    ]
    assert [[list(values) for values in each] for each in measured] == [[["ciede2000"]], [[], []]]


def test_measures_of_a_perfect_and_of_a_grey_result() -> None:
    real = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    metrics = Metrics(["ciede2000", "colorfulness"])
    assert metrics.update(real, real, keys=[0, 1])["ciede2000"].max() < 1e-3
    found = metrics.compute()
    assert found.reference["ciede2000_of_grey"] > 5
    assert found.reference["colorfulness_of_truth"] == found.mean["colorfulness"] > 0
    metrics.update(real[:, :1].expand(-1, 3, -1, -1), real, keys=[0, 1])
    assert metrics.compute().mean["colorfulness"] == 0


def test_rare_colours_weigh_more() -> None:
    frequencies = ColorFrequencies(CPU, torch.float32)
    ab = torch.zeros(1, 2, 10, 10)
    batch = Batch(ab, None, [""], [], torch.arange(1))
    ab[0, 0, 0, 0] = 60 / AB_SCALE  # one pixel in a hundred
    for _ in range(2000):
        weights = frequencies.weights(ab, batch)
    common, rare = AB_BINS.index((0, 0)), AB_BINS.index((60, 0))
    expected = torch.full((313,), 0.0)
    expected[common], expected[rare] = 0.99, 0.01
    torch.testing.assert_close(frequencies.frequencies, expected, rtol=0, atol=0.01)
    assert weights.shape == (1, 1, 10, 10)
    ratio = (0.5 * 0.99 + 0.5 / 313) / (0.5 * 0.01 + 0.5 / 313)
    assert (weights[0, 0, 0, 0] / weights[0, 0, 5, 5]).item() == pytest.approx(ratio, rel=0.05)
    assert weights.mean().item() == pytest.approx(1, rel=0.05)
    resumed = ColorFrequencies(CPU, torch.float32)
    resumed.load_state_dict(frequencies.state_dict())
    assert torch.equal(resumed.weights(ab, batch), frequencies.weights(ab, batch))


def test_the_memory_names_the_image_whose_colours_it_gives(tmp_path: Path) -> None:
    colors = [(220, 40, 40), (40, 200, 40), (60, 60, 220), (200, 200, 40)]
    folder = flat_images(tmp_path, colors)
    trainer, batches = trained("memory_colorization", folder, "--batch_size", "1")
    model = trainer.model
    assert isinstance(model, MemoryColorizationModel)
    for batch in batches:
        trainer.step(batch)
    assert sorted(model.memory.sources.tolist()) == [-1, -1, -1, -1, 0, 1, 2, 3]
    for slot in (model.memory.sources >= 0).nonzero().flatten().tolist():
        name = model.memory.name_of(slot)
        assert name == f"{model.memory.sources[slot]}.png"
        pixels = torch.from_numpy(np.array(Image.open(folder / "train" / name))).permute(2, 0, 1)[None]
        stored = color_distribution(rgb_to_lab(pixels / 255))[0]
        torch.testing.assert_close(model.memory.values[slot], stored, rtol=0, atol=1e-4)

    model.options = replace(model.options, top_memory=3)
    visuals, captions = model.translate(batches[0]), model.captions(batches[0])
    assert list(visuals) == ["real_A", "real_B_rgb", "fake_B_rgb", "fake_B_rgb_2", "fake_B_rgb_3"]
    slots = model.slots(batches[0], to_L_ab(batches[0].A)[0])[0].tolist()
    assert list(captions[0].values()) == [
        f"{label}: colours of {model.memory.name_of(slot)}"
        for label, slot in zip(("fake_B_rgb", "fake_B_rgb_2", "fake_B_rgb_3"), slots, strict=True)
    ]


@pytest.mark.parametrize("feature", ["dist", "palette"])
def test_with_few_images_the_reference_decides_the_colours(
    tmp_path: Path, feature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.memory_colorization_model.BACKBONE_SIZE", 32)  # it does not matter here
    generator = torch.Generator().manual_seed(0)
    colors = [tuple(torch.randint(40, 255, (3,), generator=generator).tolist()) for _ in range(20)]
    folder = flat_images(tmp_path, colors)
    flags = ["--color_feature", feature, "--lambda_GAN", "0", "--lr", "0.002", "--batch_size", "4"]
    trainer, batches = trained("memory_colorization", folder, *flags, "--no_dropout")
    model = trainer.model
    assert isinstance(model, MemoryColorizationModel)
    for _ in range(30):
        for batch in batches:
            trainer.step(batch)
    means = []
    for reference in ((230, 60, 60), (60, 80, 230)):
        image = flat_images(tmp_path / str(reference[0]), [reference]) / "train" / "0.png"
        model.given = given_colors(str(image), "", feature)
        _, ab = to_L_ab(model.translate(batches[0])["fake_B_rgb"])
        means.append((ab * AB_SCALE).mean((0, 2, 3)))
    red, blue = means
    assert red[0] > blue[0] and red[1] > blue[1] + 20  # red is at (a, b) = (66, 38), blue at (38, -78)


def test_colours_that_are_given(tmp_path: Path) -> None:
    red = AB_BINS.index((80, 70))  # #ff0000 is at (80, 67)
    found = given_colors("", "#ff0000, #FFFFFF", "dist")
    assert found is not None and found.shape == (1, 313) and found.sum().item() == pytest.approx(1)
    assert found[0, red] > 0.1 and found[0, AB_BINS.index((0, 0))] > 0.1
    palette = given_colors("", "#ff0000,#000000", "palette")
    assert palette is not None and palette.tolist() == [[1, 0, 0, 0, 0, 0] * 5]
    assert given_colors("", "", "dist") is None
    for reference, palette_text, message in (
        ("", "#ff00", "--palette #ff00: #ff00 is no colour"),
        ("", "red,", "is no colour"),
        ("a.png", "#000000", "give one of them"),
        (str(tmp_path / "absent.png"), "", "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            given_colors(reference, palette_text, "dist")


def test_whose_colours_are_used(pairs: Path) -> None:
    trainer, batches = trained("memory_colorization", pairs, "--batch_size", "1")
    for batch in batches:
        trainer.step(batch)
    results = {}
    for flags in ("--color_from memory", "--color_from own", "--color_from random", "--palette #ff0000"):
        model, tested = made(TestOptions, "memory_colorization", pairs, "--phase", "train", *flags.split())
        assert isinstance(model, MemoryColorizationModel)
        for name in ("G", "M"):
            model.nets[name].load_state_dict(trainer.model.nets[name].state_dict())
        model.nets["G"].mlp[4].weight.data *= 100  # so that a few steps suffice to see it
        results[flags] = model.translate(tested[0])["fake_B_rgb"]
        assert torch.equal(results[flags], model.translate(tested[0])["fake_B_rgb"])
    assert len({tuple(image.flatten().tolist()) for image in results.values()}) == 4


def test_the_discriminator_takes_one_image_of_any_size(pairs: Path) -> None:
    model, _ = made(TrainOptions, "memory_colorization", pairs, "--gan_mode", "wgangp")
    D = model.nets["D"]
    feature = torch.rand(1, 313)
    for size in ((16, 16), (37, 50)):
        assert D(torch.rand(1, 3, *size), feature).shape == (1, 1)
    one, two = torch.rand(1, 3, 20, 20), torch.rand(1, 3, 20, 20)
    together = D(torch.cat([one, two]), feature.expand(2, -1))
    torch.testing.assert_close(together[:1], D(one, feature))
    # Beside the image, or added after the first convolution: the same, away from the edges.
    spread = F.conv2d(feature[..., None, None].expand(-1, -1, 8, 8), D.feature.weight[:, :, None, None])
    torch.testing.assert_close(spread[0, :, 4, 4], D.feature(feature)[0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model memory_colorization --netG resnet_6blocks", "--netG resnet_6blocks"),
        ("--model memory_colorization --norm batch", "--norm batch"),
        ("--model memory_colorization --attention 1/4", "--attention 1/4"),
        ("--model memory_colorization --pool_size 50", "--pool_size"),
        ("--model colorization --pool_size 50", "--pool_size 50"),
        ("--model colorization --input_nc 3", "--dataset_mode colorization supports only --input_nc 1"),
        ("--model colorization --direction BtoA", "--direction AtoB"),
        ("--model memory_colorization --resnet_weights absent.pth", "absent.pth: there is no such file"),
        ("--model colorization --lambda_perceptual 1 --vgg_weights absent.pth", "--vgg_weights absent.pth"),
    ],
)
def test_what_cannot_work_is_refused(pairs: Path, flags: str, message: str) -> None:
    name, *rest = flags.split()[1:]
    with pytest.raises(UserError) as caught:
        made(TrainOptions, name, pairs, *rest)
    assert message in str(caught.value)


def test_random_backbones_are_always_the_same_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    state = torch.get_rng_state()
    one, two = load_resnet18("random"), load_resnet18("random")
    assert torch.equal(torch.get_rng_state(), state)
    assert "UNTRAINED" in caplog.text
    image = torch.rand(2, 3, 64, 64)
    assert one(image).shape == (2, 512) and torch.equal(one(image), two(image))
    assert not one.training and not any(p.requires_grad for p in one.parameters())
    assert torch.equal(Fingerprint(one, "f").sha256, Fingerprint(two, "f").sha256)


def test_backbones_from_files(tmp_path: Path) -> None:
    from torchvision.models import resnet18, vgg16

    path = tmp_path / "resnet.pth"
    source = resnet18()
    torch.save(source.state_dict(), path)
    source.fc = torch.nn.Identity()
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(load_resnet18(str(path))(image), source.eval()(image))
    vgg = vgg16()
    for part in (vgg.state_dict(), vgg.features.state_dict()):
        torch.save(part, path)
        assert torch.equal(load_vgg("vgg16", str(path))(image), vgg.features(image))
    with pytest.raises(UserError, match=r"--resnet_weights .*another architecture"):
        load_resnet18(str(path))


def test_the_hash_in_a_files_name_is_checked(tmp_path: Path) -> None:
    torch.save(load_vgg("vgg16", "random").state_dict(), tmp_path / "features.pth")
    digest = hashlib.sha256((tmp_path / "features.pth").read_bytes()).hexdigest()
    named = (tmp_path / "features.pth").rename(tmp_path / f"vgg16-{digest[:8]}.pth")
    load_vgg("vgg16", str(named))
    wrong = named.rename(tmp_path / "vgg16-00000000.pth")
    with pytest.raises(UserError, match=f"begin with 00000000 as in its name, but begins with {digest[:8]}"):
        load_vgg("vgg16", str(wrong))


def test_a_checkpoint_knows_its_backbone(pairs: Path, tmp_path: Path) -> None:
    model, _ = made(TrainOptions, "memory_colorization", pairs)
    weights = {**model.nets["M"].state_dict()}
    weights["fingerprint.sha256"] = weights["fingerprint.sha256"].flip(0)
    with pytest.raises(
        UserError, match="--resnet_weights: the checkpoint was trained on the features of another"
    ):
        model.nets["M"].load_state_dict(weights)
    perceptual = ["--lambda_perceptual", "1", "--vgg_weights", "random"]
    trainer, _ = trained("colorization", pairs, *perceptual)
    state = trainer.state_dict()
    state["state"]["vgg"]["sha256"] = torch.zeros(32, dtype=torch.uint8)
    with pytest.raises(UserError, match="--vgg_weights: the checkpoint"):
        trainer.load_state_dict(state)


def test_without_a_network_the_error_says_where_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(UserError) as caught:
        load_resnet18("imagenet")
    for part in ("https://download.pytorch.org/models/resnet18", "checkpoints", "--resnet_weights PATH"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("network", "layer", "index"),
    [
        ("vgg19", "relu1_1", 1),
        ("vgg19", "relu2_1", 6),
        ("vgg19", "relu3_1", 11),
        ("vgg19", "relu4_1", 20),
        ("vgg19", "conv4_2", 21),
        ("vgg19", "relu5_1", 29),
        ("vgg16", "relu1_2", 3),
        ("vgg16", "relu2_2", 8),
        ("vgg16", "relu3_3", 15),
        ("vgg16", "relu4_3", 22),
        ("vgg16", "relu5_3", 29),
    ],
)
def test_vgg_layers_by_name(network: str, layer: str, index: int) -> None:
    assert layer_index(network, layer) == index
    with pytest.raises(ValueError, match="no layer relu6_1"):
        layer_index(network, "relu6_1")


def test_features_are_those_of_the_named_layers() -> None:
    vgg = load_vgg("vgg16", "random")
    features = Features(vgg, "vgg16", ("conv1_2", "relu2_2"))
    images = torch.rand(1, 1, 16, 16) * 2 - 1
    found = features(images)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((images.expand(-1, 3, -1, -1) + 1) / 2 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    torch.testing.assert_close(found["conv1_2"], vgg[2](vgg[1](vgg[0](x))))
    assert set(found) == {"conv1_2", "relu2_2"} and len(features.layers) == 9


def test_empty_slots_are_never_shown(pairs: Path, tmp_path: Path) -> None:
    """The memory has 8 slots, of which one step on 2 images fills at most 2."""
    common = ["--model", "memory_colorization", "--resnet_weights", "random", "--netG", "unet_32"]
    common += ["--ngf", "4", "--crop_size", "32", "--gpu_ids", "-1", "--num_threads", "0"]
    common += ["--dataroot", str(pairs), "--checkpoints_dir", str(tmp_path)]
    once = ["--ndf", "4", "--memory_size", "8", "--max_dataset_size", "2", "--batch_size", "2", "--no_html"]
    once += ["--n_epochs", "1", "--n_epochs_decay", "0", "--memory_threshold", "0.01"]
    train_command.main([*common, *once])
    tested = [*common, "--results_dir", str(tmp_path), "--phase", "train", "--num_test", "1"]
    with pytest.raises(UserError, match=r"--top_memory 9: the memory has 8 slots"):
        test_command.main([*tested, "--top_memory", "9"])
    with pytest.raises(UserError, match=r"--top_memory 3: only 2 of the 8 slots .* use --top_memory 2"):
        test_command.main([*tested, "--top_memory", "3"])
    assert not (tmp_path / "experiment_name" / "train_latest" / "index.html").exists()
    test_command.main([*tested, "--top_memory", "2"])

    options = parse(TestOptions, [*tested, "--top_memory", "2"], MODELS, DATASETS)
    model = create_model(options, CPU)
    assert isinstance(model, MemoryColorizationModel)
    (batch,) = (batch.to(CPU) for batch in create_loader(options, CPU).epoch(0))
    model.memory.values[:] = torch.nan  # of the empty slots
    for filled, named in ((1, ["fake_B_rgb"]), (0, [])):
        model.memory.values[:filled] = 1 / 313
        model.memory.sources[:filled] = 0
        model.memory.sources[filled:] = -1
        for color_from in ("memory", "random"):
            model.options = replace(model.options, color_from=color_from)
            visuals = model.translate(batch)
            assert [name for name in visuals if name.startswith("fake")] == ["fake_B_rgb"]
            assert visuals["fake_B_rgb"].isfinite().all()  # grey if no slot is filled
            assert [list(captions) for captions in model.captions(batch)] == [named]
    with pytest.raises(UserError, match=r"all 8 slots of the memory are empty"):
        model.check_weights()
