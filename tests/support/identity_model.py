"""Returns its input; a weight is trained beside it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base_model import BaseModel, Update
from models.layers.generator import Generator
from options.base_options import CommandOptions
from util.batch import Batch, Step


class Identity(Generator):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def run(self, x: Tensor, *conditions: Tensor) -> Tensor:
        return x


class IdentityModel(BaseModel):
    def build(self, options: CommandOptions) -> dict[str, nn.Module]:
        return {"G": Identity()}

    def train_step(self, batch: Batch, update: Update) -> Step:
        A, B = batch.pair()
        losses = {"L1": F.l1_loss(A + self.nets["G"].weight, B)}
        update("G", losses["L1"])
        return Step(losses, self.test_step(batch))

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        images = {"real_A": batch.A, "fake_B": self.nets["G"](batch.A)}
        return images if batch.B is None else images | {"real_B": batch.B}
