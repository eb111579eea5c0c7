"""Exact sub-linear search for near neighbours: multi-index hashing over blocks of codes.

The codes are ordered by each of a few parts of their bits, in a table each. Near neighbours are
found by looking up a few parts of the query; far ones would need so many that a scan is faster.
So both are timed when the tables are built, a query is given up after half the time that the
scan would take, and what was given up is scanned. The answers are always the scan's.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search import threads as pool
from search.codes import check_count, pad_mask, validate, width
from search.filters import Filter
from search.hamming import scan
from search.hamming.blocks import Blocks, take
from search.hamming.scan import NO_DISTANCE, NO_ROW
from search.hamming.searchable import Nearest, Within
from search.kernels import hamming
from search.kernels import tables as kernels
from search.kernels.shared import ROW_BITS, ROW_MASK
from search.memory import check_found

_TASK = 16  # queries of one task
_TRIED = 16  # queries that show whether it is worth trying the others
_WIDEST = 24  # bits in a part: its table of beginnings has 2 ** bits entries
_SHARE = 0.5  # of the time of the scan, spent on tables before a query is given up for it
_UNLIMITED = 1 << 62


@dataclass(frozen=True)
class Tables:
    """Codes ordered by m parts of their bits.

    Attributes:
        blocks: the n codes, for the queries that are scanned.
        edges: int64 (m + 1,), the bits at which the parts begin, and the number of bits.
        starts: uint32 or int64 (m, 2 ** widest + 1), where the codes with each part begin.
        words: uint64 (m, n, ceil(bits / 64)), the codes in the order of each table.
        rows: uint32 or int64 (m, n), their rows.
        scan_one: seconds a core takes to scan for one query alone.
        scan_many: seconds a core takes to scan for one query among many.
        compare: seconds a core takes for one comparison in a table.
    """

    blocks: Blocks
    edges: NDArray[np.int64]
    starts: NDArray[np.integer]
    words: NDArray[np.uint64]
    rows: NDArray[np.integer]
    scan_one: float = math.inf
    scan_many: float = math.inf
    compare: float = 1.0

    @property
    def nbytes(self) -> int:
        """Bytes that the tables take, without the blocks."""
        return self.starts.nbytes + self.words.nbytes + self.rows.nbytes

    def knn(
        self,
        queries: NDArray[np.uint8],
        k: int,
        *,
        allowed: NDArray[np.bool_] | Filter | None = None,
        threads: int | None = None,
    ) -> Nearest:
        """As `scan.knn`; with `allowed`, by a scan.

        Example:
            >>> from search.hamming.blocks import arrange
            >>> codes = arrange(np.array([[5], [7], [5]], np.uint8))
            >>> build(codes).knn(np.array([[5]], np.uint8), 2)
            (array([[0, 0]], dtype=int32), array([[0, 2]]))
        """
        if allowed is not None:
            return scan.knn(self.blocks, queries, k, allowed=allowed, threads=threads)
        k = check_count(k, "k")
        workers = pool.resolve(threads)
        queries, _ = validate(queries, self.blocks.bits, "queries")
        distances = np.full((len(queries), k), NO_DISTANCE, np.int32)
        rows = np.full((len(queries), k), NO_ROW, np.int64)
        reach = min(k, self.blocks.count)
        if reach == 0:
            return distances, rows
        words = _words(queries, self.blocks.bits)
        radii = np.full(len(queries), self.blocks.bits, np.int64)
        limit = budget(self, len(queries), workers)
        certain = np.zeros(len(queries), np.bool_)

        def search(start: int, stop: int) -> None:
            keys = np.empty((stop - start, 4 * reach + 1024), np.int64)
            filled, spent = np.empty((2, stop - start), np.int64)
            kernels.probe(
                words[start:stop], self.edges, self.starts, self.words, self.rows, reach,
                radii[start:stop], limit, keys, filled, spent,
            )  # fmt: skip
            for query in np.flatnonzero(filled >= 0):
                found = keys[query : query + 1, : filled[query]]
                found.sort(axis=1)
                place = slice(start + query, start + query + 1)
                first = np.ascontiguousarray(found[:, :reach])
                hamming.split(first, distances[place], rows[place])
            certain[start:stop] = filled >= 0

        # The first queries are the sample: where most of them had to be given up, so would others.
        tried = min(len(queries), _TRIED)
        pool.run(search, _tasks(0, tried), workers)
        if 2 * np.count_nonzero(certain) > tried:
            pool.run(search, _tasks(tried, len(queries)), workers)
        left = np.flatnonzero(~certain)
        if len(left):
            distances[left], rows[left] = scan.knn(self.blocks, queries[left], k, threads=workers)
        return distances, rows

    def radius(
        self,
        queries: NDArray[np.uint8],
        radius: int | NDArray[np.integer],
        *,
        allowed: NDArray[np.bool_] | Filter | None = None,
        threads: int | None = None,
    ) -> Within:
        """As `scan.radius`; with `allowed`, by a scan.

        Example:
            >>> from search.hamming.blocks import arrange
            >>> codes = arrange(np.array([[5], [7], [5]], np.uint8))
            >>> build(codes).radius(np.array([[5]], np.uint8), 0)
            (array([0, 2]), array([0, 0], dtype=int32), array([0, 2]))
        """
        if allowed is not None:
            return scan.radius(self.blocks, queries, radius, allowed=allowed, threads=threads)
        workers = pool.resolve(threads)
        queries, _ = validate(queries, self.blocks.bits, "queries")
        radii = scan.check_radii(radius, len(queries), self.blocks.bits)
        words = _words(queries, self.blocks.bits)
        limit = budget(self, len(queries), workers)
        filled, spent = np.zeros((2, len(queries)), np.int64)

        def look(start: int, stop: int, keys: NDArray[np.int64], limit: int) -> None:
            kernels.probe(
                words[start:stop], self.edges, self.starts, self.words, self.rows, _UNLIMITED,
                radii[start:stop], limit, keys, filled[start:stop], spent[start:stop],
            )  # fmt: skip

        def tally(start: int, stop: int) -> None:
            look(start, stop, np.empty((stop - start, 0), np.int64), limit)

        tried = min(len(queries), _TRIED)
        for first, last in ((0, tried), (tried, len(queries))):
            pool.run(tally, _tasks(first, last), workers)
            if (filled < 0).any():
                return scan.radius(self.blocks, queries, radii, threads=workers)
        offsets = np.zeros(len(queries) + 1, np.int64)
        np.cumsum(filled, out=offsets[1:])
        check_found(int(offsets[-1]))
        keys = np.empty(offsets[-1], np.int64)

        def collect(start: int, stop: int) -> None:
            for query in range(start, stop):
                own = keys[offsets[query] : offsets[query + 1]]
                if len(own):
                    look(query, query + 1, own[None], _UNLIMITED)
                    own.sort()

        pool.run(collect, _tasks(0, len(queries)), workers)
        return offsets, (keys >> ROW_BITS).astype(np.int32), keys & ROW_MASK


def parts(count: int, bits: int) -> int:
    """Into how many parts to cut codes: each about as wide as the logarithm of their number.

    Example:
        >>> parts(10_000_000, 64)
        3
    """
    wide = min(_WIDEST, max(4.0, math.log2(max(count, 2))))
    return max(1, math.ceil(bits / wide))


def size(count: int, bits: int) -> int:
    """Bytes that tables over so many codes take.

    Example:
        >>> size(1_000_000, 64) // 1_000_000
        49
    """
    cut = parts(count, bits)
    number = 4 if count <= np.iinfo(np.uint32).max else 8
    entries = cut * count * (8 * -(-bits // 64) + number)
    return entries + number * cut * (2 ** -(-bits // cut) + 1)


def build(blocks: Blocks, *, threads: int | None = None, calibrate: bool = True) -> Tables:
    """Order the codes by each of their parts, and time searches by tables and by scan.

    Args:
        blocks: the database.
        threads: number of threads; all processors when left out.
        calibrate: without it tables are always searched to the end, however long it takes.

    Example:
        >>> from search.hamming.blocks import arrange
        >>> build(arrange(np.zeros((10, 8), np.uint8)), calibrate=False).words.shape
        (16, 10, 1)
    """
    cut = parts(blocks.count, blocks.bits)
    edges = np.array([blocks.bits * part // cut for part in range(cut + 1)], np.int64)
    kind: type[np.integer] = np.uint32 if blocks.count <= np.iinfo(np.uint32).max else np.int64
    starts: NDArray[np.integer] = np.zeros((cut, 2 ** int(np.diff(edges).max()) + 1), kind)
    words = np.empty((cut, blocks.count, -(-blocks.bits // 64)), np.uint64)
    rows: NDArray[np.integer] = np.empty((cut, blocks.count), kind)
    planes = blocks.planes.reshape(-1)

    def fill(part: int) -> None:
        first, wide = int(edges[part]), int(edges[part + 1] - edges[part])
        kernels.fill(
            planes, width(blocks.bits), blocks.count, first, wide,
            starts[part, : 2**wide + 1], words[part], rows[part],
        )  # fmt: skip

    pool.run(fill, [(part,) for part in range(cut)], threads)
    tables = Tables(blocks, edges, starts, words, rows)
    if not calibrate or blocks.count == 0:
        return tables
    return Tables(blocks, edges, starts, words, rows, *_calibrate(tables))


def _calibrate(tables: Tables) -> tuple[float, float, float]:
    """Seconds of a core for a scan for one query and for one of many, and for a comparison."""
    rng = np.random.default_rng(2014)
    blocks = tables.blocks
    some = rng.integers(0, blocks.count, 32)
    flips = rng.random((len(some), blocks.bits)) < 0.05
    queries = take(blocks, some) ^ np.packbits(flips, axis=1)
    words = _words(queries, blocks.bits)
    radii = np.full(len(some), min(blocks.bits, 3 * (len(tables.edges) - 1)), np.int64)
    keys = np.empty((len(some), 0), np.int64)
    filled, spent = np.empty((2, len(some)), np.int64)
    limit = 1 << 16

    def look() -> None:
        kernels.probe(
            words, tables.edges, tables.starts, tables.words, tables.rows, _UNLIMITED, radii,
            limit, keys, filled, spent,
        )  # fmt: skip

    one = _least(lambda: scan.knn(blocks, queries[:1], 10, threads=1))
    many = _least(lambda: scan.knn(blocks, queries, 10, threads=1)) / len(queries)
    return one, many, _least(look) / max(1, int(spent.sum()))


def _least(call) -> float:  # type: ignore[no-untyped-def]
    """The least seconds of three calls, after one to compile."""
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def budget(tables: Tables, queries: int, threads: int) -> int:
    """Comparisons that take half as long as scanning for one of so many queries.

    A lone query is scanned by all the threads, but looked up by one.
    """
    alone = tables.scan_one / threads if queries < 2 * threads else tables.scan_one
    seconds = alone if queries < 8 else tables.scan_many
    return _UNLIMITED if math.isinf(seconds) else int(_SHARE * seconds / tables.compare)


def _tasks(start: int, stop: int) -> list[tuple[int, int]]:
    """(start, stop) of the queries that each task has."""
    return [(first, min(first + _TASK, stop)) for first in range(start, stop, _TASK)]


def _words(queries: NDArray[np.uint8], bits: int) -> NDArray[np.uint64]:
    """Queries as 64-bit words, first bit highest, pad bits zero."""
    padded = np.zeros((len(queries), 8 * -(-bits // 64)), np.uint8)
    padded[:, : queries.shape[1]] = queries
    if len(queries):
        padded[:, width(bits) - 1] &= np.uint8(pad_mask(bits))
    return padded.view(">u8").astype(np.uint64)
