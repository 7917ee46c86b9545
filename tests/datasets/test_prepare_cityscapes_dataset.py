"""The command that makes pairs from Cityscapes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import load_command
from util.errors import UserError

prepare = load_command("datasets/prepare_cityscapes_dataset.py")

ENDINGS = {"leftImg8bit": "_leftImg8bit.png", "gtFine": "_gtFine_color.png"}


def write(folder: Path, kind: str, phase: str, name: str, level: int) -> Path:
    path = folder / kind / phase / "bonn" / f"bonn_{name}{ENDINGS[kind]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGBA" if kind == "gtFine" else "RGB", (64, 32), (level,) * 3)
    image.save(path)
    return path


def arguments(folder: Path) -> list[str]:
    flags = [word for kind in ENDINGS for word in (f"--{kind}_dir", str(folder / kind))]
    return [*flags, "--output_dir", str(folder / "out"), "--num_threads", "1"]


def test_pairs_are_written_as_the_peer_does_and_images_without_partner_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for kind, level in (("leftImg8bit", 40), ("gtFine", 200)):
        for phase, count in (("train", 2), ("val", 1)):
            for number in range(count):
                write(tmp_path, kind, phase, f"{number}", level + number)
    assert prepare.main(arguments(tmp_path)) == 0
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.jpg"))
    assert written == [
        *("test/0.jpg", "testA/0_A.jpg", "testB/0_B.jpg"),
        *("train/0.jpg", "train/1.jpg", "trainA/0_A.jpg", "trainA/1_A.jpg", "trainB/0_B.jpg"),
        "trainB/1_B.jpg",
    ]
    with Image.open(tmp_path / "out" / "train" / "1.jpg") as image:
        assert (image.size, image.mode) == ((512, 256), "RGB")
        assert set(np.unique(np.asarray(image)[:, :256])) == {41}  # the photo
        assert set(np.unique(np.asarray(image)[:, 256:])) == {201}

    alone = write(tmp_path, "gtFine", "train", "0a", 0)
    broken = write(tmp_path, "leftImg8bit", "val", "0", 0)
    broken.write_bytes(b"no image")
    assert prepare.main(arguments(tmp_path)) == 1
    assert f"{alone}: has no partner" in caplog.text
    assert f"{broken}: cannot be read as an image" in caplog.text


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--leftImg8bit_dir .*no images val/CITY"):
        prepare.main(arguments(tmp_path))
