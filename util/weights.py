"""Files of network weights, ``<tag>_net_<name>.pth`` in the peer's format: export, reading and loading.

Every file is read with ``weights_only=True``, so that none can run code.
"""

import hashlib
import logging
import re
import tarfile
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from util.architecture import infer_flags
from util.errors import UserError

EMA_SUFFIX = "_ema"
"""Suffix of an average's name in the file names of weights."""

log = logging.getLogger(__name__)

TAR = (
    "a tar archive, in which torch before 0.2 stored weights: load it with a torch of its time and torch.save"
    " its state_dict again; unpack it first if it holds a .pth file"
)
FOREIGN = {
    b"\x89hdf": "an HDF5 file, such as Keras writes: convert it to a state_dict of this network",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself by git lfs pull",
    b"<!doctype html": "a web page: the download has failed, fetch the file again",
    b"<html": "a web page: the download has failed, fetch the file again",
    b"<?xml": "an XML document: the download has failed, fetch the file again",
    b"\x93numpy": "a NumPy array: torch.save its tensors as a state_dict",
}
"""What files are that begin with these bytes, in lower case."""

MAX_NAMES = 3
"""Number of mismatched entries that an error message lists."""


def weights_path(folder: Path, tag: str, name: str) -> Path:
    """Return the path of the exported weights of network `name`."""
    return folder / f"{tag}_net_{name}.pth"


def export_state_dict(net: nn.Module) -> dict[str, Tensor]:
    """Return the state_dict of `net` in the peer's format: on the CPU, floating point values in float32."""
    weights = net.state_dict()
    for name, tensor in weights.items():
        weights[name] = tensor.cpu().float() if tensor.is_floating_point() else tensor.cpu()
    return weights


def load_weights(net: nn.Module, path: Path) -> None:
    """Load exported weights, of this program or the peer, into `net`.

    Raises:
        UserError: the file is missing, unreadable or of another architecture.
    """
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint; check --name, --checkpoints_dir and --epoch")
    load_into(net, read_weights(path), str(path))


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Return the state_dict in a file.

    Raises:
        UserError: the file is damaged, is not a state_dict, or holds more than tensors and plain values.
    """
    try:
        if kind := foreign_kind(path):
            raise UserError(f"{path}: not a file of weights, but {kind}")
        # torch.load does not verify the checksums of zip archives; the legacy format has none.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"damaged: the checksum of {damaged} does not fit")
        with warnings.catch_warnings(action="ignore"):  # about other formats, for programmers
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    # For damaged files the unpickler can raise almost any exception.
    except Exception as error:
        raise UserError(
            f"{path}: cannot be read as weights ({describe_load_error(error)}); expected what"
            " torch.save(net.state_dict(), FILE) writes"
        ) from error
    if not isinstance(weights, Mapping):
        raise UserError(f"{path}: expected a state_dict of one network, but it holds a {_type(weights)}")
    for name, entry in weights.items():
        if not isinstance(entry, Tensor) or not isinstance(name, str):
            raise UserError(
                f"{path}: expected a state_dict of one network, whose entries are tensors, but {name!r} is a"
                f" {_type(entry)}; save the state_dict alone"
            )
    return weights


def describe_load_error(error: Exception) -> str:
    """Return a short reason why `torch.load` failed, without torch's advice to load it unsafely."""
    text = str(error)
    if "weights_only" in text or "Weights only" in text:
        unsafe = re.search(r"GLOBAL (\S+) was not an allowed global", text)
        what = f"a {unsafe[1]}" if unsafe else "more than tensors and plain values"
        return f"refused: it holds {what}, so it could run code, or it is damaged"
    return (text.splitlines() or [type(error).__name__])[0]


def foreign_kind(path: Path) -> str:
    """Return what a file in another format than that of weights is, and what to do; else an empty string."""
    if path.exists() and not path.is_file():
        return f"a {'folder' if path.is_dir() else 'device or pipe'}: give the .pth file"
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "an empty file: copy or download it again"
    if zipfile.is_zipfile(path):
        return _kind_of_zip(path)
    for start, kind in FOREIGN.items():
        if head.lstrip().lower().startswith(start):
            return kind
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return "a safetensors file: load it with safetensors.torch.load_file and torch.save the result"
    return TAR if tarfile.is_tarfile(path) else ""


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return ""  # damaged, which reading it tells
    if "constants.pkl" in names:
        return (
            "a TorchScript archive, which holds code: save its weights alone,"
            " torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
        )
    if "data.pkl" in names:
        return ""
    if any(name.endswith(".npy") for name in names):
        return "a NumPy archive: make tensors of its arrays and torch.save them as a state_dict"
    return "a zip archive of something else: give the .pth file that torch.save wrote"


def _type(value: object) -> str:
    return type(value).__name__


def load_into(
    net: nn.Module, weights: Mapping[str, Tensor], source: str, allow_missing: bool = False
) -> list[str]:
    """Load `weights` into `net`, ignoring entries that only old versions of torch stored.

    Args:
        source: where the weights come from, for the error message.
        allow_missing: keep the values of entries that `weights` lacks.

    Returns:
        The names of the entries that `weights` lacks.

    Raises:
        UserError: names or shapes differ; the message lists them and the flags to change.
    """
    unwrapped, own = _without_wrappers(weights), net.state_dict()
    weights = _counted(net, _without_old_statistics(net, unwrapped))
    missing = sorted(own.keys() - weights.keys())
    unknown = sorted(weights.keys() - own.keys())
    reshaped = sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
    if unknown or reshaped or (missing and not allow_missing):
        parts = [
            _count_entries("are missing in the file", missing),
            _count_entries("are unknown to the network", unknown),
            _count_entries(
                "differ in shape",
                [f"{name} ({_shape(weights[name])}, here {_shape(own[name])})" for name in reshaped],
            ),
        ]
        raise UserError(
            f"{source}: these weights are of another architecture: {'; '.join(filter(None, parts))}."
            f" {_advice(infer_flags(unwrapped), infer_flags(own))}"
        )
    check_values(weights, source, own)
    net.load_state_dict({**own, **weights})
    return missing


def check_values(
    weights: Mapping[str, Tensor], source: str, like: Mapping[str, Tensor] | None = None
) -> None:
    """Raise a `UserError` that names the entries which are no finite real numbers.

    Args:
        source: see `load_into`.
        like: tensors of the types that the weights are converted to, in which they must be finite; by name.
    """
    problems: dict[str, list[str]] = {}
    for name, tensor in weights.items():
        if tensor.is_complex():
            problems.setdefault("are complex", []).append(name)
        elif tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            problems.setdefault("are not plain tensors (sparse, quantized or without values)", []).append(
                name
            )
        elif tensor.is_floating_point():
            converted = tensor.to(like[name].dtype) if like else tensor
            if not converted.isfinite().all():
                problems.setdefault("are not finite (NaN or infinite)", []).append(name)
    if problems:
        listed = "; ".join(_count_entries(problem, names) for problem, names in problems.items())
        raise UserError(f"{source}: {listed}. Take other weights, such as those of an earlier checkpoint")


def check_hash(path: Path, flag: str) -> None:
    """Raise a `UserError` if a file's SHA-256 differs from that in its name, such as vgg16-397923af.pth."""
    expected = re.fullmatch(r".*-([0-9a-f]{8})", path.stem)
    if expected is None:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(expected[1]):
        raise UserError(
            f"--{flag} {path}: its SHA-256 should begin with {expected[1]} as in its name, but begins with"
            f" {digest[:8]}: the file is damaged or another one; fetch it again, or rename it if you trust it"
        )


def check_cached(file_name: str, flag: str) -> None:
    """Check a file in torch's cache with `check_hash`, if it is there: torch checks new downloads only."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    if path.is_file():
        check_hash(path, flag)


def initialise_from(nets: Mapping[str, nn.Module], source: Path, tag: str) -> None:
    """Load the files of `find_initial_weights` into `nets` and log which networks and entries they lack."""
    files = find_initial_weights(source, tag, nets.keys())
    for name, path in files.items():
        missing = load_into(nets[name], read_weights(path), str(path), allow_missing=True)
        log.info("Network %s starts from %s", name, path)
        if missing:
            log.info("%s: these start fresh", _count_entries(f"of network {name} are not in it", missing))
    fresh = [name for name in nets if name not in files]
    if fresh:
        log.info("Networks without a file start fresh: %s", ", ".join(fresh))


def find_initial_weights(source: Path, tag: str, names: Collection[str]) -> dict[str, Path]:
    """Return the files of initial weights by network.

    Args:
        source: a folder with ``<tag>_net_<name>.pth`` files, or one file of weights. A file of a network G,
            or one whose name does not tell the network, is for G or, if the model has none, for G_A.
        names: the model's networks.

    Raises:
        UserError: there is no file for any of the networks.
    """
    if source.is_dir():
        files = {name: path for name in names if (path := weights_path(source, tag, name)).exists()}
        generator = weights_path(source, tag, "G")
        if not files and generator.exists():
            files = _for_generator(generator, names)
        if not files:
            present = ", ".join(sorted(path.name for path in source.glob("*_net_*.pth"))) or "none"
            raise UserError(
                f"--init_from {source}: no weights {tag}_net_*.pth for the networks {', '.join(names)}"
                f" (found: {present}); --epoch chooses others"
            )
        return files
    if not source.is_file():
        raise UserError(f"--init_from {source}: there is no such file or folder")
    named = re.search(r"_net_(\w+)\.pth$", source.name)
    if named and named[1] in names:
        return {named[1]: source}
    if named and not named[1].startswith("G"):
        raise UserError(f"--init_from {source}: the model has no network {named[1]}, only {', '.join(names)}")
    return _for_generator(source, names)


def _for_generator(path: Path, names: Collection[str]) -> dict[str, Path]:
    for name in ("G", "G_A"):
        if name in names:
            return {name: path}
    raise UserError(f"--init_from {path}: the model has no network G or G_A, only {', '.join(names)}")


def _count_entries(problem: str, names: list[str]) -> str:
    if not names:
        return ""
    listed = ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
    return f"{len(names)} entries {problem}: {listed}"


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "scalar"


def _advice(file_flags: Mapping[str, str], net_flags: Mapping[str, str]) -> str:
    if file_flags.keys() != net_flags.keys():
        kinds = [
            flags.get("netG") or flags.get("netD") or "another kind of network"
            for flags in (file_flags, net_flags)
        ]
        return f"They are of {kinds[0]}, the options ask for {kinds[1]}: change --netG or --netD"
    differing = [
        f"--{name} {value} (here {net_flags[name]})"
        for name, value in file_flags.items()
        if value != net_flags[name]
    ]
    if not differing:
        return "Use the flags that they were trained with"
    advice = f"They were trained with {', '.join(differing)}: use the same flags"
    return advice.replace("--channels", "other channels:")


def _without_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `weights` without the name prefixes of DataParallel and torch.compile."""
    prefixes = re.compile(r"(module\.|_orig_mod\.)*")
    return {prefixes.sub("", name, count=1): tensor for name, tensor in weights.items()}


def _counted(net: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `weights` with the counters of batch norm that `net` has, if torch before 0.4.1 wrote them."""
    norms = [name for name, layer in net.named_modules() if isinstance(layer, nn.modules.batchnorm._NormBase)]
    prefixes = [f"{name}." if name else "" for name in norms]
    counters = [f"{prefix}num_batches_tracked" for prefix in prefixes if f"{prefix}running_var" in weights]
    own = net.state_dict()
    return {**{name: own[name] for name in counters if name in own}, **weights}


def _without_old_statistics(net: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `weights` without the running statistics that instance norm stored in torch before 0.4."""
    plain_norms = {
        name
        for name, layer in net.named_modules()
        if isinstance(layer, nn.InstanceNorm2d) and not layer.track_running_stats
    }
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    old = {f"{layer}.{entry}" for layer in plain_norms for entry in statistics}
    return {name: tensor for name, tensor in weights.items() if name not in old}
