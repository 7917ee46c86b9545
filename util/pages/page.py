"""HTML pages that grow by appending and consist of one file and its images."""

import html
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from dominate import tags
from dominate.util import raw

from util.files import append_text
from util.metrics.names import HIGHER_IS_BETTER
from util.text import escape, printable, printable_lines

STATIC = Path(__file__).parent / "static"
ROWS_FILE = "gallery.json"  # the rows of a gallery, for programs
MAX_COLUMNS = 6  # common.css has a rule for each number of columns up to this one

PARTS = {
    "gallery": ("common", "lightbox", "sorting", "chunks", "gallery"),
    "doctor": ("common", "doctor"),
    "comparison": ("common", "lightbox", "curves", "chart", "compare"),
    "training": ("common", "lightbox", "curves", "chart", "epochs", "training"),
}
"""The .css and .js files of static/ in each kind of page; a name has one of them or both."""


class Page:
    """A self-contained HTML file that is only ever appended to.

    HTML needs no closing tags, so the file is a complete page after every append. No state of the file is
    kept in memory: it may be truncated between two appends.

    Attributes:
        image_class: the class of links to images, "picture" in pages of earlier versions, whose scripts look
            for it.
    """

    def __init__(
        self,
        path: Path,
        title: str,
        *,
        fresh: bool = True,
        kind: str,
        width: int = 256,
        intro: tuple[tags.html_tag, ...] = (),
        warning: str = "",
        paired: bool | None = None,
    ) -> None:
        """Start the page, or continue it if `fresh` is False and the file exists.

        Args:
            kind: a key of `PARTS`.
            width: the largest width of an image on the page in CSS pixels.
            intro: the elements between the header and the appended content.
            warning: a text at the top of the page.
            paired: whether real_B is the ground truth for fake_B; None: guessed from the labels of a row.

        Raises:
            ValueError: the width is below 1.
            OSError: the file cannot be written.
        """
        if width < 1:
            raise ValueError(f"The display width must be at least 1 pixel, not {width}.")
        self.path = path
        warnings = (tags.p(warning, cls="warning"),) if warning else ()
        self._head = _head(title, width, kind, (*warnings, *intro), paired)
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        self.append()
        self.image_class = "picture" if is_of_earlier_version(path) else "image"

    def append(self, *content: tags.html_tag) -> None:
        """Append rendered tags to the file. Raises OSError if it cannot be written."""
        rendered = printable_lines("".join(tag.render(pretty=False) + "\n" for tag in content))
        begun = self.path.exists() and self.path.stat().st_size > 0
        append_text(self.path, rendered if begun else self._head + rendered)

    def contains(self, text: str) -> bool:
        """Return whether the file contains a text."""
        return self.path.is_file() and text.encode() in self.path.read_bytes()


def is_of_earlier_version(path: Path) -> bool:
    """Return whether the page's own script looks for images under their earlier class name."""
    with path.open("rb") as file:
        head = file.read(1 << 17)
    return b"a.picture" in head.partition(b'<main id="content">')[0]


def record_tag(kind: str, values: Mapping[str, object]) -> tags.script:
    """Return JSON data for the page's script, in a script element of the class `kind`."""
    # Inside a script element only "<" could end or change the element; JSON can escape it.
    data = json.dumps(values, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return tags.script(raw(data), type="application/json", cls=kind)


def image_tag(
    file_name: str,
    label: str,
    description: str,
    size: tuple[int, int],
    width: int,
    key: str,
    thumbnail: str | None = None,
    cls: str = "image",
) -> tags.figure:
    """Return a captioned image of images/ that links to its file.

    Args:
        size: (height, width) of the file in pixels.
        width: the largest width of the image on the page in CSS pixels.
        key: equal for images that show the same thing in different rows of the page.
        thumbnail: a file of thumbs/ that the page shows instead.
        cls: the class of the link, see `Page.image_class`.
    """
    link = f"images/{address(file_name)}"
    source = f"thumbs/{address(thumbnail)}" if thumbnail else link
    # The attributes reserve the space before the image is loaded, so that the layout does not shift.
    height = max(1, round(width * size[0] / size[1]))
    image = tags.img(src=source, alt=escape(description), width=width, height=height, loading="lazy")
    return tags.figure(tags.a(image, href=link, cls=cls, data_key=key), tags.figcaption(printable(label)))


def sample_tag(
    figures: list[tags.figure],
    heading: str | None = None,
    measured: Mapping[str, float] | None = None,
    cls: str = "image",
    source: str = "",
    files: Sequence[str] = (),
) -> tags.article:
    """Return the images of one sample side by side, in two lines if there are more than five.

    Args:
        measured: values by metric, shown under the heading.
        cls: the class of the images, see `Page.image_class`.
        source: the file that the sample comes from, shown under the heading.
        files: files of the sample in the page's folder, to which it links.
    """
    count = len(figures)
    columns = count if count <= 5 else min(MAX_COLUMNS, math.ceil(count / 2))
    article = tags.article(cls=f"sample columns-{columns}")
    if heading is not None:
        article.add(tags.h2(escape(heading)))
    if source:
        article.add(tags.p(f"from {escape(source)}", cls="note"))
    if files:
        links = (tags.a(printable(Path(file).name), href=address(file)) for file in files)
        article.add(tags.p(*links, cls="links"))
    if measured:
        article["data-measured"] = json.dumps({name: _json_number(value) for name, value in measured.items()})
        values = (tags.span(name, " ", tags.b(f"{value:.4g}")) for name, value in measured.items())
        article.add(tags.p(*values, cls="measured"))
    article.add(tags.div(*figures, cls=f"{cls}s"))
    return article


def command_tag(program: str, flags: Mapping[str, str]) -> tags.pre:
    """Return a command with flags, texts by name, as a shell reads it."""
    tag = tags.pre(program)
    for name, value in flags.items():
        given = "" if value.lower() == "true" else f" {shlex.quote(printable(value))}"
        tag.add(" ", tags.span(f"--{name}{given}"))
    return tag


def arrow(metric: str) -> str:
    """Return an arrow in the direction in which a metric is better, "" if that is unknown."""
    return {True: " ↑", False: " ↓", None: ""}[HIGHER_IS_BETTER.get(metric)]


def direction(metric: str) -> str:
    """Return "higher is better" or "lower is better", "" if that is unknown."""
    return {True: "higher is better", False: "lower is better", None: ""}[HIGHER_IS_BETTER.get(metric)]


def address(path: str) -> str:
    """Return a relative path as the address of a link; bytes of names that are not UTF-8 stay themselves."""
    return quote(path, safe="/", errors="surrogateescape")


def _json_number(value: float) -> float | str:
    """Return a number, or one of the words from which JavaScript's Number() makes those that JSON lacks."""
    if math.isfinite(value):
        return float(f"{value:.6g}")
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _head(title: str, width: int, kind: str, intro: tuple[tags.html_tag, ...], paired: bool | None) -> str:
    style = f":root {{ --width: {width}px; }}\n" + _joined(kind, ".css")
    script = _joined(kind, ".js")
    head = [
        tags.meta(charset="utf-8"),
        tags.meta(name="viewport", content="width=device-width, initial-scale=1"),
        tags.title(printable(title)),
        tags.link(rel="icon", href="data:,"),  # otherwise browsers request one from the server
        tags.style(raw("\n" + style)),
        tags.script(raw("\n" + script), type="module"),
    ]
    header = tags.header(tags.h1(printable(title)), tags.p(id="status", role="status"))
    facts = json.dumps({"paired": paired, "higherIsBetter": dict(HIGHER_IS_BETTER)})
    lines = ["<!DOCTYPE html>", '<html lang="en">', *_render(head)]
    lines += [f'<body class="{kind}" data-facts="{html.escape(facts)}">']
    lines += [*_render([header, *intro]), '<main id="content">']
    return "\n".join(lines) + "\n"


def _joined(kind: str, ending: str) -> str:
    files = ((STATIC / part).with_suffix(ending) for part in PARTS[kind])
    return "\n".join(file.read_text("utf-8") for file in files if file.exists())


def _render(content: list[tags.html_tag]) -> list[str]:
    return [tag.render(pretty=False) for tag in content]
