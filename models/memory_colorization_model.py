"""Colorization with a memory of colours, for few training images (Yoo et al. 2019, MemoPainter)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base_model import BaseModel, Update
from models.colorization.memory import (
    AGE_NOISE,
    PALETTE,
    ColorMemory,
    color_distribution,
    color_palette,
    encode_names,
)
from models.colorization.networks import ColorDiscriminator, ColorUnet
from models.networks import init_network
from models.objectives.backbones import Fingerprint, load_resnet18, normalise_for_imagenet
from models.objectives.losses import total
from options.base_options import COLOR_METRICS, CommandOptions
from options.file_options import only_rgb
from options.option import option
from options.train_options import TrainOptions
from util import distributed
from util.batch import Batch, Step, normalise
from util.color import AB_BINS, AB_SCALE, from_L_ab, rgb_to_lab, soft_encode, to_L_ab
from util.errors import UserError
from util.image_io import read_image
from util.seeding import torch_rng

BACKBONE_SIZE = 224
THRESHOLDS = {"dist": 0.7, "palette": 10.0}
VALUE_SIZES = {"dist": len(AB_BINS), "palette": 3 * PALETTE}


@dataclass(frozen=True)
class MemoryColorizationOptions:
    """Flags of memory-augmented colorization."""

    memory_size: int = option(
        1024,
        "slots of the memory; 1.2 times the number of training images is enough",
        minimum=2,
        architecture=True,
    )
    color_feature: str = option(
        "dist",
        "colour feature in the memory: a distribution over 313 colours, or a palette of 10",
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
        "colour features nearer than this count as equal; 0 means 0.7 (dist, KL divergence in digits) or 10"
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
        1,
        "show results with the colours of the N best slots",
        minimum=1,
        phase="test",
        needs=("color_from", ("memory",)),
    )
    color_from: str = option(
        "memory",
        "source of the colours: the best slots of the memory, the photo itself, or a random slot",
        choices=("memory", "own", "random"),
        phase="test",
    )
    reference: str = option("", "use the colours of this image instead", phase="test")
    palette: str = option("", "use these colours instead, such as #102030,#ffe0a0", phase="test")

    def __post_init__(self) -> None:
        if self.top_memory > self.memory_size:
            raise UserError(
                f"--top_memory {self.top_memory}: the memory has {self.memory_size} slots (--memory_size)"
            )


class MemoryColorizationModel(BaseModel):
    """M finds the colours of the most similar training image; G colours with them; D judges the result.

    G is trained with each photo's own colours and tested with those that M finds.
    """

    Options = MemoryColorizationOptions
    options: MemoryColorizationOptions
    defaults: ClassVar[Mapping[str, object]] = {
        "dataset_mode": "colorization",
        "metrics": COLOR_METRICS,
        "netG": "unet_256",
        "gan_mode": "vanilla",
    }
    fixed: ClassVar[Mapping[str, object]] = {
        "pool_size": 0,
        "norm": "instance",
        "attention": "none",
        "upsample": "deconv",
        "netD": "basic",
        **only_rgb("L and ab are computed from RGB with 8 bits", "its data are whole photos"),
    }
    # With this threshold, the few images of an example have both equal and different colours.
    example_flags: ClassVar[Mapping[str, object]] = {"resnet_weights": "random", "memory_threshold": 0.15}
    watched_losses = ("G_L1",)
    given: Tensor | None = None
    """The colour feature that ``--reference`` or ``--palette`` names, (1, K)."""

    def build(self, options: CommandOptions) -> dict[str, nn.Module]:
        network, own, training = options.network, self.options, isinstance(options, TrainOptions)
        if not network.netG.startswith("unet_"):
            raise UserError(f"--netG {network.netG}: memory_colorization needs a U-Net, such as unet_128")
        self.color_feature = {"dist": color_distribution, "palette": color_palette}[own.color_feature]
        self.backbone = load_resnet18(own.resnet_weights).to(self.device, self.dtype)
        value_size = VALUE_SIZES[own.color_feature]
        threshold = own.memory_threshold or THRESHOLDS[own.color_feature]
        fingerprint = Fingerprint(self.backbone, "resnet_weights")
        self.memory = ColorMemory(own.memory_size, value_size, threshold, fingerprint=fingerprint)
        num_downs = int(network.netG.removeprefix("unet_")).bit_length() - 1
        G = ColorUnet(1, 2, num_downs, network.ngf, value_size, dropout=not network.no_dropout)
        # Constructed and initialised in the order of released runs: initial weights depend on it.
        nets: dict[str, nn.Module] = {"G": G, "M": init_network(self.memory, network, "M")}
        if training and own.lambda_GAN:
            nets["D"] = ColorDiscriminator(3, network.ndf, value_size)
        for name in ("G", "D"):
            if name in nets:
                init_network(nets[name], network, name)
        self.grey = palette_feature(["#808080"], own.color_feature)
        if not training:
            self.given = given_colors(own.reference, own.palette, own.color_feature)
        return nets

    def draws(self, count: int, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        noise = torch.rand(count, len(self.memory.ages), generator=generator, dtype=torch.float64)
        age_noise = (2 * noise - 1) * AGE_NOISE
        return {"age_noise": age_noise, **super().draws(count, iteration, generator)}

    def facts(self, batch: Batch) -> dict[str, Tensor]:
        names = encode_names([Path(path).name for path in batch.paths_A])
        return {"index": batch.index, "names": names}

    def train_step(self, batch: Batch, update: Update) -> Step:
        L, ab = to_L_ab(batch.A)
        G, D, M, draws = self.nets["G"], self.nets.get("D"), self.memory, batch.draws
        colors = self.color_feature(torch.cat([(L + 1) * 50, ab * AB_SCALE], 1))

        # M: queries find images of the same colours (triplet loss), then M stores these images
        features = self.spatial_features(L)
        m = {"M_triplet": M.triplet_loss(M(features), colors, self.options.memory_margin)}
        update("M", m["M_triplet"])
        with torch.no_grad():
            queries = M(features)
        seen = queries, colors, draws["index"], draws["names"], draws["age_noise"].to(L.dtype)
        M.update(*(distributed.all_gather_rows(rows, batch.global_size) for rows in seen))

        fake = G(L, colors)
        d, g = {}, {}
        # D: tell photos from coloured images, given lightness and colour feature
        if D is not None:
            d = self.objective.discriminator(D, ab, fake, draws, colors, source=L)
            update("D", total(d) / 2)
            adversarial = self.objective.generator(D, fake, draws, colors, source=L)
            g["G_GAN"] = self.options.lambda_GAN * adversarial

        # G: fool D, stay near the photo's ab
        g["G_L1"] = self.options.lambda_L1 * F.smooth_l1_loss(fake, ab)
        update("G", total(g))
        losses = g | {f"D_{name}": loss for name, loss in d.items()} | m
        return Step(losses, visuals={"real_A": L, "real_B_rgb": batch.A})

    def check_weights(self) -> None:
        own = self.options
        if self.given is not None or own.color_from == "own":
            return
        filled, size = len(self.memory.filled()), len(self.memory.sources)
        if not filled:
            raise UserError(
                f"--color_from {own.color_from}: all {size} slots of the memory are empty, as it has seen no"
                " image; train longer, or use --color_from own, --reference or --palette"
            )
        if own.color_from == "memory" and own.top_memory > filled:
            raise UserError(
                f"--top_memory {own.top_memory}: only {filled} of the {size} slots of the memory are filled;"
                f" use --top_memory {filled} or less"
            )

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        L, _ = to_L_ab(batch.A)
        truth = {"real_B_rgb": batch.A} if batch.A.shape[1] == 3 else {}
        visuals = {"real_A": L, **truth}
        for rank, colors in enumerate(self.colors(batch, L).unbind(1), start=1):
            label = "fake_B_rgb" if rank == 1 else f"fake_B_rgb_{rank}"
            visuals[label] = from_L_ab(L, self.nets["G"](L, colors))
        return visuals

    def colors(self, batch: Batch, L: Tensor) -> Tensor:
        """Return the colour features for each image, best first: (N, count, K).

        Those of a memory that is empty are grey.
        """
        if self.given is not None:
            return self.given.to(L).expand(len(batch), 1, -1)
        if self.options.color_from == "own":
            return self.color_feature(rgb_to_lab((batch.A.expand(-1, 3, -1, -1) + 1) / 2))[:, None]
        slots = self.slots(batch, L)
        if not slots.shape[1]:
            return self.grey.to(L).expand(len(batch), 1, -1)
        return self.memory.values[slots]

    def slots(self, batch: Batch, L: Tensor) -> Tensor:
        """Return the memory slots used for each image, best first: (N, count); never an empty slot."""
        filled = self.memory.filled()
        if self.options.color_from == "memory" or not len(filled):
            count = min(self.options.top_memory, len(filled))
            return self.memory.fetch(self.memory(self.spatial_features(L)), count)
        chosen = [
            int(torch.randint(len(filled), (), generator=torch_rng("slot", self.seed, index)))
            for index in batch.index.tolist()
        ]
        return filled[chosen][:, None]

    @torch.no_grad()
    def captions(self, batch: Batch) -> list[dict[str, str]]:
        if self.given is not None or self.options.color_from == "own":
            return super().captions(batch)
        found = self.slots(batch, to_L_ab(batch.A)[0]).tolist()
        labels = ["fake_B_rgb", *(f"fake_B_rgb_{rank}" for rank in range(2, self.options.top_memory + 1))]
        return [
            {
                label: f"{label}: colours of {self.memory.name_of(slot)}"
                for label, slot in zip(labels, slots, strict=False)
            }
            for slots in found
        ]

    @torch.no_grad()
    def spatial_features(self, L: Tensor) -> Tensor:
        """Return the backbone's features of grey images, scaled to 224 x 224: (N, 512)."""
        grey = (from_L_ab(L, torch.zeros_like(L).expand(-1, 2, -1, -1)) + 1) / 2
        size = (BACKBONE_SIZE, BACKBONE_SIZE)
        scaled = F.interpolate(grey, size, mode="bilinear", antialias=True, align_corners=False)
        return self.backbone(normalise_for_imagenet(scaled))


def given_colors(reference: str, palette: str, color_feature: str) -> Tensor | None:
    """Return the colour feature of an image file or of a list of #rrggbb, (1, K); None without either.

    Raises:
        UserError: Both are given, or one cannot be read.
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
    return palette_feature(colors, color_feature)


def palette_feature(colors: Sequence[str], color_feature: str) -> Tensor:
    """Return the colour feature of a list of #rrggbb, (1, K)."""
    rgb = torch.tensor([list(bytes.fromhex(color[1:])) for color in colors]) / 255
    if color_feature == "palette":
        return rgb.repeat(-(-PALETTE // len(rgb)), 1)[:PALETTE].flatten()[None]
    lab = rgb_to_lab(rgb.T[None, :, :, None])
    return soft_encode(lab[0, 1:, :, 0].T).mean(0)[None]
