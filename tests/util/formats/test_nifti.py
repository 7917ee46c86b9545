"""NIfTI volumes as images, made and checked by nibabel."""

from pathlib import Path

import numpy as np
import pytest

from util import formats
from util.formats import BadImage

nibabel = pytest.importorskip("nibabel")

AFFINE = np.array([[-0.0, -2, 0, 30], [1.5, 0, 0, -40], [0, 0, 3, 7], [0, 0, 0, 1]])


def numbers(*shape: int, dtype: object = np.int16) -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) * 7 % 2003 - 900).astype(dtype)


def saved(path: Path, array: np.ndarray, slope: float | None = None, inter: float = 0.0) -> str:
    image = nibabel.Nifti1Image(array, AFFINE)
    image.header.set_xyzt_units("mm")
    image.set_sform(AFFINE, 1)
    image.header.set_data_dtype(array.dtype)
    if slope is not None:
        # The numbers are stored as they are, though the header has a scale.
        image = nibabel.Nifti1Image(array * slope + inter, AFFINE)
        image.header.set_data_dtype(array.dtype)
        image.header.set_slope_inter(slope, inter)
    nibabel.save(image, path)
    return str(path)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_along_any_axis(tmp_path: Path, name: str, axis: int) -> None:
    array = numbers(5, 6, 12)
    path = saved(tmp_path / name, array)
    slices = formats.entries([path], slice_axis=axis)
    assert len(slices) == array.shape[axis]
    prefix = ("x", "y", "")[axis]
    assert slices[3] == f"{path}#{prefix}003" and formats.name_of(slices[3]) == f"x_{prefix}003"
    expected = np.take(array, 3, axis).T  # the first axis of the two goes along the rows
    for entry in (slices[3], str(slices[3])):
        assert formats.header(entry) == (1, *expected.shape, "int16")
        assert np.array_equal(formats.read(entry)[0], expected)
    assert np.array_equal(formats.read(slices[3], (1, 0, 4, 3))[0], expected[:3, 1:4])


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    array = numbers(5, 6, 3)
    for slope, inter, kind in ((0.5, -3.0, "float32"), (1.0, 0.0, "int16")):
        path = saved(tmp_path / f"{kind}.nii", array, slope, inter)
        (first, *_) = formats.entries([path])
        assert formats.header(first).dtype == kind
        expected = np.asarray(nibabel.load(path).dataobj)[:, :, 0].T
        assert np.array_equal(formats.read(first)[0], expected.astype(kind)) and expected.min() < -200
    path = saved(tmp_path / "x.nii.gz", array.astype(np.uint8), 2.0, 10.0)
    assert formats.header(formats.entries([path])[0]).dtype == "uint16"


def test_slices_of_a_large_compressed_volume(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(-2000, 2000, (90, 80, 30)).astype(np.int16)
    slices = formats.entries([saved(tmp_path / "x.nii.gz", array)])
    for number in (29, 0, 17):
        assert np.array_equal(formats.read(slices[number])[0], array[:, :, number].T)
    other = formats.entries([saved(tmp_path / "y.nii.gz", array + 1)])
    assert np.array_equal(formats.read(other[4])[0], array[:, :, 4].T + 1)


def test_a_fourth_axis_has_the_channels(tmp_path: Path) -> None:
    array = numbers(5, 6, 4, 3, dtype=np.float64)
    slices = formats.entries([saved(tmp_path / "x.nii.gz", array)])
    assert formats.header(slices[2]) == (3, 6, 5, "float32")
    assert np.array_equal(formats.read(slices[2]), array[:, :, 2].transpose(2, 1, 0))
    flat = formats.entries([saved(tmp_path / "y.nii", array[:, :, 0, 0])])
    assert np.array_equal(formats.read(flat[0])[0], array[:, :, 0, 0].T)


def test_labels_that_are_stored_as_floating_point_values(tmp_path: Path) -> None:
    array = (numbers(5, 6, 2) % 4).astype(np.float64)
    (first, _) = formats.entries([saved(tmp_path / "x.nii.gz", array)])
    indices = formats.read_indices(first)
    assert indices.dtype == np.uint8 and np.array_equal(indices, array[:, :, 0].T)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_become_the_volume_again(tmp_path: Path, name: str, axis: int) -> None:
    array = numbers(5, 6, 7)
    slices = formats.entries([saved(tmp_path / name, array)], slice_axis=axis)
    images = [formats.read(one) for one in slices]
    formats.write_volume(tmp_path / f"new_{name}", images, like=slices[0])
    new, old = nibabel.load(tmp_path / f"new_{name}"), nibabel.load(tmp_path / name)
    assert np.array_equal(np.asarray(new.dataobj), array) and new.get_data_dtype() == np.int16
    assert np.array_equal(new.affine, old.affine) and new.header["sform_code"] == old.header["sform_code"]
    assert new.header.get_xyzt_units() == old.header.get_xyzt_units()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_affine_follows_a_box(tmp_path: Path, axis: int) -> None:
    slices = formats.entries([saved(tmp_path / "x.nii", numbers(12, 10, 14))], slice_axis=axis)[2:5]
    images = [formats.read(one, (2, 4, 8, 8)).astype(np.float32) for one in slices]
    small = [image.reshape(1, 2, 2, 3, 2).mean((2, 4)) for image in images]
    formats.write_volume(tmp_path / "y.nii.gz", small, like=slices[0], box=(2, 4, 8, 8))
    new = nibabel.load(tmp_path / "y.nii.gz")
    # The middle of the first voxel is in the middle of the four that it replaces.
    voxel = np.insert([2.5, 4.5], axis, 2)
    assert np.allclose(new.affine @ [0, 0, 0, 1], AFFINE @ [*voxel, 1])
    step = np.insert([2.0, 2.0], axis, 1)
    assert np.allclose(new.affine[:3, :3], AFFINE[:3, :3] * step)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for name in ("x.nii", "x.nii.gz"):
        path = Path(saved(tmp_path / name, numbers(20, 30, 4)))
        content = path.read_bytes()
        for end in (0, 3, 200, len(content) // 2):
            path.write_bytes(content[:end])
            for entry in formats.entries([str(path)])[-1:]:
                with pytest.raises(BadImage, match=r"x\.nii"):
                    formats.read(entry)
    header = bytearray(Path(saved(tmp_path / "y.nii", numbers(4, 5, 2))).read_bytes())
    header[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    (tmp_path / "y.nii").write_bytes(header)
    (one,) = formats.entries([str(tmp_path / "y.nii")])
    with pytest.raises(BadImage, match="more than the file holds"):
        formats.read(one)
