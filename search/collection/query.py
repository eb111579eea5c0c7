"""Answers to queries: the nearest of all views, candidates, and their order by finer distances."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from search.codes import as_int64
from search.collection.ids import Where
from search.collection.state import State
from search.collection.views import View, views_at, views_of
from search.fine.rerank import MOST_CANDIDATES, check_queries
from search.hamming.dealing import TILE
from search.hamming.scan import NO_DISTANCE
from search.hamming.searchable import Nearest, Within
from search.memory import check_answer
from search.merging import merge_nearest, merge_within

# Queries are searched in groups of about so many results each, to bound the memory in use.
RESULTS = 1 << 22


@dataclasses.dataclass(frozen=True)
class Refinement:
    """What candidates are put in order by: float32 (q, d) features, or latents with a threshold."""

    values: NDArray[np.float32]
    threshold: float | None = None

    def best(
        self,
        state: State,
        queries: slice | NDArray[np.int64],
        candidates: NDArray[np.int64],
        k: int,
        threads: int | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k` best of candidate ids (q, p) for some of the queries."""
        values, results = self.values[queries], []
        for segment in state.segments:
            rows = np.where(candidates == -1, -1, segment.find(candidates))
            if self.threshold is None:
                results.append(segment.rerank(values, rows, k, threads))
            else:
                results.append(segment.asymmetric(values, rows, k, self.threshold, threads))
        return merge_nearest(results, k)


def refinement(
    state: State,
    query_features: NDArray[np.floating] | None,
    query_latents: NDArray[np.floating] | None,
    threshold: float,
    queries: int,
) -> Refinement | None:
    """The refinement that a search's arguments ask for, checked; None for codes alone."""
    if query_features is None and query_latents is None:
        return None
    if query_features is None:
        assert query_latents is not None
        latents = check_queries(query_latents, "query_latents")
        if latents.shape != (queries, state.bits):
            raise ValueError(
                f"query_latents must have the shape ({queries}, {state.bits}), not {latents.shape}"
            )
        if not np.isfinite(threshold):
            raise ValueError(f"threshold must be finite, not {threshold}")
        return Refinement(latents, float(threshold))
    if query_latents is not None:
        raise ValueError("query_latents and query_features are both given; keep one")
    if state.features is None:
        raise ValueError(
            "query_features: the index has no features to compare them with; search "
            "by codes alone, without a pool"
        )
    fine = check_queries(query_features)
    if fine.shape != (queries, state.features[1]):
        raise ValueError(
            f"query_features must have the shape ({queries}, {state.features[1]}), not {fine.shape}"
        )
    return Refinement(fine)


def answer(
    state: State,
    queries: NDArray[np.uint8],
    k: int,
    fine: "Refinement | None",
    pool: int | None,
    radius: int | None,
    where: Where | None,
    recall: float | None,
    threads: int | None,
) -> tuple[NDArray[np.int32] | NDArray[np.float32], NDArray[np.int64]]:
    """The results of `HashIndex.search`, whose arguments these are, checked."""
    if fine is None and pool is not None:
        raise ValueError("pool needs query_features or query_latents; else k alone counts")
    if fine is not None and pool is None and radius is None:
        raise ValueError("re-ranking needs candidates; give pool, radius or both")
    if recall is None:
        views = views_of(state, where, threads)
    else:
        if where is not None or radius is not None:
            name = "radius" if where is None else "where"
            raise ValueError(f"recall does not combine with {name}; leave one of them out")
        views = views_at(state, min(k if pool is None else pool, len(state)), recall, threads)
    if fine is None:
        # What there is no more of is filled up once, not by every step and segment.
        return filled_up(
            only_within(nearest(views, queries, min(k, len(state)), threads), radius), k
        )
    distances = np.full((len(queries), k), np.inf, np.float32)
    found = np.full((len(queries), k), -1, np.int64)
    if pool is None:
        assert radius is not None
        offsets, _, ids = all_within(views, queries, radius, threads)
        for some_queries, near in as_tables(offsets, ids):
            best = fine.best(state, some_queries, near, reach := min(k, near.shape[1]), threads)
            distances[some_queries, :reach], found[some_queries, :reach] = best
        return distances, found
    group = max(1, MOST_CANDIDATES // max(1, min(pool, len(state))))
    for start in range(0, len(queries), group):
        part = slice(start, start + group)
        near = candidates(views, queries[part], pool, radius, threads)
        best = fine.best(state, part, near, reach := min(k, near.shape[1]), threads)
        distances[part, :reach], found[part, :reach] = best
    return distances, found


def rerank(
    state: State,
    query_features: NDArray[np.floating] | None,
    ids: NDArray[np.integer],
    k: int,
    query_latents: NDArray[np.floating] | None,
    threshold: float,
    threads: int | None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The results of `HashIndex.rerank`, whose arguments these are."""
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu":
        kind = getattr(ids, "dtype", type(ids).__name__)
        raise TypeError(f"ids must be a NumPy array of integers, not {kind}")
    if ids.ndim != 2:
        raise ValueError(f"ids must have the shape (q, p), not {ids.shape}")
    near = as_int64(ids.ravel(), "ids").reshape(ids.shape)
    check_answer(len(near), k)
    distances = np.full((len(near), k), np.inf, np.float32)
    found = np.full((len(near), k), -1, np.int64)
    if not len(state) and (query_features is None) != (query_latents is None):
        return distances, found  # an empty shard need not know what features the others have
    fine = refinement(state, query_features, query_latents, threshold, len(near))
    if fine is None:
        raise ValueError("re-ranking needs query_features or query_latents; give one of them")
    reach = min(k, ids.shape[1])
    group = max(1, MOST_CANDIDATES // max(1, ids.shape[1]))
    for start in range(0, len(near), group):
        part = slice(start, start + group)
        best = fine.best(state, part, near[part], reach, threads)
        distances[part, :reach], found[part, :reach] = best
    return distances, found


def nearest(
    views: Sequence[View], queries: NDArray[np.uint8], k: int, threads: int | None
) -> Nearest:
    """Distances and ids (q, k) of the nearest in all views."""
    group = max(TILE, RESULTS // max(1, k))
    if len(queries) <= group:
        return merge_nearest([view.knn(queries, k, threads) for view in views], k)
    # The steps from the rows of each view to the merged ids take several times the memory of the
    # results, so only a group of queries passes through them at a time.
    best, found = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), group):
        part = slice(start, start + group)
        best[part], found[part] = nearest(views, queries[part], k, threads)
    return best, found


def all_within(
    views: list[View], queries: NDArray[np.uint8], radius: int, threads: int | None
) -> Within:
    """Offsets, distances and ids of all within `radius` in all views."""
    return merge_within([view.radius(queries, radius, threads) for view in views])


def candidates(
    views: list[View],
    queries: NDArray[np.uint8],
    pool: int,
    radius: int | None,
    threads: int | None,
) -> NDArray[np.int64]:
    """Ids (q, pool) of the nearest candidates."""
    pool = min(pool, sum(len(view.segment) for view in views))
    return only_within(nearest(views, queries, pool, threads), radius)[1]


def only_within(result: Nearest, radius: int | None) -> Nearest:
    """The part of a result that lies within `radius`; the rest becomes missing."""
    distances, ids = result
    if radius is None:
        return distances, ids
    far = distances > radius
    distances[far], ids[far] = NO_DISTANCE, -1  # in place: they may be large
    return distances, ids


def filled_up(result: Nearest, k: int) -> Nearest:
    """A result with as many missing ones behind it as make `k` for each query."""
    distances, ids = result
    if ids.shape[1] == k:
        return result
    whole = np.full((len(ids), k), NO_DISTANCE, np.int32), np.full((len(ids), k), -1, np.int64)
    whole[0][:, : ids.shape[1]], whole[1][:, : ids.shape[1]] = distances, ids
    return whole


def as_tables(
    offsets: NDArray[np.int64], ids: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Lists of candidates as tables: queries (r,), and their ids (r, p), filled up with -1.

    Each has lists of like length, and about `MOST_CANDIDATES` entries at most.

    Example:
        >>> for queries, near in as_tables(np.array([0, 2, 3]), np.array([7, 8, 9])):
        ...     print(queries, near.tolist())
        [1 0] [[9, -1], [7, 8]]
    """
    counts = np.diff(offsets)
    order = np.argsort(counts, kind="stable")
    ascending = counts[order]
    start = 0
    while start < len(order):
        stop = int(np.searchsorted(ascending, 64 + 2 * ascending[start], side="right"))
        stop = min(stop, start + max(1, MOST_CANDIDATES // max(1, int(ascending[stop - 1]))))
        queries = order[start:stop]
        columns = np.arange(ascending[stop - 1])
        near = np.full((len(queries), len(columns)), -1)
        inside = columns < counts[queries, None]
        near[inside] = ids[(offsets[queries, None] + columns)[inside]]
        yield queries, near
        start = stop
