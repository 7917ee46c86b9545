"""Procedural façades: repeatable, and learnable from their labels."""

import numpy as np

from data import facades

SIZE = 64


def halves(seed: int, number: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    pair = np.asarray(facades.draw_pair(size, seed, "train", number))
    return pair[:, :size], pair[:, size:]


def under(labels: np.ndarray, *names: str) -> np.ndarray:
    return np.any([np.all(labels == facades.LABEL_COLOURS[name], axis=-1) for name in names], axis=0)


def test_splits_numbers_and_seeds_give_different_images() -> None:
    keys = [(seed, split, number) for seed in (0, 1) for split in facades.SPLITS for number in (1, 2)]
    assert len({facades.draw_pair(SIZE, *key).tobytes() for key in keys}) == len(keys)


def test_labels_use_exactly_the_documented_colours() -> None:
    labels = np.concatenate([halves(0, number)[1] for number in range(1, 25)])
    seen = {tuple(colour) for colour in np.unique(labels.reshape(-1, 3), axis=0).tolist()}
    assert seen == set(facades.LABEL_COLOURS.values())
    assert len(seen) == len(facades.LABEL_COLOURS)


def test_photo_follows_its_labels() -> None:
    pairs = [halves(0, number) for number in range(1, 25)]
    for name, finish in facades.FINISHES.items():
        walls = [photo[under(labels, name)] for photo, labels in pairs if under(labels, name).any()]
        assert np.abs(np.median(np.concatenate(walls), axis=0) - finish[0]).max() < 30
    for photo, labels in pairs:
        wall, window = photo[under(labels, *facades.FINISHES)], photo[under(labels, "window")]
        red, _, blue = (window.mean(axis=0) - wall.mean(axis=0)).tolist()
        assert blue > red + 3  # glass reflects the sky, whatever the wall is made of


def test_label_edges_agree_with_photo_edges() -> None:
    for number in range(1, 5):
        photo, labels = halves(0, number, 128)
        edges = np.any(labels[:, 1:] != labels[:, :-1], axis=-1)
        steps = np.abs(np.diff(photo.astype(int), axis=1)).mean(axis=-1)
        assert steps[edges].mean() > 3 * steps[~edges].mean()
