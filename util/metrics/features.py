"""Distances that frozen networks see: of sets of images (FID, KID) and of pairs (LPIPS).

What the distances are is computed here, for any features. The networks come from torch-fidelity and
torchmetrics, which this file alone imports; `pip install -r requirements-metrics.txt` installs them.
"""

import contextlib
import sys
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from torch import Tensor, nn

from util.errors import UserError
from util.weights import check_hash, load_into, read_weights

DOWNLOAD = "download"
"""What flags of weights say for the library's own download, into torch's cache."""

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth of torch-fidelity"
ALEXNET_FILE = "alexnet-owt-7be5be79.pth of torchvision"
LPIPS_LEAST = 31
"""AlexNet sees nothing in images with a shorter side."""

UNREADABLE = (OSError, RuntimeError, EOFError, UnpicklingError)
"""What comes of a download that fails or was cut off, or of another network's weights."""

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000


class Network(NamedTuple):
    """A frozen network that judges images, and what to say of it beside its numbers."""

    net: nn.Module
    description: str


class Unavailable(Exception):
    """A network that cannot be had here: the message says why."""


def frechet_distance(one: Tensor, other: Tensor) -> Tensor:
    """Return the Fréchet distance of two sets of features, as of Gaussians (Heusel et al. 2017, eq. 6).

    It is ‖μ₁ − μ₂‖² + tr(C₁ + C₂ − 2(C₁C₂)^½), 0-d, computed in float64.

    Args:
        one, other: (N, D) and (M, D), N and M at least 2.
    """
    one, other = one.double(), other.double()
    covariances = [features.mT.cov().reshape(one.shape[1], -1) for features in (one, other)]
    # C₁C₂ has the eigenvalues of the symmetric C₁^½ C₂ C₁^½, whose rounding errors stay real.
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    between = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    spread = sum(covariance.trace() for covariance in covariances)
    return ((one.mean(0) - other.mean(0)).square().sum() + spread - 2 * between).clamp(min=0)


def kernel_distance(one: Tensor, other: Tensor, seed: int = 0) -> Tensor:
    """Return the kernel distance of two sets of features (Bińkowski et al. 2018), 0-d, computed in float64.

    It is the mean over 100 random subsets of at most 1000 of each of the unbiased MMD² with the kernel
    (x·y / D + 1)³. Where a subset holds all there is, one is enough: others would say the same.

    Args:
        one, other: (N, D) and (M, D), N and M at least 2.
        seed: of the subsets.
    """
    one, other = one.double(), other.double()
    subsets, size = kid_subsets(len(one), len(other))
    generator = torch.Generator().manual_seed(seed)

    def subset(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=generator)[:size].to(features.device)]

    return torch.stack([_squared_mmd(subset(one), subset(other)) for _ in range(subsets)]).mean()


def kid_subsets(one: int, other: int) -> tuple[int, int]:
    """Return how many subsets of which size are taken of so many features."""
    size = min(KID_SUBSET_SIZE, one, other)
    return 1 if size == one == other else KID_SUBSETS, size


def _squared_mmd(one: Tensor, other: Tensor) -> Tensor:
    """Return the unbiased estimate of MMD² from as many features of each, (N, D)."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.mT / x.shape[1] + 1) ** 3

    count = len(one)
    within = sum(k.sum() - k.trace() for k in (kernel(one, one), kernel(other, other)))
    return within / (count * (count - 1)) - 2 * kernel(one, other).mean()


def load_inception(source: str = DOWNLOAD) -> Network:
    """Return the network of FID and KID: uint8 images (N, 3, H, W) to features (N, 2048).

    It is TensorFlow's Inception of 2015 in PyTorch, which scales images to 299 x 299 itself.

    Args:
        source: ``download``, or the path of its weights.

    Raises:
        Unavailable: torch-fidelity or the weights cannot be had.
        UserError: the file is missing, damaged or another network's.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise _not_installed("torch-fidelity", error) from error
    if source != DOWNLOAD:
        # The library's own reading could run code; what this reads without complaint holds none.
        _read_file("inception_weights", source, INCEPTION_FILE)
    path = None if source == DOWNLOAD else source
    try:
        with torch.random.fork_rng(devices=[]):  # see load_lpips
            net = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=path
            )
    except UNREADABLE as error:
        if source == DOWNLOAD:
            raise _not_downloaded("inception_weights", INCEPTION_FILE, error) from error
        raise UserError(
            f"--inception_weights {source}: not the weights of that network; give download, or the path of"
            f" {INCEPTION_FILE}"
        ) from error
    return Network(
        FirstOutput(net),
        f"TensorFlow's Inception of 2015-12-05 in torch-fidelity {version('torch-fidelity')}, pool3 (2048"
        " features), images scaled to 299 x 299 bilinearly as TensorFlow 1 does, without antialiasing",
    )


class FirstOutput(nn.Module):
    """A network of several outputs, of which the first is wanted."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0]


def load_lpips(source: str = DOWNLOAD) -> Network:
    """Return the network of LPIPS 0.1 on AlexNet: two batches in [-1, 1] to (N, 1, 1, 1).

    Args:
        source: ``download``, or the path of AlexNet's weights: all of them or the ``features`` alone.

    Raises:
        Unavailable: torchmetrics, torchvision or the weights cannot be had.
        UserError: the file is missing, damaged or another network's.
    """
    try:
        from torchmetrics.functional.image.lpips import _LPIPS
        from torchvision.models import AlexNet_Weights
    except ImportError as error:
        raise _not_installed("torchmetrics", error) from error
    if source == DOWNLOAD:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                found = AlexNet_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        except UNREADABLE as error:
            raise _not_downloaded("lpips_weights", ALEXNET_FILE, error) from error
    else:
        found = _read_file("lpips_weights", source, ALEXNET_FILE)
    # Random weights, drawn to be replaced, must not move the randomness of whatever else goes on.
    with torch.random.fork_rng(devices=[]):
        net = _LPIPS(net="alex", pnet_rand=True)
    features = {name: t for name, t in found.items() if not name.startswith("classifier.")}
    alexnet = nn.ModuleDict({"features": nn.ModuleDict(_layers(net.net))})
    load_into(alexnet, features, f"--lpips_weights {source}")
    return Network(
        net.eval().requires_grad_(False),
        f"LPIPS 0.1 on AlexNet, heads of torchmetrics {version('torchmetrics')}, images in their own size",
    )


def _layers(trunk: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of torchmetrics' AlexNet, which it has in five slices, by torchvision's names."""
    return {name: layer for part in trunk.children() for name, layer in part.named_children()}


def _read_file(flag: str, source: str, wanted: str) -> dict[str, Tensor]:
    if not Path(source).is_file():
        raise UserError(f"--{flag} {source}: there is no such file; give download, or the path of {wanted}")
    check_hash(Path(source), flag)
    return dict(read_weights(Path(source)))


def _not_installed(package: str, error: ImportError) -> Unavailable:
    return Unavailable(f"needs {package} ({error}): pip install -r requirements-metrics.txt")


def _not_downloaded(flag: str, wanted: str, error: Exception) -> Unavailable:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return Unavailable(
        f"needs {wanted}, which cannot be downloaded ({error}): fetch it where there is a network and put it"
        f" into {folder}, or give its path by --{flag}"
    )
