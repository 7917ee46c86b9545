"""Colorization by pix2pix: from lightness to colour (Isola et al. 2017, section 4.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from models.colorization.rebalancing import ColourFrequencies
from models.networks import build_discriminator, build_generator
from models.objectives.backbones import Fingerprint, load_vgg
from models.objectives.gan import Objective
from models.objectives.losses import feature_loss, total
from models.objectives.perceptual import Features
from models.pix2pix_model import VANILLA, Pix2PixModel, Pix2PixOptions
from options.base_options import COLOR_METRICS, CommandOptions
from options.option import option
from options.train_options import TrainOptions
from training.optimizers import MakeOptimizer, adam
from util.batch import Batch, Step
from util.color import from_L_ab, to_L_ab
from util.errors import UserError

PERCEPTUAL_NETWORK, PERCEPTUAL_LAYERS = "vgg16", ("relu1_2", "relu2_2", "relu3_3")


@dataclass(frozen=True)
class ColorizationOptions(Pix2PixOptions):
    """Flags of colorization."""

    lambda_GAN: float = option(
        1.0, "weight of the adversarial loss; 0: none, and no discriminator", minimum=0, phase="train"
    )
    lambda_perceptual: float = option(
        0.0,
        "weight of the distance between VGG16's features of the results and of the photos",
        minimum=0,
        phase="train",
    )
    vgg_weights: str = option(
        "imagenet", "VGG16's weights: imagenet (downloaded), a path, or random (for tests)", phase="train"
    )
    rebalance: bool = option(False, "give pixels of rare colours more weight in the L1 loss", phase="train")


class ColorizationModel(Pix2PixModel):
    """pix2pix from L to ab, with L as L / 50 - 1 and ab as ab / 110; images come in RGB.

    Args:
        lambda_GAN: weight of the adversarial loss, if there is a D.
        perceptual: maps images to features that are compared, weighted by `lambda_perceptual`.
        rebalance: weight the L1 loss by the colours' frequencies.
    """

    Options = ColorizationOptions
    defaults: ClassVar[Mapping[str, object]] = {
        **Pix2PixModel.defaults,
        "dataset_mode": "colorization",
        "metrics": COLOR_METRICS,
    }

    def __init__(
        self,
        G: nn.Module,
        D: nn.Module | None = None,
        *,
        make_optimizer: MakeOptimizer | None = None,
        objective: Objective = VANILLA,
        lambda_GAN: float = 1.0,
        lambda_L1: float = 100.0,
        lambda_perceptual: float = 0.0,
        perceptual: nn.Module | None = None,
        rebalance: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ):
        super().__init__(
            G,
            D,
            make_optimizer=make_optimizer,
            objective=objective,
            lambda_L1=lambda_L1,
            device=device,
            dtype=dtype,
            seed=seed,
        )
        self.lambda_GAN, self.lambda_perceptual = lambda_GAN, lambda_perceptual
        self.perceptual = perceptual.to(self.device, dtype) if perceptual else None
        if self.perceptual:
            self.state["vgg"] = Fingerprint(self.perceptual, "vgg_weights")
        self.frequencies = ColourFrequencies(self.device, dtype) if rebalance else None
        if self.frequencies:
            self.state["frequencies"] = self.frequencies

    @classmethod
    def from_options(cls, options: CommandOptions, device: torch.device) -> Self:
        network, run, own = options.network, options.run, options.model
        G = build_generator(network, network.input_nc, network.output_nc)
        if not isinstance(options, TrainOptions):
            return cls(G, device=device, dtype=run.dtype, seed=run.seed)
        optimization = options.optimization
        if pool_size := options.adversarial.pool_size:
            raise UserError(
                f"--pool_size {pool_size}: colorization keeps no earlier fakes; use --pool_size 0"
            )
        channels = network.input_nc + network.output_nc
        perceptual = None
        if own.lambda_perceptual:
            vgg = load_vgg(PERCEPTUAL_NETWORK, own.vgg_weights)
            perceptual = Features(vgg, PERCEPTUAL_NETWORK, PERCEPTUAL_LAYERS)
        return cls(
            G,
            build_discriminator(network, channels) if own.lambda_GAN else None,
            make_optimizer=adam(optimization),
            objective=Objective.from_options(options.adversarial, network),
            lambda_GAN=own.lambda_GAN,
            lambda_L1=own.lambda_L1,
            lambda_perceptual=own.lambda_perceptual,
            perceptual=perceptual,
            rebalance=own.rebalance,
            device=device,
            dtype=run.dtype,
            seed=run.seed,
        )

    def train_step(self, batch: Batch) -> Step:
        L, ab = to_L_ab(batch.A)
        G, D = self.nets["G"], self.nets.get("D")
        fake = G(L)
        d, g = {}, {}

        # D: tell photos from coloured ones, given their lightness
        if D is not None:
            real_pair, fake_pair = torch.cat([L, ab], 1), torch.cat([L, fake], 1)
            d = self.objective.discriminator(D, real_pair, fake_pair, batch.draws)
            self.minimize("D", total(d) / 2)
            g["G_GAN"] = self.lambda_GAN * self.objective.generator(D, fake_pair, batch.draws)

        # G: fool D, stay near the photo's colours and, if asked for, its features
        weights = self.frequencies.weights(ab, self.share) if self.frequencies else 1
        g["G_L1"] = self.lambda_L1 * (weights * (fake - ab).abs()).mean()
        if self.perceptual:
            with torch.no_grad():
                wanted = self.perceptual(batch.A)
            found = self.perceptual(from_L_ab(L, fake))
            g["G_perceptual"] = self.lambda_perceptual * feature_loss(found, wanted)
        self.minimize("G", total(g))
        losses = g | {f"D_{name}": loss for name, loss in d.items()}
        return Step(losses, visuals={"real_A": L, "real_B_rgb": batch.A})

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        L, _ = to_L_ab(batch.A)
        truth = {"real_B_rgb": batch.A} if batch.A.shape[1] == 3 else {}
        return {"real_A": L, **truth, "fake_B_rgb": from_L_ab(L, self.nets["G"](L))}
