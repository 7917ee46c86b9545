"""The models: `create_model` makes the one that ``--model`` names, from ``models/<name>_model.py``."""

import logging

import torch

from models.base_model import BaseModel
from models.layers.sizes import check_crop_size, set_tile
from options.base_options import CommandOptions
from options.option import flags_of
from options.test_options import TestOptions
from options.train_options import AdversarialOptions, TrainOptions
from util.errors import UserError
from util.registry import Registry

log = logging.getLogger(__name__)

MODELS: Registry[BaseModel] = Registry("models", "model", "--model", BaseModel)  # type: ignore[type-abstract]

FLAGS_OF_DISCRIMINATORS = {"netD", "ndf", "n_layers_D", "lr_D"} | flags_of(AdversarialOptions).keys() - {
    "n_critic"
}


def create_model(options: CommandOptions, device: torch.device) -> BaseModel:
    """Return the model that ``--model`` names, with initial weights on `device`.

    Raises:
        UserError: it cannot train, or its networks cannot take images of the size that the options ask for.
    """
    chosen = MODELS.get(options.run.model)
    if isinstance(options, TrainOptions) and not chosen.trains:
        raise UserError(f"--model {options.run.model} is for test.py alone; train with another model")
    model = chosen(options, device)
    if "crop" in options.data.preprocess:
        check_crop_size(model.nets.values(), options.data.crop_size)
    if isinstance(options, TrainOptions) and not any(name.startswith("D") for name in model.nets):
        for flag in sorted(options.explicit & FLAGS_OF_DISCRIMINATORS):
            log.warning("--%s has no effect: this model has no discriminator", flag)
    if isinstance(options, TestOptions) and options.results.tile:
        set_tile(model.nets.values(), options.results.tile)
    for name, net in model.nets.items():
        if options.run.verbose:
            log.info("%s", net)
        log.info("Network %s: %.3f M parameters", name, sum(p.numel() for p in net.parameters()) / 1e6)
    return model
