"""Measures of rankings given as lists of ids: Euclidean and coarse-to-fine results.

Such rankings have one order and hardly any ties, so the measures are read off the lists. The
conventions are those of `search.measures.ranking`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.codes import refuse_subclass
from search.measures.counting import check_cuts, check_exclude, check_positive
from search.measures.relevance import relate
from search.measures.result import (
    Denominator,
    Measures,
    check_denominator,
    from_hits,
    share,
    spread,
)


def ranked_measure(
    ids: NDArray[np.int64],
    query_labels: NDArray[Any],
    database_labels: NDArray[Any],
    *,
    at: Sequence[int] = (),
    top: int | None = None,
    denominator: Denominator = "retrieved",
    ranks: Sequence[int] | None = None,
    exclude: NDArray[np.int64] | None = None,
    threads: int | None = None,
) -> Measures:
    """All measures of rankings given as lists of database rows.

    Args:
        ids: int64 (q, k), best first; -1 where a list is shorter. A missing place counts as not
            relevant.
        query_labels: integers (q,), or bool (q, classes).
        database_labels: integers (n,), or bool (n, classes).
        at: cut-offs of precision@k, none beyond the lists' length.
        top: cut-off of the average precision; the lists' length when left out.
        denominator: "retrieved" or "possible", see `search.measures.ranking`.
        ranks: ranks of the precision-recall curve, none beyond the lists' length; about a
            hundred, evenly spaced on a logarithmic axis, when left out.
        exclude: int64 (q,), a database row that is taken out of each list, -1 for none. Ask for
            one result more than needed where this is used: lists count as one shorter.
        threads: number of threads; all processors when left out.

    Returns:
        `Measures` without bits and radii; `average_precision` is None unless every list holds the
        whole database.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or range, or a list names a
            row twice.

    Example:
        >>> found = ranked_measure(
        ...     np.array([[0, 2, 1]]), np.array([7]), np.array([7, 7, 5]), at=(1, 2)
        ... )
        >>> found.mean_precision_at
        array([1. , 0.5])
    """
    refuse_subclass(ids, "ids")
    refuse_subclass(database_labels, "database_labels")
    ids = np.asarray(ids)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"ids must be integers, not {ids.dtype}")
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(f"ids must have the shape (q, k), neither of them 0, not {ids.shape}")
    queries, database = len(ids), len(np.asarray(database_labels))
    if database == 0:
        raise ValueError("database_labels must hold at least one item")
    _check_rows(ids, database)
    relevance = relate(query_labels, database_labels, queries, database)
    check_denominator(denominator)
    exclude = check_exclude(exclude, queries, database)

    length = ids.shape[1]
    relevant = relevance.per_query(threads)
    to_rank = np.full(queries, database)
    if exclude is not None:
        left_out = exclude >= 0
        length -= bool(left_out.any())
        to_rank = to_rank - left_out
        relevant = relevant - (left_out & relevance.of_pairs(np.arange(queries), exclude))
        ids = np.where(ids == exclude[:, None], -1, ids)
    if (ids[:, :-1] < 0).any():
        # Close the gaps: the places of a list that hold something come first, in their order.
        ids = np.take_along_axis(ids, np.argsort(ids < 0, axis=1, kind="stable"), axis=1)
    ids = ids[:, :length]
    listed = (ids >= 0).sum(axis=1)
    cuts = check_cuts(at, "at", length)
    points = check_cuts(spread(length) if ranks is None else ranks, "ranks", length)
    top = length if top is None else int(check_cuts([check_positive(top, "top")], "top", length)[0])

    hits = relevance.of_lists(ids, threads) & (ids >= 0)
    found = np.cumsum(hits, axis=1, dtype=np.int64)
    at_hits = np.cumsum(np.where(hits, found / np.arange(1, length + 1), 0), axis=1)
    whole = length > 0 and bool((listed == to_rank).all())
    at_top = np.minimum(relevant, top) if denominator == "possible" else found[:, top - 1]
    return from_hits(
        relevant,
        database=database,
        average_precision=share(at_hits[:, -1], relevant) if whole else None,
        top=top,
        average_precision_at_top=share(at_hits[:, top - 1], at_top),
        denominator=denominator,
        at=cuts,
        hits_at=found[:, cuts - 1],
        ranks=points,
        hits_on_curve=found[:, points - 1],
    )


def _check_rows(ids: NDArray[np.int64], database: int) -> None:
    """Refuse rows that do not exist, and rows listed twice, which would count twice."""
    if ids.min() < -1 or ids.max() >= database:
        raise ValueError(
            f"ids must be database rows below {database}, or -1 for none, not "
            f"{ids.min()} to {ids.max()}"
        )
    ordered = np.sort(ids, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("ids must not name a database row twice in one list")
