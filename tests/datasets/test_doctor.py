"""The command that looks for what is wrong with a data set names each planted fault, and no good file."""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageChops

from data.doctor.alignment import align
from data.facades import draw_pair
from tests.support.commands import load_command
from util.errors import UserError
from util.seeding import numpy_rng

doctor = load_command("datasets/doctor.py")

SIZE = 64


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of façades side by side: 14 for training, 6 for validation."""
    folder = tmp_path_factory.mktemp("facades")
    for phase, count in (("train", 14), ("val", 6)):
        (folder / phase).mkdir()
        for number in range(count):
            draw_pair(SIZE, 0, phase, number).save(folder / phase / f"{number:02d}.png")
    return folder


@pytest.fixture
def facades(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "facades"))


class Report:
    """What the command says of a data set."""

    def __init__(self, folder: Path, caplog: pytest.LogCaptureFixture, *flags: str):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            self.status = doctor.main([str(folder), "--num_threads", "1", *flags])
        self.lines = [record.getMessage() for record in caplog.records]
        self.text = "\n".join(self.lines)

    def of(self, level: str) -> list[str]:
        return [line for line in self.lines if line.startswith(f"{level} ")]

    def names(self, level: str, name: str, what: str) -> bool:
        return any(re.search(f"{name}: .*{what}", line) for line in self.of(level))


def halves(path: Path) -> tuple[Image.Image, Image.Image]:
    image = Image.open(path)
    return image.crop((0, 0, SIZE, SIZE)), image.crop((SIZE, 0, 2 * SIZE, SIZE))


def join(A: Image.Image, B: Image.Image, path: Path) -> None:
    pair = Image.new("RGB", (A.width + B.width, A.height))
    pair.paste(A, (0, 0))
    pair.paste(B, (A.width, 0))
    pair.save(path)


def write_values(folder: Path, dtype: str, low: float, high: float, channels: int = 1) -> None:
    """Write eight smooth random images in two folders as .npy: B is A with another scale."""
    for number in range(8):
        coarse = numpy_rng("values", number).random((16, 16, channels))
        image = np.kron(coarse, np.ones((4, 4, 1)))
        for side, scale in (("A", 1.0), ("B", 0.5)):
            path = folder / f"train{side}" / f"{number}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, (low + (high - low) * scale * image).astype(dtype))


def write_png(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_good_pairs_have_no_faults_and_get_flags(facades: Path, caplog: pytest.LogCaptureFixture) -> None:
    report = Report(facades, caplog)
    assert report.status == 0 and not report.of("fault") and not report.of("warning")
    assert "train 14, val 6" in report.text and "20 images, 64 x 64, channels 3, uint8" in report.text
    assert "--model pix2pix --direction BtoA --load_size 72 --crop_size 64" in report.text


def test_planted_faults_in_pairs_are_named(facades: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, val = facades / "train", facades / "val"
    A, B = halves(train / "00.png")
    join(A, ImageChops.offset(B, 6, 0), train / "00.png")
    join(*reversed(halves(train / "01.png")), train / "01.png")
    A, B = halves(train / "02.png")
    join(A.resize((56, 56)).resize((64, 64)), B, val / "99.jpg")
    content = (train / "03.png").read_bytes()
    (train / "03.png").write_bytes(content[: len(content) // 2])
    Image.fromarray(np.asarray(Image.open(train / "04.png").convert("L")).astype(np.uint16) * 257).save(
        train / "04.png"
    )
    Image.open(train / "05.png").convert("L").save(train / "05.png")
    Image.open(train / "06.png").resize((20, 10)).save(train / "06.png")
    Image.open(train / "07.png").crop((0, 0, 64, 64)).save(train / "07.png")
    Image.new("RGB", (128, 64), (255, 0, 200)).save(train / "08.png")
    A, B = halves(train / "09.png")
    join(A, B.transpose(Image.Transpose.FLIP_TOP_BOTTOM), train / "09.png")
    (train / "lfs.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    (train / "Thumbs.db").write_text("")
    transparent = Image.open(val / "00.png").convert("RGBA")
    transparent.putalpha(99)
    transparent.save(val / "00.png")

    report = Report(facades, caplog)
    assert report.status == 1
    faults = {
        "00.png": "shifted against A by 6 pixels to the right",
        "01.png": "its A looks like the B",
        "99.jpg": r"nearly the same image as .*train/02\.png",
        "03.png": "truncated",
        "04.png": "uint16 values",
        "06.png": "10 x 10 pixels",
        "07.png": "its halves are 32 x 64",
        "08.png": "one colour",
        "09.png": "B is upside down",
        "lfs.png": "git lfs pull",
    }
    for name, what in faults.items():
        assert report.names("fault", name, what), f"{name}: {what}\n{report.text}"
    assert report.names("warning", "05.png", "grey image among colour")
    assert report.names("warning", "00.png", "transparent")
    assert "Thumbs.db" in report.text
    good = {f"{number}.png" for number in range(10, 14)}
    assert not [line for line in report.of("fault") if line.split(": ")[0].split("/")[-1] in good]


def test_partners_and_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(6):
        A, B = (half.resize((64, 64)) for half in halves_of(number))
        for side, image in (("A", A), ("B", B)):
            (tmp_path / f"train{side}").mkdir(exist_ok=True)
            image.save(tmp_path / f"train{side}" / f"{number}.png")
    (tmp_path / "trainA" / "0.png").rename(tmp_path / "trainA" / "0.PNG.png")
    (tmp_path / "trainB" / "1.png").unlink()
    Image.open(tmp_path / "trainB" / "2.png").resize((64, 60)).save(tmp_path / "trainB" / "2.png")
    Image.open(tmp_path / "trainA" / "3.png").save(tmp_path / "trainA" / "3.jpg")
    report = Report(tmp_path, caplog)
    assert report.names("fault", "trainA/1.png", "trainB has no file of this name")
    assert report.names("fault", "trainB/0.png", "trainA has no file")
    assert report.names("fault", "trainB/2.png", "64 x 60, but its partner .*2.png is 64 x 64")
    assert report.names("fault", "3.(png|jpg)", "has the name of")


def halves_of(number: int) -> tuple[Image.Image, Image.Image]:
    pair = draw_pair(SIZE, 1, "train", number)
    return pair.crop((0, 0, SIZE, SIZE)), pair.crop((SIZE, 0, 2 * SIZE, SIZE))


def test_values_of_floating_point_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_values(tmp_path, "float32", -1000, 3000)
    report = Report(tmp_path, caplog)
    assert report.status == 0
    assert "--input_nc 1 --input_range -1000,3000 --output_nc 1 --output_range -1000,1000" in report.text

    image = np.load(tmp_path / "trainA" / "1.npy")
    image[3:5, 7] = np.nan
    np.save(tmp_path / "trainA" / "1.npy", image)
    np.save(tmp_path / "trainB" / "2.npy", np.load(tmp_path / "trainB" / "2.npy") * 100)
    np.save(tmp_path / "trainA" / "3.npy", np.concatenate([np.load(tmp_path / "trainA" / "3.npy")] * 2, 2))
    np.save(tmp_path / "trainA" / "4.npy", np.load(tmp_path / "trainA" / "4.npy").astype(np.int16))
    report = Report(tmp_path, caplog)
    assert report.names("fault", "trainA/1.npy", "2 of its 4096 values are NaN")
    assert report.names("fault", "trainB/2.npy", "values from")
    assert report.names("fault", "trainA/3.npy", "2 channels, other files of A have 1")
    assert report.names("fault", "trainA/4.npy", "int16 values")


def test_twelve_bits_in_sixteen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_values(tmp_path, "uint16", 0, 4000, channels=5)
    report = Report(tmp_path, caplog)
    assert "--input_nc 5 --input_range 0,4095" in report.text and "12 bits in 16" in report.text


def test_label_maps_and_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(6):
        classes = numpy_rng("labels", number).integers(0, 5, (8, 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        image = numpy_rng("image", number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        write_png(tmp_path / "train_label" / f"{number}.png", classes)
        write_png(tmp_path / "train_img" / f"{number}.png", image)
        write_png(tmp_path / "trainM" / f"{number}.png", np.where(classes > 2, 255, 0).astype(np.uint8))
    report = Report(tmp_path, caplog)
    assert report.status == 0 and "--label_nc 5" in report.text and "--mask true" in report.text

    wrong = np.asarray(Image.open(tmp_path / "train_label" / "1.png")).copy()
    wrong[9, 4] = 99
    write_png(tmp_path / "train_label" / "1.png", wrong)
    write_png(tmp_path / "trainM" / "2.png", np.zeros((64, 64), np.uint8))
    for flags in ([], ["--label_nc", "5"]):
        report = Report(tmp_path, caplog, *flags)
        assert report.status == 1
        assert report.names("fault", "train_label/1.png", r"class number 99 in 1 pixel, first at \(4, 9\)")
        assert report.names("fault", "trainM/2.png", "empty")
        assert len(report.of("fault")) == 2
    assert Report(tmp_path, caplog, "--label_nc", "4").names("fault", "train_label/0.png", "--label_nc is 4")
    Image.open(tmp_path / "train_label" / "3.png").save(tmp_path / "train_label" / "3.jpg")
    (tmp_path / "train_label" / "3.png").unlink()
    assert Report(tmp_path, caplog).names("fault", "train_label/3.jpg", "a label map as JPEG")


def test_unpaired_folders_and_one_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(5):
        A, B = halves_of(number)
        for image, path in (
            (A, f"trainA/a{number}.png"),
            (B, f"trainB/b{number}.png"),
            (A, f"one/{number}.png"),
        ):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            image.save(tmp_path / path)
    report = Report(tmp_path, caplog)
    assert report.status == 0 and "--model cycle_gan" in report.text
    report = Report(tmp_path / "one", caplog)
    assert report.status == 0 and "single; samples: in all 5" in report.text


def test_page_shows_the_images(facades: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (128, 64)).save(facades / "train" / "08.png")
    Report(facades, caplog, "--html", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert "1 fault, " in page and "all pixels are 0" in page and page.count("data:image/") > 10
    assert "<svg" in page and "--direction" in page


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        doctor.main([str(tmp_path / "absent")])
    (tmp_path / "A" / "train").mkdir(parents=True)
    (tmp_path / "B" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="combine_A_and_B"):
        doctor.main([str(tmp_path)])


@pytest.mark.parametrize(
    ("change", "shift"),
    [("", (0, 0)), ("", (12, 0)), ("", (-8, 16)), ("upside down", (0, 0)), ("scaled by 1.1", (0, 0))],
)
def test_alignment_of_images_of_two_kinds(change: str, shift: tuple[int, int]) -> None:
    pair = np.asarray(draw_pair(128, 0, "train", 3)).transpose(2, 0, 1)
    A, B = pair[:, :, :128], np.roll(pair[:, :, 128:], shift[::-1], (1, 2))
    if change == "upside down":
        B = B[:, ::-1]
    elif change:
        image = Image.fromarray(B.transpose(1, 2, 0)).resize((141, 141)).crop((6, 6, 134, 134))
        B = np.asarray(image).transpose(2, 0, 1)
    found = align(A, B)
    assert found is not None and found.change == change
    assert found.shift == pytest.approx((shift[0] / 128, shift[1] / 128), abs=0.009)
