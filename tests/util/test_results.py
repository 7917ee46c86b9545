"""Generated images in the type and units of their targets, as files that the formats' own libraries open."""

from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pydicom
import pytest
import rasterio
import tifffile
import torch
from rasterio.transform import from_origin
from torch import Tensor

from tests.util.formats.test_dicom import saved as save_dicom
from util import formats
from util.batch import Batch
from util.errors import UserError
from util.image_io import to_uint8
from util.pages.gallery import Gallery
from util.pages.native import Native
from util.parts import Part, Side, Sides, Values
from util.results import Bands, NativeFormat, in_file_type
from util.shards import Member


def part(dtype: str, low: float, high: float, channels: int = 1, name: str = "B") -> Part:
    return Part(name, "values", channels=channels, values=Values(dtype, low, high))


def natives(
    target: Part,
    stored: np.ndarray,
    path_B: str,
    kind: str = "auto",
    path_A: str = "",
    box: formats.Box | None = None,
    paired: bool = True,
    slice_axis: int = 2,
) -> dict[str, Native]:
    """Return what is written for an identity generator of a target that has these values, (C, H, W)."""
    sides = Sides(B=Side((target,)))
    real = sides.B.encode(torch.from_numpy(stored)[None], torch.float32)
    paths_A = [path_A or f"{path_B}.png"]
    batch = Batch(real, real, paths_A, [path_B], torch.tensor([0]), sides=sides, boxes=[box] if box else [])
    images = {"real_A": real[0], "fake_B": real[0], "real_B": real[0]}
    return NativeFormat(kind, slice_axis=slice_axis).natives(images, batch, 0, paired)


def gallery_of(folder: Path, *rows: dict[str, Native]) -> list[Path]:
    """Write rows into a gallery; return the files with their generated images."""
    with Gallery(folder, "title") as gallery:
        for row in rows:
            shown = {label: np.zeros((2, 2), np.uint8) for label in row}
            gallery.add("x", shown, natives=row)
    return sorted((folder / "native").iterdir())


@pytest.mark.parametrize(
    ("target", "values"),
    [
        (part("uint16", 0, 65535), np.arange(65536).reshape(1, 256, 256).astype(np.uint16)),
        (part("int16", -32768, 32767, 2), np.arange(-32768, 32768).reshape(2, 128, 256).astype(np.int16)),
        (part("uint8", 3, 250, 3), np.linspace(3, 250, 3 * 64).reshape(3, 8, 8).astype(np.uint8)),
        (part("float32", -1000, 3000, 5), np.linspace(-1000, 3000, 320).reshape(5, 8, 8).astype(np.float32)),
    ],
)
@pytest.mark.parametrize("kind", ["auto", "npy"])
def test_an_identity_gives_back_the_values_of_the_files(
    target: Part, values: np.ndarray, kind: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "b.npy", values)
    (file,) = gallery_of(tmp_path / "results", natives(target, values, str(tmp_path / "b.npy"), kind))
    assert file.name == ("x_fake_B.tif" if kind == "auto" else "x_fake_B.npy")
    found = tifffile.imread(file) if kind == "auto" else np.load(file)
    found = np.moveaxis(found, -1, 0) if found.shape[-1] == 3 and kind == "auto" else found
    assert found.dtype == values.dtype
    tolerance = 4000 * 1e-6 if values.dtype == np.float32 else 0
    assert np.abs(found.reshape(values.shape).astype(float) - values).max() <= tolerance


def test_values_beyond_the_range_are_clipped_as_metrics_clip_them() -> None:
    image = torch.tensor([-1.5, 0.0, 1.5]).view(1, 1, 3)
    assert in_file_type(part("int16", -100, 300), image).tolist() == [[[-100, 100, 300]]]


def test_rows_are_converted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    image, target = torch.rand(2, 9, 5), part("float32", 0, 10, 2)
    whole = in_file_type(target, image)
    monkeypatch.setattr("util.results.ROWS_VALUES", 21)
    assert np.array_equal(in_file_type(target, image), whole)


def test_class_maps_are_class_numbers() -> None:
    labels = Part("B", "labels", channels=3, ignore=255, values=Values("uint8"))
    one_hot = torch.cat([torch.eye(3).view(3, 1, 3), torch.zeros(3, 1, 1)], 2)
    assert in_file_type(labels, one_hot).tolist() == [[[0, 1, 2, 255]]]


def test_8_bit_results_are_native_files_only_if_asked(tmp_path: Path) -> None:
    images = {"fake_B": torch.linspace(-1, 1, 3 * 20).view(3, 4, 5), "real_A": torch.zeros(3, 4, 5)}
    batch = Batch(torch.zeros(1, 3, 4, 5), None, ["a.png"], ["a.png"], torch.tensor([0]))
    assert NativeFormat("auto").natives(images, batch, 0, paired=False) == {}
    (tif,) = NativeFormat("tif").natives(images, batch, 0, paired=False).values()
    assert np.array_equal(np.moveaxis(tif.image, 0, -1), to_uint8(images["fake_B"]))
    (file,) = gallery_of(tmp_path, NativeFormat("png16").natives(images, batch, 0, paired=False))
    wide = imagecodecs.png_decode(file.read_bytes()).transpose(2, 0, 1)
    assert wide.dtype == np.uint16 and wide.min() == 0 and wide.max() == 65535
    # A finer scale of the same levels.
    assert np.abs(wide / 257.0 - tif.image).max() <= 0.51


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        (part("int16", -1000, 3000), "png16", "16 bits hold 0 to 65535, the values of B are -1000 to 3000"),
        (part("float32", 0, 1), "png16", "it holds whole numbers, the values of B are fractions from 0 to 1"),
        (part("uint16", 0, 9, 5), "png16", "PNG files have 1 or 3 channels, B has 5"),
        (part("uint16", 0, 9), "dcm", "the header comes from a DICOM file, and b.tif is none"),
    ],
)
def test_formats_that_cannot_hold_the_values_are_refused(target: Part, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        natives(target, np.zeros((target.channels, 2, 2), target.values.dtype), "b.tif", kind)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("axis", [0, 2])
def test_slices_become_the_volume_again(suffix: str, axis: int, tmp_path: Path) -> None:
    values = np.arange(-1000, -1000 + 4 * 6 * 3 * 10, 10, dtype=np.int16).reshape(4, 6, 3)
    affine = np.array([[0, -2, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 9], [0, 0, 0, 1]], float)
    paths = []
    for folder in ("one", "two"):  # two volumes of one name
        (tmp_path / folder).mkdir()
        paths.append(str(tmp_path / folder / f"vol{suffix}"))
        nibabel.save(nibabel.Nifti1Image(values, affine), paths[-1])
    rows = []
    for entry in formats.entries(paths, slice_axis=axis):
        image = formats.read(entry)
        rows.append(natives(part("int16", -1000, 3000), image, entry, slice_axis=axis))
    rows.insert(2, rows[0])  # once more, as the partner of another image
    one, two = gallery_of(tmp_path / "results", *rows)
    assert (one.name, two.name) == (f"vol_2_fake_B{suffix}", f"vol_fake_B{suffix}")
    for file in (one, two):
        volume = nibabel.load(file)
        assert isinstance(volume, nibabel.Nifti1Image)
        assert np.array_equal(np.asarray(volume.dataobj), values) and np.allclose(volume.affine, affine)


def test_a_volume_that_lacks_slices_is_filled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "vol.nii")
    nibabel.save(nibabel.Nifti1Image(np.full((4, 6, 5), 7, np.int16), np.eye(4)), path)
    entries = formats.entries([path])[1:3]
    rows = [natives(part("int16", -50, 50), formats.read(entry), entry) for entry in entries]
    (file,) = gallery_of(tmp_path / "results", *rows)
    volume = nibabel.load(file)
    assert isinstance(volume, nibabel.Nifti1Image)
    assert np.asarray(volume.dataobj)[0, 0].tolist() == [-50, 7, 7, -50, -50]
    assert "vol_fake_B.nii: 3 of its 5 slices have no result; they are filled with -50" in caplog.text


def test_slices_that_are_cropped_differently_are_no_volume(tmp_path: Path) -> None:
    path = str(tmp_path / "vol.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 6, 2), np.int16), np.eye(4)), path)
    image = np.zeros((1, 2, 2), np.int16)
    rows = [
        natives(part("int16", 0, 9), image, "b", path_A=entry, box=(x, 0, x + 2, 2), paired=False)
        for x, entry in enumerate(formats.entries([path]))
    ]
    with pytest.raises(UserError, match="its slices are cropped at different places"):
        gallery_of(tmp_path / "results", *rows)


def geotiff(path: Path, side: int, pixel: float) -> str:
    transform = from_origin(500_000, 4_600_000, pixel, pixel)
    options: dict[str, Any] = {"driver": "GTiff", "width": side, "height": side, "count": 2}
    with rasterio.open(path, "w", dtype="uint16", crs="EPSG:32633", transform=transform, **options) as file:
        file.write(np.zeros((2, side, side), np.uint16))
    return str(path)


@pytest.mark.parametrize("paired", [True, False])
def test_georeference_is_that_of_the_target_or_of_the_translated_image(paired: bool, tmp_path: Path) -> None:
    path_A, path_B = geotiff(tmp_path / "a.tif", 8, 20.0), geotiff(tmp_path / "b.tif", 16, 10.0)
    # Columns 2 to 6 and rows 4 to 8 of A, at A's scale.
    row = natives(
        part("uint16", 0, 65535, 2),
        np.ones((2, 4, 4), np.uint16),
        path_B,
        path_A=path_A,
        box=(2, 4, 6, 8),
        paired=paired,
    )
    assert row["fake_B"].like == (path_B if paired else path_A)
    (file,) = gallery_of(tmp_path / "results", row)
    with rasterio.open(file) as result:
        assert result.crs.to_epsg() == 32633 and result.dtypes == ("uint16", "uint16")
        assert result.transform.almost_equals(from_origin(500_040, 4_599_920, 20, 20))


def test_results_of_dicom_files_are_dicom_files(tmp_path: Path) -> None:
    stored = np.arange(48, dtype=np.uint16).reshape(6, 8)
    path = save_dicom(tmp_path / "IM1", stored, RescaleSlope="2", RescaleIntercept="-1000")
    image = formats.read(path)
    row = natives(part("int16", -1000, 3000), image, path)
    (file,) = gallery_of(tmp_path / "results", row)
    result = pydicom.dcmread(file)
    assert np.array_equal(result.pixel_array * result.RescaleSlope + result.RescaleIntercept, image[0])
    assert result.SOPInstanceUID != pydicom.dcmread(path).SOPInstanceUID


@pytest.mark.parametrize("kind", ["auto", "npy", "nii"])
def test_the_files_of_a_stream_are_gone_when_results_are_written(kind: str, tmp_path: Path) -> None:
    A, B = (Member.of(f"http://host/{side}/1.nii.gz", "http://host/0.tar", "1", 0, 9) for side in "AB")
    values = np.full((1, 4, 5), 7, np.uint16)
    found = natives(part("uint16", 0, 100), values, B, kind, path_A=A, box=(0.0, 0.0, 5.0, 4.0))
    (file,) = gallery_of(tmp_path, found)
    assert (formats.read(formats.entries([str(file)])[0]) == values).all()


def test_images_made_of_noise_have_no_source(tmp_path: Path) -> None:
    sides = Sides(B=Side((part("uint16", 0, 9),)))
    name = "sample_0001"
    batch = Batch(torch.zeros(1, 1, 1, 1), None, [name], [name], torch.tensor([0]), sides=sides)
    for kind, extension in (("auto", "tif"), ("npy", "npy"), ("nii", "nii.gz")):
        row = NativeFormat(kind).natives({"fake": torch.zeros(1, 2, 2)}, batch, 0, paired=False)
        (file,) = gallery_of(tmp_path / kind, row)
        assert file.name == ("sample_0001" if kind == "nii" else "x") + f"_fake.{extension}"
    with pytest.raises(UserError, match="the header comes from a DICOM file, and sample_0001 is none"):
        NativeFormat("dcm").natives({"fake": torch.zeros(1, 2, 2)}, batch, 0, paired=False)


class Large:
    """A sample that is too large for memory."""

    height, width = 5, 5000

    def read(self, left: int, top: int, right: int, bottom: int) -> tuple[Tensor, None]:
        raise NotImplementedError


def test_large_images_are_written_in_bands_and_shown_smaller(tmp_path: Path) -> None:
    empty = torch.zeros(1, 3, 0, 0)
    batch = Batch(empty, None, ["a"], ["a"], torch.tensor([7]), scene=Large())
    image = torch.rand(3, 5, 5000) * 2 - 1
    with Bands(NativeFormat("auto"), tmp_path, batch, paired=False) as bands:
        for rows in (slice(0, 2), slice(2, 5)):
            bands.add({"fake": image[:, rows]})
    (file,) = gallery_of(tmp_path, bands.natives())
    assert file.name == "x_fake.tif" and np.array_equal(tifffile.imread(file), to_uint8(image))
    small = bands.previews()["fake"]
    assert bands.step == 3 and small.shape == (3, 2, 1667)
    assert torch.allclose(small[:, 1, 0], image[:, 3:, :3].mean((1, 2)))
    with pytest.raises(UserError, match="written in parts, as TIFF: use --format tif"):
        Bands(NativeFormat("npy"), tmp_path, batch, paired=False).add({"fake": image})


def test_several_outputs_and_both_directions_have_files_of_their_own(tmp_path: Path) -> None:
    sides = Sides(A=Side((part("int16", -5, 5),)), B=Side((part("uint16", 0, 9, name="B1"), Part("B2"))))
    path_A, path_B = (str(tmp_path / f"{side}.npy") for side in "ab")
    np.save(path_A, np.zeros((3, 3), np.int16))

    def image(*shape: int) -> Tensor:
        return torch.zeros(*shape, 3, 3)

    def found(box: formats.Box) -> dict[str, Native]:
        batch = Batch(
            image(1, 1), image(1, 4), [path_A], [path_B], torch.tensor([0]), sides=sides, boxes=[box]
        )
        images = {"fake_B": image(4), "rec_A": image(1), "fake_A": image(1), "idt_B": image(1)}
        return NativeFormat("npy").natives(images, batch, 0, paired=False)

    whole = found((0, 0, 3, 3))
    assert {label: native.like for label, native in whole.items()} == {
        "fake_B1": path_A,
        "fake_B2": path_A,
        "fake_A": path_B,
    }
    assert whole["fake_B2"].image.dtype == np.uint8 and whole["fake_A"].image.dtype == np.int16
    # Where the image of the other side was cropped is not known.
    cropped = found((0, 0, 2, 2))
    assert cropped["fake_B1"].box == (0, 0, 2, 2) and cropped["fake_A"].like == ""
