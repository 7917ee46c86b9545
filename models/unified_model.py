"""Colorization and style transfer by one generator: grey photos are coloured, with or without a style."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base_model import BaseModel, Update
from models.networks import build_discriminator, init_network
from models.objectives.backbones import Fingerprint
from models.objectives.losses import feature_loss, grams, total
from models.objectives.perceptual import CONTENT_LAYERS, STYLE_LAYERS, STYLE_SCALE, load_features
from models.style.networks import UnifiedGenerator, style_code
from options.base_options import COLOR_METRICS, CommandOptions
from options.file_options import only_rgb
from options.option import Fixed, option
from options.test_options import TestOptions
from options.train_options import TrainOptions
from util.batch import Batch, Step
from util.color import to_L_ab
from util.errors import UserError

TASKS = {"color": ("color",), "style": ("style",), "both": ("color", "style")}


@dataclass(frozen=True)
class UnifiedOptions:
    """Flags of the unified model."""

    task: str = option(
        "both",
        "what to learn: colorization, colorization in a style, or both",
        choices=tuple(TASKS),
        architecture=True,
    )
    vgg_weights: str = option(
        "imagenet",
        "VGG16's weights: imagenet (downloaded), a path, or random (for tests)",
        architecture=True,
    )
    lambda_pixel: float = option(
        100.0, "weight of the L1 distance of the coloured image to the photo", minimum=0, phase="train"
    )
    lambda_perceptual: float = option(
        1.0,
        "weight of the coloured image's distance from the photo in VGG features",
        minimum=0,
        phase="train",
    )
    lambda_content: float = option(
        1.0,
        "weight of the stylised image's distance from the photo in VGG features",
        minimum=0,
        phase="train",
    )
    lambda_style: float = option(
        1.0,
        "weight of the stylised image's distance from the style's Gram matrices, in units of 1e5",
        minimum=0,
        phase="train",
    )
    lambda_adv: float = option(
        1.0, "weight of the adversarial losses; 0: none, and no discriminators", minimum=0, phase="train"
    )


class UnifiedModel(BaseModel):
    """G colours grey photos, and colours them in the style of an image; each task has a D of its own.

    Both tasks are learned in the same step.
    """

    Options = UnifiedOptions
    options: UnifiedOptions
    defaults: ClassVar[Mapping[str, object]] = {
        "dataset_mode": "style",
        "metrics": COLOR_METRICS,
        "norm": "batch",
        "batch_size": 4,
        "eval": True,
        "no_dropout": True,
        "gan_mode": "vanilla",
    }
    fixed: ClassVar[Mapping[str, object]] = {
        "input_nc": Fixed(1, "it colours grey photos"),
        "output_nc": Fixed(3, "it makes RGB images"),
        "netG": "resnet_9blocks",
        "upsample": "deconv",
        "padding": "reflect",
        "pool_size": 0,
        **only_rgb("L and VGG's features are computed from RGB with 8 bits", "its data are whole photos"),
    }
    example_flags: ClassVar[Mapping[str, object]] = {"vgg_weights": "random", "netG": "resnet_9blocks"}
    reads_B = True

    def build(self, options: CommandOptions) -> dict[str, nn.Module]:
        check_flags(options)
        network, own = options.network, self.options
        self.tasks = TASKS[own.task]
        self.watched_losses = tuple({"color": "G_pixel", "style": "G_style"}[task] for task in self.tasks)
        self.G = init_network(UnifiedGenerator(network.ngf, network.norm), network, "G")
        self.D: dict[str, nn.Module] = {}
        if isinstance(options, TrainOptions):
            if own.lambda_adv:
                self.D = {task: build_discriminator(network, 3) for task in self.tasks}
            self.features = load_features(own.vgg_weights).to(self.device, self.dtype)
            self.state["vgg"] = Fingerprint(self.features, "vgg_weights")
        return {"G": self.G, **{f"D_{task}": D for task, D in self.D.items()}}

    def train_step(self, batch: Batch, update: Update) -> Step:
        photo, style = batch.pair()
        grey, _ = to_L_ab(photo)
        fakes = dict(zip(self.tasks, self.generate(grey, style), strict=True))
        real = {"color": photo, "style": style}
        d: dict[str, Tensor] = {}
        g: dict[str, Tensor] = {}

        # D of each task: tell photos from coloured images, style images from stylised photos
        if self.D:
            for task, D in self.D.items():
                judged = self.objective.discriminator(
                    D, real[task], fakes[task], batch.draws, name=f"D_{task}"
                )
                d |= {f"D_{task}_{name}": loss for name, loss in judged.items()}
            update("D", total(d) / 2)
            for task, D in self.D.items():
                loss = self.objective.generator(D, fakes[task], batch.draws, name=f"D_{task}")
                g[f"G_GAN_{task}"] = self.options.lambda_adv * loss

        # G: colours near the photo's, content near the photo's and style near the style image's, fool both
        update("G", total(g := g | self.similarity_losses(photo, style, fakes)))
        named = {"fake_B_rgb": fakes.get("color"), "fake_style": fakes.get("style")}
        visuals = {name: fake for name, fake in named.items() if fake is not None}
        return Step(g | d, visuals={"real_A": grey, "real_B_rgb": photo, "style": style, **visuals})

    def generate(self, grey: Tensor, style: Tensor) -> list[Tensor]:
        """Return the images of each task; photos and styles, of one size, share their batch statistics."""
        G = self.G
        if "style" not in self.tasks:
            return [G.decode(G.encode(grey), G.no_style)]
        encoded = G.encode(torch.cat([grey.expand(-1, 3, -1, -1), style]))
        features, style_features = ([level.chunk(2)[side] for level in encoded] for side in (0, 1))
        code = style_code(style_features)
        if "color" not in self.tasks:
            return [G.decode(features, code)]
        twice = [torch.cat([level, level]) for level in features]
        return list(G.decode(twice, torch.cat([G.no_style.expand_as(code), code])).chunk(2))

    def similarity_losses(
        self, photo: Tensor, style: Tensor, fakes: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the distances of the fakes from photo and style; VGG sees every image once."""
        weights, features, losses = self.options, self.features, {}
        with torch.no_grad():
            contents = features(photo, CONTENT_LAYERS)
            styles = grams(features(style, STYLE_LAYERS)) if "style" in fakes else {}
        if "color" in fakes:
            losses["G_pixel"] = weights.lambda_pixel * F.l1_loss(fakes["color"], photo)
            found = features(fakes["color"], CONTENT_LAYERS)
            losses["G_perceptual"] = weights.lambda_perceptual * feature_loss(found, contents)
        if "style" in fakes:
            found = features(fakes["style"])
            losses["G_content"] = weights.lambda_content * feature_loss(found, contents)
            ours = grams({layer: found[layer] for layer in STYLE_LAYERS})
            losses["G_style"] = weights.lambda_style * STYLE_SCALE * feature_loss(ours, styles)
        return losses

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        grey, _ = to_L_ab(batch.A)
        visuals = {"real_A": grey}
        if batch.A.shape[1] == 3:
            visuals["real_B_rgb"] = batch.A
        if "color" in self.tasks:
            visuals["fake_B_rgb"] = self.G(grey, self.G.no_style.expand(len(batch), -1, -1, -1))
        if "style" in self.tasks and batch.B is not None:
            visuals["style"] = batch.B
            visuals["fake_style"] = self.G(grey, style_code(self.G.encode(batch.B)))
        return visuals

    def captions(self, batch: Batch) -> list[dict[str, str]]:
        return [{"style": f"style: {Path(path).name}"} for path in batch.paths_B]


def check_flags(options: CommandOptions) -> None:
    """Raise a `UserError` for flags that make no sense for this model."""
    network = options.network
    if network.attention_depths("G"):
        raise UserError(
            f"--attention {network.attention}: the generator has no self-attention; add --attention_nets D"
        )
    reason = "it would remove the style code, which is constant over an image"
    if network.norm == "instance":
        raise UserError(
            f"--norm instance: {reason}; use --norm batch with a --batch_size above 1, or --norm none"
        )
    if isinstance(options, TestOptions) and network.norm == "batch" and not options.results.eval:
        raise UserError(f"--eval false: with the batch statistics of a single image {reason}")
    if isinstance(options, TrainOptions):
        check_training_flags(options, reason)


def check_training_flags(options: TrainOptions, reason: str) -> None:
    """Raise a `UserError` for flags with which this model cannot train."""
    data = options.data
    accumulate = options.optimization.accumulate
    if options.network.norm == "batch" and data.batch_size == accumulate:
        parts = f" --accumulate {accumulate}" if accumulate > 1 else ""
        raise UserError(
            f"--batch_size {data.batch_size}{parts}: with batch norm {reason}; use more images per"
            " forward pass, or --norm none"
        )
    if "crop" not in data.preprocess:
        raise UserError(f"--preprocess {data.preprocess}: unified trains on crops of one size")
