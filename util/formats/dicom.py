"""DICOM files, by pydicom."""

import logging
import os
import warnings
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from util.errors import UserError
from util.formats import codecs
from util.formats.base import (
    Array,
    Box,
    FormatError,
    Header,
    Source,
    Window,
    check_shape,
    crop,
    missing,
    native_type,
    rescaled_type,
    sampling,
)

if TYPE_CHECKING:
    from pydicom import Dataset

EXTENSIONS = (".dcm", ".dicom", ".ima")

MAGIC = b"DICM"
"""What begins after 128 bytes."""

ORDER_TAGS = (
    *("SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber"),
    "NumberOfFrames",
)

SINGLE_FRAME = {
    "1.2.840.10008.5.1.4.1.1.2.1": "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.4.1": "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.130": "1.2.840.10008.5.1.4.1.1.128",  # PET
}
"""SOP classes of one image by those of several in a file."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

STALE = (
    *("SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "FloatPixelData", "DoubleFloatPixelData", "NumberOfFrames", "IconImageSequence"),
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "DimensionIndexSequence"),
    *("DimensionOrganizationSequence", "FrameIncrementPointer", "PlanarConfiguration"),
    *("RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData"),
    *("GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData"),
    *("BluePaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableData"),
)
"""Elements that are not true of an image with other pixels."""

# Keep pydicom's warnings about files out of the training log; errors are raised.
warnings.filterwarnings("ignore", module=r"pydicom\.")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def is_dicom(source: Source) -> bool:
    """Return whether a file is one, by its content or its extension."""
    return source.head[128:132] == MAGIC or source.path.lower().endswith(EXTENSIONS)


def in_order(paths: Sequence[str]) -> list[str]:
    """Return files with those of a series in each folder in the order of their positions in the patient.

    They are ordered along the normal of the image plane; where not all have a position, by instance number.
    A series takes the places that its files have in `paths`.
    """
    series: dict[tuple[str, str, str], list[tuple[float | None, int, int]]] = {}
    for at, path in enumerate(paths):
        try:
            with Source(path) as source:
                tags = _dataset(source, ORDER_TAGS)
            plane = " ".join(f"{float(value):.3f}" for value in tags.get("ImageOrientationPatient") or ())
            key = (os.path.dirname(path), str(tags.get("SeriesInstanceUID", path)), plane)
            place = _position(tags), int(tags.get("InstanceNumber") or 0), at
        except UserError:
            raise
        except Exception:  # it is named when it is read
            continue
        series.setdefault(key, []).append(place)
    ordered = list(paths)
    for files in series.values():
        known = all(position is not None for position, _, _ in files)
        keys = [(position or 0.0 if known else 0.0, number, at) for position, number, at in files]
        places = sorted(at for _, _, at in files)
        for target, (_, _, at) in zip(places, sorted(keys), strict=True):
            ordered[target] = paths[at]
    return ordered


def samples(source: Source) -> list[str]:
    """Return the keys of the frames of a file: "" if there is only one."""
    frames = _frames(_dataset(source, ("NumberOfFrames",)))
    if frames > source.size:
        raise FormatError(f"its header claims {frames} frames, more than the file has bytes")
    return [str(number) for number in range(frames)] if frames > 1 else [""]


def header(source: Source, key: str) -> Header:
    """Return the header of a frame."""
    tags = _dataset(source)
    kind = _value_type(tags, int(key or 0))
    dtype = read(source, key, None).dtype if kind is None else kind
    channels = 3 if tags.PhotometricInterpretation == "PALETTE COLOR" else int(tags.get("SamplesPerPixel", 1))
    return Header(channels, int(tags.Rows), int(tags.Columns), native_type(dtype).name)


def read(source: Source, key: str, window: Window | None, indices: bool = False) -> Array:
    """Return a frame in the units of its modality, (C, H, W).

    The rescale slope and intercept, or the modality LUT, are applied; YBR and palettes become RGB;
    MONOCHROME1, in which small values are bright, is inverted within the bits that are stored.

    Args:
        indices: return the indices of palettes.
    """
    frame, tags = int(key or 0), _dataset(source)
    shape = (int(tags.get("SamplesPerPixel", 1)), int(tags.Rows), int(tags.Columns))
    check_shape(shape, np.float32)
    stored = _stored(source, tags, frame)
    if tags.PhotometricInterpretation == "PALETTE COLOR" and not indices:
        stored = _colours(stored, tags)
    image = np.moveaxis(stored, -1, 0) if stored.ndim == 3 else stored[None]
    if tags.get("PhotometricInterpretation") == "MONOCHROME1" and image.dtype.kind in "iu":
        image = sum(_stored_range(tags)) - image.astype(np.int32)
    return crop(_in_units(image, tags, frame), window)


def can_window(source: Source, key: str) -> bool:
    """Return whether a part is read without decoding all."""
    return False


def written(path: Path, image: Array, like: tuple[str, str], box: Box | None) -> bytes:
    """Return the content of a DICOM file of an image, derived from another one of the same patient.

    The slope and intercept are those of `like` if its integers can hold the values, else they span the
    values' range. Spacing and position follow the box. It gets UIDs of its own: a series of results has one.

    Args:
        like: path and key of the source.

    Raises:
        UserError: `like` is no DICOM file, or the image has neither one nor three channels.
    """
    if not like[0]:
        raise UserError(f"{path}: results are DICOM files only if the images are")
    with Source(like[0]) as source:
        if not is_dicom(source):
            raise UserError(f"{path}: results are DICOM files only if the images are, which {like[0]} is not")
        new = _dataset(source)
    if len(image) not in (1, 3):
        raise UserError(f"{path}: {len(image)} channels; DICOM images have 1 or 3. Use .tif or .npy")
    frame = int(like[1] or 0)
    slope, intercept = _rescale(new, frame)
    _place(new, frame, image, box)
    _derive(new, path, like[1])
    for name in STALE:
        if name in new:
            delattr(new, name)
    new.remove_private_tags()
    for element in [element for element in new if element.tag.group & 0xFF01 == 0x6000]:
        del new[element.tag]  # overlays
    _set_pixels(new, image, slope, intercept)
    content = BytesIO()
    # save_as() refuses files that were big-endian.
    _pydicom().dcmwrite(content, new, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return content.getvalue()


def spacing(source: Source, key: str) -> Array | None:
    """Return a matrix from (column, row, slice) to millimetres in NIfTI's coordinates, (4, 4), if known."""
    tags = _dataset(source)
    plane = _geometry(tags, int(key or 0))
    if plane is None:
        return None
    position, row, column, (down, across) = plane
    thick = float(tags.get("SpacingBetweenSlices") or tags.get("SliceThickness") or 1.0)
    matrix = np.eye(4)
    matrix[:3] = np.stack([row * across, column * down, np.cross(row, column) * thick, position], 1)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix  # DICOM's x and y point to the left and back


@cache
def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError:
        raise missing("pydicom", "a DICOM file") from None
    from pydicom.pixels import get_decoder

    for syntax in codecs.DECODER_DEPENDENCIES:
        if not get_decoder(syntax).is_available and codecs.is_available(syntax):
            get_decoder(syntax).add_plugin("imagecodecs", (codecs.__name__, "decode"))
    return pydicom


def _dataset(source: Source, tags: Sequence[str] = ()) -> "Dataset":
    """Return the elements of a file before the pixels, or only those with some names."""
    source.seek(0)
    found: Dataset = _pydicom().dcmread(
        source, stop_before_pixels=True, force=True, specific_tags=list(tags) or None
    )
    if not tags and "Rows" not in found:
        raise FormatError("a DICOM file without an image")
    return found


def _stored(source: Source, tags: "Dataset", frame: int) -> Array:
    """Decode the numbers of a frame, (H, W) or (H, W, C)."""
    pydicom = _pydicom()
    from pydicom.pixels import pixel_array
    from pydicom.uid import ImplicitVRLittleEndian

    if not 0 <= frame < _frames(tags):
        raise FormatError(f"it has no frame {frame}")
    source.seek(0)
    syntax = getattr(tags, "file_meta", {}).get("TransferSyntaxUID")
    if syntax in codecs.DECODER_DEPENDENCIES and not codecs.is_available(syntax):
        raise missing("imagecodecs", f"a DICOM file of the compression {syntax.name}")
    if syntax and not syntax.is_deflated:
        return np.asarray(pixel_array(source, index=frame))
    whole = pydicom.dcmread(source, force=True)
    if not syntax:
        whole.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return np.asarray(pixel_array(whole, index=frame))


def _frames(tags: "Dataset") -> int:
    return int(tags.get("NumberOfFrames") or 1)


def _colours(indices: Array, tags: "Dataset") -> Array:
    from pydicom.pixels import apply_color_lut

    colours = apply_color_lut(indices, tags)
    return (colours >> 8).astype(np.uint8) if colours.dtype == np.uint16 else colours


def _stored_range(tags: "Dataset") -> tuple[int, int]:
    """Return the smallest and the largest number that the stored bits can hold."""
    bits = int(tags.get("BitsStored", tags.BitsAllocated))
    return (
        (-(1 << bits - 1), (1 << bits - 1) - 1) if tags.get("PixelRepresentation") else (0, (1 << bits) - 1)
    )


def _functional(tags: "Dataset", frame: int, group: str) -> "Dataset | None":
    """Return a functional group of a frame of an enhanced multi-frame image."""
    per_frame = tags.get("PerFrameFunctionalGroupsSequence") or []
    shared = tags.get("SharedFunctionalGroupsSequence") or []
    for groups in (*per_frame[frame : frame + 1], *shared[:1]):
        if groups.get(group):
            found: Dataset = groups[group].value[0]
            return found
    return None


def _rescale(tags: "Dataset", frame: int) -> tuple[float, float]:
    """Return slope and intercept of a frame; 1 and 0 without."""
    where = _functional(tags, frame, "PixelValueTransformationSequence") or tags
    slope, intercept = where.get("RescaleSlope"), where.get("RescaleIntercept")
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def _value_type(tags: "Dataset", frame: int) -> np.dtype[Any] | None:
    """Return the type of a frame's values in units, or None if that depends on the values."""
    if "FloatPixelData" in tags or "DoubleFloatPixelData" in tags or int(tags.BitsAllocated) > 16:
        return np.dtype(np.float32)
    if tags.get("PhotometricInterpretation") == "PALETTE COLOR":
        return np.dtype(np.uint8)
    if tags.get("ModalityLUTSequence"):
        return np.dtype(np.uint16)
    slope, intercept = _rescale(tags, frame)
    low, high = _stored_range(tags)
    if (slope, intercept) == (1, 0) and low >= 0 and high < 256:
        return np.dtype(np.uint8)
    kind = rescaled_type((low, high), slope, intercept)
    is_whole = slope.is_integer() and intercept.is_integer()
    return None if kind == np.float32 and is_whole else kind


def _in_units(stored: Array, tags: "Dataset", frame: int) -> Array:
    if tags.get("PhotometricInterpretation") == "PALETTE COLOR" or stored.dtype.kind == "f":
        return stored
    kind = _value_type(tags, frame)
    if tags.get("ModalityLUTSequence"):
        from pydicom.pixels import apply_modality_lut

        return np.asarray(apply_modality_lut(stored, tags)).astype(kind)
    slope, intercept = _rescale(tags, frame)
    values = stored * slope + intercept if (slope, intercept) != (1, 0) else stored
    if kind is None:
        kind = rescaled_type((int(values.min()), int(values.max())), 1, 0)
    return values.astype(kind)


def _geometry(tags: "Dataset", frame: int) -> tuple[Array, Array, Array, tuple[float, float]] | None:
    """Return position, direction of rows and of columns, and spacing (down, across) of a frame, if known."""

    def found(group: str, name: str) -> Any:
        return (_functional(tags, frame, group) or tags).get(name)

    position = found("PlanePositionSequence", "ImagePositionPatient")
    directions = found("PlaneOrientationSequence", "ImageOrientationPatient")
    size = found("PixelMeasuresSequence", "PixelSpacing")
    if not (position and directions and size):
        return None
    row, column = np.array(directions, float).reshape(2, 3)
    return np.array(position, float), row, column, (float(size[0]), float(size[1]))


def _position(tags: "Dataset") -> float | None:
    """Return the position of an image along the normal of its plane, in mm."""
    position, directions = tags.get("ImagePositionPatient"), tags.get("ImageOrientationPatient")
    if not position or not directions or len(position) != 3 or len(directions) != 6:
        return None
    row, column = np.array(directions, float).reshape(2, 3)
    return round(float(np.cross(row, column) @ np.array(position, float)), 4)


def _place(new: "Dataset", frame: int, image: Array, box: Box | None) -> None:
    """Set position and spacing of an image that shows a box of a frame."""
    plane = _geometry(new, frame)
    (first_x, step_x), (first_y, step_y) = sampling(box, image.shape[1:], (int(new.Rows), int(new.Columns)))
    if plane is not None:
        position, row, column, (down, across) = plane
        moved = position + row * across * first_x + column * down * first_y
        new.ImagePositionPatient = [_decimal(value) for value in moved]
        new.ImageOrientationPatient = [_decimal(value) for value in (*row, *column)]
        new.PixelSpacing = [_decimal(down * step_y), _decimal(across * step_x)]
    elif new.get("PixelSpacing"):
        down, across = map(float, new.PixelSpacing)
        new.PixelSpacing = [_decimal(down * step_y), _decimal(across * step_x)]


def _decimal(value: float) -> str:
    """Return a number in the 16 characters that DICOM allows."""
    return next(text for digits in range(16, 0, -1) if len(text := f"{value:.{digits}g}") <= 16)


def _derive(new: "Dataset", path: Path, key: str) -> None:
    """Set what says that an image is derived from another one, and its UIDs, which depend on the folder."""
    from pydicom import Dataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    reference = Dataset()
    reference.ReferencedSOPClassUID = new.get("SOPClassUID", SECONDARY_CAPTURE)
    reference.ReferencedSOPInstanceUID = new.get("SOPInstanceUID", "")
    if key:
        reference.ReferencedFrameNumber = int(key) + 1
        new.InstanceNumber = int(key) + 1
        new.SOPClassUID = SINGLE_FRAME.get(str(new.get("SOPClassUID")), SECONDARY_CAPTURE)
    folder = os.path.abspath(path.parent)
    series = str(new.get("SeriesInstanceUID", ""))
    new.SOPInstanceUID = generate_uid(
        entropy_srcs=[reference.ReferencedSOPInstanceUID, key, folder, path.name]
    )
    new.SeriesInstanceUID = generate_uid(entropy_srcs=[series, folder])
    new.SourceImageSequence = [reference]
    new.ImageType = ["DERIVED", "SECONDARY", *list(new.get("ImageType") or [])[2:]]
    new.DerivationDescription = "Translated by a neural network"
    new.setdefault("SOPClassUID", SECONDARY_CAPTURE)
    new.ensure_file_meta()
    meta = new.file_meta
    meta.MediaStorageSOPClassUID = new.SOPClassUID
    meta.MediaStorageSOPInstanceUID = new.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _set_pixels(new: "Dataset", image: Array, slope: float, intercept: float) -> None:
    colours = len(image) == 3
    values = image.astype(np.float64)
    if colours:
        slope, intercept = 1.0, 0.0
    stored = (values - intercept) / slope if slope else values
    low, high = float(stored.min()), float(stored.max())
    if not (low > -32768.5 and high < (65535.5 if low >= -0.5 else 32767.5)):
        low, high = float(values.min()), float(values.max())
        # Whole numbers of 16 bits stay what they are.
        slope, intercept = 1.0 if image.dtype.kind in "iu" else (high - low) / 65535 or 1.0, low
        slope, intercept = float(_decimal(slope)), float(_decimal(intercept))
        stored = np.clip((values - intercept) / slope, 0, 65535)
        low, high = 0.0, 65535.0
    signed = low < -0.5
    kind = np.dtype(np.int16 if signed else np.uint8 if image.dtype == np.uint8 else np.uint16)
    if kind == np.uint8 and high > 255.5:
        kind = np.dtype(np.uint16)
    pixels = np.rint(stored).astype(kind)
    new.Rows, new.Columns = image.shape[1:]
    new.SamplesPerPixel = len(image)
    new.PhotometricInterpretation = "RGB" if colours else "MONOCHROME2"
    if colours:
        new.PlanarConfiguration = 0
    new.BitsAllocated = new.BitsStored = kind.itemsize * 8
    new.HighBit = new.BitsStored - 1
    new.PixelRepresentation = int(signed)
    for name, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        if name in new or (slope, intercept) != (1, 0):
            setattr(new, name, _decimal(value))
    content = np.ascontiguousarray(np.moveaxis(pixels, 0, -1)).tobytes()
    new.PixelData = content + b"\0" * (len(content) % 2)
    new["PixelData"].VR = "OB" if kind == np.uint8 else "OW"
