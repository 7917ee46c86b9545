"""Colorization with a memory of colours, for few training images (Yoo et al. 2019, MemoPainter)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base_model import BaseModel
from models.colorization.memory import (
    AGE_NOISE,
    PALETTE,
    ColorMemory,
    color_distribution,
    color_palette,
    encode_names,
)
from models.colorization.networks import ColorDiscriminator, ColorUnet
from models.networks import allow_only, init_network
from models.objectives.backbones import Fingerprint, load_resnet18, normalise_for_imagenet
from models.objectives.gan import Objective
from models.objectives.losses import total
from options.base_options import COLOR_METRICS, CommandOptions, NetworkOptions
from options.option import option
from options.train_options import TrainOptions
from training.optimizers import MakeOptimizer, adam
from util import distributed
from util.batch import Batch, Step, normalise
from util.color import AB_BINS, AB_SCALE, from_L_ab, rgb_to_lab, soft_encode, to_L_ab
from util.errors import UserError
from util.image_io import read_image
from util.seeding import torch_rng

BACKBONE_SIZE = 224
THRESHOLDS = {"dist": 0.7, "palette": 10.0}
VALUE_SIZES = {"dist": len(AB_BINS), "palette": 3 * PALETTE}
VANILLA = Objective("vanilla")


@dataclass(frozen=True)
class MemoryColorizationOptions:
    """Flags of memory-augmented colorization."""

    memory_size: int = option(
        1024,
        "slots of the memory; a fifth more than training images is enough",
        minimum=2,
        architecture=True,
    )
    color_feature: str = option(
        "dist",
        "what is remembered: the distribution over 313 colours, or a palette of 10",
        choices=("dist", "palette"),
        architecture=True,
    )
    resnet_weights: str = option(
        "imagenet",
        "ResNet18's weights: imagenet (downloaded), a path, or random (for tests)",
        architecture=True,
    )
    memory_threshold: float = option(
        0.0,
        "colour features nearer than this count as the same; 0: 0.7 (dist, digits of divergence) or 10"
        " (palette, CIEDE2000)",
        minimum=0,
        phase="train",
    )
    memory_margin: float = option(0.1, "margin of the memory's triplet loss", minimum=0, phase="train")
    lambda_GAN: float = option(1.0, "weight of the adversarial loss; 0: none", minimum=0, phase="train")
    lambda_L1: float = option(
        100.0, "weight of the smooth L1 distance to the photo's ab", minimum=0, phase="train"
    )
    top_memory: int = option(
        1, "show the results with the N best colours that were found", minimum=1, phase="test"
    )
    color_from: str = option(
        "memory",
        "whose colours: those found in memory, the photo's own, or those of a random slot",
        choices=("memory", "own", "random"),
        phase="test",
    )
    reference: str = option("", "take the colours of this image instead", phase="test")
    palette: str = option("", "take these colours instead, such as #102030,#ffe0a0", phase="test")


class MemoryColorizationModel(BaseModel):
    """M finds the colours of the training image most like a grey one; G colours it so; D judges the result.

    G learns with each photo's own colours and is tested with those that M finds.

    Args:
        G: maps (L, colour feature) to ab.
        M: the memory.
        backbone: maps normalised images to (N, 512) features, frozen.
        D: judges (L and ab, colour feature); None for testing or without an adversarial loss.
        color_feature: ``dist`` or ``palette``.
        given: the colour feature to use in testing, (1, K), instead of `color_from`.
    """

    Options = MemoryColorizationOptions
    defaults: ClassVar[Mapping[str, object]] = {
        "dataset_mode": "colorization",
        "metrics": COLOR_METRICS,
        "netG": "unet_256",
        "gan_mode": "vanilla",
        "pool_size": 0,
    }
    example_flags = ("--resnet_weights", "random")
    watched_losses = ("G_L1",)

    def __init__(
        self,
        G: nn.Module,
        M: ColorMemory,
        backbone: nn.Module,
        D: nn.Module | None = None,
        *,
        make_optimizer: MakeOptimizer | None = None,
        objective: Objective = VANILLA,
        color_feature: str = "dist",
        margin: float = 0.1,
        lambda_GAN: float = 1.0,
        lambda_L1: float = 100.0,
        top_memory: int = 1,
        color_from: str = "memory",
        given: Tensor | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ):
        nets = {"G": G, "M": M} if D is None else {"G": G, "D": D, "M": M}
        super().__init__(nets, torch.device(device), dtype, seed, objective)
        self.memory, self.backbone = M, backbone.to(self.device, dtype)
        self.margin = margin
        self.color_feature = {"dist": color_distribution, "palette": color_palette}[color_feature]
        self.lambda_GAN, self.lambda_L1 = lambda_GAN, lambda_L1
        self.top_memory, self.color_from, self.given = top_memory, color_from, given
        if make_optimizer:
            self.optimizers = {
                name: make_optimizer(name, net.parameters()) for name, net in self.nets.items()
            }

    @classmethod
    def from_options(cls, options: CommandOptions, device: torch.device) -> Self:
        network, run, own = options.network, options.run, options.model
        check_network_flags(options)
        backbone = load_resnet18(own.resnet_weights)
        value_size, threshold = VALUE_SIZES[own.color_feature], THRESHOLDS[own.color_feature]
        if isinstance(options, TrainOptions):
            threshold = own.memory_threshold or threshold
        fingerprint = Fingerprint(backbone, "resnet_weights")
        memory = ColorMemory(own.memory_size, value_size, threshold, fingerprint=fingerprint)
        num_downs = int(network.netG.removeprefix("unet_")).bit_length() - 1
        G = ColorUnet(1, 2, num_downs, network.ngf, value_size, dropout=not network.no_dropout)
        common = {
            "color_feature": own.color_feature,
            "device": device,
            "dtype": run.dtype,
            "seed": run.seed,
        }
        init_network(memory, network, "M")
        if not isinstance(options, TrainOptions):
            given = given_colors(own.reference, own.palette, own.color_feature)
            shown = {"top_memory": own.top_memory, "color_from": own.color_from, "given": given}
            return cls(init_network(G, network, "G"), memory, backbone, **shown, **common)
        D = ColorDiscriminator(3, network.ndf, value_size) if own.lambda_GAN else None
        return cls(
            init_network(G, network, "G"),
            memory,
            backbone,
            init_network(D, network, "D") if D else None,
            make_optimizer=adam(options.optimization),
            objective=Objective.from_options(options.adversarial, network),
            margin=own.memory_margin,
            lambda_GAN=own.lambda_GAN,
            lambda_L1=own.lambda_L1,
            **common,
        )

    def draws(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        noise = torch.rand(count, len(self.memory.ages), generator=generator, dtype=torch.float64)
        return {
            "age_noise": (2 * noise - 1) * AGE_NOISE,
            **self.objective.draws(("D",), count, generator, self.iteration),
        }

    def facts(self, batch: Batch) -> dict[str, Tensor]:
        names = encode_names([Path(path).name for path in batch.paths_A])
        return {"index": batch.index, "names": names}

    def train_step(self, batch: Batch) -> Step:
        L, ab = to_L_ab(batch.A)
        G, D, M, draws = self.nets["G"], self.nets.get("D"), self.memory, batch.draws
        colors = self.color_feature(torch.cat([(L + 1) * 50, ab * AB_SCALE], 1))

        # M: queries shall find images of the same colours; then remember these
        features = self.spatial_features(L)
        m = {"M_triplet": M.triplet_loss(M(features), colors, self.margin)}
        self.minimize("M", m["M_triplet"])
        with torch.no_grad():
            queries = M(features)
        seen = queries, colors, draws["index"], draws["names"], draws["age_noise"].to(L.dtype)
        M.update(*(distributed.all_gather_rows(each, batch.global_size) for each in seen))

        fake = G(L, colors)
        d, g = {}, {}
        # D: tell photos from coloured ones, given their lightness and their colours
        if D is not None:
            real_pair, fake_pair = torch.cat([L, ab], 1), torch.cat([L, fake], 1)
            d = self.objective.discriminator(D, real_pair, fake_pair, draws, colors)
            self.minimize("D", total(d) / 2)
            g["G_GAN"] = self.lambda_GAN * self.objective.generator(D, fake_pair, draws, colors)

        # G: fool D, stay near the photo's ab
        g["G_L1"] = self.lambda_L1 * F.smooth_l1_loss(fake, ab)
        self.minimize("G", total(g))
        losses = g | {f"D_{name}": loss for name, loss in d.items()} | m
        return Step(losses, visuals={"real_A": L, "real_B_rgb": batch.A})

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        L, _ = to_L_ab(batch.A)
        truth = {"real_B_rgb": batch.A} if batch.A.shape[1] == 3 else {}
        visuals = {"real_A": L, **truth}
        for rank, colors in enumerate(self.colors(batch, L).unbind(1), start=1):
            label = "fake_B_rgb" if rank == 1 else f"fake_B_rgb_{rank}"
            visuals[label] = from_L_ab(L, self.nets["G"](L, colors))
        return visuals

    def colors(self, batch: Batch, L: Tensor) -> Tensor:
        """Return the colour features to use for each image, the best first: (N, count, K)."""
        if self.given is not None:
            return self.given.to(L).expand(len(batch), 1, -1)
        if self.color_from == "own":
            return self.color_feature(rgb_to_lab((batch.A.expand(-1, 3, -1, -1) + 1) / 2))[:, None]
        return self.memory.values[self.slots(batch, L)]

    def slots(self, batch: Batch, L: Tensor) -> Tensor:
        """Return the slots whose colours are used for each image, (N, count)."""
        if self.color_from == "memory":
            return self.memory.fetch(self.memory(self.spatial_features(L)), self.top_memory)
        filled = (self.memory.sources >= 0).nonzero().flatten()
        chosen = [
            int(torch.randint(len(filled), (), generator=torch_rng("slot", self.seed, index)))
            for index in batch.index.tolist()
        ]
        return filled[chosen][:, None]

    @torch.no_grad()
    def captions(self, batch: Batch) -> list[dict[str, str]]:
        if self.given is not None or self.color_from == "own":
            return super().captions(batch)
        found = self.slots(batch, to_L_ab(batch.A)[0]).tolist()
        labels = ["fake_B_rgb", *(f"fake_B_rgb_{rank}" for rank in range(2, self.top_memory + 1))]
        return [
            {
                label: f"{label}: colours of {self.memory.name_of(slot)}"
                for label, slot in zip(labels, slots, strict=False)
            }
            for slots in found
        ]

    @torch.no_grad()
    def spatial_features(self, L: Tensor) -> Tensor:
        """Return what the backbone makes of grey images, scaled to 224 x 224: (N, 512)."""
        grey = (from_L_ab(L, torch.zeros_like(L).expand(-1, 2, -1, -1)) + 1) / 2
        size = (BACKBONE_SIZE, BACKBONE_SIZE)
        scaled = F.interpolate(grey, size, mode="bilinear", antialias=True, align_corners=False)
        return self.backbone(normalise_for_imagenet(scaled))


def check_network_flags(options: CommandOptions) -> None:
    """Raise a `UserError` for architectures that this model's networks do not have."""
    network: NetworkOptions = options.network
    if not network.netG.startswith("unet_"):
        raise UserError(f"--netG {network.netG}: memory_colorization has U-Nets alone, such as unet_128")
    if isinstance(options, TrainOptions) and options.adversarial.pool_size:
        raise UserError("--pool_size: memory_colorization keeps no earlier fakes; use --pool_size 0")
    reason = "memory_colorization has networks of its own"
    allow_only(reason, network, norm="instance", attention="none", upsample="deconv", netD="basic")


def given_colors(reference: str, palette: str, color_feature: str) -> Tensor | None:
    """Return the colour feature of an image or of colours written #rrggbb, (1, K); None if neither is given.

    Raises:
        UserError: both are given, or one cannot be read.
    """
    if reference and palette:
        raise UserError("--reference and --palette: give one of them")
    if reference:
        pixels = torch.from_numpy(np.array(read_image(reference))).permute(2, 0, 1)[None]
        lab = rgb_to_lab((normalise(pixels, torch.float32) + 1) / 2)
        return color_distribution(lab) if color_feature == "dist" else color_palette(lab)
    if not palette:
        return None
    colors = [color.strip() for color in palette.split(",")]
    for color in colors:
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
            raise UserError(f"--palette {palette}: {color or 'nothing'} is no colour; write #102030,#ffe0a0")
    rgb = torch.tensor([list(bytes.fromhex(color[1:])) for color in colors]) / 255
    if color_feature == "palette":
        return rgb.repeat(-(-PALETTE // len(rgb)), 1)[:PALETTE].flatten()[None]
    lab = rgb_to_lab(rgb.T[None, :, :, None])
    return soft_encode(lab[0, 1:, :, 0].T).mean(0)[None]
