"""What the page of a run shows: figures, training log, bits, what is right and what is wrong."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxhash import runs
from jaxhash.analysis import bits as statistics
from jaxhash.evaluation.measures import RANKINGS
from jaxhash.serve.searching import Wanted, answer
from jaxhash.serve.snapshot import Snapshot
from jaxhash.training import metrics_log

POINTS = 200
"""Points of a curve, at most."""
SAMPLE = 5000
"""Items whose bits are counted, at most."""
ASKED = 200
"""Items that are tried as queries for the galleries."""
SHOWN = 4
NEAREST = 10
MOST_BITS = 256
"""Longest codes whose correlation is drawn."""


def report(run: Path, snapshot: Snapshot, words: str) -> dict[str, Any]:
    """Everything about a run that its page shows, ready for JSON.

    Args:
        run: the folder.
        snapshot: the index; bits and galleries are of its items.
        words: what to say of the model.

    Returns:
        results (None before an evaluation), training, bits (None for an empty index), galleries.

    Example:
        >>> report(Path("runs/demo"), snapshot, "dlbhc")["name"]  # doctest: +SKIP
        'demo'
    """
    return {
        "name": run.resolve().name,
        "words": words,
        "version": snapshot.version,
        "results": _results(run),
        "training": _training(metrics_log.read(run)),
        "bits": _bits(snapshot),
        "galleries": _galleries(snapshot),
    }


def _thinned(values: Sequence[Any]) -> list[Any]:
    """About as many values as can be drawn, the first and the last among them."""
    return [values[row] for row in _spread(len(values), POINTS).tolist()]


def _spread(count: int, points: int) -> np.ndarray:
    """Positions in a list of so many values, evenly, the first and the last among them."""
    if count <= points:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, points).round().astype(np.int64))


def _results(run: Path) -> dict[str, Any] | None:
    """The figures of results.json, with curves of a bounded number of points."""
    path = run / runs.RESULTS
    if not path.is_file():
        return None
    found = runs.read_json(path)
    if "rankings" not in found:
        return found
    rankings = [
        _ranking(title, found["rankings"][name])
        for name, title in RANKINGS.items()
        if name in found["rankings"]
    ]
    accuracy = found.get("accuracy")
    kept = ("split", "bits", "queries", "database", "bit_entropy")
    return {name: found[name] for name in kept} | {
        "accuracy": None if accuracy is None else accuracy["query"],
        "distinct_codes": found["distinct_codes"]["database"],
        "rankings": rankings,
    }


def _ranking(title: str, one: Mapping[str, Any]) -> dict[str, Any]:
    curve = one["precision_recall"]
    return {
        "title": title,
        "pool": one.get("pool"),
        **{name: one[name] for name in ("mAP", "mAP_at_top", "top", "precision_at")},
        "curve": {name: _thinned(curve[name]) for name in ("precision", "recall")},
    }


def _training(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The losses and shares of a training log as curves over the steps."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if "step" in row and number and np.isfinite(value):
                steps, values = series.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    kinds = {name: "loss" if "loss" in name else None for name in series}
    for name in ("accuracy", "validation_map"):
        kinds[name] = "share"
    return [
        {
            "name": name.replace("_", " "),
            "kind": kinds[name],
            "x": _thinned(steps),
            "y": _thinned(values),
        }
        for name, (steps, values) in series.items()
        if kinds[name] is not None and len(steps) > 1
    ]


def _bits(snapshot: Snapshot) -> dict[str, Any] | None:
    """Balance and correlation of the bits of the index's items."""
    index = snapshot.images.codes
    if not len(index):
        return None
    codes, _ = index.get(index.ids_at(_spread(len(index), SAMPLE)))
    correlation = statistics.correlation(codes, index.bits)
    rounded = None
    if index.bits <= MOST_BITS:
        rounded = [
            [None if not np.isfinite(value) else round(100 * value) for value in row]
            for row in correlation.tolist()
        ]
    return {
        "items": len(codes),
        "ones": statistics.balance(codes, index.bits).round(4).tolist(),
        "effective": statistics.effective_bits(correlation),
        "correlation": rounded,
    }


def _galleries(snapshot: Snapshot) -> dict[str, list[Any]]:
    """Items whose nearest others have their label, and items whose nearest have other ones."""
    nothing: dict[str, list[Any]] = {"right": [], "wrong": []}
    asked = snapshot.drawn(ASKED, seed=0)
    names = dict(zip(asked, zip(*snapshot.names(asked), strict=True), strict=True))
    asked = [item for item in asked if names[item][1] is not None]
    if len(snapshot) <= NEAREST or not asked:
        return nothing
    (found,) = answer(snapshot, [Wanted(k=NEAREST + 1, ids=asked)])
    if isinstance(found, Exception) or found.paths is None or found.labels is None:
        return nothing
    rows = []
    columns = (found.ids, found.distances, found.paths, found.labels)
    for item, *near in zip(asked, *columns, strict=True):
        path, label = names[item]
        others = [
            {"id": one, "distance": apart, "path": where, "label": name, "right": name == label}
            for one, apart, where, name in zip(*near, strict=True)
            if one != item
        ][:NEAREST]
        for one in others:
            one["fine"] = snapshot.features is not None
        right = sum(bool(one["right"]) for one in others)
        rows.append(
            (right, {"query": {"id": item, "path": path, "label": label}, "results": others})
        )
    best = sorted(rows, key=lambda row: -row[0])
    worst = sorted(rows, key=lambda row: row[0])
    return {
        "right": _different([row for right, row in best if right == len(row["results"])]),
        "wrong": _different([row for right, row in worst if right < len(row["results"])]),
    }


def _different(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first few of different labels."""
    by_label = {row["query"]["label"]: row for row in reversed(rows)}
    return sorted(by_label.values(), key=rows.index)[:SHOWN]
