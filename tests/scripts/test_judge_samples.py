"""Classes and distances of generated images as the classifier sees them."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts import judge_samples
from util.errors import UserError
from util.seeding import numpy_rng


def gallery(folder: Path, labels: list[int], name: str = "{number:03d}_fake.png") -> Path:
    """Save noise images, dark for class 0 and light for class 1."""
    for number, label in enumerate(labels):
        path = folder / name.format(number=number, label=label)
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = numpy_rng("judged", number, label).integers(0, 50, (8, 8, 3)) + 200 * label
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def test_a_missing_class_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    root = gallery(tmp_path / "real", [0, 1] * 80, "class{label}/{number}.png")
    galleries = {
        name: gallery(tmp_path / name / "images", labels).parent
        for name, labels in {"both": [0, 1] * 40, "light": [1] * 80}.items()
    }
    flags = ["--dataroot", str(root), "--size", "8", "--steps", "20", "--by_class"]
    assert judge_samples.main([*flags, *map(str, galleries.values())]) == 0
    text = "\n".join(caplog.messages)
    pattern = r"/{} +80 +([\d.]+)  (.*) \(.*\n([\d.]+)%"
    both, light = (re.search(pattern.format(name), text) for name in galleries)
    assert both and light
    assert (both[2], both[3]) == ("50.0 50.0", "100.0")
    assert (light[2], light[3]) == ("0.0 100.0", "50.0")
    assert float(light[1]) > 10 * float(both[1])


def test_unusable_images_are_refused(tmp_path: Path) -> None:
    root = gallery(tmp_path / "real", [0, 1] * 4, "class{label}/{number}.png")
    few = gallery(tmp_path / "few" / "images", [0] * 5).parent
    with pytest.raises(UserError, match="few: 5 images"):
        judge_samples.main(["--dataroot", str(root), str(few)])
    with pytest.raises(UserError, match="the images have no classes to learn"):
        judge_samples.main(["--dataroot", str(few / "images"), str(few)])
