"""Judge generated images by a classifier that learns from the real ones: are all classes there, and alike?

    python scripts/judge_samples.py --dataroot mnist --input_nc 1 --size 28 results/digits/test_latest ...

The classifier is a small CNN, trained here on labelled images in one of the layouts of --dataset_mode
images; what it gets right of a tenth that it has not seen tells how far it can be trusted. For each gallery
the share of every class among its images is printed, and the Fréchet distance to the real ones in the
features before the classifier's last layer. Such distances compare with each other only, for one classifier.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.images_dataset import Images, find_image_set
from data.transforms import Decision, Transform
from util.batch import normalise
from util.errors import UserError, run_command
from util.image_io import read_image
from util.metrics.features import frechet_distance
from util.seeding import seed_for, torch_rng

FEATURES = 64
PLACES = 4
BATCH = 128
HELD_OUT = 10
"""One image in so many is not learnt from."""


class Classifier(nn.Module):
    """Maps images, (N, C, H, W) in [-1, 1], to (N, FEATURES); `last` maps these to logits."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((channels, 32), (32, 64)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(PLACES), nn.Flatten(), nn.Linear(64 * PLACES**2, FEATURES)]
        self.features = nn.Sequential(*layers, nn.BatchNorm1d(FEATURES), nn.ReLU())
        self.last = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


def prepare(images: Images, size: int, grey: bool) -> Tensor:
    """Return the images scaled to a square, uint8, (N, 1 or 3, size, size)."""
    transform, place = Transform("resize_and_crop", size, size, flip=False), Decision(0, 0, flip=False)
    return torch.stack(
        [
            transform.apply(transform.scale(images.open(position), grey), place, images.paths[position])
            for position in range(len(images.paths))
        ]
    )


def prepare_gallery(folder: Path, size: int, grey: bool) -> Tensor:
    """Return the generated images of a gallery, prepared in the same way."""
    paths = sorted(str(path) for path in (folder / "images").glob("*_fake.png"))
    if len(paths) <= FEATURES:
        raise UserError(
            f"{folder}: {len(paths)} images images/*_fake.png; more than {FEATURES} are needed for"
            " a distance: test.py --model dcgan --num_samples 1000"
        )
    pixels = [np.asarray(read_image(path)) for path in paths]
    if any(image.shape != pixels[0].shape for image in pixels):
        raise UserError(f"{folder}: its images are of unequal size")
    return prepare(Images(paths, None, None, 0), size, grey)


def train(net: Classifier, images: Tensor, labels: Tensor, steps: int, seed: int) -> None:
    """Train on batches drawn at random."""
    generator = torch_rng("judge", seed)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        logits = net.last(net(normalise(images[chosen], torch.float32)))
        optimizer.zero_grad()
        F.cross_entropy(logits, labels[chosen]).backward()
        optimizer.step()
    net.eval()


@torch.no_grad()
def features_of(net: Classifier, images: Tensor) -> Tensor:
    """Return the features of all images, (N, FEATURES)."""
    return torch.cat([net(normalise(part, torch.float32)) for part in images.split(BATCH)])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("galleries", nargs="+", type=Path, help="folders of test.py, with images/*_fake.png")
    parser.add_argument("--dataroot", type=Path, required=True, help="labelled real images")
    parser.add_argument("--phase", default="train", help="their folder or IDX files (default: train)")
    parser.add_argument("--input_nc", type=int, choices=(1, 3), default=3, help="look in grey or RGB")
    parser.add_argument("--size", type=int, default=32, help="side to look at, in pixels (default: 32)")
    parser.add_argument("--steps", type=int, default=500, help="steps of training (default: 500)")
    parser.add_argument("--by_class", action="store_true", help="the samples are of all classes in turn")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.manual_seed(seed_for("judge", options.seed))

    folder = options.dataroot / options.phase
    found = find_image_set(folder if folder.is_dir() else options.dataroot, options.phase)
    if found.labels is None:
        raise UserError(f"--dataroot {options.dataroot}: the images have no classes to learn")
    grey = options.input_nc == 1
    made = [prepare_gallery(gallery, options.size, grey) for gallery in options.galleries]
    real, labels = prepare(found, options.size, grey), torch.tensor(found.labels)

    order = torch.randperm(len(real), generator=torch_rng("held out", options.seed))
    seen, unseen = order[len(real) // HELD_OUT :], order[: len(real) // HELD_OUT]
    net = Classifier(options.input_nc, found.classes)
    train(net, real[seen], labels[seen], options.steps, options.seed)
    features = features_of(net, real)
    with torch.no_grad():
        right = (net.last(features[unseen]).argmax(1) == labels[unseen]).double().mean()
    print(f"The classifier has {right:.1%} of {len(unseen)} unseen real images right.")
    print(f"{'':40} {'images':>8} {'Fréchet':>9}  share of each class in %")
    report("the unseen real images", net, features[unseen], features[seen])
    for gallery, images in zip(options.galleries, made, strict=True):
        generated = features_of(net, images)
        report(str(gallery), net, generated, features[seen])
        if options.by_class:
            meant = torch.arange(len(generated)) % found.classes
            right = (net.last(generated).argmax(1) == meant).double().mean()
            print(f"{right:.1%} of them are taken for the class that they were made for.")
    return 0


def report(name: str, net: Classifier, features: Tensor, real: Tensor) -> None:
    """Print what images of these features are taken for, and how far they are from the real ones."""
    with torch.no_grad():
        taken = net.last(features).argmax(1)
    shares = taken.bincount(minlength=net.last.out_features) / len(taken)
    distance = frechet_distance(features, real).item()
    print(
        f"{name[-40:]:40} {len(features):8} {distance:9.3f} ",
        *(f"{share:.1%}".removesuffix("%") for share in shares.tolist()),
        f"(found: {int((shares > 0).sum())} of {len(shares)}, largest {shares.max():.1%})",
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
