"""Flags of a model without effect: other values change neither its losses, its images nor its weights."""

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from data import DATASETS, create_loader
from models import MODELS, create_model
from options.base_options import CommandOptions, NetworkOptions
from options.option import Flag, Group, flags_of
from options.parse import parse
from options.test_options import TestOptions
from options.train_options import TrainOptions
from tests.support.models import CPU, arguments, create_trainer, example_flags
from util.errors import UserError

G = TypeVar("G", bound=Group)
Outcome = dict[str, Any]
"""Losses, images, weights and captions, by name."""

STEPS = 4
"""Training steps of a comparison: the last one sees images of the first again."""


def recorded(group: G, reads: set[str]) -> G:
    """Return a copy of a group of options that adds the names of its flags to `reads` when they are read."""
    names = {item.name for item in fields(group)}

    class Recorded(type(group)):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            if name in names:
                reads.add(name)
            return super().__getattribute__(name)

    copy: G = object.__new__(Recorded)
    copy.__dict__.update(group.__dict__)
    return copy


class Comparison:
    """Runs of a model with different values of flags.

    Attributes:
        reads: its own flags that any of the runs has read.
    """

    def __init__(self, name: str, data: dict[str, Path]):
        self.name, self.model, self.data = name, MODELS.get(name), data
        self.reads: set[str] = set()
        self._trained = cache(lambda needed: list(self._train(needed)))
        self._tested = cache(lambda needed: list(self._test(needed)))

    def own_flags(self) -> list[Flag]:
        """Return the model's own flags, without cosmetic and fixed ones."""
        flags = flags_of(self.model.Options).values()
        return [flag for flag in flags if not flag.cosmetic and flag.name not in self.model.fixed]

    def flags_without_effect(self) -> list[str]:
        """Return the names of the model's own flags without effect; free texts have to be read."""
        texts = [flag for flag in self.own_flags() if flag.type is str and not flag.choices]
        without = [flag for flag in self.own_flags() if flag not in texts and not self.has_effect(flag)]
        self._tested(())
        return [flag.name for flag in (*without, *(flag for flag in texts if flag.name not in self.reads))]

    def unread_network_flags(self) -> set[str]:
        """Return the names of the flags of networks that building the model does not read.

        Flags are left out that the model or its data set fixes, that need a value that it refuses, and those
        of discriminators if it has none.
        """
        kind = TrainOptions if self.model.trains else TestOptions
        reads, nets, refused = set[str](), set[str](), set[str]()
        for flag, value in (("", ""), ("netD", "n_layers"), ("netG", "resnet_6blocks"), ("attention", "1/4")):
            try:
                options = self._options(kind, *([f"--{flag}={value}"] if flag else []))
                network = recorded(options.network, reads)
                nets |= create_model(replace(options, network=network), CPU).nets.keys()
            except UserError as error:
                assert str(error).startswith(f"--{flag} {value}: ")
                refused.add(flag)
        needed = {"n_layers_D": "netD", "padding": "netG", "attention_nets": "attention"}
        exempt = {name for name, flag in needed.items() if flag in refused}
        exempt |= self.model.fixed.keys() | DATASETS.get(options.data.dataset_mode).fixed.keys()
        if not any(name.startswith("D") for name in nets):
            exempt |= {"netD", "ndf", "n_layers_D"}
        return flags_of(NetworkOptions).keys() - reads - exempt

    def weights(self, needed: tuple[str, ...] = ()) -> Outcome:
        """Return the weights of the networks, by name, after training with these flags."""
        return self._trained(needed)[-1]

    def has_effect(self, flag: Flag) -> bool:
        """Return whether another value changes the outcome or is refused."""
        if not flag.needs or str(self.present(flag, flag.needs[0])) in flag.needs[1]:
            return self.changes(flag, ())
        # With the default generator, because the needed value may exclude that of small tests.
        netG = str(self.model.defaults.get("netG", "resnet_9blocks"))
        return self.changes(flag, (f"--{flag.needs[0]}", flag.needs[1][0], "--netG", netG))

    def changes(self, flag: Flag, context: tuple[str, ...]) -> bool:
        """Return whether another value, beside the flags of `context`, changes the outcome or is refused."""
        testing = flag.phase == "test" or not self.model.trains
        run, expected = (self._test, self._tested) if testing else (self._train, self._trained)
        for value in other_values(flag, self.present(flag, flag.name)):
            try:
                outcomes = zip(run(context, f"--{flag.name}", value), expected(context), strict=True)
                if not all(equal(left, right) for left, right in outcomes):
                    return True
            except UserError as error:
                if str(error).startswith(f"--{flag.name} "):
                    return True
        return False

    def present(self, flag: Flag, name: str) -> Any:
        """Return the value of the flag `name` in the runs that show the effect of `flag`."""
        kind = TestOptions if flag.phase == "test" or not self.model.trains else TrainOptions
        return self._options(kind).values()[name]

    def _train(self, needed: tuple[str, ...], *flags: str) -> Iterator[Outcome]:
        """Yield the losses and images of each training step, then the weights."""
        options = self._options(TrainOptions, *needed, *flags)
        trainer, loader = create_trainer(self._recorded(options)), create_loader(options, CPU)
        for batch in islice(chain(loader.epoch(1), loader.epoch(2)), STEPS):
            losses, visuals = trainer.step(batch.to(CPU, trainer.model.dtype))
            yield {"losses": losses, "visuals": visuals}
        yield {name: net.state_dict() for name, net in trainer.model.nets.items()}

    def _test(self, needed: tuple[str, ...], *flags: str) -> Iterator[Outcome]:
        """Yield the results of the model with the weights that training with `needed` leads to."""
        options = self._options(TestOptions, *needed, *flags)
        model = create_model(self._recorded(options), CPU)
        if self.model.trains:
            for name, net in model.nets.items():
                net.load_state_dict(self.weights(needed)[name])
        batch = next(create_loader(options, CPU).epoch(0)).to(CPU, model.dtype)
        yield {**model.translate(batch), **model.overview(), "captions": model.captions(batch)}

    def _options(self, kind: type[CommandOptions], *flags: str) -> Any:
        example = example_flags(self.name, kind.COMMAND)
        return parse(kind, arguments(self.name, self.data, *example, *flags), MODELS, DATASETS)

    def _recorded(self, options: Any) -> Any:
        return replace(options, model=recorded(options.model, self.reads))


def other_values(flag: Flag, present: Any) -> Iterator[str]:
    """Yield values of a flag other than the present one; none of a free text."""
    if flag.type is bool:
        values: tuple[Any, ...] = (not present,)
    elif flag.type is str:
        values = flag.choices
    else:
        values = tuple(flag.type(number) for number in (2 * (present or 0) + 1, 0.01, 0, 2, 100))
    for value in values:
        try:
            if flag.convert(value) != present:
                yield str(value)
        except UserError:  # out of range
            continue


def equal(left: Any, right: Any) -> bool:
    """Return whether two outcomes are the same."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    return bool(left == right)
