"""Figures: precision-recall, precision@k, training curves and galleries of neighbours.

Every function returns a `matplotlib.figure.Figure` of its own; pyplot and its global state are not
used, so figures can be made in any thread and without a display. Lines differ in colour, dash and
marker, in the colours of Okabe and Ito, which people with any kind of colour vision can tell
apart.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import NullFormatter, ScalarFormatter

from jaxhash.evaluation.measures import RANKINGS
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


def pr_curve(results: Mapping[str, Any]) -> Figure:
    """Precision against recall over the ranks of each ranking of `evaluation.evaluate`.

    A ranking known only to its first thousand ends where its list does.

    Example:
        >>> save(pr_curve(results), "runs/demo/precision_recall.png")  # doctest: +SKIP
    """
    figure, axes = _one(results, "recall", "precision")
    lowest = 1.0
    for style, name, ranking in _rankings(results):
        curve = ranking["precision_recall"]
        legend = _legend(name, ranking)
        every = max(1, len(curve["ranks"]) // 12)
        axes.plot(curve["recall"], curve["precision"], label=legend, markevery=every, **style)
        lowest = min(lowest, *curve["precision"])
    axes.set_xlim(0, 1.02)
    _share_axis(axes, lowest)
    return finish(figure, axes)


def precision_at_k(results: Mapping[str, Any]) -> Figure:
    """Precision@k against k for each ranking of `evaluation.evaluate`.

    Example:
        >>> save(precision_at_k(results), "runs/demo/precision_at_k.png")  # doctest: +SKIP
    """
    figure, axes = _one(results, "k, number of results", "precision@k")
    lowest, farthest = 1.0, 1
    for style, name, ranking in _rankings(results):
        cuts = [int(k) for k in ranking["precision_at"]]
        if not cuts:
            continue
        precision = list(ranking["precision_at"].values())
        axes.plot(cuts, precision, label=_legend(name, ranking), **style)
        lowest, farthest = min(lowest, *precision), max(farthest, *cuts)
    axes.set_xscale("log")
    axes.set_xticks([10**power for power in range(len(str(farthest)))])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    _share_axis(axes, lowest)
    return finish(figure, axes)


def training_curves(rows: Sequence[Mapping[str, Any]], *, title: str = "Training") -> Figure:
    """The rows of metrics.jsonl over the steps: losses, accuracy and validation, gradient norm.

    Example:
        >>> save(training_curves(metrics_log.read(folder)), "training.png")  # doctest: +SKIP

    Raises:
        ValueError: no row has a step and a number.
    """
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if name not in ("step", "epoch") and "step" in row and number and np.isfinite(value):
                steps, values = series.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    panels = [
        (heading, {name: series[name] for name in series if belongs(name)})
        for heading, belongs in _PANELS
    ]
    panels = [(heading, chosen) for heading, chosen in panels if chosen]
    if not panels:
        raise ValueError("rows: none has a step and a loss, accuracy or validation to draw")
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    figure.suptitle(title)
    for axes, (heading, chosen) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        for style, (name, (steps, values)) in zip(
            _styles(len(chosen)), chosen.items(), strict=True
        ):
            every = max(1, len(steps) // 10)
            axes.plot(steps, values, label=name.replace("_", " "), markevery=every, **style)
        axes.set_xlabel("step")
        axes.set_ylabel(heading)
        if heading == "share":
            axes.set_ylim(top=1.01)
        finish(figure, axes, legend=len(chosen) > 1)
    return figure


_PANELS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("loss", lambda name: name == "loss" or name.startswith("loss_")),
    ("share", lambda name: name == "accuracy" or name.startswith("validation")),
    ("gradient norm", lambda name: name == "gradient_norm"),
    ("learning rate", lambda name: name == "learning_rate"),
)


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
            raise ValueError(f"row {row}: neighbours, right, distances and titles differ in length")
    if not rows:
        raise ValueError("queries is empty: there is nothing to show")
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
                axes.set_xlabel(_short(words), fontsize=8, labelpad=3)
            else:
                _picture(axes, neighbours[row][found], "neighbours")
                mark, colour, width, line = _MARKS[right[row][found]]
                _frame(axes, colour, width, line)
                words = titles[row][found] if titles is not None else ""
                axes.set_title(f"{mark} {_short(words)}".strip(), fontsize=9, color=colour, pad=3)
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


def _one(results: Mapping[str, Any], across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_title(
        f"{results['protocol']}, {results['bits']} bits, {results['queries']:,} queries, "
        f"{results['database']:,} in the database, seed {results['seed']}",
        fontsize=10,
    )
    return figure, axes


def _rankings(
    results: Mapping[str, Any],
) -> Iterator[tuple[dict[str, Any], str, Mapping[str, Any]]]:
    """Style, name and numbers of each ranking; the same style for a ranking in every figure."""
    for style, name in zip(_styles(len(RANKINGS)), RANKINGS, strict=True):
        if name in results["rankings"]:
            yield style, name, results["rankings"][name]


def _legend(name: str, ranking: Mapping[str, Any]) -> str:
    pool = f", pool {ranking['pool']:,}" if "pool" in ranking else ""
    mean = ranking["mAP"]
    worth = (
        f"mAP {mean:.3f}"
        if mean is not None
        else (f"mAP@{ranking['top']:,} {ranking['mAP_at_top']:.3f}")
    )
    return f"{RANKINGS[name]}{pool}: {worth}"


def _styles(count: int) -> list[dict[str, Any]]:
    """Line styles, as many as asked for; after seven they repeat."""
    fine = {"linewidth": 1.6, "markersize": 4.5}
    return [STYLES[i % len(STYLES)] | fine for i in range(count)]


def _share_axis(axes: Axes, lowest: float) -> None:
    """From 0 to 1, or closer where all values are high: small differences stay visible."""
    axes.set_ylim(0 if lowest < 0.5 else np.floor(lowest * 20 - 0.5) / 20, 1.005)


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
