"""DICOM files as images, made and checked by pydicom."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from util import formats
from util.errors import UserError
from util.formats import BadImage, codecs
from util.shards import Member

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid  # noqa: E402

SERIES, STUDY = generate_uid(entropy_srcs=["series"]), generate_uid(entropy_srcs=["study"])


def saved(path: Path, pixels: np.ndarray, compress: bool = False, **tags: Any) -> str:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=[path.name])
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.PatientID = SERIES, STUDY, "P"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        ds.NumberOfFrames = len(pixels)
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.HighBit = ds.BitsStored - 1
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    if compress:
        ds.compress(RLELossless)
    ds.save_as(path, enforce_file_format=True)
    return str(path)


def numbers(*shape: int, dtype: Any = np.uint16, most: int = 4095) -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) * 37 % (most + 1)).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "tags", "read"),
    [
        ("uint16", {"BitsStored": 12, "RescaleSlope": 1, "RescaleIntercept": -1024}, "int16"),
        ("int16", {"RescaleSlope": 1, "RescaleIntercept": -1024}, "int16"),  # the values fit, all bits not
        ("uint16", {"BitsStored": 12, "RescaleSlope": 1, "RescaleIntercept": 0}, "uint16"),
        ("int16", {}, "int16"),
        ("uint8", {}, "uint8"),
        ("uint16", {"BitsStored": 12, "RescaleSlope": 2, "RescaleIntercept": 0}, "uint16"),
        ("uint16", {"BitsStored": 12, "RescaleSlope": "0.5", "RescaleIntercept": 1}, "float32"),
        ("uint16", {"RescaleSlope": 100, "RescaleIntercept": 0}, "float32"),
    ],
)
@pytest.mark.parametrize("compress", [False, True])
def test_values_are_in_units_of_the_modality(
    tmp_path: Path, dtype: str, tags: dict[str, Any], read: str, compress: bool
) -> None:
    stored = numbers(5, 7, dtype=dtype, most=255 if dtype == "uint8" else 4095)
    path = saved(tmp_path / "x.dcm", stored, compress, **tags)
    slope, intercept = float(tags.get("RescaleSlope", 1)), float(tags.get("RescaleIntercept", 0))
    image = formats.read(path)
    assert formats.header(path) == (1, 5, 7, read) and image.dtype == read
    assert np.array_equal(image[0], (stored * slope + intercept).astype(read))
    assert np.array_equal(formats.read(path, (1, 2, 6, 4)), image[:, 2:4, 1:6])


@pytest.mark.parametrize("syntax", ["JPEGLosslessSV1", "JPEGLSLossless"])
def test_lossless_jpeg(tmp_path: Path, syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    stored = numbers(40, 50)
    path = saved(tmp_path / "x.dcm", stored, BitsStored=12, RescaleSlope=1, RescaleIntercept=-1024)
    encode = imagecodecs.jpegls_encode if "LS" in syntax else imagecodecs.ljpeg_encode
    ds = pydicom.dcmread(path)
    ds.PixelData = pydicom.encaps.encapsulate([bytes(encode(stored))])
    ds.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    ds.save_as(path)
    assert np.array_equal(formats.read(path)[0], stored.astype(int) - 1024)
    monkeypatch.setattr(codecs, "is_available", lambda uid: False)
    with pytest.raises(UserError, match=r"needs the package imagecodecs.*requirements-science\.txt"):
        formats.read(path)


def test_a_series_is_in_the_order_of_positions(tmp_path: Path) -> None:
    heights = [30.0, -10.0, 10.0, 0.0]
    paths = [
        saved(
            tmp_path / f"{name}.dcm",
            numbers(4, 5),
            ImagePositionPatient=[1, 2, height],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            InstanceNumber=number,
        )
        for number, (name, height) in enumerate(zip("abcd", heights, strict=True))
    ]
    other = saved(tmp_path / "0.dcm", numbers(4, 5), SeriesInstanceUID="1.2.3")
    assert formats.entries([other, *paths]) == [other, *(paths[at] for at in (1, 3, 2, 0))]
    for number, path in enumerate(paths):
        saved(Path(path), numbers(4, 5), InstanceNumber=9 - number)
    assert formats.entries(paths) == paths[::-1]


def test_frames_are_samples(tmp_path: Path) -> None:
    stored = numbers(12, 4, 5)
    path = saved(tmp_path / "x.dcm", stored)
    frames = formats.entries([path])
    assert len(frames) == 12 and formats.name_of(frames[3]) == "x_003"
    assert np.array_equal(formats.read(frames[11])[0], stored[11])


def test_enhanced_frames_have_values_and_places_of_their_own(tmp_path: Path) -> None:
    groups = []
    for number in range(2):
        value, position, group = Dataset(), Dataset(), Dataset()
        value.RescaleSlope, value.RescaleIntercept = number + 1, -10
        position.ImagePositionPatient = [0, 0, 5 * number]
        group.PixelValueTransformationSequence, group.PlanePositionSequence = [value], [position]
        groups.append(group)
    shared, size, plane = Dataset(), Dataset(), Dataset()
    size.PixelSpacing, plane.ImageOrientationPatient = [2, 2], [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [size], [plane]
    stored = numbers(2, 4, 5)
    path = saved(
        tmp_path / "x.dcm",
        stored,
        BitsStored=12,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1",
        PerFrameFunctionalGroupsSequence=groups,
        SharedFunctionalGroupsSequence=[shared],
    )
    second = formats.entries([path])[1]
    assert np.array_equal(formats.read(second)[0], stored[1].astype(int) * 2 - 10)
    formats.write(tmp_path / "y.dcm", formats.read(second), like=second)
    new = pydicom.dcmread(tmp_path / "y.dcm")
    assert new.SOPClassUID == CTImageStorage and new.ImagePositionPatient == [0, 0, 5]
    assert np.array_equal(new.pixel_array * new.RescaleSlope + new.RescaleIntercept, formats.read(second)[0])


def test_inverted_grey_is_turned_and_colours_are_rgb(tmp_path: Path) -> None:
    stored = numbers(4, 5)
    path = saved(tmp_path / "x.dcm", stored, BitsStored=12, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(formats.read(path)[0], 4095 - stored)
    colours = numbers(4, 5, 3, dtype=np.uint8, most=255)
    path = saved(
        tmp_path / "y.dcm",
        colours.reshape(4, 15),
        Columns=5,
        SamplesPerPixel=3,
        PlanarConfiguration=0,
        PhotometricInterpretation="RGB",
    )
    assert formats.header(path) == (3, 4, 5, "uint8")
    assert np.array_equal(formats.read(path), colours.transpose(2, 0, 1))


def test_results_open_in_pydicom(tmp_path: Path) -> None:
    stored = numbers(6, 8)
    source = saved(
        tmp_path / "x.dcm",
        stored,
        BitsStored=12,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        PixelSpacing=[2, 0.5],
        ImagePositionPatient=[10, 20, 30],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
    )
    image = formats.read(source)
    out = tmp_path / "results"
    out.mkdir()
    formats.write(out / "x.dcm", image[:, 2:6, 2:8][:, ::2, ::2], like=source, box=(2, 2, 8, 6))
    new, old = pydicom.dcmread(out / "x.dcm"), pydicom.dcmread(source)
    values = new.pixel_array * float(new.RescaleSlope) + float(new.RescaleIntercept)
    assert np.array_equal(values, image[0, 2:6:2, 2:8:2]) and (new.RescaleSlope, new.RescaleIntercept) == (
        1,
        -1024,
    )
    assert new.PixelSpacing == [4, 1] and new.ImagePositionPatient == [11.25, 25, 30]
    assert new.SOPInstanceUID != old.SOPInstanceUID and new.SeriesInstanceUID != old.SeriesInstanceUID
    assert new.StudyInstanceUID == old.StudyInstanceUID and new.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
    assert new.SourceImageSequence[0].ReferencedSOPInstanceUID == old.SOPInstanceUID
    formats.write(out / "y.dcm", image, like=source)
    assert pydicom.dcmread(out / "y.dcm").SeriesInstanceUID == new.SeriesInstanceUID
    wide = (image * 1000).astype(np.float32)  # beyond 16 bits with a slope of 1
    formats.write(out / "z.dcm", wide, like=source)
    again = formats.read(str(out / "z.dcm"))
    assert np.abs(again - wide).max() <= (wide.max() - wide.min()) / 65535 * 0.51
    whole = np.array([[[-32768, 32767]]], np.int16)  # beyond 16 bits with an intercept of -1024
    formats.write(out / "z.dcm", whole, like=source)
    np.testing.assert_array_equal(formats.read(str(out / "z.dcm")), whole)
    with pytest.raises(UserError, match="only if the images are"):
        formats.write(out / "z.dcm", whole)
    with pytest.raises(UserError, match="1 or 3"):
        formats.write(out / "z.dcm", np.repeat(image, 5, 0), like=source)


@pytest.mark.parametrize("syntax", ["DeflatedExplicitVRLittleEndian", "ExplicitVRBigEndian"])
def test_rare_encodings_are_read_and_written(tmp_path: Path, syntax: str) -> None:
    ds = pydicom.dcmread(saved(tmp_path / "x.dcm", numbers(4, 5), RescaleSlope=1, RescaleIntercept=-1024))
    ds.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    big = syntax.endswith("BigEndian")
    if big:
        ds.PixelData = numbers(4, 5).astype(">u2").tobytes()
    pydicom.dcmwrite(tmp_path / "y.dcm", ds, implicit_vr=False, little_endian=not big)
    image = formats.read(str(tmp_path / "y.dcm"))
    assert np.array_equal(image[0], numbers(4, 5).astype(int) - 1024)
    formats.write(tmp_path / "z.dcm", image, like=str(tmp_path / "y.dcm"))
    assert np.array_equal(pydicom.dcmread(tmp_path / "z.dcm").pixel_array, numbers(4, 5))


def test_files_are_found_without_an_extension(tmp_path: Path) -> None:
    for name in ("IM000001", "1.2.840.113619.2"):
        path = saved(tmp_path / name, numbers(4, 5))
        assert formats.is_image_file(path) and formats.name_of(path) == name
        assert formats.header(path) == (1, 4, 5, "uint16")
    (tmp_path / "README").write_text("DICM " * 100)
    for name in ("DICOMDIR", ".hidden", "README", "absent", "x.txt"):
        if not (tmp_path / name).exists():
            (tmp_path / name).write_bytes(Path(path).read_bytes() if name != "absent" else b"")
        assert not formats.is_image_file(str(tmp_path / name))


def test_files_in_shards_are_read(tmp_path: Path) -> None:
    file = Path(saved(tmp_path / "a.dcm", numbers(4, 5)))
    member = Member.of("data/a.dcm", str(file), "a.dcm", 0, file.stat().st_size)
    assert formats.header(member) == (1, 4, 5, "uint16")
    np.testing.assert_array_equal(formats.read(member)[0], numbers(4, 5))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = Path(saved(tmp_path / "x.dcm", numbers(40, 50), RescaleSlope=2))
    content = path.read_bytes()
    for part in (b"", content[:100], content[:200], content[:-500], b"x" * 5000):
        path.write_bytes(part)
        assert formats.entries([str(path)]) == [str(path)]
        with pytest.raises(BadImage, match=r"x\.dcm"):
            formats.read(str(path))
    saved(path, numbers(4, 5), Rows=60000, Columns=60000)
    with pytest.raises(BadImage, match="exceeds --max_image_gb"):
        formats.read(str(path))
