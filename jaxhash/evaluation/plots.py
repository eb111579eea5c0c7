"""Figures of a run: precision-recall, precision at k, and training curves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from jaxhash.evaluation.measures import RANKINGS
from jaxhash.plots import finish, styles


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


_PANELS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("loss", lambda name: name == "loss" or name.startswith("loss_")),
    ("share", lambda name: name == "accuracy" or name.startswith("validation")),
    ("gradient norm", lambda name: name == "gradient_norm"),
    ("learning rate", lambda name: name == "learning_rate"),
)


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
        for style, (name, (steps, values)) in zip(styles(len(chosen)), chosen.items(), strict=True):
            every = max(1, len(steps) // 10)
            axes.plot(steps, values, label=name.replace("_", " "), markevery=every, **style)
        axes.set_xlabel("step")
        axes.set_ylabel(heading)
        if heading == "share":
            axes.set_ylim(top=1.01)
        finish(figure, axes, legend=len(chosen) > 1)
    return figure


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
    for style, name in zip(styles(len(RANKINGS)), RANKINGS, strict=True):
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


def _share_axis(axes: Axes, lowest: float) -> None:
    """From 0 to 1, or closer where all values are high: small differences stay visible."""
    axes.set_ylim(0 if lowest < 0.5 else np.floor(lowest * 20 - 0.5) / 20, 1.005)
