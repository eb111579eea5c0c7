"""Baselines: rankings by the network's features, and by codes made of them without labels.

Two codes that are made of features without labels, both by FAISS, from training images alone:

- `lsh`: signs of random projections, thresholds at the medians (Charikar, "Similarity estimation
  techniques from rounding algorithms", STOC 2002);
- `itq`: the principal directions, rotated so that little is lost by rounding (Gong, Lazebnik,
  Gordo and Perronnin, "Iterative quantization", TPAMI 2013).

And the features themselves, `by_features`: the whole database in order of Euclidean or cosine
distance, which no code made of them keeps in full.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Literal

import numpy as np

import search
from jaxhash.data.protocols import Split
from jaxhash.evaluation import measures
from search import threads as pool
from search.measures.counting import check_cuts, check_exclude
from search.measures.relevance import Relevance, relate
from search.measures.result import from_hits, share, spread

BASELINES = {
    "lsh": "features, LSH",
    "itq": "features, ITQ",
    "euclidean": "features, Euclidean",
    "cosine": "features, cosine",
}
"""The rankings of `rankings` and what to call them in tables and figures."""
BLOCK = 256
"""Queries whose distances are held at once."""

Metric = Literal["euclidean", "cosine"]
Coder = Callable[[np.ndarray], np.ndarray]
"""Features float32 (n, D) -> codes uint8 (n, ceil(bits / 8)), as `search.pack` has them."""


def rankings(
    train: np.ndarray,
    query: np.ndarray,
    database: np.ndarray,
    labels: np.ndarray,
    split: Split,
    *,
    bits: int,
    seed: int = 0,
    queries: int | None = None,
    at: Sequence[int] = measures.CUTS,
    top: int = 1000,
    threads: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure every baseline under a protocol; the form is that of `evaluation.measures.evaluate`.

    ITQ is left out where there are more bits than dimensions.

    Args:
        train: features of training images, float32 (m, D), all that LSH and ITQ learn from.
        query: those of `split.query`.
        database: those of `split.database`.
        labels: of the whole dataset.
        split: the protocol's rows.
        bits: length of a code.
        seed: of the random directions.
        queries: number of queries, evenly spaced among all, whose rankings by features are
            measured, as each sorts the whole database; all by default. "queries" in the result
            says how many.
        at: cut-offs of precision.
        top: cut-off of the mean average precision at the top.
        threads: at most this many; all processors when None.

    Returns:
        The measures of each ranking, by its name.

    Raises:
        ValueError: features that do not fit the split.
        ModuleNotFoundError: FAISS is not installed.

    Example:
        >>> rankings(train, query, database, labels, split, bits=48)  # doctest: +SKIP
    """
    for name, values, rows in (
        ("query", query, split.query),
        ("database", database, split.database),
    ):
        if len(values) != len(rows):
            raise ValueError(f"{name} has {len(values)} rows, and split.{name} has {len(rows)}")
    asked, searched = labels[split.query], labels[split.database]
    exclude = measures.rows_of_queries(split) if split.exclude_self else None
    longest = len(searched) - int(exclude is not None and bool((exclude >= 0).any()))
    common: dict[str, Any] = {
        "at": [k for k in at if k <= longest],
        "top": min(top, longest),
        "threads": threads,
    }
    found: dict[str, dict[str, Any]] = {}
    for name, learn in (("lsh", lsh), ("itq", itq)):
        if name == "itq" and bits > train.shape[1]:
            continue
        code = learn(train, bits, seed=seed)
        measured = search.measure(
            code(query), code(database), asked, searched, bits=bits, exclude=exclude, **common
        )
        found[name] = {"queries": len(asked), **measures.summary(measured)}
    count = len(asked) if queries is None else min(queries, len(asked))
    drawn = np.linspace(0, len(asked) - 1, count).round().astype(int)
    metrics: tuple[Metric, ...] = ("euclidean", "cosine")
    for metric in metrics:
        measured = by_features(
            query[drawn],
            database,
            asked[drawn],
            searched,
            metric=metric,
            exclude=None if exclude is None else exclude[drawn],
            **common,
        )
        found[metric] = {"queries": len(drawn), **measures.summary(measured)}
    return found


def lsh(train: np.ndarray, bits: int, *, seed: int = 0) -> Coder:
    """Locality-sensitive hashing: one random direction a bit, split at the median.

    train: float32 (m, D). The directions are at right angles as far as there are dimensions.

    Raises:
        ModuleNotFoundError: FAISS is not installed.

    Example:
        >>> code = lsh(np.random.default_rng(0).normal(size=(100, 8)), 16)  # doctest: +SKIP
        >>> code(np.zeros((5, 8))).shape  # doctest: +SKIP
        (5, 2)
    """
    index = faiss_module().IndexLSH(train.shape[1], bits, True, True)
    index.rrot.init(seed)
    index.train(_rows(train))

    def code(features: np.ndarray) -> np.ndarray:
        # FAISS counts the bits of a byte from the least significant one.
        lowest_first = np.unpackbits(index.sa_encode(_rows(features)), axis=1, bitorder="little")
        return np.packbits(lowest_first[:, :bits], axis=1)

    return code


def itq(train: np.ndarray, bits: int, *, seed: int = 0) -> Coder:
    """Iterative quantisation of centred features of length 1, on their first `bits` directions.

    train: float32 (m, D).

    Raises:
        ValueError: more bits than dimensions.
        ModuleNotFoundError: FAISS is not installed.

    Example:
        >>> code = itq(np.random.default_rng(0).normal(size=(100, 8)), 8)  # doctest: +SKIP
    """
    if bits > train.shape[1]:
        raise ValueError(f"bits is {bits}; features of {train.shape[1]} dimensions give no more")
    transform = faiss_module().ITQTransform(train.shape[1], bits, True)
    transform.itq.seed = seed
    transform.max_train_per_dim = len(train)  # all of them, without a draw of its own
    transform.train(_rows(train))
    return lambda features: np.packbits(transform.apply(_rows(features)) > 0, axis=1)


def by_features(
    query: np.ndarray,
    database: np.ndarray,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    *,
    metric: Metric = "euclidean",
    at: Sequence[int] = (),
    top: int | None = None,
    exclude: np.ndarray | None = None,
    threads: int | None = None,
) -> search.Measures:
    """All measures of the whole database ranked by real-valued features.

    query: float (q, D). database: float (n, D). query_labels, database_labels: integers, or bool
    (·, classes). metric: "euclidean" or "cosine"; a vector of zeros is at cosine distance 1 from
    everything. Distances are float32, and equal ones come in the order of the rows. The other
    arguments and the conventions are those of `search.ranked_measure`.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or range.

    Example:
        >>> items = np.array([[0.0], [1.0], [3.0]])
        >>> found = by_features(items[:1], items, np.array([7]), np.array([7, 5, 7]))
        >>> round(found.mean_average_precision, 4)
        0.8333
    """
    query, database = _rows(query), _rows(database)
    if query.shape[1] != database.shape[1]:
        raise ValueError(f"query has {query.shape[1]} dimensions, database {database.shape[1]}")
    queries, items = len(query), len(database)
    if not queries or not items:
        raise ValueError("query and database must hold at least one item each")
    relevance = relate(query_labels, database_labels, queries, items)
    exclude = check_exclude(exclude, queries, items)
    longest = items
    if exclude is not None:
        longest -= bool((exclude >= 0).any())
    cuts = check_cuts(at, "at", longest)
    points = check_cuts(spread(longest), "ranks", longest)
    top = longest if top is None else int(check_cuts([top], "top", longest)[0])
    if metric == "cosine":
        query, database = _unit(query), _unit(database)
    elif metric != "euclidean":
        raise ValueError(f"metric is {metric!r}; choose euclidean or cosine")

    squares = np.einsum("nd,nd->n", database, database)
    average, average_at_top = np.zeros(queries), np.zeros(queries)
    found, relevant = np.zeros((queries, len(cuts) + len(points))), np.zeros(queries, np.int64)
    steps = np.concatenate([cuts, points])
    for start in range(0, queries, BLOCK):
        part = query[start : start + BLOCK]
        distances = -2 * (part @ database.T)
        if metric == "euclidean":
            distances += squares
            distances += np.einsum("qd,qd->q", part, part)[:, None]
        else:
            distances += 2  # twice the distance: the order is the same
        np.maximum(distances, 0, out=distances)

        def rank(row: int, of_row: np.ndarray) -> None:
            own = None if exclude is None or exclude[row] < 0 else int(exclude[row])
            places = _places(of_row, relevance, row, own)
            precisions = np.arange(1, len(places) + 1) / places
            relevant[row] = len(places)
            average[row] = precisions.mean() if len(places) else 0
            in_top = int(np.searchsorted(places, top, side="right"))
            average_at_top[row] = precisions[:in_top].mean() if in_top else 0
            found[row] = np.searchsorted(places, steps, side="right")

        pool.run(rank, [(start + i, row) for i, row in enumerate(distances)], threads)
    return from_hits(
        relevant,
        database=items,
        average_precision=average,
        top=top,
        average_precision_at_top=average_at_top,
        at=cuts,
        hits_at=found[:, : len(cuts)],
        ranks=points,
        hits_on_curve=found[:, len(cuts) :],
    )


def _places(distances: np.ndarray, relevance: Relevance, query: int, own: int | None) -> np.ndarray:
    """The places, from 1, of the relevant items in the order of (distance, row)."""
    # The bits of a float from 0 up are in the order of the floats. With the row below them each
    # key differs, and NumPy sorts whole numbers several times faster than it sorts their places.
    keys = distances.view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(len(keys), dtype=np.uint64)
    if own is not None:
        keys = np.delete(keys, own)
    keys.sort()
    order = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return np.flatnonzero(relevance.of_pairs(np.array(query), order)) + 1


def _rows(features: np.ndarray) -> np.ndarray:
    """Features as a float32 matrix that lies in one piece."""
    rows = np.ascontiguousarray(features, np.float32)
    if rows.ndim != 2 or not rows.shape[1]:
        raise ValueError(f"features must have the shape (n, D), not {rows.shape}")
    return rows


def _unit(rows: np.ndarray) -> np.ndarray:
    return share(rows, np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def faiss_module() -> ModuleType:
    """FAISS, which only these baselines need.

    Raises:
        ModuleNotFoundError: it is not installed; the message says what to do.
    """
    try:
        import faiss
    except ImportError:
        raise ModuleNotFoundError(
            "LSH and ITQ need a package that is not installed; pip install faiss-cpu, or leave "
            "the baselines out"
        ) from None
    return faiss
