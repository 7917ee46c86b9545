"""Arrays of NumPy as images."""

from pathlib import Path

import numpy as np
import pytest

from util import formats
from util.formats import BadImage
from util.image_limits import MAX_IMAGE_GB, set_max_image_gb
from util.shards import Member


def numbers(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) * 7 % 101).astype(dtype)


def saved(path: Path, array: np.ndarray) -> str:
    np.save(path, array, allow_pickle=True)
    return str(path)


@pytest.mark.parametrize(
    ("shape", "channels"), [((6, 9), 1), ((1, 6, 9), 1), ((6, 9, 4), 4), ((4, 6, 9), 4), ((6, 9, 1), 1)]
)
def test_the_shortest_axis_has_the_channels(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    array = numbers(*shape)
    path = saved(tmp_path / "x.npy", array)
    assert formats.header(path) == (channels, 6, 9, "float32")
    image = formats.read(path)
    expected = np.moveaxis(array, -1, 0) if shape[-1] < 6 else array.reshape(channels, 6, 9)
    assert np.array_equal(image, expected) and image.flags.writeable
    assert np.array_equal(formats.read(path, (2, 1, 7, 5)), expected[:, 1:5, 2:7])
    formats.write(tmp_path / "y.npy", image, like=path)
    assert np.array_equal(np.load(tmp_path / "y.npy"), array)


@pytest.mark.parametrize("shape", [(5, 5, 5), (3, 8, 3), (7, 2, 6), (4,), (2, 3, 4, 5)])
def test_an_array_whose_axes_are_not_clear_is_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = saved(tmp_path / "x.npy", numbers(*shape))
    for use in (formats.header, formats.read):
        with pytest.raises(BadImage, match=r"x\.npy: .*an array of shape"):
            use(path)


@pytest.mark.parametrize(
    ("dtype", "read"),
    [
        *(("uint8", "uint8"), (">u2", "uint16"), ("int16", "int16"), ("int8", "int16"), ("<i4", "float32")),
        *(("float64", "float32"), ("float16", "float32"), ("uint32", "float32"), ("bool", "uint8")),
    ],
)
def test_types_become_one_of_four(tmp_path: Path, dtype: str, read: str) -> None:
    array = numbers(5, 6, dtype=dtype)
    path = saved(tmp_path / "x.npy", array)
    image = formats.read(path)
    assert image.dtype == read == formats.header(path).dtype and image.dtype.isnative
    assert np.array_equal(image[0], array * 255 if dtype == "bool" else array)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 5), complex), "complex numbers are no image"),
        (np.array([[object()]]), "type object are no image"),
        (np.array([["a", "b"]]), "are no image"),
        (np.zeros((0, 5)), "no pixels"),
    ],
)
def test_what_is_no_image_is_named_and_never_unpickled(
    tmp_path: Path, array: np.ndarray, reason: str
) -> None:
    with pytest.raises(BadImage, match=reason):
        formats.read(saved(tmp_path / "x.npy", array))


def test_files_that_end_early_or_claim_much(tmp_path: Path) -> None:
    path = Path(saved(tmp_path / "x.npy", numbers(50, 60)))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadImage, match="cut off"):
        formats.read(str(path))
    huge = Path(saved(tmp_path / "y.npy", numbers(5, 6)))
    huge.write_bytes(huge.read_bytes().replace(b"(5, 6)", b"(99999, 99999)"[:14]).replace(b" " * 8, b"", 1))
    with pytest.raises(BadImage, match="exceeds --max_image_gb"):
        formats.read(str(huge))


def test_a_window_of_an_array_larger_than_the_limit(tmp_path: Path) -> None:
    array = numbers(200, 300, 3, dtype=np.uint16)
    path = saved(tmp_path / "x.npy", array)
    set_max_image_gb(1e-4)
    try:
        with pytest.raises(BadImage, match="exceeds --max_image_gb"):
            formats.read(path)
        assert formats.can_window(path)
        assert np.array_equal(formats.read(path, (9, 20, 30, 25)), array[20:25, 9:30].transpose(2, 0, 1))
    finally:
        set_max_image_gb(MAX_IMAGE_GB)


def test_an_archive_has_one_array_or_the_path_names_it(tmp_path: Path) -> None:
    one, several = tmp_path / "one.npz", tmp_path / "several.npz"
    first, second = numbers(4, 6, dtype=np.int16), numbers(3, 5, 8)
    np.savez(one, first)
    np.savez_compressed(several, ct=first, mr=second)
    assert np.array_equal(formats.read(str(one))[0], first)
    with pytest.raises(BadImage, match=r"2 arrays in it: ct, mr; several\.npz:ct names one"):
        formats.read(str(several))
    with pytest.raises(BadImage, match="no array xx in it, but ct, mr"):
        formats.header(f"{several}:xx")
    assert formats.header(f"{several}:mr") == (3, 5, 8, "float32")
    assert np.array_equal(formats.read(f"{several}:mr", (1, 2, 4, 5)), second[:, 2:5, 1:4])
    assert formats.name_of(f"{several}:mr") == "several_mr" and formats.name_of(str(one)) == "one"


def test_an_array_in_a_shard(tmp_path: Path) -> None:
    array = numbers(4, 6, dtype=np.uint16)
    path = saved(tmp_path / "x.npy", array)
    shard = tmp_path / "x.tar"
    content = Path(path).read_bytes()
    shard.write_bytes(b"?" * 512 + content)
    member = Member.of(str(tmp_path / "elsewhere" / "x.npy"), str(shard), "x.npy", 512, len(content))
    assert formats.entries([member]) == [member]
    assert np.array_equal(formats.read(member)[0], array)
    assert np.array_equal(formats.read(member, (1, 1, 3, 2))[0], array[1:2, 1:3])


def test_whole_numbers_of_any_type_are_classes(tmp_path: Path) -> None:
    for array, kind in (
        (np.array([[0, 1], [1, 0]], bool), "uint8"),
        (np.array([[0, 40000]], np.int64), "uint16"),
        (np.array([[-1, 12]], np.int64), "int16"),
        (np.array([[0.0, 3.0]]), "uint8"),
    ):
        indices = formats.read_indices(saved(tmp_path / "x.npy", array))
        assert indices.dtype == kind and np.array_equal(indices, array)
    with pytest.raises(BadImage, match="not whole"):
        formats.read_indices(saved(tmp_path / "x.npy", np.array([[0.5, 1]])))
