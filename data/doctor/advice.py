"""The flags that fit a data set, with reasons."""

import math
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data.doctor.findings import Survey, class_count, is_map, usual
from data.doctor.probe import Facts

MODELS = {"aligned": "pix2pix", "unaligned": "cycle_gan", "single": "test"}
CROPS = (256, 128, 64, 32)


class Flag(NamedTuple):
    """A flag's value, and why; `default`: whether it need not be given."""

    name: str
    value: str
    reason: str
    default: bool = False


def advise(survey: Survey) -> list[Flag]:
    """Return the flags for training on a data set."""
    mode = survey.layout.mode
    model = MODELS[mode]
    if mode == "single" and "train" in survey.layout.phases:
        model = mode = "colorization"
    flags = [Flag("model", model, _model_reason(survey))]
    # Every one of these models has its data set as a default.
    flags.append(Flag("dataset_mode", mode, _mode_reason(survey), default=True))
    if not survey.images:
        return flags
    if model == "colorization":
        return [*flags, *_sizes(survey)]
    sides = _sides(survey)
    flags += _parts(survey)
    swap, reason = _direction(survey)
    if reason:
        flags.append(Flag("direction", "BtoA" if swap else "AtoB", reason, default=not swap))
    for flag, files in zip(("input", "output"), sides[::-1] if swap else sides, strict=True):
        if files:
            flags += _values(flag, files, survey)
    flags += _sizes(survey)
    return flags


def command(flags: Sequence[Flag], dataroot: str) -> str:
    """Return the command that trains with the flags that are not defaults; for single images, that tests."""
    given = {flag.name: flag.value for flag in flags if not flag.default}
    program = "test.py" if given["model"] == "test" else "train.py"
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    return shlex.join(["python", program, "--dataroot", dataroot, "--name", "NAME", *words])


def crop_size(files: Sequence[Facts]) -> int:
    """Return the largest usual crop that fits into most images."""
    short = [min(facts.size) for facts in files]
    return next((crop for crop in CROPS if crop <= np.quantile(short, 0.25)), CROPS[-1])


def _sides(survey: Survey) -> tuple[list[list[Facts]], list[list[Facts]]]:
    """Return the files of A's and of B's parts."""
    A = [files for part, files in survey.by_part.items() if part[0] == "A" or part in ("label", "images")]
    B = [files for part, files in survey.by_part.items() if part[0] == "B" or part == "img"]
    return A, B


def _model_reason(survey: Survey) -> str:
    return {"aligned": "pairs", "unaligned": "two sets without pairs"}.get(
        survey.layout.mode, "one image per file: to translate by a trained model, or to colorize"
    )


def _mode_reason(survey: Survey) -> str:
    parts = survey.layout.parts
    folders = ", ".join(dict.fromkeys(os.path.basename(str(part.folder)) for part in parts))
    if any(part.kind == "both" for part in parts):
        return f"A and B side by side in {folders}"
    if survey.layout.mode == "aligned":
        return f"files of the same name in {folders}"
    if survey.layout.mode == "unaligned":
        return f"different names in {folders}"
    return f"images in {folders}"


def _parts(survey: Survey) -> Iterator[Flag]:
    names = list(survey.by_part)
    for flag, side in (("inputs", "A"), ("outputs", "B")):
        several = [name for name in names if name[0] == side]
        if any(len(name) > 1 for name in several):
            yield Flag(flag, ",".join(several), "one folder for each")
    if "M" in names:
        yield Flag("mask", "true", "there are masks")


def _direction(survey: Survey) -> tuple[bool, str]:
    """Return whether B is the input, and why; "" if that is not clear."""
    images = survey.images
    if survey.layout.mode != "aligned" or not {"A", "B"} <= images.keys():
        return False, ""
    A, B = images["A"], images["B"]
    maps = is_map(A), is_map(B)
    if maps[0] != maps[1]:
        side = "A" if maps[0] else "B"
        return maps[1], f"{side} has few colours: labels, from which images are made"
    uniform = [float(np.median([facts.uniform for facts in files])) for files in (A, B)]
    if max(uniform) > 0.8 > min(uniform) + 0.1:
        side = "A" if uniform[0] > uniform[1] else "B"
        return side == "B", f"{side} has uniform areas of few colours: labels, from which images are made"
    channels = [usual(1 if facts.colourless else facts.channels for facts in files)[0] for files in (A, B)]
    if sorted(channels) == [1, 3]:
        return channels[1] == 1, "colour is made from grey"
    return False, ""


def _values(flag: str, parts: Sequence[list[Facts]], survey: Survey) -> Iterator[Flag]:
    """Yield the flags of the channels and ranges of one side."""
    prefix = len(parts) > 1
    channels, ranges, reasons = 0, list[str](), list[str]()
    for files in parts:
        dtype, count = usual(facts.dtype for facts in files)[0], usual(facts.channels for facts in files)[0]
        channels += count
        name = f"{files[0].part}:" if prefix else ""
        if files[0].kind == "labels" or (flag == "input" and count == 1 and is_map(files)):
            yield from _labels(files, survey)
            return
        value, reason = _range(files, dtype, count)
        ranges.append(f"{name}{value}")
        reasons.append(f"{files[0].part}: {reason}" if prefix else reason)
    eight_bits = all(text.endswith("8bit") for text in ranges)
    if eight_bits:
        channels = sum(min(3, usual(facts.channels for facts in files)[0]) for files in parts)
    yield Flag(
        f"{flag}_nc", str(channels), f"{channels} channel" + "s" * (channels != 1), default=channels == 3
    )
    yield Flag(f"{flag}_range", ",".join(ranges), "; ".join(reasons), default=eight_bits)


def _labels(files: Sequence[Facts], survey: Survey) -> Iterator[Flag]:
    if survey.label_colors:
        yield Flag("label_nc", str(len(survey.label_colors)), "the colours in --label_colors")
        return
    count = survey.label_nc or class_count(files)
    found = sum(bool(facts.values and 255 in facts.values) for facts in files)
    yield Flag("label_nc", str(count), f"class numbers from 0 to {count - 1}")
    if found and count <= 255:
        yield Flag("label_ignore", "255", f"255 is in {found} files, without a class")


def _range(files: Sequence[Facts], dtype: str, channels: int) -> tuple[str, str]:
    """Return the value of ``--input_range`` for the images of a part, and why."""
    files = [facts for facts in files if facts.dtype == dtype]
    low, high = min(facts.low for facts in files), max(facts.high for facts in files)
    extremes = f"{dtype} from {low:g} to {high:g}"
    if dtype == "uint8":
        return ("8bit", extremes) if channels in (1, 3) else ("full", f"{extremes}, {channels} channels")
    common = np.concatenate([facts.quantiles for facts in files])
    bulk_low, bulk_high = (float(value) for value in np.quantile(common, (0.002, 0.998)))
    bulk = f"{extremes}, nearly all from {bulk_low:g} to {bulk_high:g}"
    if dtype == "uint16":
        bits = next((bits for bits in (8, 10, 12, 14) if high < 1 << bits), 16)
        if bits < 16:
            return f"0,{(1 << bits) - 1}", f"{extremes}: {bits} bits in 16"
        return ("full", extremes) if bulk_high > 0.4 * high else ("percentile:0.2", bulk)
    if dtype == "float32" and low >= 0 and high <= 1 and high > 0.4:
        return "full", extremes
    if high - low > 4 * ((bulk_high - bulk_low) or 1.0):
        return "percentile:0.2", bulk
    return f"{_rounded(low, math.floor, high):g},{_rounded(high, math.ceil, low):g}", extremes


def _rounded(value: float, to: Callable[[float], int], other: float = 0.0) -> float:
    """Return a value rounded outwards to two digits."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(max(abs(value), abs(other)))) - 1)
    return float(to(value / unit)) * unit


def _sizes(survey: Survey) -> Iterator[Flag]:
    files = [facts for part in survey.images.values() for facts in part]
    shapes = [facts.size for facts in files]
    crop = crop_size(files)
    load = round(crop * 286 / 256)
    size, share = usual(shapes)
    ratios = np.array([width / height for width, height in shapes])
    short, ratio = float(np.median([min(shape) for shape in shapes])), float(np.median(ratios))
    described = f"{share:.0%} of the images are {size[0]} x {size[1]}"
    native = usual(facts.dtype for facts in files)[0] != "uint8" and short >= crop
    if native or short >= 4 * crop:
        yield Flag("preprocess", "crop", f"{described}: crops in full resolution")
    elif np.quantile(np.abs(np.log(ratios)), 0.9) > math.log(1.15):
        load = math.ceil(load * max(1.0, ratio))
        yield Flag(
            "preprocess", "scale_width_and_crop", f"{described}: not square, and not distorted by this"
        )
        yield Flag("load_size", str(load), "the width from which heights are at least those of crops")
    else:
        yield Flag("load_size", str(load), described, default=load == 286)
    yield Flag("crop_size", str(crop), f"the shorter side is {short:.0f} in the median", default=crop == 256)
    if crop < 256 and survey.layout.mode == "aligned":
        net = "unet_128" if crop == 128 else "resnet_6blocks"
        yield Flag("netG", net, f"fits crops of {crop}")
