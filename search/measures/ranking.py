"""Tie-aware measures of Hamming rankings: average precision, precision at k, and others.

Ranking by Hamming distance leaves many items at the same distance, and nothing orders them: with
48 bits and 50,000 items their order moves the mean average precision by percents. Every
measure here is therefore the exact expected value over all orders within the ties (McSherry and
Najork, "Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
Scores", ECIR 2008; the AP of He et al., "Hashing as Tie-Aware Learning to Rank", CVPR 2018). It
needs one pass over queries x database that counts, per query and distance, the items and the
relevant ones.

Conventions, the same for all functions:

- Two items are relevant to each other when they share at least one label. Labels are integers
  (n,), one class each, or bool (n, classes).
- A query without any relevant item scores 0 in everything and stays in the means; such queries
  are counted. Leaving them out would multiply a mean by `queries / (queries - without_relevant)`.
- Average precision of the first `top` positions divides by the relevant items found among them
  ("retrieved", what most published code does) or by the most there could have been, the smaller
  of `top` and all relevant items ("possible", stricter). For the whole ranking they agree.
- `exclude` names one database row per query that is left out of its ranking, -1 for none: the
  query itself, where queries are part of the database.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.codes import check_count
from search.kernels import ranking as kernels
from search.measures.counting import Counter, check_positive
from search.measures.result import (
    Denominator,
    Floats,
    Measures,
    check_denominator,
    from_hits,
    share,
    spread,
)


def measure(
    query_codes: NDArray[np.uint8],
    database_codes: NDArray[np.uint8],
    query_labels: NDArray[Any],
    database_labels: NDArray[Any],
    *,
    bits: int | None = None,
    at: Sequence[int] = (),
    top: int | None = None,
    denominator: Denominator = "retrieved",
    ranks: Sequence[int] | None = None,
    radii: Sequence[int] = (0, 1, 2),
    exclude: NDArray[np.int64] | None = None,
    threads: int | None = None,
) -> Measures:
    """All measures of a ranking by Hamming distance, tie-aware, in one pass.

    Args:
        query_codes: uint8 (q, ceil(bits / 8)), q > 0.
        database_codes: uint8 (n, ceil(bits / 8)).
        query_labels: integers (q,), or bool (q, classes).
        database_labels: integers (n,), or bool (n, classes).
        bits: number of bits in a code; eight a byte when left out.
        at: cut-offs of precision@k, each from 1 to the number of items a query can rank.
        top: cut-off of the average precision at the top; none when left out.
        denominator: "retrieved" or "possible", see above.
        ranks: ranks of the precision-recall curve; when left out, about a hundred between 1 and
            the whole database, evenly spaced on a logarithmic axis.
        radii: Hamming radii, inclusive, of the lookup measures.
        exclude: int64 (q,), the database row each query leaves out, -1 for none.
        threads: number of threads; all processors when left out.

    Returns:
        `Measures`.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or range.

    Example:
        >>> codes = np.array([[0], [1], [3]], np.uint8)
        >>> found = measure(codes[:1], codes, np.array([7]), np.array([7, 5, 7]), at=(1, 2))
        >>> found.mean_precision_at
        array([1. , 0.5])
        >>> round(found.mean_average_precision, 4)
        0.8333
    """
    counter = Counter.of(query_codes, database_codes, query_labels, database_labels, bits, exclude)
    check_denominator(denominator)
    top = None if top is None else check_positive(top, "top")
    cuts = counter.cuts(at, "at")
    points = counter.cuts(spread(counter.shortest) if ranks is None else ranks, "ranks")
    steps, inverse = np.unique(np.concatenate([cuts, points]), return_inverse=True)
    balls = _check_radii(radii)

    queries = counter.queries.shape[0]
    relevant = np.empty(queries, np.int64)
    average = np.empty(queries)
    average_at_top = None if top is None else np.empty(queries)
    found = np.empty((queries, steps.size))
    items_within = np.empty((queries, balls.size), np.int64)
    relevant_within = np.empty((queries, balls.size), np.int64)

    def part(rows: slice, counts: NDArray[np.int64]) -> None:
        relevant[rows] = counts[:, 1::2].sum(axis=1)
        kernels.expected_average_precision(counts, counter.database, False, average[rows])
        if top is not None and average_at_top is not None:
            possible = denominator == "possible"
            kernels.expected_average_precision(counts, top, possible, average_at_top[rows])
        kernels.expected_relevant(counts, steps, found[rows])
        items_within[rows], relevant_within[rows] = _within(counts, balls)

    counter.each(part, threads)
    by_rank = from_hits(
        relevant,
        database=counter.database,
        average_precision=average,
        top=top,
        average_precision_at_top=average_at_top,
        denominator=denominator,
        at=cuts,
        hits_at=found[:, inverse[: cuts.size]],
        ranks=points,
        hits_on_curve=found[:, inverse[cuts.size :]],
    )
    return replace(
        by_rank,
        bits=counter.bits,
        radii=balls,
        precision_within=share(relevant_within, items_within),
        recall_within=share(relevant_within, relevant[:, None]),
        empty_within=(items_within == 0).sum(axis=0),
    )


def average_precision(
    query_codes: NDArray[np.uint8],
    database_codes: NDArray[np.uint8],
    query_labels: NDArray[Any],
    database_labels: NDArray[Any],
    *,
    bits: int | None = None,
    top: int | None = None,
    denominator: Denominator = "retrieved",
    exclude: NDArray[np.int64] | None = None,
    threads: int | None = None,
) -> Floats:
    """Expected average precision of each query, over the whole ranking or its first `top`.

    Args:
        query_codes: uint8 (q, ceil(bits / 8)), q > 0.
        database_codes: uint8 (n, ceil(bits / 8)).
        query_labels: integers (q,), or bool (q, classes).
        database_labels: integers (n,), or bool (n, classes).
        bits: number of bits in a code; eight a byte when left out.
        top: rank only the first so many; the whole database when left out.
        denominator: "retrieved" or "possible", see above; for `top`.
        exclude: int64 (q,), the database row each query leaves out, -1 for none.
        threads: number of threads; all processors when left out.

    Returns:
        float64 (q,), whose mean is the mAP.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or range.

    Example:
        >>> codes = np.array([[0], [1], [1]], np.uint8)
        >>> average_precision(codes[:1], codes[1:], np.array([7]), np.array([5, 7]))
        array([0.75])
    """
    counter = Counter.of(query_codes, database_codes, query_labels, database_labels, bits, exclude)
    check_denominator(denominator)
    cut = counter.database if top is None else check_positive(top, "top")
    average = np.empty(counter.queries.shape[0])

    def part(rows: slice, counts: NDArray[np.int64]) -> None:
        possible = denominator == "possible"
        kernels.expected_average_precision(counts, cut, possible, average[rows])

    counter.each(part, threads)
    return average


def precision_at(
    query_codes: NDArray[np.uint8],
    database_codes: NDArray[np.uint8],
    query_labels: NDArray[Any],
    database_labels: NDArray[Any],
    at: Sequence[int],
    *,
    bits: int | None = None,
    exclude: NDArray[np.int64] | None = None,
    threads: int | None = None,
) -> Floats:
    """Expected share of relevant items among the first k, for each k in `at`.

    Args:
        query_codes: uint8 (q, ceil(bits / 8)), q > 0.
        database_codes: uint8 (n, ceil(bits / 8)).
        query_labels: integers (q,), or bool (q, classes).
        database_labels: integers (n,), or bool (n, classes).
        at: cut-offs k, each from 1 to the number of items a query can rank.
        bits: number of bits in a code; eight a byte when left out.
        exclude: int64 (q,), the database row each query leaves out, -1 for none.
        threads: number of threads; all processors when left out.

    Returns:
        float64 (q, len(at)).

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or range.

    Example:
        >>> codes = np.array([[0], [1], [1]], np.uint8)
        >>> precision_at(codes[:1], codes, np.array([7]), np.array([7, 7, 5]), (1, 2, 3))
        array([[1.        , 0.75      , 0.66666667]])
    """
    counter = Counter.of(query_codes, database_codes, query_labels, database_labels, bits, exclude)
    cuts = counter.cuts(at, "at")
    found, _ = counter.found(cuts, threads)
    return found / cuts


def precision_recall(
    query_codes: NDArray[np.uint8],
    database_codes: NDArray[np.uint8],
    query_labels: NDArray[Any],
    database_labels: NDArray[Any],
    *,
    ranks: Sequence[int] | None = None,
    bits: int | None = None,
    exclude: NDArray[np.int64] | None = None,
    threads: int | None = None,
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """The precision-recall curve: expected precision and recall at each rank, mean over queries.

    A curve over ranks rather than over radii, so that rankings without a radius can be drawn
    beside it.

    Args:
        query_codes: uint8 (q, ceil(bits / 8)), q > 0.
        database_codes: uint8 (n, ceil(bits / 8)).
        query_labels: integers (q,), or bool (q, classes).
        database_labels: integers (n,), or bool (n, classes).
        ranks: ranks of the curve; when left out, about a hundred between 1 and the whole database,
            evenly spaced on a logarithmic axis.
        bits: number of bits in a code; eight a byte when left out.
        exclude: int64 (q,), the database row each query leaves out, -1 for none.
        threads: number of threads; all processors when left out.

    Returns:
        precision (p,), recall (p,), ranks int64 (p,).

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or range.

    Example:
        >>> codes = np.array([[0], [1], [1]], np.uint8)
        >>> precision_recall(codes[:1], codes, np.array([7]), np.array([7, 7, 5]), ranks=(1, 2))
        (array([1.  , 0.75]), array([0.5 , 0.75]), array([1, 2]))
    """
    counter = Counter.of(query_codes, database_codes, query_labels, database_labels, bits, exclude)
    points = counter.cuts(spread(counter.shortest) if ranks is None else ranks, "ranks")
    found, relevant = counter.found(points, threads)
    recall = share(found, relevant[:, None]).mean(axis=0)
    return (found / points).mean(axis=0), recall, points


def within_radius(
    query_codes: NDArray[np.uint8],
    database_codes: NDArray[np.uint8],
    query_labels: NDArray[Any],
    database_labels: NDArray[Any],
    radius: int,
    *,
    bits: int | None = None,
    exclude: NDArray[np.int64] | None = None,
    threads: int | None = None,
) -> tuple[Floats, Floats]:
    """Precision and recall of looking up everything within a Hamming radius, inclusive.

    A query that finds nothing has precision 0, as in the hashing papers.

    Args:
        query_codes: uint8 (q, ceil(bits / 8)), q > 0.
        database_codes: uint8 (n, ceil(bits / 8)).
        query_labels: integers (q,), or bool (q, classes).
        database_labels: integers (n,), or bool (n, classes).
        radius: largest Hamming distance of a result.
        bits: number of bits in a code; eight a byte when left out.
        exclude: int64 (q,), the database row each query leaves out, -1 for none.
        threads: number of threads; all processors when left out.

    Returns:
        precision (q,), recall (q,).

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or range.

    Example:
        >>> codes = np.array([[0], [1], [7]], np.uint8)
        >>> within_radius(codes[:1], codes, np.array([7]), np.array([7, 5, 7]), 2)
        (array([0.5]), array([0.5]))
    """
    counter = Counter.of(query_codes, database_codes, query_labels, database_labels, bits, exclude)
    balls = _check_radii([radius], "radius")
    precision = np.empty(counter.queries.shape[0])
    recall = np.empty(counter.queries.shape[0])

    def part(rows: slice, counts: NDArray[np.int64]) -> None:
        items, relevant = _within(counts, balls)
        precision[rows] = share(relevant, items)[:, 0]
        recall[rows] = share(relevant[:, 0], counts[:, 1::2].sum(axis=1))

    counter.each(part, threads)
    return precision, recall


def _check_radii(radii: Sequence[int], name: str = "radii") -> NDArray[np.int64]:
    return np.array([check_count(radius, name) for radius in radii], np.int64)


def _within(
    counts: NDArray[np.int64], radii: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Items and relevant items within each radius, (q, r) each."""
    farthest = counts.shape[1] // 2 - 1
    places = np.minimum(radii, farthest)
    relevant = np.cumsum(counts[:, 1::2], axis=1)[:, places]
    others = np.cumsum(counts[:, 0::2], axis=1)[:, places]
    return relevant + others, relevant
