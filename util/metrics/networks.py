"""The frozen networks of LPIPS, FID and KID, from torchmetrics and torch-fidelity.

`pip install -r requirements-metrics.txt` installs both packages; only this file imports them.
"""

import contextlib
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from torch import Tensor, nn

from util.errors import UserError
from util.metrics.names import DOWNLOAD, NETWORK_FILES
from util.weights import check_cached, check_hash, check_values, load_into, read_weights

UNREADABLE = (OSError, RuntimeError, EOFError, UnpicklingError)
"""Errors of a failed or interrupted download, and of weights of another network."""


class Network(NamedTuple):
    """A frozen network and its description in the protocol."""

    net: nn.Module
    description: str


class Unavailable(Exception):
    """A network cannot be loaded here; the message says why."""


def load_lpips(source: str = DOWNLOAD) -> Network:
    """Return the network of LPIPS 0.1 on AlexNet: two batches in [-1, 1] to (N, 1, 1, 1).

    Args:
        source: ``download``, or the path of AlexNet's weights, complete or its ``features`` only.

    Raises:
        Unavailable: torchmetrics, torchvision or the weights are missing.
        UserError: the file is missing, damaged or of another network.
    """
    try:
        from torchmetrics.functional.image.lpips import _LPIPS
        from torchvision.models import AlexNet_Weights
    except ImportError as error:
        raise _not_installed("torchmetrics", error) from error
    if source == DOWNLOAD:
        check_cached(NETWORK_FILES["lpips"].split()[0], "lpips_weights")
        try:
            with contextlib.redirect_stdout(sys.stderr):
                weights = AlexNet_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        except UNREADABLE as error:
            raise _not_downloaded("lpips", error) from error
    else:
        weights = _read_file("lpips", source)
    # The constructor draws random weights; the caller's random state must not change.
    with torch.random.fork_rng(devices=[]):
        net = _LPIPS(net="alex", pnet_rand=True)
    features = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier.")}
    alexnet = nn.ModuleDict({"features": nn.ModuleDict(_layers(net.net))})
    load_into(alexnet, features, f"--lpips_weights {source}")
    return Network(
        net.eval().requires_grad_(False),
        f"LPIPS 0.1 on AlexNet, heads of torchmetrics {version('torchmetrics')}",
    )


def load_inception(source: str = DOWNLOAD) -> Network:
    """Return the network of FID and KID: uint8 images (N, 3, H, W) to features (N, 2048).

    This is TensorFlow's Inception of 2015 ported to PyTorch; it resizes images to 299 x 299 itself.

    Args:
        source: ``download``, or the path of its weights.

    Raises:
        Unavailable: torch-fidelity or the weights are missing.
        UserError: the file is missing, damaged or of another network.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise _not_installed("torch-fidelity", error) from error
    if source == DOWNLOAD:
        check_cached(NETWORK_FILES["inception"].split()[0], "inception_weights")
    else:
        # torch-fidelity unpickles without weights_only, so make sure first that the file is safe.
        _read_file("inception", source)
    path = None if source == DOWNLOAD else source
    try:
        with torch.random.fork_rng(devices=[]):  # see load_lpips
            net = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=path
            )
    except UNREADABLE as error:
        if source == DOWNLOAD:
            raise _not_downloaded("inception", error) from error
        raise UserError(
            f"--inception_weights {source}: not the weights of that network; give download, or the path of"
            f" {NETWORK_FILES['inception']}"
        ) from error
    return Network(
        FirstOutput(net),
        f"TensorFlow's Inception of 2015-12-05 in torch-fidelity {version('torch-fidelity')}, pool3 (2048"
        " features), images scaled to 299 x 299 bilinearly as TensorFlow 1 does, without antialiasing",
    )


LOADERS: Mapping[str, Callable[[str], Network]] = {"lpips": load_lpips, "inception": load_inception}
"""By the names of `NETWORK_FILES`: source to network."""


class FirstOutput(nn.Module):
    """Return the first of a network's outputs."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0]


def _layers(slices: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of torchmetrics' AlexNet, which is cut into five slices, by torchvision's names."""
    return {name: layer for part in slices.children() for name, layer in part.named_children()}


def _read_file(network: str, source: str) -> dict[str, Tensor]:
    flag = f"{network}_weights"
    if not Path(source).is_file():
        raise UserError(
            f"--{flag} {source}: there is no such file; give download, or the path of"
            f" {NETWORK_FILES[network]}"
        )
    check_hash(Path(source), flag)
    weights = dict(read_weights(Path(source)))
    check_values(weights, f"--{flag} {source}")
    return weights


def _not_installed(package: str, error: ImportError) -> Unavailable:
    return Unavailable(f"needs {package} ({error}): pip install -r requirements-metrics.txt")


def _not_downloaded(network: str, error: Exception) -> Unavailable:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return Unavailable(
        f"needs {NETWORK_FILES[network]}, which cannot be downloaded ({error}): copy it to {folder} from a"
        f" machine with a network connection, or give its path by --{network}_weights"
    )
