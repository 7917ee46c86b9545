"""Every choice of network for every model: every two values of two flags in one case at least."""

import math
from functools import cache
from itertools import combinations, product
from pathlib import Path

import pytest
import torch

from data import DATASETS, create_loader
from models import MODELS
from models.networks import build_generator
from models.registry import discriminator, generator
from options.base_options import NetworkOptions
from options.parse import parse
from options.train_options import TrainOptions
from tests.support.models import create_trainer, example_flags
from util.errors import UserError

SIDES = {
    name: max(32, build_generator(NetworkOptions(netG=name, ngf=2), 3, 3).multiple)
    for name in generator.names()
}
"""The side of the images that each generator is trained on."""
CHOICES: dict[str, tuple[str, ...]] = {
    "netG": tuple(name for name, side in SIDES.items() if side <= 64),
    "netD": discriminator.names(),
    "norm": ("instance", "batch", "none"),
    "attention": ("none", "1/2", "1/4"),
    "attention_nets": ("G", "D"),
    "upsample": ("deconv", "nearest", "bilinear"),
    "spectral_norm": ("none", "GD"),
    "padding": ("reflect", "replicate", "zero"),
    "no_dropout": ("true", "false"),
    "precision": ("fp32", "bf16"),
    "speed": ("auto", "off"),
}
TRAINED = [name for name in MODELS.names() if MODELS.get(name).trains]
OWN_NETWORKS = ("dcgan", "memory_colorization", "unified")
"""Models that have not all of the choices."""
CPU = torch.device("cpu")


def possible(case: dict[str, str]) -> bool:
    """Return whether some values of the other flags make of `case` one that no network refuses."""
    flags = ("netG", "netD", "attention", "attention_nets")
    for values in product(*([case[flag]] if flag in case else CHOICES[flag] for flag in flags)):
        netG, netD, attention, nets = values
        net = generator.get(netG) if nets == "G" else discriminator.get(netD)
        if attention == "none" or "attention" in net.flags:
            return True
    return False


@cache
def covering_cases() -> list[dict[str, str]]:
    """Cases in which every two values of two flags meet at least once, found greedily."""
    pairs = {
        ((a, x), (b, y)) for a, b in combinations(CHOICES, 2) for x, y in product(CHOICES[a], CHOICES[b])
    }
    pairs = {pair for pair in pairs if possible(dict(pair))}
    cases = []
    while pairs:
        case = dict(sorted(pairs)[0])
        for flag, values in CHOICES.items():
            if flag in case:
                continue
            extended = [option for value in values if possible(option := {**case, flag: value})]
            case = max(extended, key=lambda option: sum(set(pair) <= set(option.items()) for pair in pairs))
        pairs -= {pair for pair in pairs if set(pair) <= set(case.items())}
        cases.append(case)
    return cases


def train_once(name: str, data: dict[str, Path], case: dict[str, str], size: int, tmp_path: Path) -> bool:
    """Train, save and load; return whether the model has these networks (if not, it must say so)."""
    mode = str(MODELS.get(name).defaults.get("dataset_mode", "unaligned"))
    argv = ["--dataroot", str(data[mode]), "--model", name, "--ngf", "2", "--ndf", "2", "--num_threads", "0"]
    argv += example_flags(name)
    argv += ["--load_size", str(size), "--crop_size", str(size)]
    argv += [part for flag, value in case.items() for part in (f"--{flag}", value)]
    try:
        options = parse(TrainOptions, argv, MODELS, DATASETS)
        trainer = create_trainer(options)
    except UserError as error:
        flag, value = str(error).split(":")[0].removeprefix("--").split()
        assert case[flag] == value.lower(), error
        return False
    batch = next(create_loader(options, CPU).epoch(1)).to(CPU)
    losses, visuals = trainer.step(batch)
    assert all(math.isfinite(loss.item()) for loss in losses.values()), case
    assert all(image.shape[-2:] == (size, size) for image in visuals.values()), case

    torch.save(trainer.state_dict(), tmp_path / "state.pth")
    loaded = create_trainer(options)
    loaded.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    one, other = trainer.model.translate(batch), loaded.model.translate(batch)
    assert all(torch.equal(one[key], other[key]) for key in one), case
    return True


@pytest.mark.parametrize("name", TRAINED)
def test_every_pair_of_choices(name: str, data: dict[str, Path], tmp_path: Path) -> None:
    sizes = [SIDES[case["netG"]] for case in covering_cases()]
    trained = [train_once(name, data, *case, tmp_path) for case in zip(covering_cases(), sizes, strict=True)]
    assert all(trained) or name in OWN_NETWORKS


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(("netG", "size"), [(name, side) for name, side in SIDES.items() if side > 64])
def test_the_large_generators(name: str, netG: str, size: int, data: dict[str, Path], tmp_path: Path) -> None:
    takes_attention = name not in OWN_NETWORKS and "attention" in generator.get(netG).flags
    attention = "1/8" if takes_attention else "none"
    trained = train_once(name, data, {"netG": netG, "attention": attention}, size, tmp_path)
    assert trained == (name not in ("dcgan", "unified"))


def test_the_cases_cover_every_choice() -> None:
    cases = covering_cases()
    assert {(flag, value) for case in cases for flag, value in case.items()} == {
        (flag, value) for flag, values in CHOICES.items() for value in values
    }
    assert all(possible(case) for case in cases) and len(cases) < 30
