"""What the images of a data set hold: found from the flags and the files, once."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from data.base_dataset import Source
from data.image_folder import find_images
from data.matching import match_names
from data.reading import Half, read_colors, read_part
from data.shards import Folder, is_url
from data.url import read_shard
from options.base_options import CommandOptions
from options.file_options import BY_PART, by_part, from_parts, part_names
from options.records import read_training_record
from options.test_options import TestOptions
from options.train_options import TrainOptions
from util import formats
from util.checking import Rule, parse_json
from util.errors import UserError
from util.image_io import BadImage
from util.parts import (
    DTYPES,
    Part,
    Side,
    Sides,
    Values,
    full_range,
    parse_interval,
    parse_percentile,
)
from util.shards import Member, streamed

log = logging.getLogger(__name__)

Options = TypeVar("Options", bound=CommandOptions)

PROBED_FILES = 16
"""Files whose headers say which type the values have."""

MEASURED_FILES, MEASURED_VALUES = 200, 50_000
"""Files, and values of each, of which percentiles are taken."""

SHAPE = {
    str: {
        "range": str,
        "channels": int,
        "dtype": Rule(str, DTYPES.__contains__, "one of " + ", ".join(DTYPES)),
        "low": float,
        "high": float,
    }
}
"""The shape of ``--value_ranges``."""

Record = Mapping[str, Mapping[str, Any]]
"""What ``--value_ranges`` says, by part."""


def find_parts(options: CommandOptions, folders: Mapping[str, Folder], flag: str = "input") -> list[Source]:
    """Return the files of every sample of one side, in the order of their names.

    Args:
        folders: the folder of each of its parts, by the part's name; files of the same name, whatever their
            extensions, belong together.
        flag: whose flags describe the parts: ``input`` or ``output``.

    Raises:
        UserError: There are no images, or a file has no partner.
    """
    found = {part: find_files(options, folder, part, flag) for part, folder in folders.items()}
    if len(found) == 1:
        return [path for paths in found.values() for path in paths]
    return [*match_names([(folders[part], paths) for part, paths in found.items()])]


def find_files(options: CommandOptions, folder: Folder, part: str, flag: str = "input") -> list[str]:
    """Return the images in a folder; of files that hold several, each of them."""
    if options.files.kind(part, flag) == "8bit":
        return find_images(folder)
    paths = find_images(folder, formats.EXTENSIONS)
    if is_url(options.run.dataroot):  # what is in the files is not known before they are read
        return paths
    files = options.files
    return formats.entries(paths, tiff_pages=files.tiff_pages, slice_axis=files.slice_axis)


class Found(NamedTuple):
    """What has been found of one side.

    Attributes:
        parts: the names of its parts.
        samples: the files of every sample; empty if there are none of this side.
        half: the half of its files that it is.
    """

    parts: Sequence[str]
    samples: Sequence[Source]
    half: Half = ""


def resolve(options: CommandOptions, A: Found, B: Found | None = None) -> Sides:
    """Return what the images hold.

    Types and percentiles are measured in the files, unless they are recorded with the run.

    Args:
        A, B: input and output.

    Raises:
        UserError: The flags do not fit each other or the files.
    """
    known = _known(options)
    # Without files of B, as for one direction of a model, it is what is recorded with the run.
    B = B or Found(part_names(options.files.outputs) or ["B"], [])
    sides = []
    for flag, found in (("input", A), ("output", B)):
        with _readable(options, flag, found) as first:
            sides.append(_side(options, flag, first, known))
    return Sides(*sides)


@contextmanager
def _readable(options: CommandOptions, flag: str, found: Found) -> Iterator[Found]:
    """Yield samples whose files can be read: of a stream, the first of a shard, which is read for that."""
    all_8bit = len(found.parts) == 1 and options.files.kind(found.parts[0], flag) == "8bit"
    if all_8bit or not found.samples or not is_url(options.run.dataroot):
        yield found
        return
    samples = [(source,) if isinstance(source, str) else source for source in found.samples]
    members = [tuple(file for file in files if isinstance(file, Member)) for files in samples]
    shard = members[0][0].shard
    in_shard = [files for files in members if files[0].shard == shard]
    first = sorted(in_shard, key=lambda files: files[0].offset)[:PROBED_FILES]
    contents = [content for sample in read_shard(shard, first) for content in sample]
    with streamed([file for files in first for file in files], contents):
        yield found._replace(samples=first)


def with_sides(options: Options, sides: Sides) -> Options:
    """Return the options with what has been found in the files: types, intervals, and numbers of channels."""
    parts = [*sides.A.parts, *sides.B.parts]
    found = {
        part.name: {"range": part.range, "channels": part.channels, **vars(part.values)} for part in parts
    }
    if sides.is_8bit and len(parts) == 2:
        return options
    channels: dict[str, Any] = {
        f"{flag}_nc": side.channels
        for flag, side in (("input", sides.A), ("output", sides.B))
        if _derives_channels(options, flag)
    }
    network = replace(options.network, **channels)
    described = [*(f"--{name} {value}" for name, value in channels.items()), *map(_described, parts)]
    log.info("From the images: %s", "; ".join(described))
    # A file with values by part may not be there when the run is tested.
    texts: dict[str, Any] = {
        flag: from_parts(by_part(flag, getattr(options.files, flag))) for flag in BY_PART
    }
    files = replace(options.files, value_ranges=json.dumps(found), **texts)
    return replace(options, files=files, network=network)


def _described(part: Part) -> str:
    values = part.values
    if part.kind == "values":
        return f"{part.name} {values.dtype}, {values.low:g} to {values.high:g}"
    return f"{part.name} {part.kind}"


def _known(options: CommandOptions) -> Record:
    """Return what is recorded with the run of each part."""
    text, source = options.files.value_ranges, "--value_ranges"
    if not text and isinstance(options, TrainOptions) and options.saving.continue_train:
        record = read_training_record(options.run_folder)
        text, source = str(record.values.get("value_ranges", "")), record.source
    if not text:
        return {}
    known: Record = parse_json(text.encode(), SHAPE, source, "train.py writes it")
    return known


def _side(options: CommandOptions, flag: str, found: Found, known: Record) -> Side:
    names, half = found.parts, found.half
    samples = [(source,) if isinstance(source, str) else source for source in found.samples]
    # Of one folder that is named, channels are counted, too.
    named = getattr(options.files, f"{flag}s") and _derives_channels(options, flag)
    alone = len(names) == 1 and not (named and options.files.kind(names[0], flag) != "8bit")
    side = Side(
        tuple(
            _part(options, flag, name, [files[position] for files in samples], known, alone, half)
            for position, name in enumerate(names)
        )
    )
    channels = getattr(options.network, f"{flag}_nc")
    if samples and side.channels != channels and not _derives_channels(options, flag):
        sums = " + ".join(f"{part.channels} of {part.name}" for part in side.parts)
        raise UserError(f"--{flag}_nc {channels}: the {flag} has {side.channels} channels ({sums})")
    return side


def _derives_channels(options: CommandOptions, flag: str) -> bool:
    """Return whether a side has as many channels as its classes, parts and bands have together.

    Otherwise ``--input_nc`` or ``--output_nc`` says how many.
    """
    files = options.files
    says = files.holds_classes(flag) or getattr(files, f"{flag}s") or getattr(files, f"{flag}_bands")
    return bool(says) and isinstance(options, TrainOptions) and f"{flag}_nc" not in options.explicit


def _part(
    options: CommandOptions,
    flag: str,
    name: str,
    paths: Sequence[str],
    known: Record,
    alone: bool,
    half: Half,
) -> Part:
    files, text, kind = options.files, options.files.range(name, flag), options.files.kind(name, flag)
    bands, channels = files.bands(name, flag), int(getattr(options.network, f"{flag}_nc"))
    recorded = known.get(name)
    if recorded and recorded["range"] != text:
        log.warning("--%s_range %s: the run was trained with %s", flag, text, recorded["range"])
        recorded = None
    part = Part(name, kind, flag, text, channels, bands, nan_value=files.nan_value)
    if kind == "labels":
        return _label_part(options, part)
    if kind == "instances":
        return replace(part, channels=1, values=Values(_dtype(paths) if paths else "uint16"))
    if not alone and not paths and not recorded:
        raise UserError(
            f"--{flag}s {getattr(files, f'{flag}s')}: what {name} holds is not known: there are no files of"
            " it, and it is not recorded with the run"
        )
    if kind == "8bit":
        if bands:
            raise UserError(
                f"--{flag}_bands {getattr(files, f'{flag}_bands')}: --{flag}_range 8bit reads RGB or grey;"
                f" use another range, such as --{flag}_range full"
            )
        if alone and paths and channels not in (1, 3):
            raise UserError(
                f"--{flag}_nc {channels}: images are read with 3 channels (RGB) or 1 (grey); --{flag}_range"
                " full reads all channels of the files"
            )
        if not alone:
            channels = recorded["channels"] if recorded else _count(paths[0], 3)
        return replace(part, channels=channels)
    if bands:
        channels = len(bands)
    elif not alone:
        channels = recorded["channels"] if recorded else formats.header(paths[0]).channels
    if recorded:
        values = Values(recorded["dtype"], float(recorded["low"]), float(recorded["high"]))
        return replace(part, channels=channels, values=values)
    return _measured(options, replace(part, channels=channels), paths, half)


def _count(path: str, most: int) -> int:
    """Return 1 for a grey file, else `most`."""
    return 1 if formats.header(path).channels < 3 else most


def _label_part(options: CommandOptions, part: Part) -> Part:
    files = options.files
    if not files.label_nc:
        raise UserError(f"--{part.flag}_range {part.range}: give the number of classes by --label_nc")
    colors = read_colors(files.label_colors) if files.label_colors else ()
    if colors and len(colors) != files.label_nc:
        raise UserError(
            f"--label_nc {files.label_nc}: {files.label_colors} has {len(colors)} colours; one for each class"
            " is expected"
        )
    largest = max(files.label_nc - 1, files.label_ignore or 0)
    if largest > np.iinfo(np.uint16).max:
        raise UserError(f"--label_nc {files.label_nc}, --label_ignore {files.label_ignore}: at most 65535")
    return replace(
        part,
        channels=files.label_nc,
        values=Values("uint8" if largest < 256 else "uint16"),
        ignore=files.label_ignore,
        colors=colors,
    )


def _measured(options: CommandOptions, part: Part, paths: Sequence[str], half: Half) -> Part:
    """Return the part with the type of the values in these files, and their interval that the flags mean."""
    if part.range == "full":
        if not paths:
            raise UserError(
                f"--{part.flag}_range full: the type of {part.name} is not known, because there are no files;"
                f" give an interval, such as --{part.flag}_range 0,65535"
            )
        dtype = _dtype(paths)
        return replace(part, values=Values(dtype, *full_range(dtype)))
    if part.range.partition(":")[0] == "percentile":
        share = parse_percentile(part.range)
        if share is None:
            raise UserError(
                f"--{part.flag}_range {part.range}: expected a percentage from 0 to below 50, such as"
                " percentile:1"
            )
        if isinstance(options, TestOptions):
            raise UserError(
                f"--{part.flag}_range {part.range}: percentiles are measured in training, and this run has"
                f" none recorded for {part.name}; give an interval, such as --{part.flag}_range 0,4095"
            )
        return replace(part, values=_percentiles(part, paths, share, half))
    interval = parse_interval(part.range)
    if interval is None:
        raise UserError(
            f"--{part.flag}_range {part.range}: expected 8bit, full, LO,HI (such as 0,4095 or -1000,3000) or"
            " percentile:P (such as percentile:1)"
        )
    return replace(part, values=Values(_dtype(paths) if paths else "float32", *interval))


def _dtype(paths: Sequence[str]) -> str:
    """Return the type that holds the values of these files, by the headers of some of them."""
    dtypes = set()
    for path in _spread(paths, PROBED_FILES):
        try:
            dtypes.add(np.dtype(formats.header(path).dtype))
        except BadImage:  # named when it is read
            continue
    common = np.result_type(*dtypes).name if dtypes else "float32"
    return common if common in DTYPES else "float32"


def _percentiles(part: Part, paths: Sequence[str], share: float, half: Half) -> Values:
    """Return the interval between the percentiles of the values of these files, in a bounded sample."""
    nan_value = None if part.nan_value is None else np.nan  # left out below
    part = replace(part, values=Values(_dtype(paths)), nan_value=nan_value)
    samples = []
    for path in _spread(paths, MEASURED_FILES):
        try:
            values = read_part(path, part, half).reshape(-1)
            nodata = formats.nodata(path)
        except BadImage:  # named when it is read in training
            continue
        values = values[:: -(-values.size // MEASURED_VALUES)]
        values = values[np.isfinite(values)]
        samples.append(values if nodata is None else values[values != nodata])
    if not samples:
        raise UserError(f"--{part.flag}_range {part.range}: none of the {len(paths)} images can be read")
    sample = np.concatenate(samples)
    if not sample.size:
        raise UserError(f"--{part.flag}_range {part.range}: none of the {len(paths)} images has data")
    low, high = (float(end) for end in np.percentile(sample, (share, 100 - share)))
    if not low < high:
        raise UserError(
            f"--{part.flag}_range {part.range}: both ends are {low:g}, because nearly all values are equal;"
            f" give an interval, such as --{part.flag}_range 0,4095"
        )
    return Values(part.values.dtype, low, high)


def _spread(paths: Sequence[str], count: int) -> Sequence[str]:
    """Return at most `count` of the paths, evenly spread."""
    return [
        paths[position] for position in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)
    ]


def folder_names(options: CommandOptions) -> tuple[dict[str, str], dict[str, str]]:
    """Return the folders, without the phase, of the parts of input and output by the parts' names.

    Raises:
        UserError: ``--direction BtoA`` with named folders.
    """
    files, swap = options.files, options.data.direction == "BtoA"
    for flag in ("inputs", "outputs"):
        if swap and getattr(files, flag):
            raise UserError(
                f"--{flag} {getattr(files, flag)}: names the folders of the {flag} whatever the direction;"
                " leave out --direction BtoA, and name the others by --inputs and --outputs"
            )
    A, B = ({name: name for name in part_names(getattr(files, flag))} for flag in ("inputs", "outputs"))
    return A or {"A": "B" if swap else "A"}, B or {"B": "A" if swap else "B"}
