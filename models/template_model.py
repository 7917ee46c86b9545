"""A start for a model of your own: copied to ``models/mine_model.py`` it is ``--model mine``.

It learns a generator G that maps A to B by regression: it minimises ‖G(A) − B‖₁. Every part that a model has
is here once; nothing needs to be registered anywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base_model import BaseModel
from models.networks import build_generator
from options.base_options import CommandOptions
from options.option import option
from options.train_options import TrainOptions
from training.optimizers import MakeOptimizer, adam
from util.batch import Batch, Step


@dataclass(frozen=True)
class TemplateOptions:
    """Flags of your model: each becomes ``--<name>``, is checked and stands in --help.

    ``phase="train"`` keeps a flag out of test.py; ``architecture=True`` makes test.py take it from the
    checkpoint.
    """

    lambda_regression: float = option(1.0, "weight of the regression loss", minimum=0, phase="train")


class TemplateModel(BaseModel):
    """One generator, trained by an L1 loss."""

    Options = TemplateOptions
    # Flags of other groups whose default is another one for your model.
    defaults: ClassVar[Mapping[str, object]] = {"dataset_mode": "aligned", "pool_size": 0}
    # What --lr_policy plateau watches: losses whose sum falls while the model gets better.
    watched_losses = ("G_L1",)

    def __init__(
        self,
        G: nn.Module,
        *,
        make_optimizer: MakeOptimizer | None = None,
        lambda_regression: float = 1.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ):
        # Networks by name: "G" is saved as latest_net_G.pth. The base class moves them to the device.
        super().__init__({"G": G}, torch.device(device), dtype, seed)
        self.lambda_regression = lambda_regression
        # Optimizers by the name that `minimize` takes. Make them after the networks have been moved.
        if make_optimizer:
            self.optimizers = {"G": make_optimizer("G", G.parameters())}
        # What else a resumed run needs goes into self.state, see CycleGAN's image pools.

    @classmethod
    def from_options(cls, options: CommandOptions, device: torch.device) -> Self:
        """Take from the options' groups what the constructor needs; test.py needs the generators alone."""
        network, run = options.network, options.run
        G = build_generator(network, network.input_nc, network.output_nc)
        if not isinstance(options, TrainOptions):
            return cls(G, device=device, dtype=run.dtype, seed=run.seed)
        return cls(
            G,
            make_optimizer=adam(options.optimization),
            lambda_regression=options.model.lambda_regression,
            device=device,
            dtype=run.dtype,
            seed=run.seed,
        )

    def train_step(self, batch: Batch) -> Step:
        """Make the updates of one step in the order of your paper, each by `minimize`."""
        real_A, real_B = batch.pair()
        fake_B = self.nets["G"](real_A)
        loss = self.lambda_regression * F.l1_loss(fake_B, real_B)
        self.minimize("G", loss)
        return Step(losses={"G_L1": loss}, visuals={"real_A": real_A, "fake_B": fake_B, "real_B": real_B})

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return the images of galleries and training pages by name."""
        real_A, real_B = batch.pair()
        return {"real_A": real_A, "fake_B": self.nets["G"](real_A), "real_B": real_B}
