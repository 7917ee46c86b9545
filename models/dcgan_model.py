"""DCGAN: images from noise (Radford et al. 2016), also by class (Miyato & Koyama 2018)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from models.base_model import BaseModel
from models.dcgan_networks import DcganDiscriminator, DcganGenerator, check_side
from models.networks import allow_only, init_network
from models.objectives.gan import Objective
from models.objectives.losses import total
from options.base_options import CommandOptions
from options.option import SameAs, option
from options.train_options import TrainOptions
from training.optimizers import MakeOptimizer, adam
from util.batch import Batch, Step
from util.errors import UserError
from util.seeding import torch_rng

GRID = 8
"""Images in a row, and rows, of an overview."""

VANILLA = Objective("vanilla")


@dataclass(frozen=True)
class DcganOptions:
    """Flags of DCGAN."""

    nz: int = option(100, "how many numbers of noise an image is made of", minimum=2, architecture=True)


class DcganModel(BaseModel):
    """G makes images of noise; D tells them from real ones.

    Args:
        G: maps noise, and classes if it has them, to images.
        D: discriminator of images, and of their classes if it has them; None for testing.
    """

    Options = DcganOptions
    defaults: ClassVar[Mapping[str, object]] = {
        "dataset_mode": "images",
        "load_size": SameAs("crop_size"),
        "crop_size": 64,
        "batch_size": 64,
        "no_flip": True,
        "norm": "batch",
        "gan_mode": "vanilla",
        "pool_size": 0,
    }
    example_flags = ("--netG", "resnet_9blocks")
    test_defaults: ClassVar[Mapping[str, object]] = {"dataset_mode": "latent"}
    architecture = ("crop_size",)
    watched_losses = ("G_GAN",)

    def __init__(
        self,
        G: DcganGenerator,
        D: DcganDiscriminator | None = None,
        *,
        make_optimizer: MakeOptimizer | None = None,
        objective: Objective = VANILLA,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ):
        super().__init__(
            {"G": G} if D is None else {"G": G, "D": D}, torch.device(device), dtype, seed, objective
        )
        self.G = G
        if make_optimizer:
            self.optimizers = {
                name: make_optimizer(name, net.parameters()) for name, net in self.nets.items()
            }

    @classmethod
    def from_options(cls, options: CommandOptions, device: torch.device) -> Self:
        network, run, size = options.network, options.run, options.data.crop_size
        check_flags(options)
        classes = getattr(options.dataset, "num_classes", 0)
        shape = (network.ngf, network.norm, classes, network.upsample)
        G = init_network(DcganGenerator(size, options.model.nz, network.input_nc, *shape), network, "G")
        if not isinstance(options, TrainOptions):
            return cls(G, device=device, dtype=run.dtype, seed=run.seed)
        D = DcganDiscriminator(size, network.input_nc, network.ndf, network.norm, classes)
        return cls(
            G,
            init_network(D, network, "D"),
            make_optimizer=adam(options.optimization),
            objective=Objective.from_options(options.adversarial, network),
            device=device,
            dtype=run.dtype,
            seed=run.seed,
        )

    def draws(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        z = torch.randn(count, self.G.nz, generator=generator)
        return {"z": z, **self.objective.draws(("D",), count, generator, self.iteration)}

    def train_step(self, batch: Batch) -> Step:
        real, D, classes = batch.A, self.nets["D"], self.classes(batch)
        # Fakes are of the classes of the real images.
        fake = self.G(batch.draws["z"].to(self.dtype), *classes)

        # D: tell real images from made ones
        d = self.objective.discriminator(D, real, fake, batch.draws, *classes)
        self.minimize("D", total(d))

        # G: fool D
        g = {"G_GAN": self.objective.generator(D, fake, batch.draws, *classes)}
        self.minimize("G", total(g))
        losses = g | {f"D_{name}": loss for name, loss in d.items()}
        return Step(losses, visuals={"real": real, "fake": fake})

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        rngs = [torch_rng("noise", self.seed, index) for index in batch.index.tolist()]
        z = torch.stack([torch.randn(self.G.nz, generator=rng) for rng in rngs])
        return {"fake": self.generate(z, *self.classes(batch))}

    def classes(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return what networks are given beside noise or images."""
        if not self.G.classes:
            return ()
        if batch.label is None:
            raise UserError(f"--num_classes {self.G.classes}: the data set has no classes; leave it out")
        return (batch.label,)

    @torch.no_grad()
    def generate(self, z: Tensor, *classes: Tensor) -> Tensor:
        """Return the images of noise, (N, nz) on any device, each whatever the others are.

        Batch norm uses the statistics of training even in training mode: those of a single image would make
        another generator of it.
        """
        training = self.G.training
        self.G.eval()
        parts = [part.to(self.device).split(GRID**2) for part in (z.to(self.dtype), *classes)]
        images = torch.cat([self.G(*some) for some in zip(*parts, strict=True)])
        self.G.train(training)
        return images

    def overview(self) -> dict[str, Tensor]:
        """Return grids: samples, ways from one noise to another, and, by class, a row for each of them."""
        noise = torch.randn(GRID + 2, GRID, self.G.nz, generator=torch_rng("overview", self.seed))
        samples, start, end = noise[:GRID], noise[GRID], noise[GRID + 1]
        steps = torch.linspace(0, 1, GRID)[None, :, None]
        between = spherical(start[:, None], end[:, None], steps)
        found = {"samples": samples.flatten(0, 1), "interpolation": between.flatten(0, 1)}
        if not self.G.classes:
            return {name: grid(self.generate(z)) for name, z in found.items()}
        turns = torch.arange(GRID**2) % self.G.classes
        rows = turns[:GRID].repeat_interleave(GRID)
        each = torch.arange(self.G.classes).repeat_interleave(GRID)
        found["classes"] = start.repeat(self.G.classes, 1)
        labels = {"samples": turns, "interpolation": rows, "classes": each}
        return {name: grid(self.generate(z, labels[name])) for name, z in found.items()}


def spherical(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Return points on the arc from one vector to another (Shoemake 1985), `share` 0 to 1 of the way.

    Noise in many dimensions is nearly all of one length, which a straight way would leave.
    """
    angle = torch.acos(torch.cosine_similarity(start, end, -1).clamp(-1, 1))[..., None]
    return (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / angle.sin()


def grid(images: Tensor) -> Tensor:
    """Return images, (N, C, H, W), in rows of `GRID` as one, (C, N / GRID · H, GRID · W)."""
    rows = images.unflatten(0, (-1, GRID))
    return rows.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)


def check_flags(options: CommandOptions) -> None:
    """Raise a `UserError` for what this model's networks do not have."""
    own = "dcgan has networks of its own, for --crop_size"
    allow_only(own, options.network, netG="resnet_9blocks", netD="basic", padding="reflect", no_dropout=False)
    allow_only("dcgan's networks have no self-attention", options.network, attention="none")
    allow_only("dcgan's images have the channels of --input_nc", options.network, output_nc=3)
    check_side(options.data.crop_size)
    if isinstance(options, TrainOptions):
        if "crop" not in options.data.preprocess:
            raise UserError(
                f"--preprocess {options.data.preprocess}: dcgan learns from images of one size;"
                " take resize_and_crop, crop or scale_width_and_crop"
            )
        if pool_size := options.adversarial.pool_size:
            raise UserError(f"--pool_size {pool_size}: dcgan keeps no earlier fakes; use --pool_size 0")
