"""Groups of copies as a page for a browser: one file, pictures inside, nothing from elsewhere."""

import base64
import html
import io
import os
from collections.abc import Sequence
from urllib.parse import quote

from jaxhash.data.listing import shown
from jaxhash.duplicates import files
from jaxhash.duplicates.groups import Group, Picture
from search.files.atomic import replacing

SIDE = 180
"""Longest side of a picture on the page, in pixels."""

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Duplicates</title>
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; }
section { border-top: 1px solid #8888; padding: .5rem 0 1rem; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; width: 180px; overflow-wrap: anywhere; font-size: 13px; }
img { display: block; max-width: 180px; max-height: 180px; margin-bottom: .3rem; }
.first { font-weight: 600; }
</style>
</head>
<body>
"""


def write(groups: Sequence[Group], path: str | os.PathLike[str]) -> None:
    """Write groups as an HTML file, which appears when it is complete.

    Raises:
        OSError: it cannot be written; an old one is as it was.

    Example:
        >>> write(index.duplicates(), "duplicates.html")  # doctest: +SKIP
    """
    count = sum(map(len, groups))
    with replacing(path) as file:
        file.write(HEAD.encode())
        file.write(f"<h1>{len(groups)} groups, {count} pictures</h1>\n".encode())
        for group in groups:
            figures = "\n".join(map(_figure, group))
            file.write(
                f"<section>\n<h2>{len(group)} pictures</h2>\n"
                f'<div class="row">\n{figures}\n</div>\n</section>\n'.encode()
            )
        file.write(b"</body>\n</html>\n")


def _figure(picture: Picture) -> str:
    name = str(picture.id) if picture.path is None else picture.path
    text = html.escape(shown(name))
    facts = [picture.how, f"{picture.similarity:.3f} alike"]
    if picture.width is not None:
        facts.append(f"{picture.width} x {picture.height}")
    if picture.size is not None:
        facts.append(f"{picture.size / 1000:.0f} kB")
    if picture.path is not None:
        address = html.escape(
            "file://" + quote(os.path.abspath(picture.path), errors="surrogateescape")
        )
        text = f'<a href="{address}">{text}</a>'
    return (
        f'<figure class="{html.escape(picture.how)}">{_thumbnail(picture)}\n'
        f"<figcaption>{text}<br>{', '.join(facts)}</figcaption></figure>"
    )


def _thumbnail(picture: Picture) -> str:
    """The picture as JPEG inside the page; words where it cannot be read."""
    small = files.small(picture.path, SIDE)
    if small is None:
        return "<p>(no picture)</p>"
    data = io.BytesIO()
    small.save(data, "JPEG", quality=80)
    coded = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{coded}">'
