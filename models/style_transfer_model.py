"""Style transfer by a generator, with content, style and adversarial losses.

One style or a set of styles: Johnson et al. 2016 with a PatchGAN; arbitrary styles: Huang & Belongie 2017.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.base_model import BaseModel, Update
from models.layers.generator import Generator
from models.layers.running_mean import RunningMean
from models.networks import allow_only, build_discriminator, build_generator, init_network
from models.objectives.backbones import Fingerprint, empty_vgg, load_vgg
from models.objectives.losses import feature_loss, grams, moments, moments_loss, total, total_variation
from models.objectives.perceptual import CONTENT_LAYERS, STYLE_LAYERS, STYLE_SCALE, Features, load_features
from models.style.networks import (
    DEEPEST,
    ENCODER_LAYERS,
    ENCODER_NETWORK,
    AdainGenerator,
    build_decoder,
)
from models.style.reference import ReferenceStyle
from options.base_options import CommandOptions
from options.file_options import only_rgb
from options.option import Fixed, option
from options.train_options import TrainOptions
from util.batch import Batch, Step
from util.errors import UserError
from util.seeding import torch_rng

PHOTOS = "VGG's features are those of RGB images with 8 bits"
STYLE_SCALES = {"fixed": STYLE_SCALE, "set": STYLE_SCALE, "adain": 10.0}


@dataclass(frozen=True)
class StyleTransferOptions:
    """Flags of style transfer."""

    style_mode: str = option(
        "fixed",
        "fixed: learn the one style image in trainB; set: learn what the style images there have in common;"
        " adain: learn to apply any style image",
        choices=("fixed", "set", "adain"),
        architecture=True,
    )
    nz: int = option(
        0,
        "noise channels added to the photo, constant over each image; 0: none",
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
        "weight of the distance from the style, in units of 1e5 (Gram matrices) or 10 (the moments that"
        " adain compares)",
        minimum=0,
        phase="train",
    )
    lambda_adv: float = option(
        1.0, "weight of the adversarial loss; 0: none, and no discriminator", minimum=0, phase="train"
    )
    lambda_tv: float = option(0.0, "weight of the total variation", minimum=0, phase="train")
    alpha: float = option(
        1.0,
        "strength of the style, from the photo's own (0) to the style image's (1)",
        minimum=0,
        phase="test",
        needs=("style_mode", ("adain",)),
    )
    style: str = option(
        "",
        "style images to use instead of those in testB, separated by commas; several are mixed",
        phase="test",
        needs=("style_mode", ("adain",)),
    )
    style_weights: str = option(
        "", "weights of the --style images, such as 0.7,0.3; equal by default", phase="test"
    )


class StyleTransferModel(BaseModel):
    """G changes the style of photos: content near the photo's, style near the style image's; D judges it."""

    Options = StyleTransferOptions
    options: StyleTransferOptions
    defaults: ClassVar[Mapping[str, object]] = {
        "dataset_mode": "style",
        "no_dropout": True,
        "init_type": "kaiming",  # adain's decoder has no norms that would enlarge small signals
        "gan_mode": "vanilla",
    }
    fixed: ClassVar[Mapping[str, object]] = {
        "pool_size": 0,
        "input_nc": Fixed(3, PHOTOS),
        "output_nc": Fixed(3, PHOTOS),
        **only_rgb(PHOTOS, "it compares features of whole images, not pixels"),
    }
    example_flags: ClassVar[Mapping[str, object]] = {"vgg_weights": "random", "style_mode": "set"}
    watched_losses = ("G_content", "G_style")
    reads_B = True
    _seen: Sequence[str] = ()
    """The style file of the last batch."""
    given: ReferenceStyle | None = None
    """The style that ``--style`` names."""

    def build(self, options: CommandOptions) -> dict[str, nn.Module]:
        network, own = options.network, self.options
        # The squared distance to the mean Gram matrices has on average the gradient of the distances to each
        # style's, without its noise.
        self.mean_grams = RunningMean(self.device)
        G, features = build_networks(options)
        nets: dict[str, nn.Module] = {"G": G}
        if own.style_mode == "set":
            self.state["mean_grams"] = self.mean_grams
        if not isinstance(options, TrainOptions):
            self.given = ReferenceStyle.from_files(own.style, own.style_weights, options.data.crop_size)
            return nets
        if own.lambda_adv:
            nets["D"] = build_discriminator(network, 3)
        assert features is not None
        self.features = features.to(self.device, self.dtype)
        self.state["vgg"] = Fingerprint(self.features, "vgg_weights")
        return nets

    def draws(self, count: int, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        draws = super().draws(count, iteration, generator)
        return {"z": torch.randn(count, self.options.nz, 1, 1, generator=generator), **draws}

    def train_step(self, batch: Batch, update: Update) -> Step:
        content, style = batch.pair()
        G, D, weights = self.nets["G"], self.nets.get("D"), self.options
        adain = weights.style_mode == "adain"
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

        # D: tell style images from stylised photos
        if D is not None:
            d = self.objective.discriminator(D, style, fake, batch.draws)
            update("D", total(d) / 2)
            g["G_GAN"] = weights.lambda_adv * self.objective.generator(D, fake, batch.draws)

        # G: keep the content, match the style, fool D
        features = self.features(fake)
        g["G_content"] = weights.lambda_content * feature_loss(features, wanted)
        scale = STYLE_SCALES[weights.style_mode] * weights.lambda_style
        g["G_style"] = scale * self.style_distance(features, styles, batch)
        if weights.lambda_tv:
            g["G_tv"] = weights.lambda_tv * total_variation(fake)
        update("G", total(g))
        losses = g | {f"D_{name}": loss for name, loss in d.items()}
        return Step(losses, visuals={"real_A": content, "fake_B": fake, "style": style})

    def style_distance(
        self, features: Mapping[str, Tensor], styles: Mapping[str, Tensor], batch: Batch
    ) -> Tensor:
        """Return the distance of the results' features from the styles', 0-d."""
        if self.options.style_mode == "adain":
            return moments_loss(features, styles)
        ours, theirs = grams({layer: features[layer] for layer in styles}), grams(styles)
        if self.options.style_mode == "set":
            means = {layer: gram.mean(0, keepdim=True) for layer, gram in theirs.items()}
            theirs = self.mean_grams.update(means, batch)
        return feature_loss(ours, theirs)

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        G = self.nets["G"]
        if self.options.style_mode != "adain":
            noise = [torch_rng("z", self.seed, index) for index in batch.index.tolist()]
            z = torch.stack([torch.randn(self.options.nz, 1, 1, generator=generator) for generator in noise])
            return {"real_A": batch.A, "fake_B": G(with_noise(batch.A, z))}
        assert isinstance(G, AdainGenerator)
        alpha = torch.tensor(self.options.alpha, dtype=self.dtype, device=self.device)
        if self.given:
            moments = (part.expand(len(batch), -1, -1, -1) for part in self.given.moments(G, batch.A))
            return {"real_A": batch.A, "fake_B": G(batch.A, *moments, alpha)}
        if batch.B is None:
            raise UserError("--style: name style images, or put some into the folder B of the phase")
        fake = G(batch.A, *G.moments_of(batch.B), alpha)
        return {"real_A": batch.A, "fake_B": fake, "style": batch.B}

    def captions(self, batch: Batch) -> list[dict[str, str]]:
        if self.given:
            return [{"fake_B": f"fake_B: {self.given.name}"} for _ in range(len(batch))]
        return [{"style": f"style: {Path(path).name}"} for path in batch.paths_B]

    def check_files(self, paths_B: Sequence[str]) -> None:
        styles = list(dict.fromkeys(paths_B))
        if self.options.style_mode == "fixed" and len(styles) > 1:
            raise UserError(
                f"--style_mode fixed learns one style, but the data set has {len(styles)} such as {styles[0]}"
                f" and {styles[1]}: keep one of them, or use --style_mode set or adain"
            )

    def check_batch(self, batch: Batch) -> None:
        super().check_batch(batch)
        self.check_files([*self._seen, *batch.paths_B])  # a data set need not list its files
        self._seen = batch.paths_B[:1]


def build_networks(options: CommandOptions) -> tuple[Generator, Features | None]:
    """Return the generator, and VGG for the losses if it is needed."""
    network, own = options.network, options.model
    testing = not isinstance(options, TrainOptions)
    if own.style_mode != "adain":
        G = build_generator(network, network.input_nc + own.nz, network.output_nc)
        return G, None if testing else load_features(own.vgg_weights)
    if own.nz:
        raise UserError(f"--nz {own.nz}: results of adain depend only on the style image; use --nz 0")
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
    """Return photos, (N, C, H, W), with noise (N, K, 1, 1) as K further channels, constant over the image."""
    return torch.cat([photos, z.to(photos).expand(-1, -1, *photos.shape[-2:])], 1)
