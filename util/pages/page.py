"""HTML pages that grow by appending and need nothing but themselves and their images."""

import html
import json
import math
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from dominate import tags
from dominate.util import raw

from util.metrics.names import HIGHER_IS_BETTER

STATIC = Path(__file__).parent / "static"
MAX_COLUMNS = 6  # common.css has a rule for each number of columns up to this one

PARTS = {
    "gallery": ("common", "lightbox", "sorting", "chunks", "gallery"),
    "comparison": ("common", "lightbox", "compare"),
    "training": ("common", "lightbox", "curves", "chart", "epochs", "training"),
}
"""What each kind of page is made of: .css and .js files of static/; a name has one of them or both."""


class Page:
    """One self-contained HTML file that is only ever appended to.

    HTML needs no closing tags, so the file is a complete page after every append. Nothing about the file is
    remembered here: it may be truncated between two appends.
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
    ) -> None:
        """Start the page, or go on with it where `fresh` is False and the file exists.

        `kind` is one of `PARTS`, `width` the largest width of an image on the page in CSS pixels, `intro`
        what stands between the header and the appended content, and `warning` what a reader must know before
        anything else.

        Raises:
            ValueError: the width is below 1.
            OSError: the file cannot be written.
        """
        if width < 1:
            raise ValueError(f"The display width must be at least 1 pixel, not {width}.")
        self.path = path
        warnings = (tags.p(warning, cls="warning"),) if warning else ()
        self._head = _head(title, width, kind, (*warnings, *intro))
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        self.append()

    def append(self, *content: tags.html_tag) -> None:
        """Append rendered tags to the file. Raises OSError where it cannot be written."""
        rendered = "".join(tag.render(pretty=False) + "\n" for tag in content)
        with self.path.open("ab") as file:
            if file.tell() == 0:
                rendered = self._head + rendered
            # A file name that is no valid Unicode reaches us with surrogates, which UTF-8 cannot hold.
            file.write(rendered.encode("utf-8", errors="replace"))


def image_tag(
    file_name: str,
    label: str,
    description: str,
    size: tuple[int, int],
    width: int,
    key: str,
    thumbnail: str | None = None,
) -> tags.figure:
    """Return a captioned image of images/ that links to its file.

    `size` is (height, width) of the file in pixels, `width` its largest width on the page in CSS pixels.
    Images with one `key` show the same thing in different rows of the page. `thumbnail` is the file of
    thumbs/ that the page shows instead.
    """
    address = _address("images", file_name)
    source = _address("thumbs", thumbnail) if thumbnail else address
    # The attributes reserve the room before the image is loaded, so that nothing jumps.
    height = max(1, round(width * size[0] / size[1]))
    image = tags.img(src=source, alt=description, width=width, height=height, loading="lazy")
    return tags.figure(tags.a(image, href=address, cls="picture", data_key=key), tags.figcaption(label))


def sample_tag(
    figures: list[tags.figure], heading: str | None = None, measured: Mapping[str, float] | None = None
) -> tags.article:
    """Return the images of one sample side by side, in two lines where there are many.

    `measured` are values by the metric's name, shown under the heading.
    """
    count = len(figures)
    columns = count if count <= 5 else min(MAX_COLUMNS, math.ceil(count / 2))
    article = tags.article(cls=f"sample columns-{columns}")
    if heading is not None:
        article.add(tags.h2(heading))
    if measured:
        article["data-measured"] = json.dumps({name: _json_number(value) for name, value in measured.items()})
        values = (tags.span(name, " ", tags.b(f"{value:.4g}")) for name, value in measured.items())
        article.add(tags.p(*values, cls="measured"))
    article.add(tags.div(*figures, cls="pictures"))
    return article


def _address(folder: str, file_name: str) -> str:
    return f"{folder}/{quote(file_name, safe='', errors='surrogateescape')}"


def _json_number(value: float) -> float | str:
    """JSON has no numbers for what is not finite; JavaScript reads these words as such."""
    if math.isfinite(value):
        return float(f"{value:.6g}")
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _head(title: str, width: int, kind: str, intro: tuple[tags.html_tag, ...]) -> str:
    style = f":root {{ --width: {width}px; }}\n" + _joined(kind, ".css")
    script = _joined(kind, ".js")
    head = [
        tags.meta(charset="utf-8"),
        tags.meta(name="viewport", content="width=device-width, initial-scale=1"),
        tags.title(title),
        tags.link(rel="icon", href="data:,"),  # or a browser asks the server for one
        tags.style(raw("\n" + style)),
        tags.script(raw("\n" + script), type="module"),
    ]
    header = tags.header(tags.h1(title), tags.p(id="status", role="status"))
    lines = ["<!DOCTYPE html>", '<html lang="en">', *_render(head)]
    better = html.escape(json.dumps(dict(HIGHER_IS_BETTER)))
    lines += [f'<body class="{kind}" data-higher-is-better="{better}">']
    lines += [*_render([header, *intro]), '<main id="content">']
    return "\n".join(lines) + "\n"


def _joined(kind: str, ending: str) -> str:
    files = ((STATIC / part).with_suffix(ending) for part in PARTS[kind])
    return "\n".join(file.read_text("utf-8") for file in files if file.exists())


def _render(content: list[tags.html_tag]) -> list[str]:
    return [tag.render(pretty=False) for tag in content]
