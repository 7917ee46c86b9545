"""The gallery of results: files on disk, safe names, a page that only grows."""

from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from util.gallery import Gallery
from util.page import STATIC

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


def picture(level: int = 0, height: int = 6, width: int = 8) -> NDArray[np.uint8]:
    return np.full((height, width, 3), level, np.uint8)


def read(folder: Path) -> Reader:
    return Reader((folder / "index.html").read_text("utf-8"))


def saved(folder: Path) -> set[str]:
    return {path.name for path in (folder / "images").iterdir()}


def test_file_names_and_contents(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "results", "results")
    gallery.add("12", {"real_A": picture(10), "fake_B": picture(200)[..., 0]})
    assert saved(tmp_path / "results") == {"12_real_A.png", "12_fake_B.png"}
    with Image.open(tmp_path / "results" / "images" / "12_real_A.png") as image:
        assert np.array_equal(np.asarray(image), picture(10))
    with Image.open(tmp_path / "results" / "images" / "12_fake_B.png") as image:
        assert np.array_equal(np.asarray(image), picture(200)[..., 0])


def test_page_shows_every_picture(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, "Results & more", width=100)
    gallery.add("one", {"real_A": picture(), "fake_B": picture()})
    gallery.add("two", {"real_A": picture()})
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
    Gallery(plain, "results").add("plain", {"fake_B": picture()})
    odd = tmp_path / "odd"
    Gallery(odd, name).add(name, {"fake_B": picture()})
    page = read(odd)
    # The name is text in every place: the elements are those of a page with a plain name.
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in read(plain).elements]
    assert "".join(page.texts).count(name) == 3  # title, heading of the page, heading of the row
    assert page.values("img", "alt") == [f"{name} – fake_B"]
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
    Gallery(tmp_path, "results").add(name, {"fake_B": picture()})
    assert read(tmp_path).values("img", "src") == ["images/caf%E9_fake_B.png"]


@pytest.mark.parametrize(
    "names, expected",
    [
        (["a", "a", "a"], ["a", "a_2", "a_3"]),
        (["a", "a_2", "a"], ["a", "a_2", "a_3"]),
        (["a", "a", "a_2"], ["a", "a_2", "a_2_2"]),
    ],
)
def test_same_names_do_not_overwrite(tmp_path: Path, names: list[str], expected: list[str]) -> None:
    gallery = Gallery(tmp_path, "results")
    for level, name in enumerate(names):
        gallery.add(name, {"fake_B": picture(level)})
    assert read(tmp_path).values("img", "src") == [f"images/{name}_fake_B.png" for name in expected]
    for level, name in enumerate(expected):
        with Image.open(tmp_path / "images" / f"{name}_fake_B.png") as image:
            assert np.array_equal(np.asarray(image), picture(level))


def test_names_and_labels_that_meet_do_not_overwrite(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, "results")
    gallery.add("a", {"b_c": picture(1)})
    gallery.add("a_b", {"c": picture(2)})
    assert saved(tmp_path) == {"a_b_c.png", "a_b_2_c.png"}


def test_same_names_with_other_labels_are_told_apart(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, "results")
    for label in ("x", "y", "z"):
        gallery.add("a", {label: picture()})
    assert saved(tmp_path) == {"a_x.png", "a_2_y.png", "a_3_z.png"}


@pytest.mark.parametrize("name, label", [("folder/a", "fake_B"), ("a", "fake/B"), ("../a", "fake_B")])
def test_names_with_folders_are_refused(tmp_path: Path, name: str, label: str) -> None:
    gallery = Gallery(tmp_path, "results")
    with pytest.raises(ValueError, match="plain file name"):
        gallery.add(name, {label: picture()})
    assert saved(tmp_path) == set()


@pytest.mark.parametrize("ratio, size", [(1.0, (8, 6)), (1.5, (12, 6)), (0.4, (8, 15)), (1.3, (10, 6))])
def test_aspect_ratio(tmp_path: Path, ratio: float, size: tuple[int, int]) -> None:
    gallery = Gallery(tmp_path, "results", aspect_ratio=ratio)
    gallery.add("a", {"color": picture(7), "grey": picture(7)[..., 0]})
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
    Gallery(tmp_path, "results").add("a", {"fake_B": picture()})
    text = (tmp_path / "index.html").read_text("utf-8")
    assert "http://" not in text and "https://" not in text
    page = Reader(text)
    assert page.values("script", "src") == [""]
    assert page.values("link", "href") == ["data:,"]
    # Both are there as they are, and end where their own elements end.
    script = (STATIC / "page.js").read_text("utf-8")
    style = (STATIC / "page.css").read_text("utf-8")
    assert script in text and style in text
    assert "</script" not in script and "<!--" not in script and "</style" not in style


def test_page_only_grows_and_by_the_same_amount(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, "results")
    stages = [gallery.page.path.read_bytes()]
    for number in range(1000, 1020):
        gallery.add(str(number), {"fake_B": picture()})
        stages.append(gallery.page.path.read_bytes())
    growth = set()
    for before, after in pairwise(stages):
        assert after.startswith(before)
        growth.add(len(after) - len(before))
    assert len(growth) == 1


def test_running_again_starts_the_page_anew(tmp_path: Path) -> None:
    Gallery(tmp_path, "results").add("old", {"fake_B": picture(1)})
    Gallery(tmp_path, "results").add("new", {"fake_B": picture(2)})
    assert read(tmp_path).values("img", "src") == ["images/new_fake_B.png"]
    # A name of the earlier run is not taken in this one.
    Gallery(tmp_path, "results").add("old", {"fake_B": picture(3)})
    assert saved(tmp_path) == {"old_fake_B.png", "new_fake_B.png"}
