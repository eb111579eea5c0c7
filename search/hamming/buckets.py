"""Exact search among codes that repeat: every distinct code once, with its rows behind it.

Learned codes repeat, real archives more so. Searching the distinct codes and then looking up
their rows gives the answers of `search.hamming.scan`, ties included, for a fraction of the work.

Codes are numbered by their first row. So among codes at one distance the order of codes is the
order of their first rows, and the k nearest codes always suffice to find the k nearest rows.
"""

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search import threads as pool
from search.codes import check_count, validate, width
from search.filters import Filter, as_filter
from search.hamming import scan
from search.hamming import tables as multi_index
from search.hamming.blocks import BLOCK, Blocks, arrange, restore, take
from search.hamming.scan import NO_DISTANCE, NO_ROW
from search.hamming.searchable import Nearest, Scanned, Searchable, Within
from search.hamming.tables import Tables
from search.kernels import buckets as kernels
from search.kernels import hamming
from search.kernels.shared import ROW_BITS, ROW_MASK
from search.memory import check_found

_ANY: NDArray[np.bool_] = np.empty(0, np.bool_)
_SAMPLE = 1 << 16  # rows looked at to estimate how often codes repeat
_WORTH = 0.5  # buckets pay with at most so many distinct codes per row,
_SAVED = 1 << 20  # if they save each query from reading at least so many bytes of codes
_TASK = 64  # queries whose codes one task turns into rows
_BY_TABLES = 1  # the largest k for which tables beat a scan: a tenth neighbour lies too far
_TALLIES = 4  # threads that count, at most: each keeps some 20 bytes for every distinct code


@dataclass(frozen=True)
class Buckets:
    """The distinct codes, in the order of their first rows, and the rows of each.

    Attributes:
        blocks: the m distinct codes.
        offsets: int64 (m + 1,); code i has the rows from offsets[i] to offsets[i + 1].
        rows: uint32 or int64 (n,), ascending for each code.
        tables: the distinct codes by parts of their bits, to find near ones without a scan.

    Example:
        >>> found = build(arrange(np.array([[5], [7], [5]], np.uint8)))
        >>> found.offsets, found.rows
        (array([0, 2, 3]), array([0, 2, 1], dtype=uint32))
    """

    blocks: Blocks
    offsets: NDArray[np.int64]
    rows: NDArray[np.integer]
    tables: Tables | None = None

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def bits(self) -> int:
        """Bits in a code."""
        return self.blocks.bits

    @property
    def nbytes(self) -> int:
        """Bytes that the index takes."""
        own = self.blocks.planes.nbytes + self.offsets.nbytes + self.rows.nbytes
        return own + (0 if self.tables is None else self.tables.nbytes)

    def __len__(self) -> int:
        return self.count

    def knn(
        self,
        queries: NDArray[np.uint8],
        k: int,
        *,
        allowed: NDArray[np.bool_] | Filter | None = None,
        threads: int | None = None,
    ) -> Nearest:
        """As `scan.knn`.

        Example:
            >>> found = build(arrange(np.array([[5], [7], [5]], np.uint8)))
            >>> found.knn(np.array([[5]], np.uint8), 2)
            (array([[0, 0]], dtype=int32), array([[0, 2]]))
        """
        k = check_count(k, "k")
        workers = pool.resolve(threads)
        queries, _ = validate(queries, self.bits, "queries")
        chosen, among = _filter(self, allowed)
        distances = np.full((len(queries), k), NO_DISTANCE, np.int32)
        found = np.full((len(queries), k), NO_ROW, np.int64)
        most = min(k, self.blocks.count)
        if most == 0:
            return distances, found

        # A code stands for several rows, so fewer than k codes are often enough. Whether they were
        # is known afterwards: those nearer than the last of them, which are complete, had k rows.
        reach = min(most, 8 + 4 * -(-k * self.blocks.count // self.count))
        left = np.arange(len(queries))
        distinct: Searchable = Scanned(self.blocks)
        if self.tables is not None and k <= _BY_TABLES:
            distinct = self.tables
        while len(left):
            near, codes = distinct.knn(queries[left], reach, allowed=among, threads=workers)
            starts = np.arange(len(left) + 1, dtype=np.int64) * reach
            whole = reach == self.blocks.count or (reach == most and chosen is None)
            if reach == most and not whole:
                # With a filter the order of first rows means nothing: take all that tie.
                last = np.where(codes[:, -1] < 0, self.bits, near[:, -1]).astype(np.int64)
                starts, near, codes = scan.radius(
                    self.blocks, queries[left], last, allowed=among, threads=workers
                )
                whole = True
            certain = _expand(
                self, near.ravel(), codes.ravel(), starts, whole, chosen, left, distances, found,
                workers,
            )  # fmt: skip
            left = left[~certain]
            reach = min(most, 4 * reach)
        return distances, found

    def radius(
        self,
        queries: NDArray[np.uint8],
        radius: int | NDArray[np.integer],
        *,
        allowed: NDArray[np.bool_] | Filter | None = None,
        threads: int | None = None,
    ) -> Within:
        """As `scan.radius`.

        Example:
            >>> found = build(arrange(np.array([[5], [7], [5]], np.uint8)))
            >>> found.radius(np.array([[5]], np.uint8), 1)
            (array([0, 3]), array([0, 0, 1], dtype=int32), array([0, 2, 1]))
        """
        workers = pool.resolve(threads)
        chosen, among = _filter(self, allowed)
        distinct: Searchable = Scanned(self.blocks) if self.tables is None else self.tables
        starts, near, codes = distinct.radius(queries, radius, allowed=among, threads=workers)
        mask = _ANY if chosen is None else chosen.allowed
        totals = np.empty(len(starts) - 1, np.int64)
        kernels.weigh(codes, starts, self.offsets, self.rows, mask, totals)
        offsets = np.zeros(len(starts), np.int64)
        np.cumsum(totals, out=offsets[1:])
        check_found(int(offsets[-1]))
        keys = np.empty(offsets[-1], np.int64)

        def unfold(start: int, stop: int) -> None:
            kernels.unfold(
                near, codes, starts[start : stop + 1], self.offsets, self.rows, mask,
                offsets[start : stop + 1], keys,
            )  # fmt: skip
            for query in range(start, stop):
                keys[offsets[query] : offsets[query + 1]].sort()

        pool.run(unfold, _tasks(len(totals)), workers)
        return offsets, (keys >> ROW_BITS).astype(np.int32), keys & ROW_MASK


def estimate_distinct(blocks: Blocks) -> int:
    """Estimate the number of distinct codes from those that a sample holds once and twice.

    Exact up to 65,536 codes; beyond, the lower bound by Chao (Scandinavian Journal of
    Statistics 11, 1984), no more than the number of codes.

    Example:
        >>> estimate_distinct(arrange(np.zeros((10, 4), np.uint8)))
        1
    """
    if blocks.count <= _SAMPLE:
        codes = restore(blocks)
    else:
        rng = np.random.default_rng(1984)
        codes = take(blocks, np.unique(rng.integers(0, blocks.count, _SAMPLE)))
    if len(codes) == 0:
        return 0
    keys = np.ascontiguousarray(codes).view(np.dtype((np.void, codes.shape[1]))).ravel()
    _, counts = np.unique(keys, return_counts=True)
    if len(codes) == blocks.count:
        return len(counts)
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    unseen = once * (once - 1) / (2 * (twice + 1))
    return int(min(blocks.count, len(counts) + unseen))


def worthwhile(blocks: Blocks) -> bool:
    """Whether buckets over these codes would be faster to search than the codes themselves.

    They are when codes repeat and there are many: for 100 neighbours, looking up the rows takes
    a core about as long as scanning a megabyte of codes. The index takes about as much memory
    as the codes.

    Example:
        >>> worthwhile(arrange(np.zeros((500_000, 4), np.uint8)))
        True
    """
    most = min(_WORTH * blocks.count, blocks.count - _SAVED / width(blocks.bits))
    return most > 0 and estimate_distinct(blocks) <= most


def build(
    blocks: Blocks,
    *,
    most: int | None = None,
    tables: bool = False,
    threads: int | None = None,
) -> Buckets | None:
    """Group the rows of equal codes.

    Needs, at its peak, the memory of the result, four (or, above 4,294,967,295 rows, eight) bytes
    a row, and some 20 for every distinct code and each of up to four threads.

    Args:
        blocks: the database.
        most: give up, and return None, when there are more distinct codes than this.
        tables: also make multi-index tables of the distinct codes. They pay from about a million
            distinct codes on, for near neighbours, and take `search.hamming.tables.size` bytes.
        threads: number of threads; all processors when left out.

    Example:
        >>> build(arrange(np.array([[5], [7], [5]], np.uint8))).blocks.count
        2
    """
    count = blocks.count
    most = count if most is None else check_count(most, "most")
    workers = pool.resolve(threads)
    seeds = np.frombuffer(os.urandom(16), np.uint64) | np.uint64(1)
    kind: type[np.integer] = np.uint32 if count <= np.iinfo(np.uint32).max else np.int64
    labels = np.empty(count, kind)
    step = -(-max(1, -(-count // workers)) // BLOCK) * BLOCK
    # One range at least: an empty database has an empty group.
    ranges = [(start, min(start + step, count)) for start in range(0, max(count, 1), step)]

    groups = pool.run(_group, [(blocks, *each, labels, most, seeds) for each in ranges], workers)
    if any(group is None for group in groups):
        return None
    merged = _merge_groups([group for group in groups if group is not None], most, seeds)
    if merged is None:
        return None
    words, names = merged

    shares = np.array_split(np.arange(len(ranges)), min(len(ranges), _TALLIES))
    tallies = np.zeros((len(shares), len(words)), kind)

    def tally(share: int) -> None:
        for part in shares[share]:
            start, stop = ranges[part]
            kernels.tally(labels[start:stop], names[part], tallies[share])

    pool.run(tally, [(share,) for share in range(len(shares))], workers)
    offsets = np.zeros(len(words) + 1, np.int64)
    np.cumsum(tallies.sum(axis=0, dtype=np.int64), out=offsets[1:])
    rows: NDArray[np.integer] = np.empty(count, kind)
    cursors = np.cumsum(tallies, axis=0, dtype=np.int64) - tallies + offsets[:-1]

    def place(share: int) -> None:
        for part in shares[share]:
            start, stop = ranges[part]
            kernels.place(labels[start:stop], start, cursors[share], rows)

    pool.run(place, [(share,) for share in range(len(shares))], workers)
    codes = words.astype(">u8").view(np.uint8).reshape(len(words), 8 * words.shape[1])
    distinct = arrange(codes[:, : width(blocks.bits)], blocks.bits, threads=workers)
    index = multi_index.build(distinct, threads=workers) if tables else None
    return Buckets(distinct, offsets, rows, index)


def _expand(
    buckets: Buckets,
    near: NDArray[np.int32],
    codes: NDArray[np.int64],
    starts: NDArray[np.int64],
    whole: bool,
    chosen: Filter | None,
    left: NDArray[np.int64],
    distances: NDArray[np.int32],
    found: NDArray[np.int64],
    workers: int,
) -> NDArray[np.bool_]:
    """Fill in the rows of the queries `left`; returns which of them are certain."""
    certain = np.empty(len(left), np.bool_)
    mask = _ANY if chosen is None else chosen.allowed
    every = len(left) == len(found)

    k = found.shape[1]

    def expand(start: int, stop: int) -> None:
        keys = np.empty((stop - start, 2 * k + 64), np.int64)
        filled = np.empty(stop - start, np.int64)
        kernels.expand(
            near, codes, starts[start : stop + 1], whole, k, buckets.offsets, buckets.rows, mask,
            keys, filled, certain[start:stop],
        )  # fmt: skip
        keys = keys[:, : filled.max()]
        keys.sort(axis=1)  # by NumPy, which sorts whole numbers with vector instructions
        part = slice(start, stop) if every else left[start:stop]
        # A slice is written to in place; an index array makes copies, which are written back.
        near_part, found_part = distances[part], found[part]
        hamming.split(np.ascontiguousarray(keys[:, :k]), near_part, found_part)
        if not every:
            distances[part], found[part] = near_part, found_part

    pool.run(expand, _tasks(len(left)), workers)
    return certain


def _tasks(queries: int) -> list[tuple[int, int]]:
    """(start, stop) of the queries that each task has."""
    return [(start, min(start + _TASK, queries)) for start in range(0, queries, _TASK)]


def _filter(
    buckets: Buckets, allowed: NDArray[np.bool_] | Filter | None
) -> tuple[Filter | None, Filter | None]:
    """The rows that may be results, checked, and the codes that have any of them."""
    if allowed is None:
        return None, None
    chosen = as_filter(allowed, buckets.count)

    def reachable() -> Filter:
        among = np.empty(buckets.blocks.count, np.bool_)
        kernels.reachable(buckets.offsets, buckets.rows, chosen.allowed, among)
        return Filter(among)

    return chosen, chosen.form(buckets, reachable)


def _group(
    blocks: Blocks,
    start: int,
    stop: int,
    labels: NDArray[np.integer],
    most: int,
    seeds: NDArray[np.uint64],
) -> NDArray[np.uint64] | None:
    """Label rows [start, stop) among themselves; returns their distinct codes as words."""
    planes = blocks.planes.reshape(-1)
    bytes_each = width(blocks.bits)
    words = np.empty((1024, -(-bytes_each // 8)), np.uint64)
    table = np.full(4 * len(words), -1, np.int64)
    count = 0
    while True:
        start, count = kernels.group(
            planes, bytes_each, start, stop, labels, words, table, count, seeds
        )
        if count > most:
            return None
        if start == stop:
            return words[:count]
        words, table = _grow(words, count, seeds)


def _grow(
    words: NDArray[np.uint64], count: int, seeds: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Four times the room for distinct codes, and their hash table made anew."""
    larger = np.empty((4 * len(words), words.shape[1]), np.uint64)
    larger[:count] = words[:count]
    table = np.full(1 << (2 * len(larger) - 1).bit_length(), -1, np.int64)
    kernels.enter(larger, count, table, seeds)
    return larger, table


def _merge_groups(
    groups: list[NDArray[np.uint64]], most: int, seeds: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], list[NDArray[np.int64]]] | None:
    """The distinct codes of all groups, in the order they come, and each group's new labels."""
    words, count = groups[0], len(groups[0])
    names = [np.arange(count)]
    table: NDArray[np.int64] | None = None
    for others in groups[1:]:
        mine, done = np.empty(len(others), np.int64), 0
        if table is None:
            words, table = _grow(np.resize(words, (max(256, count), words.shape[1])), count, seeds)
        while True:
            done, count = kernels.absorb(others, done, words, table, count, mine, seeds)
            if done == len(others):
                break
            words, table = _grow(words, count, seeds)
        names.append(mine)
    return None if count > most else (words[:count], names)
