"""One generator on one folder of images, such as one direction of a CycleGAN."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from models.base_model import BaseModel, Update
from models.networks import build_generator
from options.base_options import CommandOptions
from options.option import option
from util.batch import Batch, Step
from util.checking import parse_json

EXCHANGED = (
    ("input_nc", "output_nc"),
    ("input_range", "output_range"),
    ("input_bands", "output_bands"),
    ("inputs", "outputs"),
)
"""Flags of input and output, which are exchanged for G_B."""

SIDES = {"A": "B", "B": "A"}
"""New names of parts; with --inputs and --outputs these have the names of their folders."""


@dataclass(frozen=True)
class OneGeneratorOptions:
    """Flags of the test model."""

    model_suffix: str = option(
        "",
        "which generator: the weights are <epoch>_net_G<model_suffix>.pth, for CycleGAN _A or _B",
        phase="test",
    )


class OneGeneratorModel(BaseModel):
    """Translates images with one trained generator; the default model of test.py."""

    Options = OneGeneratorOptions
    options: OneGeneratorOptions
    defaults: ClassVar[Mapping[str, object]] = {"dataset_mode": "single"}
    trains = False

    @staticmethod
    def from_record(recorded: Mapping[str, Any], chosen: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the recorded values, for G_B with what files of input and output hold exchanged."""
        if chosen["model_suffix"] != "_B":
            return recorded
        exchanged = dict(recorded)
        for one, other in EXCHANGED:
            if one in recorded and other in recorded:
                exchanged |= {one: renamed(recorded[other]), other: renamed(recorded[one])}
        ranges = f"{recorded.get('input_range')} {recorded.get('output_range')}"
        if str(recorded.get("label_nc", 0)) != "0" and "labels" not in ranges:
            exchanged["output_range"] = "labels"  # --label_nc alone means the input
        if text := str(recorded.get("value_ranges", "")):
            parts = parse_json(text.encode(), {str: object}, "--value_ranges")
            exchanged["value_ranges"] = json.dumps({SIDES.get(name, name): parts[name] for name in parts})
        return exchanged

    def build(self, options: CommandOptions) -> dict[str, nn.Module]:
        network, suffix = options.network, self.options.model_suffix
        return {f"G{suffix}": build_generator(network, network.input_nc, network.output_nc)}

    def train_step(self, batch: Batch, update: Update) -> Step:
        raise NotImplementedError("the test model does not train")

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        (G,) = self.nets.values()
        return {"real": batch.A, "fake": G(batch.A)}


def renamed(value: object) -> object:
    """Return a flag's value with the names of the only parts of both sides exchanged, as in ``A:0,4095``."""
    if not isinstance(value, str):
        return value
    return re.sub(r"\b([AB]):", lambda match: f"{SIDES[match[1]]}:", value)
