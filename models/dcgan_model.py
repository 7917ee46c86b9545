"""DCGAN: images from noise (Radford et al. 2016), also by class (Miyato & Koyama 2018)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.base_model import BaseModel, Update
from models.dcgan_networks import DcganDiscriminator, DcganGenerator, check_side
from models.networks import init_network
from models.objectives.losses import total
from options.base_options import CommandOptions
from options.option import Fixed, SameAs, option
from options.train_options import TrainOptions
from util.batch import Batch, Step
from util.errors import UserError
from util.seeding import torch_rng

OWN_NETWORKS = "it has its own networks, for --crop_size"

GRID = 8
"""Rows and columns of an overview."""


@dataclass(frozen=True)
class DcganOptions:
    """Flags of DCGAN."""

    nz: int = option(100, "size of the noise vector of an image", minimum=2, architecture=True)
    noise: str = option(
        "normal",
        "distribution of the noise: normal, or uniform in [-1, 1]",
        choices=("normal", "uniform"),
        architecture=True,
    )
    dropout_D: float = option(
        0.0,
        "probability of dropout after every layer of the discriminator but the last",
        minimum=0,
        below=1,
        phase="train",
    )


class DcganModel(BaseModel):
    """G makes images from noise, and of a class if there are classes; D tells them from real ones."""

    Options = DcganOptions
    options: DcganOptions
    defaults: ClassVar[Mapping[str, object]] = {
        "dataset_mode": "images",
        "load_size": SameAs("crop_size"),
        "crop_size": 64,
        "batch_size": 64,
        "no_flip": True,
        "norm": "batch",
        "gan_mode": "vanilla",
    }
    fixed: ClassVar[Mapping[str, object]] = {
        "pool_size": 0,
        "netG": Fixed("resnet_9blocks", OWN_NETWORKS),
        "netD": Fixed("basic", OWN_NETWORKS),
        "padding": Fixed("reflect", OWN_NETWORKS),
        "no_dropout": Fixed(False, OWN_NETWORKS),
        "attention": "none",
        "output_nc": Fixed(3, "the images have the channels of --input_nc"),
        "output_range": Fixed("8bit", "the images have the values of --input_range"),
        "inputs": Fixed("", "its images are in one folder"),
        "outputs": Fixed("", "its images are in one folder"),
        "label_nc": Fixed(0, "it makes images, not maps of classes"),
        "mask": Fixed(False, "it has no losses of pixels"),
    }
    example_flags: ClassVar[Mapping[str, object]] = {"netG": "resnet_9blocks"}
    test_defaults: ClassVar[Mapping[str, object]] = {"dataset_mode": "latent"}
    architecture = ("crop_size",)
    judged = ("input_nc",)
    watched_losses = ("G_GAN",)

    def build(self, options: CommandOptions) -> dict[str, nn.Module]:
        check_flags(options)
        network, size, nc = options.network, options.data.crop_size, options.network.input_nc
        classes = getattr(options.dataset, "num_classes", 0)
        shape = (network.ngf, network.norm, classes, network.upsample)
        self.G = init_network(DcganGenerator(size, self.options.nz, nc, *shape), network, "G")
        if not isinstance(options, TrainOptions):
            return {"G": self.G}
        D = DcganDiscriminator(size, nc, network.ndf, network.norm, classes, self.options.dropout_D)
        return {"G": self.G, "D": init_network(D, network, "D")}

    def draws(self, count: int, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        z = self.noise(torch.randn(count, self.G.nz, generator=generator))
        return {"z": z, **super().draws(count, iteration, generator)}

    def train_step(self, batch: Batch, update: Update) -> Step:
        real, D, classes = batch.A, self.nets["D"], self.classes(batch)
        # Fakes have the classes of the real images.
        fake = self.G(batch.draws["z"].to(self.dtype), *classes)

        # D: tell real images from generated ones
        d = self.objective.discriminator(D, real, fake, batch.draws, *classes)
        update("D", total(d))

        # G: fool D
        g = {"G_GAN": self.objective.generator(D, fake, batch.draws, *classes)}
        update("G", total(g))
        losses = g | {f"D_{name}": loss for name, loss in d.items()}
        return Step(losses, visuals={"real": real, "fake": fake})

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        rngs = [torch_rng("noise", self.seed, index) for index in batch.index.tolist()]
        z = torch.stack([torch.randn(self.G.nz, generator=rng) for rng in rngs])
        return {"fake": self.generate(self.noise(z), *self.classes(batch))}

    def noise(self, normal: Tensor) -> Tensor:
        """Return noise of the distribution of ``--noise`` from normal noise, of any shape."""
        # The distribution function maps it to [0, 1]. Interpolating before keeps the distribution, too.
        return normal if self.options.noise == "normal" else torch.erf(normal / math.sqrt(2))

    def classes(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the class labels that the networks take, (N,), if they take any."""
        if not self.G.classes:
            return ()
        if batch.label is None:
            raise UserError(f"--num_classes {self.G.classes}: the data set has no classes; leave it out")
        return (batch.label,)

    @torch.no_grad()
    def generate(self, z: Tensor, *classes: Tensor) -> Tensor:
        """Return the images generated from noise, (N, nz) on any device; they do not depend on each other.

        Batch norm uses its running statistics even in training mode, for those of a single image would change
        what the generator computes.
        """
        training = self.G.training
        self.G.eval()
        parts = [part.to(self.device).split(GRID**2) for part in (z.to(self.dtype), *classes)]
        images = torch.cat([self.G(*part) for part in zip(*parts, strict=True)])
        self.G.train(training)
        return images

    def overview(self) -> dict[str, Tensor]:
        """Return grids of samples, of interpolations between noise vectors, and of classes."""
        noise = torch.randn(GRID + 2, GRID, self.G.nz, generator=torch_rng("overview", self.seed))
        samples, start, end = noise[:GRID], noise[GRID], noise[GRID + 1]
        steps = torch.linspace(0, 1, GRID)[None, :, None]
        between = spherical(start[:, None], end[:, None], steps)
        noises = {"samples": samples.flatten(0, 1), "interpolation": between.flatten(0, 1)}
        if not self.G.classes:
            return {name: grid(self.generate(self.noise(z))) for name, z in noises.items()}
        turns = torch.arange(GRID**2) % self.G.classes
        rows = turns[:GRID].repeat_interleave(GRID)
        by_class = torch.arange(self.G.classes).repeat_interleave(GRID)
        noises["classes"] = start.repeat(self.G.classes, 1)
        labels = {"samples": turns, "interpolation": rows, "classes": by_class}
        return {name: grid(self.generate(self.noise(z), labels[name])) for name, z in noises.items()}


def spherical(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Return the spherical interpolation of two vectors (Shoemake 1985); `share` is 0 to 1.

    Noise vectors of many dimensions have nearly the same length; linear interpolation would shorten them.
    """
    angle = torch.acos(torch.cosine_similarity(start, end, -1).clamp(-1, 1))[..., None]
    return (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / angle.sin()


def grid(images: Tensor) -> Tensor:
    """Return images, (N, C, H, W), in rows of `GRID` as one image, (C, N / GRID · H, GRID · W)."""
    rows = images.unflatten(0, (-1, GRID))
    return rows.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)


def check_flags(options: CommandOptions) -> None:
    """Raise a `UserError` for sizes that this model's networks do not have."""
    check_side(options.data.crop_size)
    if isinstance(options, TrainOptions) and "crop" not in options.data.preprocess:
        raise UserError(
            f"--preprocess {options.data.preprocess}: dcgan trains on images of one size;"
            " use resize_and_crop, crop or scale_width_and_crop"
        )
