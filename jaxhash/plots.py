"""Figures: precision-recall, precision@k, training curves and galleries of neighbours.

Every function returns a `matplotlib.figure.Figure` of its own; pyplot and its global state are not
used, so figures can be made in any thread and without a display. Lines differ in colour, dash and
marker, in the colours of Okabe and Ito, which people with any kind of colour vision can tell
apart.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from search.files.atomic import replacing

BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#000000",
)
STYLES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "linestyle": "-", "marker": "o"},
    {"color": ORANGE, "linestyle": "--", "marker": "s"},
    {"color": GREEN, "linestyle": "-.", "marker": "^"},
    {"color": PURPLE, "linestyle": ":", "marker": "D"},
    {"color": SKY, "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": VERMILION, "linestyle": (0, (8, 2)), "marker": "P"},
    {"color": BLACK, "linestyle": (0, (1, 3)), "marker": "X"},
)
RIGHT, WRONG, QUERY = BLUE, VERMILION, BLACK
PIXELS_PER_INCH = 150


def gallery(
    queries: Sequence[np.ndarray],
    neighbours: Sequence[Sequence[np.ndarray]],
    right: Sequence[Sequence[bool | None]],
    distances: Sequence[Sequence[float]],
    *,
    query_titles: Sequence[str] | None = None,
    titles: Sequence[Sequence[str]] | None = None,
    title: str | None = None,
) -> Figure:
    """Queries and their neighbours, a row each, best first; right and wrong ones marked.

    A right neighbour has a solid blue frame and a tick, a wrong one a dashed vermilion frame and
    a cross, one of which nothing is known a thin grey frame. The distance stands below.

    queries: images uint8 (h, w), (h, w, 1) or (h, w, 3). neighbours: a sequence of such images
    for each query, of any length. right: whether each is relevant; None where that is unknown.
    distances: of each, as the search gave them. query_titles, titles: a few words for each image,
    such as its class.

    Raises:
        ValueError: an image is not uint8 grey or colour, or the lengths differ.

    Example:
        >>> figure = gallery([image], [found], [[True, False]], [[0, 3]])  # doctest: +SKIP
    """
    rows = len(queries)
    for name, each in (("neighbours", neighbours), ("right", right), ("distances", distances)):
        if len(each) != rows:
            raise ValueError(f"{name} has {len(each)} rows for {rows} queries")
    for row in range(rows):
        known = (right, distances) if titles is None else (right, distances, titles)
        if any(len(each[row]) != len(neighbours[row]) for each in known):
            raise ValueError(
                f"neighbours, right, distances and titles of row {row} differ in length"
            )
    if not rows:
        raise ValueError("queries is empty; there is nothing to show")
    columns = 1 + max(len(each) for each in neighbours)
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05)
    figure = Figure(figsize=(1.32 * columns + 0.2, 1.68 * rows + 0.45), layout=layout)
    if title is not None:
        figure.suptitle(title, fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        for column, axes in enumerate(grid[row]):
            axes.set_xticks([])
            axes.set_yticks([])
            found = column - 1
            if column and found >= len(neighbours[row]):
                axes.set_axis_off()
            elif column == 0:
                _picture(axes, queries[row], "queries")
                _frame(axes, QUERY, 2.5, "-")
                words = query_titles[row] if query_titles is not None else ""
                axes.set_title("query", fontsize=9, fontweight="bold", pad=3)
                # A dollar sign in a file's name begins no formula.
                axes.set_xlabel(_short(words), fontsize=8, labelpad=3, parse_math=False)
            else:
                _picture(axes, neighbours[row][found], "neighbours")
                mark, colour, width, line = _MARKS[right[row][found]]
                _frame(axes, colour, width, line)
                words = titles[row][found] if titles is not None else ""
                above = f"{mark} {_short(words)}".strip()
                axes.set_title(above, fontsize=9, color=colour, pad=3, parse_math=False)
                axes.set_xlabel(_distance(distances[row][found]), fontsize=8, labelpad=3)
    return figure


_MARKS: dict[bool | None, tuple[str, str, float, Any]] = {
    True: ("\N{HEAVY CHECK MARK}", RIGHT, 2.5, "-"),
    False: ("\N{HEAVY BALLOT X}", WRONG, 2.5, (0, (2, 1.2))),
    None: ("", "#555555", 1.0, "-"),
}


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG; the file is whole or as it was before.

    Raises:
        OSError: it cannot be written.

    Example:
        >>> save(pr_curve(results), "precision_recall.png")  # doctest: +SKIP
    """
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=PIXELS_PER_INCH)


def styles(count: int) -> list[dict[str, Any]]:
    """Line styles, as many as asked for; after seven they repeat."""
    fine = {"linewidth": 1.6, "markersize": 4.5}
    return [STYLES[i % len(STYLES)] | fine for i in range(count)]


def finish(figure: Figure, axes: Axes, *, legend: bool = True) -> Figure:
    """Give axes the look that all figures share: a faint grid, two spines, a small legend."""
    axes.grid(True, color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(fontsize=8.5, framealpha=0.9)
    return figure


def _picture(axes: Axes, image: np.ndarray, name: str) -> None:
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.dtype != np.uint8 or not (
        image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    ):
        raise ValueError(
            f"{name}: images must be uint8 (h, w), (h, w, 1) or (h, w, 3), "
            f"not {image.dtype} {image.shape}"
        )
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def _frame(axes: Axes, colour: str, width: float, line: Any) -> None:
    for spine in axes.spines.values():
        spine.set(edgecolor=colour, linewidth=width, linestyle=line)


def _short(words: str) -> str:
    """Words that fit above an image."""
    return words if len(words) <= 15 else words[:14].rstrip() + "…"


def _distance(distance: float) -> str:
    """Hamming distances as they are, Euclidean ones to three digits."""
    if isinstance(distance, int | np.integer):
        return "1 bit" if distance == 1 else f"{distance} bits"
    return f"{distance:.3g}"
