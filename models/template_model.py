"""A start for a model of your own: copied to ``models/mine_model.py`` it is ``--model mine``.

It trains a generator G that maps A to B by regression: it minimises ‖G(A) − B‖₁. Every part that a model has
is here once; nothing needs to be registered anywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from models.base_model import BaseModel, Update
from models.networks import build_generator
from models.objectives.losses import l1
from options.base_options import CommandOptions
from options.option import option
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
    options: TemplateOptions
    # Flags of other groups whose default is another one for your model.
    defaults: ClassVar[Mapping[str, object]] = {"dataset_mode": "aligned", "pool_size": 0}
    # What --lr_policy plateau watches: losses whose sum falls while the model gets better.
    watched_losses = ("G_L1",)
    # Training needs images of both sides: other data sets are refused at the start.
    reads_B = True
    # The loss is weighted by the masks of --mask.
    takes_masks = True

    def build(self, options: CommandOptions) -> dict[str, nn.Module]:
        """Return the networks by name: "G" is saved as latest_net_G.pth and trained by the optimizer "G".

        Discriminators, whose names begin with D, are only needed if `options` are a TrainOptions. What else a
        resumed run needs goes into self.state, see the image pools of CycleGAN.
        """
        network = options.network
        return {"G": build_generator(network, network.input_nc, network.output_nc)}

    def train_step(self, batch: Batch, update: Update) -> Step:
        """Make the updates of one step in the order of your paper, each by `update`."""
        real_A, real_B = batch.pair()
        fake_B = self.nets["G"](real_A)
        loss = self.options.lambda_regression * l1(fake_B, real_B, batch.mask)
        update("G", loss)
        return Step(losses={"G_L1": loss}, visuals={"real_A": real_A, "fake_B": fake_B, "real_B": real_B})

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return the images of galleries and training pages by name."""
        real_A, real_B = batch.pair()
        return {"real_A": real_A, "fake_B": self.nets["G"](real_A), "real_B": real_B}
