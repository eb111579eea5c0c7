"""The immutable state of an index, and the steps of a search in it."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from search.codes import as_int64, pad_mask, refuse_subclass, width
from search.collection.merge import merge_checked
from search.collection.once import once
from search.collection.rows import join
from search.collection.segments import (
    DENSE,
    SPARSE,
    Segment,
    View,
    in_id_order,
    live_ids,
    nearest,
)
from search.files import writing
from search.files.checksums import Guard
from search.fine.rerank import MOST_CANDIDATES, check_queries
from search.hamming.scan import NO_DISTANCE, Blocks

# Bytes of codes and features that pass through memory at a time when segments are saved as one.
BATCH_BYTES = 1 << 25

Where = NDArray[np.bool_] | NDArray[np.integer] | Sequence[int]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where some items are among others: at `positions`, or everywhere but there."""

    positions: slice | NDArray[np.int64]
    left_out: bool = False

    def of(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The part of a mask over all items that is about these."""
        return np.delete(mask, self.positions) if self.left_out else mask[self.positions]


@dataclasses.dataclass(frozen=True)
class State:
    """All of an index at one moment; a search takes one and never sees another.

    Attributes:
        bits: number of bits in a code.
        segments: one or more.
        attachments: by name; a `Guard` for one in a mapped file.
        next_id: above every id that ever was in the index, from 0 to 2**63.
    """

    bits: int
    segments: tuple[Segment, ...]
    attachments: Mapping[str, bytes | Guard]
    next_id: int

    def __len__(self) -> int:
        return sum(len(segment) for segment in self.segments)

    @once
    def ids(self) -> NDArray[np.int64]:
        """The ids of all items, ascending."""
        ids = live_ids(self.segments)
        ids.flags.writeable = False
        return ids

    @once
    def places(self) -> list["Place"]:
        """Where the items of each segment are among `ids`."""
        ends = [(*segment.ends, which) for which, segment in enumerate(self.segments)]
        places = [Place(slice(0))] * len(ends)
        start, last = 0, None
        for first, end, which in sorted(each for each in ends if len(self.segments[each[2]])):
            if last is not None and first < last:
                return self._looked_up()
            stop = start + len(self.segments[which])
            places[which], start, last = Place(slice(start, stop)), stop, end
        return places

    def _looked_up(self) -> list["Place"]:
        """`places` where ids of several segments lie among each other."""
        own = [
            np.searchsorted(self.ids, segment.ids_of(segment.live_rows()))
            for segment in self.segments
        ]
        largest = max(range(len(own)), key=lambda which: len(own[which]))
        others = np.concatenate([each for which, each in enumerate(own) if which != largest])
        places = [Place(each) for each in own]
        if SPARSE * len(others) < len(own[largest]):
            places[largest] = Place(others, left_out=True)
        return places

    @property
    def features(self) -> tuple[np.dtype, int] | None:
        """Type and dimensions of the features, None where there are none."""
        for segment in self.segments:
            if segment.features is not None:
                return segment.features.dtype, segment.features.shape[1]
        return None


def views_of(state: State, where: Where | None, threads: int | None) -> list[View]:
    """What each segment has of the items to search."""
    if where is None:
        return [segment.view(threads) for segment in state.segments]
    refuse_subclass(where, "where")
    if isinstance(where, np.ndarray) and where.dtype == np.bool_:
        if where.shape != (len(state),):
            raise ValueError(
                f"where must have the shape ({len(state)},), one for each of the index's ids, "
                f"not {where.shape}"
            )
        mask = where.view(np.bool_)
        return [
            segment.view_under(place.of(mask), threads)
            for segment, place in zip(state.segments, state.places, strict=True)
        ]
    ids = id_list(where, "where")
    if SPARSE * len(ids) >= len(state):
        if len(state.segments) > 1 or state.segments[0].ids is not None:
            ids = distinct(ids)
        marked = [segment.mark(ids, threads) for segment in state.segments]
        if sum(found for _, found in marked) == len(ids):
            return [
                segment.view_through(allowed, threads)
                for segment, (allowed, _) in zip(state.segments, marked, strict=True)
            ]
    located = rows_of(state, ids, "where")
    return [
        segment.view_of(rows, threads)
        for segment, rows in zip(state.segments, located, strict=True)
    ]


def rows_of(state: State, ids: NDArray[np.int64], name: str) -> list[NDArray[np.int64]]:
    """The rows of some ids in each segment, ascending; repetitions count once.

    Raises:
        ValueError: naming the argument, where one is not in the index.
    """
    wanted = distinct(ids)
    located = [segment.locate(wanted) for segment in state.segments]
    if len(located) == 1 and located[0].min(initial=0) >= 0:
        return located
    found = np.zeros(len(wanted), bool)
    for rows in located:
        found |= rows >= 0
    if not found.all():
        raise ValueError(f"{name}: {some(wanted[~found])} not in the index")
    return [rows[rows >= 0] for rows in located]


def distinct(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """What `np.unique` gives, in a small part of its time.

    Example:
        >>> distinct(np.array([3, 1, 3]))
        array([1, 3])
    """
    if np.all(ids[1:] > ids[:-1]):
        return ids
    first, last = int(ids.min()), int(ids.max())
    if last - first < DENSE * len(ids):
        present = np.zeros(last - first + 1, bool)
        present[ids - first] = True
        return np.flatnonzero(present) + first
    ids = np.sort(ids)
    return ids[np.concatenate([[True], ids[1:] != ids[:-1]])]


def only_within(
    result: tuple[NDArray[np.int32], NDArray[np.int64]], radius: int | None
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The part of a result that lies within `radius`; the rest becomes missing."""
    distances, ids = result
    if radius is None:
        return distances, ids
    far = distances > radius
    distances[far], ids[far] = NO_DISTANCE, -1  # in place: they may be large
    return distances, ids


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


def all_within(
    views: list[View], queries: NDArray[np.uint8], radius: int, threads: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Offsets, distances and ids of all within `radius` in all views."""
    parts = []
    for view in views:
        offsets, distances, rows = view.radius(queries, radius, threads)
        parts.append((offsets, distances, view.segment.ids_of(rows)))
    return join(parts)


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


def answer(
    state: State,
    queries: NDArray[np.uint8],
    k: int,
    fine: "Refinement | None",
    pool: int | None,
    radius: int | None,
    where: Where | None,
    threads: int | None,
) -> tuple[NDArray[np.int32] | NDArray[np.float32], NDArray[np.int64]]:
    """The results of `HashIndex.search`, whose arguments these are, checked."""
    if fine is None:
        if pool is not None:
            raise ValueError("pool needs query_features or query_latents: else k alone counts")
        return only_within(nearest(views_of(state, where, threads), queries, k, threads), radius)
    if pool is None and radius is None:
        raise ValueError("re-ranking needs candidates: give pool, radius or both")
    views = views_of(state, where, threads)
    distances = np.full((len(queries), k), np.inf, np.float32)
    found = np.full((len(queries), k), -1, np.int64)
    if pool is None:
        assert radius is not None
        offsets, _, ids = all_within(views, queries, radius, threads)
        for some_queries, near in as_tables(offsets, ids):
            best = fine.best(state, some_queries, near, k, threads)
            distances[some_queries], found[some_queries] = best
        return distances, found
    group = max(1, MOST_CANDIDATES // max(1, min(pool, len(state))))
    for start in range(0, len(queries), group):
        part = slice(start, start + group)
        near = candidates(views, queries[part], pool, radius, threads)
        distances[part], found[part] = fine.best(state, part, near, k, threads)
    return distances, found


def get(
    state: State, ids: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.floating] | None]:
    """Codes, and features if there are some, of ids in any order, repetitions included.

    Raises:
        ValueError: naming those that are not in the index.
    """
    codes = np.empty((len(ids), width(state.bits)), np.uint8)
    features = None
    if state.features is not None:
        features = np.empty((len(ids), state.features[1]), state.features[0])
    wanted, places = np.unique(ids, return_inverse=True)
    missing = np.ones(len(wanted), bool)
    for segment in state.segments:
        rows = segment.find(wanted)
        here = rows >= 0
        missing &= ~here
        # Ascending, so that a mapped file is read in its order; then to where they were asked for.
        own, fine = segment.items(rows[here])
        asked = here[places]
        order = (np.cumsum(here) - 1)[places[asked]]
        codes[asked] = own[order]
        if features is not None and fine is not None:
            features[asked] = fine[order]
    if missing.any():
        raise ValueError(f"ids: {some(wanted[missing])} not in the index")
    codes[:, -1] &= np.uint8(pad_mask(state.bits))
    return codes, features


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
        return merge_checked(results, k)


def refinement(
    state: State,
    query_features: NDArray[np.floating] | None,
    query_latents: NDArray[np.floating] | None,
    threshold: float,
    queries: int,
) -> Refinement | None:
    """The one that the arguments of a search ask for, checked against the index."""
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
        raise ValueError("query_latents and query_features: give one of them")
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


def id_list(ids: Where, name: str) -> NDArray[np.int64]:
    """A list or array of ids as int64 (m,)."""
    refuse_subclass(ids, name)
    array = np.asarray(ids)
    if not array.size and array.ndim == 1:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise TypeError(f"{name} must be integers of shape (m,), not {array.dtype} {array.shape}")
    return as_int64(array, name)


def some(ids: NDArray[np.int64]) -> str:
    """The first few of `ids` in words."""
    head = ", ".join(str(each) for each in ids[:5])
    return f"{len(ids)} ids ({head}{', ...' if len(ids) > 5 else ''})"


def attached(state: State) -> dict[str, bytes]:
    """What is stored beside the codes, by name, compared with its checksum where it is mapped."""
    return {
        name: data.bytes() if isinstance(data, Guard) else data
        for name, data in state.attachments.items()
    }


def save(state: State, path: str | os.PathLike[str]) -> None:
    """Write all that was not removed as one file, see `HashIndex.save`."""
    first = state.segments[0]
    attachments = attached(state)
    if len(state.segments) == 1 and not len(first.dead) and isinstance(first.codes, Blocks):
        first.check()
        writing.write(
            path,
            bits=state.bits,
            count=len(first),
            planes=first.codes.planes,
            ids=first.ids,
            features=first.features,
            attachments=attachments,
            next_id=state.next_id,
        )
        return
    row_bytes, no_features = width(state.bits) + 8, None
    if state.features is not None:
        dtype, dimensions = state.features
        row_bytes += dtype.itemsize * dimensions
        no_features = np.empty((0, dimensions), dtype)
    with writing.Writer(path, bits=state.bits, next_id=state.next_id) as writer:
        # Says what the features are, should there be no items left to say it.
        nothing = np.empty((0, width(state.bits)), np.uint8)
        writer.append(nothing, no_features, np.empty(0, np.int64))
        for codes, features, ids in in_id_order(state.segments, max(1, BATCH_BYTES // row_bytes)):
            writer.append(codes, features, ids)
        for name, data in attachments.items():
            writer.attach(name, data)
