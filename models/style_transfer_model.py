"""Style transfer by a generator, with content, style and adversarial losses.

One style or a set of styles: Johnson et al. 2016 with a PatchGAN; arbitrary styles: Huang & Belongie 2017.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from models.base_model import BaseModel
from models.layers.generator import Generator
from models.networks import allow_only, build_discriminator, build_generator, init_network
from models.objectives.backbones import Fingerprint, empty_vgg, load_vgg
from models.objectives.gan import Objective
from models.objectives.losses import feature_loss, grams, moments, moments_loss, total, total_variation
from models.objectives.perceptual import CONTENT_LAYERS, STYLE_LAYERS, STYLE_SCALE, Features, load_features
from models.style.gram import MeanGrams
from models.style.networks import (
    DEEPEST,
    ENCODER_LAYERS,
    ENCODER_NETWORK,
    AdainGenerator,
    build_decoder,
)
from models.style.reference import ReferenceStyle
from options.base_options import CommandOptions
from options.option import option
from options.train_options import TrainOptions
from training.optimizers import MakeOptimizer, adam
from util.batch import Batch, Step
from util.errors import UserError
from util.seeding import torch_rng

SCALES = {"fixed": STYLE_SCALE, "set": STYLE_SCALE, "adain": 10.0}
VANILLA = Objective("vanilla")


@dataclass(frozen=True)
class StyleTransferOptions:
    """Flags of style transfer."""

    style_mode: str = option(
        "fixed",
        "fixed learns the one style in trainB; set what the styles there have in common; adain to imitate any"
        " style that it is shown",
        choices=("fixed", "set", "adain"),
        architecture=True,
    )
    nz: int = option(
        0,
        "channels of noise beside the photo, the same everywhere in an image; 0: none",
        minimum=0,
        architecture=True,
        needs=("style_mode", ("fixed", "set")),
    )
    vgg_weights: str = option(
        "imagenet",
        "VGG's weights (VGG16; adain: VGG19): imagenet (downloaded), a path, or random (for tests)",
        architecture=True,
    )
    lambda_content: float = option(
        1.0, "weight of the distance from the photo's features", minimum=0, phase="train"
    )
    lambda_style: float = option(
        1.0,
        "weight of the distance from the style, in units of what is usual: 1e5 for Gram matrices, 10 for"
        " the moments that adain compares",
        minimum=0,
        phase="train",
    )
    lambda_adv: float = option(
        1.0, "weight of the adversarial loss; 0: none, and no discriminator", minimum=0, phase="train"
    )
    lambda_tv: float = option(0.0, "weight of the total variation", minimum=0, phase="train")
    alpha: float = option(
        1.0,
        "how far to go from the photo's own style (0) to the other (1)",
        minimum=0,
        phase="test",
        needs=("style_mode", ("adain",)),
    )
    style: str = option(
        "",
        "images of styles, separated by commas, instead of those in testB; several are mixed",
        phase="test",
        needs=("style_mode", ("adain",)),
    )
    style_weights: str = option(
        "", "the shares of the --style images, such as 0.7,0.3; by default equal", phase="test"
    )


@dataclass(frozen=True)
class LossWeights:
    """The weights of the generator's losses."""

    content: float = 1.0
    style: float = 1.0
    adv: float = 1.0
    tv: float = 0.0


class StyleTransferModel(BaseModel):
    """G gives photos another style: content near the photo's, style near the style's, D taking it for one.

    Args:
        G: maps photos, with `nz` channels of noise beside them, to images; for ``adain`` an
            `AdainGenerator`.
        D: tells images of the style from G's; None for testing or without an adversarial loss.
        features: VGG at the layers that the losses compare; None for testing.
        mode: ``fixed``, ``set`` or ``adain``.
        alpha: how far ``adain`` goes from the photo's moments to the style's.
        given: a style to use in testing instead of the data set's.
    """

    Options = StyleTransferOptions
    defaults: ClassVar[Mapping[str, object]] = {
        "dataset_mode": "style",
        "no_dropout": True,
        "init_type": "kaiming",  # adain's decoder has no norms that would enlarge small signals
        "gan_mode": "vanilla",
        "pool_size": 0,
    }
    example_flags = ("--vgg_weights", "random", "--style_mode", "set")
    watched_losses = ("G_content", "G_style")

    def __init__(
        self,
        G: nn.Module,
        D: nn.Module | None = None,
        *,
        features: Features | None = None,
        make_optimizer: MakeOptimizer | None = None,
        objective: Objective = VANILLA,
        weights: LossWeights = LossWeights(),
        mode: str = "fixed",
        nz: int = 0,
        alpha: float = 1.0,
        given: ReferenceStyle | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ):
        nets = {"G": G} if D is None else {"G": G, "D": D}
        super().__init__(nets, torch.device(device), dtype, seed, objective)
        self.weights, self.mode, self.nz = weights, mode, nz
        self.alpha, self.given = torch.tensor(alpha, dtype=dtype, device=self.device), given
        self.features = features.to(self.device, dtype) if features else None
        if self.features:
            self.state["vgg"] = Fingerprint(self.features, "vgg_weights")
        self.mean_grams = MeanGrams(self.device)
        if mode == "set":
            self.state["mean_grams"] = self.mean_grams
        self._only_style = ""
        if make_optimizer:
            for name, net in self.nets.items():
                trained = (parameter for parameter in net.parameters() if parameter.requires_grad)
                self.optimizers[name] = make_optimizer(name, trained)

    @classmethod
    def from_options(cls, options: CommandOptions, device: torch.device) -> Self:
        network, run, own = options.network, options.run, options.model
        allow_only("style_transfer goes from RGB to RGB", network, input_nc=3, output_nc=3)
        common = {
            "mode": own.style_mode,
            "nz": own.nz,
            "device": device,
            "dtype": run.dtype,
            "seed": run.seed,
        }
        G, features = build(options)
        if not isinstance(options, TrainOptions):
            given = ReferenceStyle.from_files(own.style, own.style_weights, options.data.crop_size)
            return cls(G, alpha=own.alpha, given=given, **common)
        if pool_size := options.adversarial.pool_size:
            raise UserError(f"--pool_size {pool_size}: style_transfer keeps no earlier fakes; say 0")
        scale = SCALES[own.style_mode]
        return cls(
            G,
            build_discriminator(network, 3) if own.lambda_adv else None,
            features=features,
            make_optimizer=adam(options.optimization),
            objective=Objective.from_options(options.adversarial, network),
            weights=LossWeights(own.lambda_content, scale * own.lambda_style, own.lambda_adv, own.lambda_tv),
            **common,
        )

    def draws(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        alpha = self.objective.draws(("D",), count, generator, self.iteration)
        return {"z": torch.randn(count, self.nz, 1, 1, generator=generator), **alpha}

    def train_step(self, batch: Batch) -> Step:
        content, style = batch.pair()
        G, D, weights = self.nets["G"], self.nets.get("D"), self.weights
        assert self.features is not None
        adain = self.mode == "adain"
        with torch.no_grad():
            styles = self.features(style, ENCODER_LAYERS if adain else STYLE_LAYERS)
            wanted = self.features(content, (DEEPEST,) if adain else CONTENT_LAYERS)
        if adain:
            assert isinstance(G, AdainGenerator)
            wanted = {DEEPEST: G.restyle(wanted[DEEPEST], *moments(styles[DEEPEST]))}
            fake = G.decode(wanted[DEEPEST])
        else:
            fake = G(with_noise(content, batch.draws["z"]))
        d, g = {}, {}

        # D: tell images of the style from stylised ones
        if D is not None:
            d = self.objective.discriminator(D, style, fake, batch.draws)
            self.minimize("D", total(d) / 2)
            g["G_GAN"] = weights.adv * self.objective.generator(D, fake, batch.draws)

        # G: keep the content, take on the style, fool D
        found = self.features(fake)
        g["G_content"] = weights.content * feature_loss(found, wanted)
        g["G_style"] = weights.style * self.style_distance(found, styles)
        if weights.tv:
            g["G_tv"] = weights.tv * total_variation(fake)
        self.minimize("G", total(g))
        losses = g | {f"D_{name}": loss for name, loss in d.items()}
        return Step(losses, visuals={"real_A": content, "fake_B": fake, "style": style})

    def style_distance(self, found: Mapping[str, Tensor], styles: Mapping[str, Tensor]) -> Tensor:
        """Return how far the features of results are from the styles'."""
        if self.mode == "adain":
            return moments_loss(found, styles)
        ours, theirs = grams({layer: found[layer] for layer in styles}), grams(styles)
        return feature_loss(ours, self.mean_grams.add(theirs) if self.mode == "set" else theirs)

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        G = self.nets["G"]
        if self.mode != "adain":
            noise = [torch_rng("z", self.seed, index) for index in batch.index.tolist()]
            z = torch.stack([torch.randn(self.nz, 1, 1, generator=generator) for generator in noise])
            return {"real_A": batch.A, "fake_B": G(with_noise(batch.A, z))}
        assert isinstance(G, AdainGenerator)
        if self.given:
            moments = (part.expand(len(batch), -1, -1, -1) for part in self.given.moments(G, batch.A))
            return {"real_A": batch.A, "fake_B": G(batch.A, *moments, self.alpha)}
        if batch.B is None:
            raise UserError("--style: name images of styles, or put some into the folder B of the phase")
        fake = G(batch.A, *G.moments_of(batch.B), self.alpha)
        return {"real_A": batch.A, "fake_B": fake, "style": batch.B}

    def captions(self, batch: Batch) -> list[dict[str, str]]:
        if self.given:
            return [{"fake_B": f"fake_B: {self.given.name}"} for _ in range(len(batch))]
        return [{"style": f"style: {Path(path).name}"} for path in batch.paths_B]

    def check_batch(self, batch: Batch) -> None:
        super().check_batch(batch)
        if self.mode != "fixed":
            return
        for path in batch.paths_B:
            self._only_style = self._only_style or path
            if path != self._only_style:
                raise UserError(
                    f"--style_mode fixed learns one style, but the data set has {self._only_style} and"
                    f" {path}: leave one, or say --style_mode set or adain"
                )


def build(options: CommandOptions) -> tuple[Generator, Features | None]:
    """Return the generator, and VGG for the losses where they are needed."""
    network, own = options.network, options.model
    testing = not isinstance(options, TrainOptions)
    if own.style_mode != "adain":
        G = build_generator(network, network.input_nc + own.nz, network.output_nc)
        return G, None if testing else load_features(own.vgg_weights)
    if own.nz:
        raise UserError(f"--nz {own.nz}: adain's results depend on the style alone; say --nz 0")
    reason = "--style_mode adain has a generator of its own"
    allow_only(reason, network, netG="resnet_9blocks", upsample="deconv", padding="reflect")
    if network.attention_depths("G"):
        raise UserError(f"--attention {network.attention}: {reason}; add --attention_nets D")
    # In testing the weights come from the checkpoint: it holds the encoder too.
    vgg = empty_vgg(ENCODER_NETWORK) if testing else load_vgg(ENCODER_NETWORK, own.vgg_weights)
    encoder = Features(vgg, ENCODER_NETWORK, ENCODER_LAYERS)
    decoder = init_network(build_decoder(network.ngf), network, "G")
    return AdainGenerator(encoder, decoder), encoder


def with_noise(photos: Tensor, z: Tensor) -> Tensor:
    """Return photos, (N, C, H, W), with noise (N, K, 1, 1) in K further channels, the same at every place."""
    return torch.cat([photos, z.to(photos).expand(-1, -1, *photos.shape[-2:])], 1)
