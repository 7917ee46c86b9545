"""One generator on one folder of images, such as one direction of a CycleGAN."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from models.base_model import BaseModel
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
    """Shows what one trained generator makes of images; test.py's default model.

    Args:
        G: generator.
        suffix: ends the name of its weights, ``net_G<suffix>``.
    """

    Options = OneGeneratorOptions
    defaults: ClassVar[Mapping[str, object]] = {"dataset_mode": "single"}
    trains = False

    def __init__(self, G: nn.Module, suffix: str, device: torch.device, dtype: torch.dtype, seed: int):
        super().__init__({f"G{suffix}": G}, device, dtype, seed)

    @classmethod
    def from_options(cls, options: CommandOptions, device: torch.device) -> Self:
        network, run = options.network, options.run
        G = build_generator(network, network.input_nc, network.output_nc)
        return cls(G, options.model.model_suffix, device, run.dtype, run.seed)

    def train_step(self, batch: Batch) -> Step:
        raise NotImplementedError("the test model does not train")

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        (G,) = self.nets.values()
        return {"real": batch.A, "fake": G(batch.A)}
