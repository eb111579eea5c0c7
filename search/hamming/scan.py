"""Exact nearest-neighbour and radius search by scanning every code.

The scan is what all the rest is measured against: its answers are the definition. It splits the
queries over the threads when there are enough of them, and the database otherwise.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from search import threads as pool
from search.codes import check_count, pad_mask, refuse_subclass, validate, width
from search.filters import Filter, as_filter
from search.hamming.blocks import BLOCK, Blocks, arrange, take
from search.hamming.dealing import (
    ABREAST,
    TILE,
    by_query,
    edges,
    query_edges,
    split,
    tile_size,
    workers_for_nearest,
    worth,
)
from search.kernels import hamming
from search.kernels.registers import registers
from search.memory import check_found
from search.merging import merge_tables

NO_ROW = -1
NO_DISTANCE = np.iinfo(np.int32).max

# The kernel's shapes: one query or more, in each case with four vectors of 64 codes, a block, at a
# time. Eight where distances are looked up, of which four may be asleep.
_ONE_QUERY = (0,) * (8 * 1 + 4)
_FOUR_QUERIES = (0,) * (8 * ABREAST + 4)
_EIGHT_QUERIES = (0,) * (8 * 2 * ABREAST + 4)
_ALL: NDArray[np.uint64] = np.empty(0, np.uint64)
_SPARSE = 16  # gather the allowed codes first where fewer than one in so many is allowed
_CHUNK = 1 << 18  # bytes of codes that a thread claims at a time where threads share the database
_FOUND = 1 << 18  # radius results, at least, after which a call of the kernel returns


def knn(
    blocks: Blocks,
    queries: NDArray[np.uint8],
    k: int,
    *,
    allowed: NDArray[np.bool_] | Filter | None = None,
    threads: int | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The k nearest codes of every query by Hamming distance, ties by row.

    Args:
        blocks: the database.
        queries: uint8 (q, ceil(bits / 8)); pad bits are masked.
        k: results for each query.
        allowed: bool (n,), which codes may be results; all when left out.
        threads: number of threads; all processors when left out.

    Returns:
        distances int32 (q, k) and rows int64 (q, k), in (distance, row) order. Where there are
        fewer than k, the row is -1 and the distance the largest int32.

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape or range.

    Example:
        >>> knn(arrange(np.array([[7], [1]], np.uint8)), np.array([[0]], np.uint8), 1)
        (array([[1]], dtype=int32), array([[1]]))
    """
    queries = check_queries(blocks, queries)
    k = check_count(k, "k")
    # How many processors there are takes longer to find out than a small scan.
    workers = 1 if threads is None and worth(blocks, len(queries)) == 1 else pool.resolve(threads)
    blocks, rows, mask = _restrict(blocks, allowed)
    count = len(queries)
    distances = np.empty((count, k), np.int32)
    found = np.empty((count, k), np.int64)
    reach = min(k, blocks.count)
    if count == 0 or reach == 0:
        distances[:], found[:] = NO_DISTANCE, NO_ROW
        return distances, found

    tile = tile_size(reach, blocks.bits)
    workers = workers_for_nearest(blocks, count, reach, workers)
    search = _nearest_by_query if by_query(blocks, count, workers) else _nearest_shared
    search(blocks, queries, mask, tile, reach, workers, distances, found)
    if rows is not None:
        found = np.where(found >= 0, rows[found], NO_ROW)
    return distances, found


def _nearest_by_query(
    blocks: Blocks,
    queries: NDArray[np.uint8],
    mask: NDArray[np.uint64],
    tile: int,
    k: int,
    workers: int,
    distances: NDArray[np.int32],
    found: NDArray[np.int64],
) -> None:
    """Fill `distances` and `found`, the queries divided among the threads."""
    planes, total = blocks.planes.reshape(-1), len(blocks.planes)
    by_table = registers().by_table

    def search(start: int, stop: int) -> None:
        shape, sums = scratch(stop - start, queries.shape[1])
        keys = np.empty((stop - start, k), np.int64)
        progress = np.zeros(hamming.PROGRESS, np.int64)
        hamming.nearest(
            planes, blocks.count, blocks.bits, total, progress, total, hamming.SAMPLE,
            queries[start:stop], by_table, shape, mask, k, sums, keys,
        )  # fmt: skip
        hamming.split(keys, distances[start:stop], found[start:stop])

    limits = query_edges(len(queries), tile, workers)
    if len(limits) == 2:  # a single tile is searched here, without the microseconds of a pool
        search(*limits)
    else:
        pool.run(search, pairwise(limits), workers)


def _nearest_shared(
    blocks: Blocks,
    queries: NDArray[np.uint8],
    mask: NDArray[np.uint64],
    tile: int,
    k: int,
    workers: int,
    distances: NDArray[np.int32],
    found: NDArray[np.int64],
) -> None:
    """Fill `distances` and `found`, every thread taking the next piece of the database.

    A thread that wakes up late, or has but a part of a processor, delays nobody.
    """
    total = len(blocks.planes)
    chunk = min(max(1, _CHUNK // (width(blocks.bits) * BLOCK)), max(1, total - 1))
    spans = list(pairwise(edges(len(queries), tile)))

    for stride in (hamming.SAMPLE * workers, 0):
        keys, misled = _together(blocks, queries, spans, mask, k, workers, chunk, stride)
        if not misled or (keys[:, -1] != hamming.MISSING).all():
            break
    hamming.split(keys, distances, found)


def _together(
    blocks: Blocks,
    queries: NDArray[np.uint8],
    spans: list[tuple[int, int]],
    mask: NDArray[np.uint64],
    k: int,
    workers: int,
    chunk: int,
    stride: int,
) -> tuple[NDArray[np.int64], bool]:
    """The k least keys of each query, and whether a guess may have left some out.

    One call is one round of the search. A thread may still call `search` after the next round has
    begun: it then works on its own round's variables, where there is nothing left to claim.
    """
    planes, by_table = blocks.planes.reshape(-1), registers().by_table
    total, count = len(blocks.planes), len(queries)
    parts = np.full((workers, count, k), hamming.MISSING, np.int64)
    progress = np.zeros((len(spans), hamming.PROGRESS), np.int64)

    def search(out: NDArray[np.int64]) -> None:
        for (start, stop), own in zip(spans, progress, strict=True):
            shape, sums = scratch(stop - start, queries.shape[1])
            hamming.nearest(
                planes, blocks.count, blocks.bits, total, own, chunk, stride,
                queries[start:stop], by_table, shape, mask, k, sums, out[start:stop],
            )  # fmt: skip

    def finished() -> bool:
        return all(hamming.await_others(own, total) for own in progress)

    pool.share(search, [(part,) for part in parts], finished)
    keys, _ = merge_tables(parts, parts, k)  # a key is distance and row in one
    return keys, bool(progress[:, hamming.GUESSED].any())


def radius(
    blocks: Blocks,
    queries: NDArray[np.uint8],
    radius: int | NDArray[np.integer],
    *,
    allowed: NDArray[np.bool_] | Filter | None = None,
    threads: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """All codes within a Hamming distance of every query, ties by row.

    Args:
        blocks: the database.
        queries: uint8 (q, ceil(bits / 8)); pad bits are masked.
        radius: the largest distance of a result; one number, or int (q,) one for each query,
            where -1 asks for nothing.
        allowed: bool (n,), which codes may be results; all when left out.
        threads: number of threads; all processors when left out.

    Returns:
        offsets int64 (q + 1,), distances int32 and rows int64: query i has the results
        offsets[i] to offsets[i + 1], in (distance, row) order.

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape or range.

    Example:
        >>> radius(arrange(np.array([[7], [1]], np.uint8)), np.array([[0]], np.uint8), 2)
        (array([0, 1]), array([1], dtype=int32), array([1]))
    """
    queries = check_queries(blocks, queries)
    radii = check_radii(radius, len(queries), blocks.bits)
    workers = pool.resolve(threads)
    blocks, rows, mask = _restrict(blocks, allowed)
    count = len(queries)
    tiles, ranges = split(blocks, count, TILE, workers)
    planes, by_table = blocks.planes.reshape(-1), registers().by_table
    stretch = max(BLOCK, hamming.STRETCH // width(blocks.bits))

    def search(part: int, start: int, stop: int) -> list[tuple[NDArray, NDArray]]:
        shape, sums = scratch(stop - start, queries.shape[1])
        room = _FOUND + stretch * (stop - start)  # the kernel stops before a stretch may not fit
        pieces, block = [], ranges[part]
        while block < ranges[part + 1]:
            keys, owners = np.empty(room, np.int64), np.empty(room, np.int32)
            filled, block = hamming.within(
                planes, blocks.count, block, ranges[part + 1], queries[start:stop], by_table,
                radii[start:stop], shape, mask, sums, keys, owners,
            )  # fmt: skip
            piece = keys[:filled], owners[:filled]
            so_far.append(filled)
            if filled >= _FOUND:
                check_found(sum(so_far))
            # Few results shall not keep all the room there was for many.
            pieces.append(piece if 4 * filled > room else (piece[0].copy(), piece[1].copy()))
        return pieces

    def count_found(start: int, stop: int, pieces: list[tuple[NDArray, NDArray]]) -> NDArray:
        counts = np.zeros((stop - start, blocks.bits + 1), np.int64)
        for piece in pieces:
            hamming.tally(*piece, counts)
        return counts

    spans = list(pairwise(tiles))
    so_far: list[int] = []
    tasks = [(part, *span) for span in spans for part in range(len(ranges) - 1)]
    found = pool.run(search, tasks, workers)
    by_span = [
        [piece for part in found[first : first + len(ranges) - 1] for piece in part]
        for first in range(0, len(tasks), len(ranges) - 1)
    ]
    counts = pool.run(
        count_found, [(*span, own) for span, own in zip(spans, by_span, strict=True)], workers
    )
    offsets = np.zeros(count + 1, np.int64)
    for (start, stop), own in zip(spans, counts, strict=True):
        offsets[start + 1 : stop + 1] = own.sum(axis=1)
    np.cumsum(offsets, out=offsets)
    distances, order = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.int64)

    def settle(start: int, cursors: NDArray, pieces: list[tuple[NDArray, NDArray]]) -> None:
        hamming.lay_out(cursors, offsets[start], distances)
        for piece in pieces:
            hamming.put(*piece, cursors, order)

    pool.run(
        settle,
        [
            (span[0], *own)
            for span, own in zip(spans, zip(counts, by_span, strict=True), strict=True)
        ],
        workers,
    )
    return offsets, distances, order if rows is None else rows[order]


def check_queries(blocks: Blocks, queries: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Queries that fit the blocks: a copy, contiguous and with its pad bits zero."""
    queries, _ = validate(queries, blocks.bits, "queries")
    # One kind of array for the kernels, whatever was given: they are compiled once.
    queries = np.array(queries, order="C")
    if blocks.bits % 8:
        queries[:, -1] &= np.uint8(pad_mask(blocks.bits))
    return queries


def check_radii(radius: int | NDArray[np.integer], queries: int, bits: int) -> NDArray[np.int64]:
    """A radius for every query, none above the number of bits."""
    if np.ndim(radius) == 0:
        return np.full(queries, min(check_count(radius, "radius"), bits), np.int64)  # type: ignore[arg-type]
    refuse_subclass(radius, "radius")
    radii = np.asarray(radius)
    if radii.shape != (queries,) or not np.issubdtype(radii.dtype, np.integer):
        raise ValueError(
            f"radius must be a whole number or one for each of the {queries} queries, not "
            f"{radii.dtype} {radii.shape}"
        )
    if radii.size and radii.min() < -1:
        raise ValueError(f"radius must not be negative, but holds {radii.min()}")
    return np.minimum(radii, bits).astype(np.int64)


def _restrict(
    blocks: Blocks, allowed: NDArray[np.bool_] | Filter | None
) -> tuple[Blocks, NDArray[np.int64] | None, NDArray[np.uint64]]:
    """Blocks to scan, the rows they came from (None: their own), and the kernel's mask."""
    if allowed is None:
        return blocks, None, _ALL
    chosen = as_filter(allowed, blocks.count)
    return chosen.form(blocks, lambda: _apply(blocks, chosen.allowed))


def _apply(
    blocks: Blocks, allowed: NDArray[np.bool_]
) -> tuple[Blocks, NDArray[np.int64] | None, NDArray[np.uint64]]:
    """`_restrict` for a mask."""
    if _SPARSE * np.count_nonzero(allowed) < blocks.count:
        rows = np.flatnonzero(allowed)
        return arrange(take(blocks, rows), blocks.bits), rows, _ALL
    mask = np.zeros(len(blocks.planes) * (BLOCK // 8), np.uint8)
    packed = np.packbits(allowed, bitorder="little")
    mask[: len(packed)] = packed
    return blocks, None, mask.view("<u8").astype(np.uint64, copy=False)


def scratch(count: int, bytes_each: int) -> tuple[tuple, NDArray]:
    """The shape in which the kernel compares so many queries, and what it writes to meanwhile."""
    many = _EIGHT_QUERIES if registers().by_table else _FOUR_QUERIES
    shape = _ONE_QUERY if count == 1 else many
    pairs = len(shape) // 8 * (len(shape) % 8)  # of queries and vectors
    kind = np.uint8 if bytes_each <= hamming.NARROW_BYTES else np.uint16
    return shape, np.empty(pairs * hamming.LANES, kind)
