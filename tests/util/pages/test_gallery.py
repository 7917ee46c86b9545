"""The gallery of results: files on disk, safe names, a page that only grows, gallery.json."""

import errno
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.environment import ROOT
from util.errors import UserError
from util.files import NAME_MAX
from util.image_io import save_image
from util.metrics.summary import Summary
from util.pages.gallery import About, Gallery
from util.pages.native import Native
from util.pages.page import PARTS, STATIC

ODD_NAME = "<b>&\"'#% ?ü;<script>alert(1)<h2>.png"


class Reader(HTMLParser):
    """Collects the elements of a page with their attributes, and its text outside of style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:
            self.texts.append(data)

    def values(self, tag: str, attribute: str) -> list[str]:
        return [attributes.get(attribute) or "" for name, attributes in self.elements if name == tag]


def draw_image(level: int = 0, height: int = 6, width: int = 8) -> NDArray[np.uint8]:
    return np.full((height, width, 3), level, np.uint8)


def read(folder: Path) -> Reader:
    return Reader((folder / "index.html").read_text("utf-8"))


def saved(folder: Path) -> set[str]:
    return {path.name for path in (folder / "images").iterdir()}


def test_file_names_and_contents(tmp_path: Path) -> None:
    with Gallery(tmp_path / "results", "results") as gallery:
        gallery.add("12", {"real_A": draw_image(10), "fake_B": draw_image(200)[..., 0]})
    assert saved(tmp_path / "results") == {"12_real_A.png", "12_fake_B.png"}
    with Image.open(tmp_path / "results" / "images" / "12_real_A.png") as image:
        assert np.array_equal(np.asarray(image), draw_image(10))
    with Image.open(tmp_path / "results" / "images" / "12_fake_B.png") as image:
        assert np.array_equal(np.asarray(image), draw_image(200)[..., 0])


def test_page_shows_every_image(tmp_path: Path) -> None:
    with Gallery(tmp_path, "Results & more", width=100) as gallery:
        gallery.add("one", {"real_A": draw_image(), "fake_B": draw_image()})
        gallery.add("two", {"real_A": draw_image()})
    page = read(tmp_path)
    names = ["one_real_A.png", "one_fake_B.png", "two_real_A.png"]
    assert page.values("img", "src") == [f"images/{name}" for name in names]
    assert page.values("a", "href") == page.values("img", "src")
    assert page.values("img", "loading") == ["lazy"] * 3
    assert page.values("img", "width") == ["100"] * 3
    assert page.values("img", "height") == ["75"] * 3
    assert page.values("img", "alt") == ["one – real_A", "one – fake_B", "two – real_A"]
    for text in ("Results & more", "one", "two", "real_A", "fake_B"):
        assert text in page.texts


@pytest.mark.parametrize("name", [ODD_NAME, "a b", "100%41", "ключ", "..", "-", "x&amp;y", "a\nb"])
def test_odd_names_are_safe(tmp_path: Path, name: str) -> None:
    plain = tmp_path / "plain"
    odd = tmp_path / "odd"
    with Gallery(plain, "results") as gallery, Gallery(odd, name) as odd_gallery:
        gallery.add("plain", {"fake_B": draw_image()})
        odd_gallery.add(name, {"fake_B": draw_image()})
    page = read(odd)
    # The name is text in every place: the elements are those of a page with a plain name.
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in read(plain).elements]
    shown = name.replace("\n", r"\n")
    assert page.texts.count(shown) == 3  # title, heading of the page, heading of the row
    assert page.values("img", "alt") == [f"{shown} – fake_B"]
    assert saved(odd) == {f"{name}_fake_B.png"}
    [source] = page.values("img", "src")
    assert (odd / unquote(source)).is_file()
    assert not set(source) & set(" <>\"'#?&;")


def test_name_that_is_no_unicode(tmp_path: Path) -> None:
    name = b"caf\xe9".decode("utf-8", errors="surrogateescape")
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    with Gallery(tmp_path, "results") as gallery:
        gallery.add(name, {"fake_B": draw_image()})
    assert read(tmp_path).values("img", "src") == ["images/caf%E9_fake_B.png"]
    assert r"caf\udce9" in read(tmp_path).texts


@pytest.mark.parametrize(
    "names, expected",
    [
        (["a", "a", "a"], ["a", "a_2", "a_3"]),
        (["a", "a_2", "a"], ["a", "a_2", "a_3"]),
        (["a", "a", "a_2"], ["a", "a_2", "a_2_2"]),
    ],
)
def test_same_names_do_not_overwrite(tmp_path: Path, names: list[str], expected: list[str]) -> None:
    with Gallery(tmp_path, "results") as gallery:
        for level, name in enumerate(names):
            gallery.add(name, {"fake_B": draw_image(level)})
    assert read(tmp_path).values("img", "src") == [f"images/{name}_fake_B.png" for name in expected]
    for level, name in enumerate(expected):
        with Image.open(tmp_path / "images" / f"{name}_fake_B.png") as image:
            assert np.array_equal(np.asarray(image), draw_image(level))


def test_equal_names_say_where_they_come_from_and_take_linear_time(tmp_path: Path) -> None:
    with Gallery(tmp_path, "results") as gallery:
        for folder in ("a", "b", "c\n"):
            gallery.add("x", {"fake_B": draw_image()}, source=f"{folder}/x.png")
    rows = json.loads((tmp_path / "gallery.json").read_text())["rows"]
    assert [(row["name"], row["source"]) for row in rows] == [
        *(("x", "a/x.png"), ("x_2", "b/x.png"), ("x_3", "c\n/x.png"))
    ]
    texts = read(tmp_path).texts
    assert "from b/x.png" in texts and r"from c\n/x.png" in texts and "from a/x.png" not in texts

    calls = 0
    gallery = Gallery(tmp_path / "many", "results")

    class Counted(set[str]):
        def isdisjoint(self, other: Iterable[object]) -> bool:
            nonlocal calls
            calls += 1
            return super().isdisjoint(other)

    gallery._files = Counted()
    assert [gallery._free_name("x", ["fake_B"]) for _ in range(500)][-1] == "x_500"
    assert calls < 1000


@pytest.mark.parametrize("name", ["n" * 251, "é" * 125, "名" * 83])
def test_long_names_are_cut(tmp_path: Path, name: str) -> None:
    with Gallery(tmp_path, "results") as gallery:
        for _ in range(2):
            gallery.add(name, {"real_A": draw_image(width=600), "fake_B": draw_image()})
    rows = json.loads((tmp_path / "gallery.json").read_text())["rows"]
    assert len({row["name"] for row in rows}) == 2 and all(row["name"][:70] == name[:70] for row in rows)
    assert len(saved(tmp_path)) == 4 and len(list((tmp_path / "thumbs").iterdir())) == 2


def test_names_that_differ_in_case_are_two_files_where_case_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "A", "É", "e\u0301"]
    with Gallery(tmp_path / "exact", "results") as gallery:
        assert [gallery.add(name, {"x": draw_image()}) for name in names] == names
    monkeypatch.setattr("util.pages.gallery.is_case_insensitive", lambda folder: True)
    with Gallery(tmp_path / "other", "results") as gallery:
        added = [gallery.add(name, {"x": draw_image()}) for name in names]
    assert added == ["a", "A_2", "É", "e\u0301_2"]


def test_names_and_labels_that_meet_do_not_overwrite(tmp_path: Path) -> None:
    with Gallery(tmp_path, "results") as gallery:
        gallery.add("a", {"b_c": draw_image(1)})
        gallery.add("a_b", {"c": draw_image(2)})
    assert saved(tmp_path) == {"a_b_c.png", "a_b_2_c.png"}


def test_same_names_with_other_labels_are_told_apart(tmp_path: Path) -> None:
    with Gallery(tmp_path, "results") as gallery:
        for label in ("x", "y", "z"):
            gallery.add("a", {label: draw_image()})
    assert saved(tmp_path) == {"a_x.png", "a_2_y.png", "a_3_z.png"}


@pytest.mark.parametrize("name, label", [("folder/a", "fake_B"), ("a", "fake/B"), ("../a", "fake_B")])
def test_names_with_folders_are_refused(tmp_path: Path, name: str, label: str) -> None:
    with Gallery(tmp_path, "results") as gallery, pytest.raises(ValueError, match="plain file name"):
        gallery.add(name, {label: draw_image()})
    assert saved(tmp_path) == set()


@pytest.mark.parametrize("ratio, size", [(1.0, (8, 6)), (1.5, (12, 6)), (0.4, (8, 15)), (1.3, (10, 6))])
def test_aspect_ratio(tmp_path: Path, ratio: float, size: tuple[int, int]) -> None:
    with Gallery(tmp_path, "results", aspect_ratio=ratio) as gallery:
        gallery.add("a", {"color": draw_image(7), "grey": draw_image(7)[..., 0]})
    for label in ("color", "grey"):
        with Image.open(tmp_path / "images" / f"a_{label}.png") as image:
            assert image.size == size
            assert np.unique(np.asarray(image)).tolist() == [7]
    assert read(tmp_path).values("img", "height") == [str(round(256 * size[1] / size[0]))] * 2


@pytest.mark.parametrize("options", [{"aspect_ratio": 0.0}, {"aspect_ratio": float("nan")}, {"width": 0}])
def test_impossible_options_are_refused(tmp_path: Path, options: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Gallery(tmp_path, "results", **options)


def test_page_is_self_contained(tmp_path: Path) -> None:
    with Gallery(tmp_path, "results") as gallery:
        gallery.add("a", {"fake_B": draw_image()})
    text = (tmp_path / "index.html").read_text("utf-8")
    assert "http://" not in text and "https://" not in text
    page = Reader(text)
    assert page.values("script", "src") == [""]
    assert page.values("link", "href") == ["data:,"]
    # Scripts and styles are there as they are, and end where their own elements end.
    sources = [file for file in STATIC.iterdir() if file.stem in PARTS["gallery"]]
    assert {file.suffix for file in sources} == {".css", ".js"}
    for source in (file.read_text("utf-8") for file in sources):
        assert source in text
        assert "</script" not in source and "<!--" not in source and "</style" not in source


def test_page_only_grows_and_by_the_same_amount(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, "results")
    stages = [gallery.page.path.read_bytes()]
    for number in range(1000, 1020):
        gallery.add(str(number), {"fake_B": draw_image()})
        gallery.finish()
        stages.append(gallery.page.path.read_bytes())
    growth = set()
    for before, after in pairwise(stages):
        assert after.startswith(before)
        growth.add(len(after) - len(before))
    assert len(growth) == 1


def test_running_again_starts_the_page_anew(tmp_path: Path) -> None:
    for level, name in ((1, "old"), (2, "new")):
        with Gallery(tmp_path, "results") as gallery:
            gallery.add(name, {"fake_B": draw_image(level)})
    assert read(tmp_path).values("img", "src") == ["images/new_fake_B.png"]
    # A name of the earlier run is not taken in this one.
    with Gallery(tmp_path, "results") as gallery:
        gallery.add("old", {"fake_B": draw_image(3)})
    assert saved(tmp_path) == {"old_fake_B.png"}


def test_images_that_the_previous_gallery_listed_are_removed(tmp_path: Path) -> None:
    wide = draw_image(width=600)
    with Gallery(tmp_path, "results", file_format="webp") as gallery:
        gallery.add("a", {"x": wide})
    killed = Gallery(tmp_path, "results")
    killed.add("b", {"x": wide})
    killed.finish()
    with (tmp_path / "images.list").open("a") as file:
        file.write('["images/c_x.p')  # killed while it was written
    (tmp_path / "images" / "mine.png").touch()
    assert saved(tmp_path) == {"b_x.png", "mine.png"}
    with Gallery(tmp_path, "results") as gallery:
        gallery.add("d", {"x": draw_image()})
    assert saved(tmp_path) == {"d_x.png", "mine.png"}
    assert not list((tmp_path / "thumbs").iterdir()) and not (tmp_path / "images.list").exists()


def test_native_files_are_linked_and_listed_and_removed_with_their_gallery(tmp_path: Path) -> None:
    def native(kind: str) -> Native:
        return Native(np.zeros((2, 3, 4), np.int16), kind, "", None)

    long = "n" * 245
    with Gallery(tmp_path, "results", about=About(display=["B: <int16>"])) as gallery:
        for name, kind in (("a", "npy"), ("a", "npy"), (long, "tif")):
            gallery.add(name, {"fake_B": draw_image()}, natives={"fake_B": native(kind)})
    content = json.loads((tmp_path / "gallery.json").read_text())
    assert content["display"] == ["B: <int16>"] and "B: <int16>" in read(tmp_path).texts
    paths = [row["native"]["fake_B"] for row in content["rows"]]
    assert paths[:2] == ["native/a_fake_B.npy", "native/a_2_fake_B.npy"]
    assert len(Path(paths[2]).name) <= NAME_MAX
    assert set(paths) <= set(read(tmp_path).values("a", "href"))
    assert np.load(tmp_path / paths[0]).shape == (2, 3, 4)
    mine = tmp_path / "native" / "mine.npy"
    mine.touch()
    killed = Gallery(tmp_path, "results")
    assert [*(tmp_path / "native").iterdir()] == [mine]
    killed.add("b", {"fake_B": draw_image()}, natives={"fake_B": native("npy")})
    killed.finish()
    (tmp_path / "gallery.json").unlink()
    with Gallery(tmp_path, "results") as gallery:
        gallery.add("c", {"x": draw_image()})
    assert [*(tmp_path / "native").iterdir()] == [mine]
    assert "native" not in json.loads((tmp_path / "gallery.json").read_text())["rows"][0]


def test_a_crafted_list_removes_nothing_outside_of_the_gallery(tmp_path: Path) -> None:
    folder, victim = tmp_path / "results", tmp_path / "victim.png"
    (folder / "images" / "folder").mkdir(parents=True)
    victim.write_bytes(b"precious")
    (folder / "index.html").touch()
    (folder / "images" / "link.png").symlink_to(victim)
    files = [
        "../victim.png",
        str(victim),
        "images/../../victim.png",
        "index.html",
        "images/..",
        "images",
        7,
        None,
    ]
    files += [
        "native/..",
        "native/../../victim.png",
        "images/folder",
        "images/link.png",
        "images/\0",
        "images/a/b.png",
    ]
    files += ["images/\ud800.png", f"images/{'x' * 300}.png"]
    for name, content in (
        ("gallery.json", {"rows": [{"images": dict(enumerate(files))}]}),
        ("images.list", files),
        ("gallery.json", {"rows": [{}]}),
        ("gallery.json", [[]]),
        ("images.list", {"rows": 1}),
    ):
        (folder / name).write_text(json.dumps(content))
        with Gallery(folder, "results") as gallery:
            gallery.add("a", {"x": draw_image()})
        assert saved(folder) == {"folder", "a_x.png"} and victim.read_bytes() == b"precious"
    (folder / "gallery.json").unlink()
    (folder / "images").rename(tmp_path / "elsewhere")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="a symbolic link"):
        Gallery(folder, "results")


def test_images_are_not_written_through_links(tmp_path: Path) -> None:
    victim = tmp_path / "victim.png"
    victim.write_bytes(b"precious")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a_x.png").symlink_to(victim)
    (tmp_path / "index.html").symlink_to(victim)
    (tmp_path / "metrics.json").symlink_to(victim)
    with Gallery(tmp_path, "results") as gallery:
        gallery.add("a", {"x": draw_image()})
    (tmp_path / "training.html").symlink_to(victim)
    with pytest.raises(OSError, match="a symbolic link"):
        gallery.link_from(tmp_path / "training.html", Summary({}, {}, {}, {}))
    assert not (tmp_path / "images" / "a_x.png").is_symlink()
    assert victim.read_bytes() == b"precious" and not (tmp_path / "index.html").is_symlink()


def test_rows_keep_their_order_however_long_their_images_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(pixels: NDArray[np.uint8], path: Path, png_level: int) -> None:
        time.sleep(0.02 * (path.name[0] in "03"))
        save_image(pixels, path, png_level)

    monkeypatch.setattr("util.pages.gallery.save_image", slow)
    with Gallery(tmp_path, "results") as gallery:
        for number in range(6):
            gallery.add(str(number), {"fake_B": draw_image(number)})
    assert read(tmp_path).values("img", "src") == [f"images/{number}_fake_B.png" for number in range(6)]
    assert len(saved(tmp_path)) == 6


def test_only_so_much_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = draw_image().nbytes
    monkeypatch.setattr("util.pages.gallery.WAITING_BYTES", 3 * size)
    with Gallery(tmp_path, "results") as gallery:
        for number in range(8):
            gallery.add(str(number), {"fake_B": draw_image()})
            rows = len(read(tmp_path).values("img", "src"))
            assert rows == max(0, number - 2)
        gallery.add("large", {"fake_B": draw_image(height=60)})  # more than may wait: it waits alone
        assert len(read(tmp_path).values("img", "src")) == 8


@pytest.mark.parametrize("waiting", [2, 100])  # the error comes out while rows are added, or at the end
def test_a_full_disk_is_the_error_of_the_gallery(
    tmp_path: Path, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(pixels: NDArray[np.uint8], path: Path, png_level: int) -> None:
        if path.name.startswith("2"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save_image(pixels, path, png_level)

    monkeypatch.setattr("util.pages.gallery.save_image", full)
    monkeypatch.setattr("util.pages.gallery.WAITING_BYTES", waiting * draw_image().nbytes)
    with pytest.raises(OSError, match=r"2_fake_B\.png") as caught, Gallery(tmp_path, "results") as gallery:
        for number in range(6):
            gallery.add(str(number), {"fake_B": draw_image()})
    assert caught.value.errno == errno.ENOSPC
    assert read(tmp_path).values("img", "src") == ["images/0_fake_B.png", "images/1_fake_B.png"]
    monkeypatch.undo()
    with Gallery(tmp_path, "results") as gallery:  # removes what was saved, on the page or not
        gallery.add("new", {"fake_B": draw_image()})
    assert saved(tmp_path) == {"new_fake_B.png"}


def test_what_was_made_before_an_error_is_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError), Gallery(tmp_path, "results") as gallery:
        gallery.add("a", {"fake_B": draw_image()})
        raise UserError("a bad image")
    assert read(tmp_path).values("img", "src") == ["images/a_fake_B.png"] and saved(tmp_path)


@pytest.mark.parametrize("file_format, name", [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")])
def test_formats(tmp_path: Path, file_format: str, name: str) -> None:
    y, x = np.mgrid[:32, :48]
    smooth = np.stack([4 * x, 6 * y, 2 * (x + y)], axis=-1).astype(np.uint8)
    with Gallery(tmp_path, "results", file_format=file_format) as gallery:
        gallery.add("a", {"color": smooth, "grey": smooth[..., 0]})
    assert read(tmp_path).values("img", "src") == [
        f"images/a_{label}.{file_format}" for label in ("color", "grey")
    ]
    for label, expected in (("color", smooth), ("grey", smooth[..., :1])):
        with Image.open(tmp_path / "images" / f"a_{label}.{file_format}") as image:
            assert image.format == name
            difference = np.abs(np.asarray(image.convert("RGB")).astype(int) - expected)
        assert difference.max() == 0 if file_format == "png" else difference.mean() < 3


def test_levels_of_png_change_the_size_alone(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64]
    pixels = np.stack([4 * x, 3 * y, (x * y) // 16], axis=-1).astype(np.uint8)
    sizes = []
    for level in (0, 1, 9):
        with Gallery(tmp_path / str(level), "results", png_level=level) as gallery:
            gallery.add("a", {"x": pixels})
        path = tmp_path / str(level) / "images" / "a_x.png"
        sizes.append(path.stat().st_size)
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), pixels)
    assert sizes[0] > 2 * sizes[1] > 2 * sizes[2]


def test_an_image_too_large_for_its_format_is_refused(tmp_path: Path) -> None:
    with Gallery(tmp_path, "results", file_format="webp") as gallery:
        message = "--format webp: a_x.webp would have 17000 x 6 pixels"
        with pytest.raises(UserError, match=re.escape(message)):
            gallery.add("a", {"x": draw_image(width=17000)})
    assert saved(tmp_path) == set()


@pytest.mark.parametrize("ending", ["bmp", "tif", "gif", "jpeg", "png", "webp"])
def test_other_endings_can_be_saved(tmp_path: Path, ending: str) -> None:
    save_image(draw_image(9), tmp_path / f"x.{ending}")
    with Image.open(tmp_path / f"x.{ending}") as image:
        assert image.size == (8, 6)


def test_gallery_json_lists_the_rows(tmp_path: Path) -> None:
    flags = {"train.py": {"norm": "batch"}, "test.py": {"eval": "true"}}
    about = About("my run", "val", "5", True, flags)
    with Gallery(tmp_path, "a title", about=about, file_format="jpg") as gallery:
        gallery.add("b_1", {"real_A": draw_image(), "fake_B": draw_image()}, {"fake_B": "fake_B: by a slot"})
        gallery.add("a", {"x": draw_image()}, measured={"psnr": math.inf, "ssim": math.nan, "l1": 0.25})
        gallery.add("a", {"x": draw_image()})
        assert not (tmp_path / "gallery.json").exists()  # a killed process leaves none
    content = json.loads((tmp_path / "gallery.json").read_text())
    assert content["title"] == "a title" and content["run"] == "my run"
    assert content["phase"] == "val" and content["epoch"] == "5"
    assert content["paired"] is True and content["flags"] == flags
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", content["date"])
    files = {"real_A": "images/b_1_real_A.jpg", "fake_B": "images/b_1_fake_B.jpg"}
    assert content["rows"] == [
        {"name": "b_1", "images": files, "captions": {"fake_B": "fake_B: by a slot"}, "metrics": {}},
        {
            "name": "a",
            "images": {"x": "images/a_x.jpg"},
            "captions": {},
            "metrics": {"psnr": None, "ssim": None, "l1": 0.25},
        },
        {"name": "a_2", "images": {"x": "images/a_2_x.jpg"}, "captions": {}, "metrics": {}},
    ]
    for row in content["rows"]:
        assert all((tmp_path / file).is_file() for file in row["images"].values())


def test_gallery_json_of_an_earlier_run_does_not_stay(tmp_path: Path) -> None:
    with Gallery(tmp_path, "results") as gallery:
        gallery.add("old", {"x": draw_image()})
    Gallery(tmp_path, "results").add("new", {"x": draw_image()})  # killed: never finished
    assert not (tmp_path / "gallery.json").exists()


def test_gallery_json_has_names_that_are_no_unicode(tmp_path: Path) -> None:
    name = b"caf\xe9".decode("utf-8", errors="surrogateescape")
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    with Gallery(tmp_path, "results") as gallery:
        gallery.add(name, {"x": draw_image()})
    [row] = json.loads((tmp_path / "gallery.json").read_text())["rows"]
    assert (tmp_path / row["images"]["x"]).is_file()


def test_summary_has_means_sizes_and_links(tmp_path: Path) -> None:
    summary = Summary({"psnr": 20.125, "l1": 0.5}, {"colorfulness_of_truth": 30.0}, {}, {"fid": "too few"})
    with Gallery(tmp_path, "results") as gallery:
        gallery.add("a", {"x": draw_image(height=6, width=8), "y": draw_image(height=60, width=80)})
        gallery.summarize(summary)
    page = read(tmp_path)
    text = "|".join(page.texts)
    for expected in (
        "psnr ↑|20.12",
        "l1 ↓|0.5",
        "colorfulness_of_truth|30",
        "fid: too few",
        "8 × 6 to 80 × 60 pixels",
    ):
        assert expected in text
    assert page.values("a", "href")[-3:] == ["metrics.csv", "metrics.json", "gallery.json"]


def test_pages_do_not_import_torch() -> None:
    code = "import sys, util.pages.gallery; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
