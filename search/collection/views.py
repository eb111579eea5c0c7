"""What a search looks at: all the codes of each segment, or some of them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.codes import refuse_subclass
from search.collection.ids import Where, distinct, id_list
from search.collection.segments import Segment
from search.collection.state import SPARSE, State, rows_of
from search.filters import Filter
from search.hamming.blocks import arrange
from search.hamming.searchable import Nearest, Scanned, Searchable, Within


class View(NamedTuple):
    """Some codes of a segment: a few that are held apart, or all of them under a mask."""

    segment: Segment
    codes: Searchable
    allowed: Filter | None = None

    def knn(self, queries: NDArray[np.uint8], k: int, threads: int | None) -> Nearest:
        """Distances and ids, by (distance, id)."""
        distances, rows = self.codes.knn(queries, k, allowed=self.allowed, threads=threads)
        return distances, self.segment.ids_of(rows)

    def radius(self, queries: NDArray[np.uint8], radius: int, threads: int | None) -> Within:
        """Offsets, distances and ids, by (distance, id)."""
        offsets, distances, rows = self.codes.radius(
            queries, radius, allowed=self.allowed, threads=threads
        )
        return offsets, distances, self.segment.ids_of(rows)


def views_of(state: State, where: Where | None, threads: int | None) -> list[View]:
    """What each segment has of the items to search."""
    if where is None:
        return [_all(segment, threads) for segment in state.segments]
    refuse_subclass(where, "where")
    if isinstance(where, np.ndarray) and where.dtype == np.bool_:
        if where.shape != (len(state),):
            raise ValueError(
                f"where must have the shape ({len(state)},), one for each of the index's ids, "
                f"not {where.shape}"
            )
        mask = where.view(np.bool_)
        return [
            _under(segment, place.of(mask), threads)
            for segment, place in zip(state.segments, state.places, strict=True)
        ]
    ids = id_list(where, "where")
    if SPARSE * len(ids) >= len(state):
        if not all(segment.in_any_order for segment in state.segments):
            ids = distinct(ids)
        marked = [segment.mark(ids, threads) for segment in state.segments]
        if sum(found for _, found in marked) == len(ids):
            return [
                View(segment, segment.best(threads), Filter(allowed))
                for segment, (allowed, _) in zip(state.segments, marked, strict=True)
            ]
    located = rows_of(state, ids, "where")
    return [
        _some(segment, rows, threads) for segment, rows in zip(state.segments, located, strict=True)
    ]


def views_at(state: State, k: int, recall: float, threads: int | None) -> list[View]:
    """What a search for the `k` nearest looks at to find this share of them, or more."""
    return [
        View(segment, segment.at(k, recall, threads), segment.living) for segment in state.segments
    ]


def _all(segment: Segment, threads: int | None) -> View:
    """All that was not removed."""
    return View(segment, segment.best(threads), segment.living)


def _some(segment: Segment, rows: NDArray[np.int64], threads: int | None) -> View:
    """Some rows alone, ascending and alive."""
    if SPARSE * len(rows) < len(segment.codes):
        few = arrange(segment.take(rows), segment.codes.bits, threads=threads)
        return View(segment, Scanned(few, rows))
    allowed = np.zeros(len(segment.codes), bool)
    allowed[rows] = True
    return View(segment, segment.best(threads), Filter(allowed))


def _under(segment: Segment, mask: NDArray[np.bool_], threads: int | None) -> View:
    """Those of the alive rows, in their order, that `mask` marks."""
    if SPARSE * np.count_nonzero(mask) < len(segment.codes):
        rows = np.flatnonzero(mask)
        alive = rows if segment.alive is None else segment.live_rows()[rows]
        return _some(segment, alive, threads)
    if segment.alive is not None:
        allowed = np.zeros(len(segment.codes), bool)
        allowed[segment.alive] = mask
        mask = allowed
    return View(segment, segment.best(threads), Filter(mask))
