"""HTML pages that grow by appending and need nothing but themselves and their pictures."""

import math
from pathlib import Path
from urllib.parse import quote

from dominate import tags
from dominate.util import raw

STATIC = Path(__file__).parent / "static"
MAX_COLUMNS = 6  # page.css has a rule for each number of columns up to this one


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
        width: int = 256,
        kind: str = "",
        intro: tuple[tags.html_tag, ...] = (),
        warning: str = "",
    ) -> None:
        """Start the page, or go on with it where `fresh` is False and the file exists.

        `width` is the largest width of a picture on the page in CSS pixels, `kind` the class of the body,
        `intro` what stands between the header and the appended content, and `warning` what a reader must
        know before anything else.

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


def picture_tag(
    file_name: str, label: str, description: str, size: tuple[int, int], width: int, key: str
) -> tags.figure:
    """Return a captioned picture of images/ that links to its file.

    `size` is (height, width) of the file in pixels, `width` its largest width on the page in CSS pixels.
    Pictures with one `key` show the same thing in different rows of the page.
    """
    address = "images/" + quote(file_name, safe="", errors="surrogateescape")
    # The attributes reserve the room before the picture is loaded, so that nothing jumps.
    height = max(1, round(width * size[0] / size[1]))
    image = tags.img(src=address, alt=description, width=width, height=height, loading="lazy")
    return tags.figure(tags.a(image, href=address, cls="picture", data_key=key), tags.figcaption(label))


def sample_tag(figures: list[tags.figure], heading: str | None = None) -> tags.article:
    """Return the pictures of one sample side by side, in two lines where there are many."""
    count = len(figures)
    columns = count if count <= 5 else min(MAX_COLUMNS, math.ceil(count / 2))
    article = tags.article(cls=f"sample columns-{columns}")
    if heading is not None:
        article.add(tags.h2(heading))
    article.add(tags.div(*figures, cls="pictures"))
    return article


def _head(title: str, width: int, kind: str, intro: tuple[tags.html_tag, ...]) -> str:
    style = f":root {{ --width: {width}px; }}\n" + (STATIC / "page.css").read_text("utf-8")
    script = (STATIC / "page.js").read_text("utf-8")
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
    lines += [f'<body class="{kind}">', *_render([header, *intro]), '<main id="content">']
    return "\n".join(lines) + "\n"


def _render(content: list[tags.html_tag]) -> list[str]:
    return [tag.render(pretty=False) for tag in content]
