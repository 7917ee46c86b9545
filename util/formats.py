"""Read image files at their own depth. A first form: the package util/formats replaces this file."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from util.image_io import EXTENSIONS as IMAGE_EXTENSIONS

EXTENSIONS = (*IMAGE_EXTENSIONS, ".npy", ".npz")


class Header(NamedTuple):
    channels: int
    height: int
    width: int
    dtype: str


def read(path: str) -> NDArray[Any]:
    if path.endswith(".npy"):
        array = np.load(path)
    elif path.endswith((".tif", ".tiff")):
        import tifffile

        array = tifffile.imread(path)
    else:
        array = np.asarray(Image.open(path))
        if array.dtype == np.int32:
            array = array.astype(np.uint16)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    if array.ndim == 2:
        return array[None]
    return array.transpose(2, 0, 1) if array.shape[2] < array.shape[0] else array


def read_indices(path: str) -> NDArray[Any]:
    if path.endswith(".png"):
        array = np.asarray(Image.open(path))
        return array if array.ndim == 2 else array[..., 0]
    return read(path)[0]


def header(path: str) -> Header:
    array = read(path)
    return Header(array.shape[0], array.shape[1], array.shape[2], array.dtype.name)


def entries(paths: Sequence[str], tiff_pages: str = "samples", slice_axis: int = 2) -> list[str]:
    return list(paths)


def stem(name: str) -> str:
    return os.path.splitext(name)[0]
