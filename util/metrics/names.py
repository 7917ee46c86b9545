"""The metrics that exist, as records that are read without importing the code that computes them.

A metric is a function with the decorator `metric` in any file of this folder:

    @metric("bias", higher_is_better=False, unit="levels", protocol="difference of the means of RGB")
    def bias(fake: Tensor, real: Tensor) -> Tensor:
        return (fake.double() - real.double()).flatten(1).mean(1).abs()

Flags, pages and comparisons need names and directions only, so this module imports neither torch nor those
files; a file is imported when one of its metrics is measured.
"""

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from util.errors import UserError, did_you_mean

DOWNLOAD = "download"
"""Value of the flags of weights that asks for the library's own download, into torch's cache."""

NETWORK_FILES: Mapping[str, str] = {
    "lpips": "alexnet-owt-7be5be79.pth of torchvision",
    "inception": "weights-inception-2015-12-05-6726825d.pth of torch-fidelity",
}
"""The networks that metrics can ask for, with the file of weights that ``--<network>_weights`` takes."""

KEYWORDS = ("data_range", "weight")
"""Keyword-only parameters that a metric's function may have, see `Metric.takes`."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric:
    """The record of a metric.

    Attributes:
        name: its name in ``--metrics``, metrics.json and on pages.
        higher_is_better: its direction.
        protocol: how it is computed, for metrics.json.
        protocol_in_units: the same for images in the files' units; by default `protocol`.
        unit: unit or range, for the log.
        undefined: why the value of an image can be infinite or NaN; means leave such images out.
        per: ``image``: the function maps uint8 batches (fake, real), (N, 3, H, W), to (N,) float64, and
            others if it has the parameters in `takes`;
            ``set``: it maps features (fake, real), (N, D) and (M, D), to a 0-d tensor and the protocol where
            it depends on the features, else an empty text.
        network: ``lpips`` or ``inception``. A function per image gets the network as its third argument;
            metrics of sets compare features of ``inception``.
        reference: the name of a function in the same file, real -> (N,), whose mean metrics.json reports
            under that name, to compare the metric with; its parameters in `takes` are the metric's.
        module, function: where the function is.
        takes: the keyword-only parameters of the function that are among `KEYWORDS`. With ``data_range`` it
            also measures images in the files' units, float64 (N, C, H, W), and gets the length of each
            channel's range, (C, 1, 1) float64; without, it measures 8-bit previews of them. With ``weight``
            it also gets the masks of ``--mask``, (N, 1, H, W) float64 in [0, 1].
    """

    name: str
    higher_is_better: bool
    protocol: str
    protocol_in_units: str = ""
    unit: str = ""
    undefined: str = ""
    per: str = "image"
    network: str = ""
    reference: str = ""
    module: str = ""
    function: str = ""
    takes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name == "none":
            raise ValueError(f"{self.name!r} cannot be a name in --metrics")
        if self.per not in ("image", "set"):
            raise ValueError(f"per is image or set, not {self.per!r}")
        if self.network and self.network not in NETWORK_FILES:
            raise ValueError(f"there is no network {self.network!r}, only {', '.join(NETWORK_FILES)}")
        if self.per == "set" and self.network != "inception":
            raise ValueError('metrics of sets have network="inception"')

    @property
    def label(self) -> str:
        """What the log calls the value over all images."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.name}{unit}" if self.per == "set" else f"Mean {self.name}{unit}"

    def load(self, function: str = "") -> Callable[..., Any]:
        """Return the metric's function, or another of its file, importing the file."""
        return getattr(import_module(self.module), function or self.function)


def metric(name: str, *, higher_is_better: bool, protocol: str, **details: str) -> Callable[[F], F]:
    """Declare a function as a metric.

    `find_metrics` reads the declaration from the source, so its arguments are literals.

    Args:
        details: other attributes of `Metric`.
    """
    return lambda function: function


def find_metrics(folder: Path, package: str) -> dict[str, Metric]:
    """Return the metrics declared in a folder's files, by name: per image, with a network, of sets.

    Args:
        package: the folder's name for imports.

    Raises:
        TypeError: a declaration is invalid, or its name is taken.
    """
    metrics: dict[str, Metric] = {}
    for path in sorted(folder.glob("*.py")):
        for function, call in _declarations(path):
            record = _read_record(path, call, f"{package}.{path.stem}", function)
            if record.name in metrics:
                raise TypeError(f"{path}:{call.lineno}: a metric {record.name!r} exists already")
            metrics[record.name] = record
    in_order = sorted(metrics.values(), key=lambda record: (record.per == "set", record.network != ""))
    return {record.name: record for record in in_order}


def _declarations(path: Path) -> Iterator[tuple[ast.FunctionDef, ast.Call]]:
    """Yield the functions of a file that are decorated by `metric`, with the decorator's call."""
    source = path.read_text("utf-8")
    if "@metric(" not in source:
        return
    for node in ast.parse(source, str(path)).body:
        if isinstance(node, ast.FunctionDef):
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "metric":
                    yield node, call


def _read_record(path: Path, call: ast.Call, module: str, function: ast.FunctionDef) -> Metric:
    try:
        arguments = [ast.literal_eval(value) for value in call.args]
        keywords = {str(item.arg): ast.literal_eval(item.value) for item in call.keywords}
        found = {"module": module, "function": function.name, "takes": _keywords(function)}
        return Metric(*arguments, **{**keywords, **found})
    except (ValueError, TypeError) as error:
        raise TypeError(f"{path}:{call.lineno}: invalid @metric({function.name}): {error}") from None


def _keywords(function: ast.FunctionDef) -> tuple[str, ...]:
    """Return the keyword-only parameters of a metric's function that are among `KEYWORDS`."""
    parameters = list(zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True))
    for parameter, default in parameters:
        if default is None:
            raise ValueError(f"{parameter.arg} needs a default value: it is not always passed")
    return tuple(parameter.arg for parameter, _ in parameters if parameter.arg in KEYWORDS)


METRICS: Mapping[str, Metric] = find_metrics(Path(__file__).parent, __package__ or "util.metrics")

HIGHER_IS_BETTER: Mapping[str, bool] = {name: record.higher_is_better for name, record in METRICS.items()}

DEFAULT_METRICS = "psnr,ssim,l1"

METRICS_IN_UNITS = ("mae", "rmse")
"""Measured by default of images that are not 8-bit, too."""


def parse_names(text: str) -> tuple[str, ...]:
    """Return the metrics in a value of ``--metrics``: names separated by commas, or none.

    Raises:
        UserError: there is no such metric.
    """
    names = tuple(dict.fromkeys(text.split(","))) if text != "none" else ()
    for name in names:
        if name not in METRICS:
            raise UserError(
                f"--metrics {name}: no such metric{did_you_mean(name, METRICS)}"
                f" There are {', '.join(METRICS)}, or none"
            )
    return names


def metrics_using(network: str, names: Iterable[str] = METRICS) -> list[str]:
    """Return those of the metrics that need a network, in order."""
    return [name for name in METRICS if name in names and METRICS[name].network == network]


def name_in(channels: str, metric: str) -> str:
    """Return the name of a metric of some channels, such as mae[4]; of all channels, "", the metric's own."""
    return f"{metric}[{channels}]" if channels else metric


def of_all_channels(name: str) -> bool:
    """Return whether a value is of all channels by its name."""
    return not name.endswith("]")
