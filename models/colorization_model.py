"""Colorization by pix2pix: from lightness to colour (Isola et al. 2017, section 4.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.base_model import Update
from models.colorization.rebalancing import ColorFrequencies
from models.networks import build_discriminator, build_generator
from models.objectives.backbones import Fingerprint, load_vgg
from models.objectives.losses import feature_loss, total
from models.objectives.perceptual import Features
from models.pix2pix_model import Pix2PixModel, Pix2PixOptions
from options.base_options import COLOR_METRICS, CommandOptions
from options.file_options import only_rgb
from options.option import option
from options.train_options import TrainOptions
from util.batch import Batch, Step
from util.color import from_L_ab, to_L_ab

PHOTOS = "L and ab are computed from RGB with 8 bits"
PERCEPTUAL_NETWORK, PERCEPTUAL_LAYERS = "vgg16", ("relu1_2", "relu2_2", "relu3_3")


@dataclass(frozen=True)
class ColorizationOptions(Pix2PixOptions):
    """Flags of colorization."""

    lambda_GAN: float = option(
        1.0, "weight of the adversarial loss; 0: none, and no discriminator", minimum=0, phase="train"
    )
    lambda_perceptual: float = option(
        0.0,
        "weight of the distance between the VGG16 features of results and photos",
        minimum=0,
        phase="train",
    )
    vgg_weights: str = option(
        "imagenet", "VGG16's weights: imagenet (downloaded), a path, or random (for tests)", phase="train"
    )
    rebalance: bool = option(False, "weight pixels of rare colours more in the L1 loss", phase="train")


class ColorizationModel(Pix2PixModel):
    """pix2pix from L to ab, with L as L / 50 - 1 and ab as ab / 110; images come in RGB."""

    Options = ColorizationOptions
    options: ColorizationOptions
    defaults: ClassVar[Mapping[str, object]] = {
        **Pix2PixModel.defaults,
        "dataset_mode": "colorization",
        "metrics": COLOR_METRICS,
    }
    fixed: ClassVar[Mapping[str, object]] = {
        **Pix2PixModel.fixed,
        **only_rgb(PHOTOS, "its data are whole photos"),
    }
    example_flags: ClassVar[Mapping[str, object]] = {"vgg_weights": "random"}
    reads_B = False
    takes_masks = False
    perceptual: Features | None = None
    frequencies: ColorFrequencies | None = None

    def build(self, options: CommandOptions) -> dict[str, nn.Module]:
        network, own = options.network, self.options
        nets: dict[str, nn.Module] = {"G": build_generator(network, network.input_nc, network.output_nc)}
        if isinstance(options, TrainOptions):
            if own.lambda_GAN:
                nets["D"] = build_discriminator(network, network.input_nc + network.output_nc)
            if own.lambda_perceptual:
                vgg = load_vgg(PERCEPTUAL_NETWORK, own.vgg_weights)
                features = Features(vgg, PERCEPTUAL_NETWORK, PERCEPTUAL_LAYERS)
                self.perceptual = features.to(self.device, self.dtype)
                self.state["vgg"] = Fingerprint(self.perceptual, "vgg_weights")
            if own.rebalance:
                self.frequencies = self.state["frequencies"] = ColorFrequencies(self.device, self.dtype)
        return nets

    def train_step(self, batch: Batch, update: Update) -> Step:
        L, ab = to_L_ab(batch.A)
        G, D = self.nets["G"], self.nets.get("D")
        fake = G(L)
        d, g = {}, {}

        # D: tell photos from coloured images, given the lightness
        if D is not None:
            d = self.objective.discriminator(D, ab, fake, batch.draws, source=L)
            update("D", total(d) / 2)
            adversarial = self.objective.generator(D, fake, batch.draws, source=L)
            g["G_GAN"] = self.options.lambda_GAN * adversarial

        # G: fool D, stay near the photo's colours and, with a weight, its features
        weights = self.frequencies.weights(ab, batch) if self.frequencies else 1
        g["G_L1"] = self.options.lambda_L1 * (weights * (fake - ab).abs()).mean()
        if self.perceptual:
            with torch.no_grad():
                wanted = self.perceptual(batch.A)
            features = self.perceptual(from_L_ab(L, fake))
            g["G_perceptual"] = self.options.lambda_perceptual * feature_loss(features, wanted)
        update("G", total(g))
        losses = g | {f"D_{name}": loss for name, loss in d.items()}
        return Step(losses, visuals={"real_A": L, "real_B_rgb": batch.A})

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        L, _ = to_L_ab(batch.A)
        truth = {"real_B_rgb": batch.A} if batch.A.shape[1] == 3 else {}
        return {"real_A": L, **truth, "fake_B_rgb": from_L_ab(L, self.nets["G"](L))}
