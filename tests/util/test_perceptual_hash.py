"""Perceptual hashes."""

import numpy as np

from util.perceptual_hash import near_duplicates


def test_images_of_one_colour_and_none_have_no_duplicates() -> None:
    images = np.zeros((3, 32, 32), np.uint8)
    assert not list(near_duplicates(images)) and not list(near_duplicates(images[:0]))
    images[1:, :, 16:] = 255
    images[2] = images[2, :, ::-1]
    assert list(near_duplicates(images)) == [(1, 2)]
