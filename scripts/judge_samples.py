"""Judge generated images by a classifier trained on real ones: their classes and their Fréchet distance.

    python scripts/judge_samples.py --dataroot mnist --input_nc 1 --size 28 results/digits/test_latest ...

A small CNN is trained on labelled images in one of the layouts of --dataset_mode images; its accuracy on a
held-out tenth tells how far to trust it. For each gallery the script prints the share of each predicted class
and the Fréchet distance to the real images in the features before the last layer. These distances are
comparable for one classifier only.
"""

import logging
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
from util.errors import Parser, UserError, run_command
from util.image_io import read_image
from util.metrics.features import frechet_distance
from util.seeding import seed_for, torch_rng

log = logging.getLogger(__name__)

FEATURES = 64
POOLED_SIZE = 4
BATCH_SIZE = 128
HELD_OUT = 10
"""One image in `HELD_OUT` is kept for testing the classifier."""


class Classifier(nn.Module):
    """Map images, (N, C, H, W) in [-1, 1], to features (N, FEATURES), which `last` maps to logits."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(POOLED_SIZE), nn.Flatten(), nn.Linear(64 * POOLED_SIZE**2, FEATURES)]
        self.features = nn.Sequential(*layers, nn.BatchNorm1d(FEATURES), nn.ReLU())
        self.last = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


def prepare(images: Images, size: int, grey: bool) -> Tensor:
    """Return the images scaled to squares, uint8 (N, 1 or 3, size, size)."""
    transform, no_crop = Transform("resize_and_crop", size, size, flip=False), Decision(0, 0, flip=False)
    return torch.stack(
        [
            transform.apply(transform.scale(images.open(position), grey), no_crop, images.paths[position])
            for position in range(len(images.paths))
        ]
    )


def prepare_gallery(folder: Path, size: int, grey: bool) -> Tensor:
    """Return the generated images of a gallery, prepared like the real ones.

    Raises:
        UserError: the gallery has too few images, or images of different sizes.
    """
    paths = sorted(str(path) for path in (folder / "images").glob("*_fake.png"))
    if len(paths) <= FEATURES:
        raise UserError(
            f"{folder}: {len(paths)} images images/*_fake.png, but the distance needs more than {FEATURES}:"
            " use test.py --model dcgan --num_samples 1000"
        )
    pixels = [np.asarray(read_image(path)) for path in paths]
    if any(image.shape != pixels[0].shape for image in pixels):
        raise UserError(f"{folder}: its images differ in size")
    return prepare(Images(paths, None, None, 0), size, grey)


def train(net: Classifier, images: Tensor, labels: Tensor, steps: int, seed: int) -> None:
    """Train the classifier on random batches."""
    generator = torch_rng("judge", seed)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(steps):
        indices = torch.randint(len(images), (BATCH_SIZE,), generator=generator)
        logits = net.last(net(normalise(images[indices], torch.float32)))
        optimizer.zero_grad()
        F.cross_entropy(logits, labels[indices]).backward()
        optimizer.step()
    net.eval()


@torch.no_grad()
def features_of(net: Classifier, images: Tensor) -> Tensor:
    """Return the features of uint8 images, (N, FEATURES)."""
    return torch.cat([net(normalise(part, torch.float32)) for part in images.split(BATCH_SIZE)])


@torch.no_grad()
def accuracy(net: Classifier, features: Tensor, labels: Tensor) -> float:
    """Return the share of features that are classified as `labels`."""
    return (net.last(features).argmax(1) == labels).double().mean().item()


def main(argv: list[str]) -> int:
    parser = Parser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("galleries", nargs="+", type=Path, help="folders of test.py, with images/*_fake.png")
    parser.add_argument("--dataroot", type=Path, required=True, help="labelled real images")
    parser.add_argument("--phase", default="train", help="their folder or IDX files (default: train)")
    parser.add_argument("--input_nc", type=int, choices=(1, 3), default=3, help="grey (1) or RGB (3)")
    parser.add_argument("--size", type=int, default=32, help="images are scaled to this side (default: 32)")
    parser.add_argument("--steps", type=int, default=500, help="training steps (default: 500)")
    parser.add_argument("--by_class", action="store_true", help="the samples cycle through all classes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.manual_seed(seed_for("judge", options.seed))

    folder = options.dataroot / options.phase
    images = find_image_set(folder if folder.is_dir() else options.dataroot, options.phase)
    if images.labels is None:
        raise UserError(f"--dataroot {options.dataroot}: the images have no classes to learn")
    grey = options.input_nc == 1
    samples = [prepare_gallery(gallery, options.size, grey) for gallery in options.galleries]
    real, labels = prepare(images, options.size, grey), torch.tensor(images.labels)

    order = torch.randperm(len(real), generator=torch_rng("held out", options.seed))
    training, held_out = order[len(real) // HELD_OUT :], order[: len(real) // HELD_OUT]
    net = Classifier(options.input_nc, images.classes)
    train(net, real[training], labels[training], options.steps, options.seed)
    features = features_of(net, real)
    correct = accuracy(net, features[held_out], labels[held_out])
    log.info("Accuracy of the classifier on %d held-out real images: %.1f%%", len(held_out), 100 * correct)
    log.info("%-40s %8s %9s  %s", "", "images", "Fréchet", "share of each class in %")
    report("held-out real images", net, features[held_out], features[training])
    for gallery, generated in zip(options.galleries, samples, strict=True):
        generated_features = features_of(net, generated)
        report(str(gallery), net, generated_features, features[training])
        if options.by_class:
            classes = torch.arange(len(generated)) % images.classes
            correct = accuracy(net, generated_features, classes)
            log.info("%.1f%% are classified as the class that they were generated for", 100 * correct)
    return 0


def report(name: str, net: Classifier, features: Tensor, real: Tensor) -> None:
    """Log the predicted classes of images and their Fréchet distance to the real ones.

    Args:
        features, real: (N, FEATURES) and (M, FEATURES).
    """
    with torch.no_grad():
        predicted = net.last(features).argmax(1)
    shares = predicted.bincount(minlength=net.last.out_features) / len(predicted)
    log.info(
        "%-40s %8d %9.3f  %s (%d of %d classes, largest %.1f%%)",
        name[-40:],
        len(features),
        frechet_distance(features, real).item(),
        " ".join(f"{100 * share:.1f}" for share in shares.tolist()),
        int((shares > 0).sum()),
        len(shares),
        100 * shares.max().item(),
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
