"""The measures of many queries, and how they follow from counts of relevant items.

The conventions are those of `search.measures.ranking`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Denominator = Literal["retrieved", "possible"]
Floats = NDArray[np.float64]

# Points of a precision-recall curve, evenly spaced on a logarithmic axis of ranks.
POINTS = 100


@dataclass(frozen=True)
class Measures:
    """The measures of many queries; arrays hold one row per query, properties hold the means.

    Attributes:
        queries, database: how many of each.
        bits: length of the codes; None for rankings given as lists of ids.
        without_relevant: queries that no database item is relevant to; they score 0.
        average_precision: (q,) over the whole ranking; None when only its head is known.
        top: cut-off of `average_precision_at_top`.
        average_precision_at_top: (q,) over the first `top` positions; None without `top`.
        denominator: what `average_precision_at_top` divides by, "retrieved" or "possible".
        at: (m,) the cut-offs of `precision_at`.
        precision_at: (q, m) relevant share of the first k positions.
        ranks, precision, recall: (p,) the precision-recall curve, means over the queries of the
            precision and recall of the first `ranks` positions.
        radii: (r,) Hamming radii, inclusive.
        precision_within: (q, r) relevant share of the items within each radius; 0 where there is
            no item.
        recall_within: (q, r) share of the relevant items that lie within each radius.
        empty_within: (r,) queries with no item within each radius.
    """

    queries: int
    database: int
    bits: int | None
    without_relevant: int
    average_precision: Floats | None
    top: int | None
    average_precision_at_top: Floats | None
    denominator: Denominator
    at: NDArray[np.int64]
    precision_at: Floats
    ranks: NDArray[np.int64]
    precision: Floats
    recall: Floats
    radii: NDArray[np.int64]
    precision_within: Floats
    recall_within: Floats
    empty_within: NDArray[np.int64]

    @property
    def mean_average_precision(self) -> float | None:
        """Mean of `average_precision` over all queries."""
        return None if self.average_precision is None else float(self.average_precision.mean())

    @property
    def mean_average_precision_at_top(self) -> float | None:
        """Mean of `average_precision_at_top` over all queries."""
        if self.average_precision_at_top is None:
            return None
        return float(self.average_precision_at_top.mean())

    @property
    def mean_precision_at(self) -> Floats:
        """(m,) mean of `precision_at` over all queries."""
        return self.precision_at.mean(axis=0)

    @property
    def mean_precision_within(self) -> Floats:
        """(r,) mean of `precision_within` over all queries, those with no item as 0."""
        return self.precision_within.mean(axis=0)

    @property
    def mean_recall_within(self) -> Floats:
        """(r,) mean of `recall_within` over all queries."""
        return self.recall_within.mean(axis=0)


def from_hits(
    relevant: NDArray[np.int64],
    *,
    database: int,
    average_precision: Floats | None,
    top: int | None,
    average_precision_at_top: Floats | None,
    denominator: Denominator = "retrieved",
    at: NDArray[np.int64],
    hits_at: NDArray[Any],
    ranks: NDArray[np.int64],
    hits_on_curve: NDArray[Any],
) -> Measures:
    """`Measures` without bits and radii, of rankings whose relevant items have been counted.

    relevant: (q,) relevant items in the database. hits_at: (q, m) relevant items among the first
    `at` places, hits_on_curve: (q, p) among the first `ranks`. The rest is as in `Measures`.
    """
    none = np.empty((len(relevant), 0))
    return Measures(
        queries=len(relevant),
        database=database,
        bits=None,
        without_relevant=int((relevant == 0).sum()),
        average_precision=average_precision,
        top=top,
        average_precision_at_top=average_precision_at_top,
        denominator=denominator,
        at=at,
        precision_at=hits_at / at,
        ranks=ranks,
        precision=(hits_on_curve / ranks).mean(axis=0),
        recall=share(hits_on_curve, relevant[:, None]).mean(axis=0),
        radii=np.empty(0, np.int64),
        precision_within=none,
        recall_within=none,
        empty_within=np.empty(0, np.int64),
    )


def check_denominator(denominator: str) -> None:
    """Refuse an unknown denominator of the average precision."""
    if denominator not in ("retrieved", "possible"):
        raise ValueError(f"denominator must be 'retrieved' or 'possible', not {denominator!r}")


def spread(longest: int) -> list[int]:
    """About a hundred ranks from 1 to `longest`, evenly spaced on a logarithmic axis.

    Example:
        >>> len(spread(1_000_000)), spread(1_000_000)[50]
        (92, 3275)
    """
    return (
        np.unique(np.geomspace(1, longest, POINTS).round().astype(int)).tolist() if longest else []
    )


def share(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """`part / whole`, 0 where `whole` is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
