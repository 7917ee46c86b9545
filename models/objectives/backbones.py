"""Pretrained networks whose features other networks use: loading and identifying their weights."""

import hashlib
import logging
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from options.base_options import CommandOptions
from util.device import constant
from util.errors import UserError
from util.weights import check_cached, check_hash, load_into, read_weights

log = logging.getLogger(__name__)

IMAGENET_MEAN, IMAGENET_STD = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
RANDOM_SEED = 0


def load_resnet18(source: str, flag: str = "resnet_weights") -> nn.Module:
    """Return a frozen ResNet18 that maps normalised images (N, 3, H, W) to features (N, 512).

    Args:
        source: ``imagenet``, ``random``, or the path of a file of weights.
        flag: the flag that `source` is the value of, for messages.

    Raises:
        UserError: the weights cannot be loaded.
    """
    net = _load("resnet18", source, flag)
    net.fc = nn.Identity()
    return net.eval().requires_grad_(False)


def load_vgg(name: str, source: str, flag: str = "vgg_weights") -> nn.Sequential:
    """Return the frozen convolutional layers of ``vgg16`` or ``vgg19``, with in-place activations.

    Args:
        source, flag: see `load_resnet18`; a file may contain the whole network or only its ``features``.

    Raises:
        UserError: the weights cannot be loaded.
    """
    return _load(name, source, flag, part="features").eval().requires_grad_(False)


def empty_vgg(name: str) -> nn.Sequential:
    """Return the frozen convolutional layers of ``vgg16`` or ``vgg19``, to load weights into."""
    return _random_network(name, "features").eval().requires_grad_(False)


class Fingerprint(nn.Module):
    """Identifies a backbone in checkpoints, and refuses checkpoints trained on another backbone's features.

    Attributes:
        sha256: hash of the backbone's weights, (32,) uint8.
    """

    sha256: Tensor

    def __init__(self, backbone: nn.Module, flag: str):
        super().__init__()
        self.flag = flag
        digest = hashlib.sha256()
        for name, tensor in sorted(backbone.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        self.register_buffer("sha256", torch.tensor(list(digest.digest()), dtype=torch.uint8))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        saved = state_dict.get(f"{prefix}sha256")
        if saved is not None and not torch.equal(saved.cpu(), self.sha256.cpu()):
            expected, given = (bytes(t.tolist()).hex()[:8] for t in (saved.cpu(), self.sha256.cpu()))
            raise UserError(
                f"--{self.flag}: the checkpoint was trained on the features of another network (its weights"
                f" have the SHA-256 {expected}..., these {given}...); give the weights it was trained with"
            )
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def untrained_backbones(options: CommandOptions) -> str:
    """Return a note for pages about untrained backbones, or an empty string."""
    flags = [
        f"--{name} random"
        for name, value in options.values().items()
        if name.endswith("_weights") and value == "random"
    ]
    return f"{', '.join(flags)}: untrained features, results mean nothing" if flags else ""


def normalise_for_imagenet(rgb: Tensor) -> Tensor:
    """Return images, (N, 3, H, W) in [0, 1], normalised by ImageNet's mean and standard deviation."""
    mean, std = (constant(values, rgb.device, rgb.dtype) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (rgb - mean) / std


def _load(name: str, source: str, flag: str, part: str | None = None) -> Any:
    """Return a torchvision network, or its submodule `part`, with the weights that `source` names."""
    from torchvision import models  # here because it takes a second

    weights = models.get_model_weights(name).IMAGENET1K_V1
    if source == "imagenet":
        check_cached(Path(weights.url).name, flag)
        try:
            net = models.get_model(name, weights=weights)
        except (URLError, OSError) as error:
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            raise UserError(
                f"--{flag} imagenet: {weights.url} cannot be downloaded ({error}). Download it elsewhere and"
                f" put it into {folder}, or give its path: --{flag} PATH"
            ) from error
        return getattr(net, part) if part else net
    net = _random_network(name, part)
    if source == "random":
        log.warning("--%s random: UNTRAINED features, for tests only; results mean nothing", flag)
        return net
    if not Path(source).is_file():
        raise UserError(
            f"--{flag} {source}: there is no such file; give imagenet, random, or the path of {weights.url}"
        )
    check_hash(Path(source), flag)
    weights_in_file = read_weights(Path(source))
    prefix = f"{part}."
    of_part = {
        key.removeprefix(prefix): tensor for key, tensor in weights_in_file.items() if key.startswith(prefix)
    }
    load_into(net, of_part or weights_in_file, f"--{flag} {source}")
    return net


def _random_network(name: str, part: str | None) -> Any:
    """Return a torchvision network, or its submodule `part`, with random weights from a fixed seed."""
    from torchvision import models  # here because it takes a second

    # Forked, so that the initial weights of the trained networks do not depend on the backbone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        if part is None:
            return models.get_model(name, weights=None)
        # On the meta device the classifier, which has most of a VGG's weights, takes no memory.
        with torch.device("meta"):
            layers = getattr(models.get_model(name, weights=None), part)
        layers = layers.to_empty(device="cpu")
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        return layers
