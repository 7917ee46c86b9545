"""One generator on one folder of images, such as one direction of a CycleGAN."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from models.base_model import BaseModel, Update
from models.networks import build_generator
from options.base_options import CommandOptions
from options.option import option
from util.batch import Batch, Step


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
        """Return the recorded values, for G_B with the channels of input and output swapped."""
        if chosen["model_suffix"] != "_B" or not recorded.keys() >= {"input_nc", "output_nc"}:
            return recorded
        return {**recorded, "input_nc": recorded["output_nc"], "output_nc": recorded["input_nc"]}

    def build(self, options: CommandOptions) -> dict[str, nn.Module]:
        network, suffix = options.network, self.options.model_suffix
        return {f"G{suffix}": build_generator(network, network.input_nc, network.output_nc)}

    def train_step(self, batch: Batch, update: Update) -> Step:
        raise NotImplementedError("the test model does not train")

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        (G,) = self.nets.values()
        return {"real": batch.A, "fake": G(batch.A)}
