"""Infer the flags of a network from its weights, for error messages about weights that do not fit."""

import re
from collections.abc import Mapping

from torch import Tensor


def infer_flags(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the architecture flags that the names and shapes of `weights` reveal.

    This knows the U-Net and ResNet generators and both discriminators; empty for other networks.
    """
    try:
        return _flags(weights)
    except (ValueError, IndexError, KeyError):  # names of these networks, but shapes of none of them
        return {}


def _flags(weights: Mapping[str, Tensor]) -> dict[str, str]:
    shapes = {
        name.replace(".parametrizations.weight.original", ".weight"): tuple(tensor.shape)
        for name, tensor in weights.items()
    }
    if "net.0.weight" in shapes:
        flags = {"netD": "pixel", "ndf": shapes["net.0.weight"][0], "channels": shapes["net.0.weight"][1]}
        bias = "net.2.bias"
    elif "model.model.0.weight" in shapes:
        flags, bias = _unet(shapes), "model.model.1.model.1.bias"
    elif shapes.get("model.1.weight", ())[2:] == (7, 7) and any(".conv_block." in name for name in shapes):
        flags, bias = _resnet(shapes), "model.1.bias"
    elif "model.2.weight" in shapes and _last(shapes)[0] == 1 and _last(shapes)[2:] == (4, 4):
        flags, bias = _patches(shapes), "model.2.bias"
    else:
        return {}
    batch_norm = any(name.endswith("running_mean") for name in shapes)
    flags["norm"] = "batch" if batch_norm else "instance" if bias in shapes else "none"
    flags["attention"] = "some" if any("attention." in name for name in shapes) else "none"
    flags["spectral_norm"] = "on" if any(".parametrizations." in name for name in weights) else "none"
    return {name: str(value) for name, value in flags.items()}


def _unet(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    levels = max(name.count("model.") for name in shapes) - 1
    ngf, input_nc = shapes["model.model.0.weight"][:2]
    deconvolution, convolution = shapes.get("model.model.3.weight"), shapes.get("model.model.3.2.weight")
    output_nc = deconvolution[1] if deconvolution else convolution[0] if convolution else "unknown"
    return {
        "netG": f"unet_{2**levels}",
        "ngf": ngf,
        "input_nc": input_nc,
        "output_nc": output_nc,
        "upsample": "deconv" if deconvolution else "nearest or bilinear",
    }


def _resnet(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    blocks = {name.split(".")[1] for name in shapes if ".conv_block." in name}
    ngf, input_nc = shapes["model.1.weight"][:2]
    return {
        "netG": f"resnet_{len(blocks)}blocks",
        "ngf": ngf,
        "input_nc": input_nc,
        "output_nc": _last(shapes)[0],
        "no_dropout": any(name.endswith("conv_block.5.weight") for name in shapes),
        "upsample": "nearest or bilinear"
        if any(re.match(r"model\.\d+\.2\.w", name) for name in shapes)
        else "deconv",
    }


def _last(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape of the last ``model.<number>.weight``."""
    numbers = [int(match[1]) for name in shapes if (match := re.fullmatch(r"model\.(\d+)\.weight", name))]
    return shapes[f"model.{max(numbers)}.weight"]


def _patches(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    last = max(int(match[1]) for name in shapes if (match := re.match(r"model\.(\d+)\.", name)))
    ndf, channels = shapes["model.0.weight"][:2]
    return {"netD": "basic or n_layers", "n_layers_D": (last - 2) // 3, "ndf": ndf, "channels": channels}
