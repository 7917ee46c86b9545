"""NIfTI volumes, by nibabel: their slices are images.

A slice has as its columns and rows the first and the second of the volume's other two axes, in the order in
which they are stored; it is neither flipped nor rotated. A fourth axis has the channels.
"""

import gzip
import logging
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from util.formats import dicom
from util.formats.base import (
    Array,
    Box,
    FormatError,
    Header,
    Source,
    Window,
    check_shape,
    missing,
    native_type,
    rescaled_type,
    sampling,
)
from util.image_limits import max_image_bytes
from util.shards import file_identity

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

EXTENSIONS = (".nii", ".nii.gz")

AXES = "xy"
"""Letters in keys of slices along the first and the second axis; along the third they have none."""

KEPT_BYTES = 1 << 29
"""Up to this size, the compressed volume that was read last is kept, because a slice needs all before it."""

_kept: tuple[object, Array] | None = None

logging.getLogger("nibabel").setLevel(logging.CRITICAL)


def samples(source: Source, axis: int) -> list[str]:
    """Return the keys of the slices along an axis of a volume."""
    shape = _shape(_volume(source))
    return [f"{AXES[axis : axis + 1]}{number}" for number in range(shape[axis])]


def header(source: Source, key: str) -> Header:
    """Return the header of a slice."""
    volume = _volume(source)
    axis, _ = axis_and_number(key)
    shape = _shape(volume)
    width, height = (size for at, size in enumerate(shape[:3]) if at != axis)
    channels = 3 if _is_rgb(volume) else shape[3]
    return Header(channels, height, width, native_type(_value_type(volume)).name)


def read(source: Source, key: str, window: Window | None) -> Array:
    """Return a slice of a volume in its units, (C, H, W): its slope and intercept are applied."""
    volume = _volume(source)
    axis, number = axis_and_number(key)
    shape = _shape(volume)
    if number >= shape[axis]:
        raise FormatError(f"it has no slice {number} along axis {axis}, but {shape[axis]}")
    left, top, right, bottom = window or (None, None, None, None)
    region: list[int | slice] = [slice(left, right), slice(top, bottom)]
    region.insert(axis, number)
    stored = _region(source, volume, tuple(region))
    if _is_rgb(volume):
        stored = np.stack([stored[..., 0][name] for name in ("R", "G", "B")], -1)
    slope, intercept = _scale(volume)
    if (slope, intercept) != (1, 0):
        stored = (stored * slope + intercept).astype(_value_type(volume))
    return stored.transpose(2, 1, 0)


def can_window(source: Source, key: str) -> bool:
    """Return whether a part is read without reading the whole volume."""
    return source.on_disk and not _is_compressed(source)


def axis_and_number(key: str) -> tuple[int, int]:
    """Return the axis of a slice and its number."""
    axis = AXES.find(key[:1].lower()) if key else 2
    axis = 2 if axis < 0 else axis
    return axis, int(key.lstrip(AXES + AXES.upper()) or 0)


def written(path: Path, slices: Sequence[Array], like: tuple[str, str], box: Box | None) -> bytes:
    """Return the content of a NIfTI file of slices, (C, H, W), that follow each other.

    Its affine maps what the slices show of `like` to where it is there; units and codes are kept.

    Args:
        like: path and key of what the first slice is made from: a slice of a volume, or a DICOM file; of
            other images voxels have a size of 1.
    """
    nibabel = _nibabel()
    axis, first = axis_and_number(like[1]) if like[0].lower().endswith(EXTENSIONS) else (2, 0)
    volume = np.stack([image.transpose(2, 1, 0) for image in slices], axis)
    volume = volume[..., 0] if volume.shape[-1] == 1 else volume
    size = slices[0].shape[1:]
    affine: Array = np.eye(4)
    whole, header, kind = size, None, nibabel.Nifti1Image
    if like[0]:
        with Source(like[0]) as source:
            if like[0].lower().endswith(EXTENSIONS):
                found = _volume(source)
                width, height = (length for at, length in enumerate(_shape(found)[:3]) if at != axis)
                affine, whole, header, kind = found.affine, (height, width), found.header.copy(), type(found)
            elif dicom.is_dicom(source):
                whole = dicom.header(source, like[1])[1:3]
                known = dicom.spacing(source, like[1])
                affine = affine if known is None else known
    (first_x, step_x), (first_y, step_y) = sampling(box, size, whole)
    starts, steps = [first_x, first_y], [step_x, step_y]
    starts.insert(axis, first)
    steps.insert(axis, 1)
    voxels = np.diag([*steps, 1.0])
    voxels[:3, 3] = starts
    moved = affine @ voxels
    image = kind(np.ascontiguousarray(volume), moved, header)
    image.header.set_data_dtype(volume.dtype)
    image.header.set_slope_inter(1, 0)
    image.header["cal_min"] = image.header["cal_max"] = 0
    if header is not None:
        image.set_sform(moved, int(header["sform_code"]))
        image.set_qform(moved, int(header["qform_code"]))
    else:
        image.header.set_xyzt_units("mm")
    content: bytes = image.to_bytes()
    return gzip.compress(content, 1, mtime=0) if path.name.lower().endswith(".gz") else content


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError:
        raise missing("nibabel", "a NIfTI file") from None
    return nibabel


def _is_compressed(source: Source) -> bool:
    return source.head.startswith(b"\x1f\x8b")


def _volume(source: Source) -> "Nifti1Image":
    """Return a volume whose data are not read yet."""
    nibabel = _nibabel()
    source.seek(0)
    compressed = _is_compressed(source)
    stream = cast(IO[bytes], gzip.GzipFile(fileobj=source) if compressed else source)
    size = int.from_bytes(stream.read(4), "little")
    stream.seek(0)
    kind = nibabel.Nifti2Image if size in (540, 0x1C020000) else nibabel.Nifti1Image
    volume: Nifti1Image = kind.from_file_map({"image": nibabel.FileHolder(fileobj=stream)})
    dtype = volume.get_data_dtype()
    # Compression makes a file at most 1032 times smaller.
    if prod(map(int, volume.shape)) * dtype.itemsize > source.size * (1032 if compressed else 1):
        raise FormatError(f"its header claims {volume.shape} voxels, more than the file holds")
    return volume


def _shape(volume: "Nifti1Image") -> tuple[int, int, int, int]:
    """Return the lengths of the axes of a volume, and its channels."""
    shape = tuple(map(int, volume.shape))
    if not 2 <= len(shape) <= 5 or (len(shape) == 5 and shape[3] != 1) or 0 in shape:
        raise FormatError(f"a volume of shape {shape}: expected (X, Y, Z) or (X, Y, Z, channels)")
    spatial = (*shape[:3], 1)[:3]
    return spatial[0], spatial[1], spatial[2], prod(shape[3:])


def _scale(volume: "Nifti1Image") -> tuple[float, float]:
    # The header of a loaded image no longer has them.
    proxy: Any = volume.dataobj
    return float(proxy.slope), float(proxy.inter)


def _is_rgb(volume: "Nifti1Image") -> bool:
    return volume.get_data_dtype().names is not None


def _value_type(volume: "Nifti1Image") -> np.dtype[Any]:
    """Return the type of values in units."""
    stored = volume.get_data_dtype()
    if stored.names is not None:
        return np.dtype(np.uint8)
    native_type(stored)
    if _scale(volume) == (1, 0):
        return stored
    if stored.kind == "f":
        return np.dtype(np.float32)
    limits = np.iinfo(stored)
    return rescaled_type((int(limits.min), int(limits.max)), *_scale(volume))


def _region(source: Source, volume: "Nifti1Image", region: tuple[int | slice, ...]) -> Array:
    """Return the stored numbers of a region of the first three axes; the last axis has the channels."""
    global _kept
    from nibabel.arrayproxy import ArrayProxy

    shape, dtype = _shape(volume), volume.get_data_dtype()
    proxy: Any = volume.dataobj
    stored = ArrayProxy(proxy.file_like, (shape, dtype, proxy.offset, 1, 0), mmap=False)
    lengths = [
        len(range(*one.indices(length))) if isinstance(one, slice) else 1
        for one, length in zip(region, shape, strict=False)
    ]
    check_shape((*lengths, shape[3], dtype.itemsize), np.uint8)
    size = prod(shape) * dtype.itemsize
    if not _is_compressed(source) or size > min(KEPT_BYTES, max_image_bytes()):
        return np.asarray(stored[region])
    identity = file_identity(source.path)
    if _kept is None or _kept[0] != identity:
        _kept = (identity, np.asarray(stored))
    return _kept[1][region]
