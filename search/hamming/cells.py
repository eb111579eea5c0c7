"""Codes in cells around centres, of which a search looks only at the nearest few: approximate.

The centres are distinct codes of the database, drawn at random, and a code lies in the cell of
the centre that is nearest to it. Clustering the centres by majorities of bits, as k-means does,
found no more neighbours in as many codes, on uniform, clustered or learned-like ones alike: the
distances to a thousand centres tell where a code is, whatever the centres are. How many cells a
stated recall needs is measured: see `search.hamming.recall`.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from search import threads as pool
from search.codes import check_count, width
from search.filters import Filter, as_filter
from search.hamming import scan
from search.hamming.blocks import BLOCK, Blocks, arrange, restore, take
from search.hamming.dealing import ABREAST, query_edges, workers_for
from search.hamming.searchable import Nearest
from search.kernels import buckets as placing
from search.kernels import cells as kernels
from search.kernels import hamming
from search.kernels.registers import registers

_EACH = 4 * BLOCK  # codes in a cell, on average: many beside what its last block has left empty
_MOST = 1 << 14  # cells: with more of them, finding those near a code takes what it saves
_DRAWN = 4  # codes drawn for one centre, as some are equal
_ABREAST = 512  # queries, at most, that share the sweep of a cell,
_STATE_BYTES = 1 << 24  # and what they may keep meanwhile
_STEP = 1 << 16  # codes that one task takes to their cells


@dataclass(frozen=True)
class Cells:
    """Codes by cell, each beginning a block of its own.

    A place is a row of `blocks`. Those after the last code of a cell are filled with what is
    farthest from its centre, and are never a result.

    Attributes:
        blocks: the codes and fillings, by cell and row.
        count: number of codes.
        starts: int64 (cells + 1,): cell c has the blocks from starts[c] to starts[c + 1].
        rows: uint32 or int64 (places,): the row of the code at each place.
        centres: one code for each cell.
        filled: uint64 (places / 64,), a bit for every place that holds a code.

    Example:
        >>> found = build(arrange(np.array([[5], [7], [5]], np.uint8)))
        >>> found.knn(np.array([[6]], np.uint8), 2, probes=1)
        (array([[1, 2]], dtype=int32), array([[1, 0]]))
    """

    blocks: Blocks
    count: int
    starts: NDArray[np.int64]
    rows: NDArray[np.integer]
    centres: Blocks
    filled: NDArray[np.uint64]

    @property
    def nbytes(self) -> int:
        """Bytes that the cells take."""
        own = self.blocks.planes.nbytes + self.starts.nbytes + self.rows.nbytes
        return own + self.centres.planes.nbytes + self.filled.nbytes

    def compared(
        self, queries: NDArray[np.uint8], probes: int, threads: int | None = None
    ) -> float:
        """With how many codes a query is compared on average, centres and fillings included."""
        near = scan.knn(self.centres, queries, probes, threads=threads)[1]
        return self.centres.count + float(BLOCK * np.diff(self.starts)[near].sum(axis=1).mean())

    def knn(
        self,
        queries: NDArray[np.uint8],
        k: int,
        *,
        probes: int,
        allowed: NDArray[np.bool_] | Filter | None = None,
        threads: int | None = None,
    ) -> Nearest:
        """As `scan.knn`, among the codes of the `probes` nearest cells of each query alone.

        Of codes that are equally far, and too many, those that were met first stay; the results
        are in (distance, row) order, and the same for any number of threads and other queries.
        With fewer than k codes in the cells, rows are -1 although there may be others.
        """
        queries = scan.check_queries(self.centres, queries)
        k = check_count(k, "k")
        workers = pool.resolve(threads)
        count, reach = len(queries), min(k, self.count)
        distances = np.full((count, k), scan.NO_DISTANCE, np.int32)
        found = np.full((count, k), scan.NO_ROW, np.int64)
        if count == 0 or reach == 0:
            return distances, found
        mask = self.mask(None if allowed is None else as_filter(allowed, self.count))
        planes, bits = self.blocks.planes.reshape(-1), self.blocks.bits
        by_table = registers().by_table
        probes = min(probes, len(self.centres))
        # As many threads as the share of the codes that is compared is worth.
        workers = workers_for(self.blocks, -(-count * probes // len(self.centres)), workers)
        near = scan.knn(self.centres, queries, probes, threads=workers)[1]

        def search(start: int, stop: int) -> None:
            shape, sums = scan.scratch(count, width(bits))
            keys = np.empty((stop - start, reach), np.int64)
            kernels.probe(
                planes, bits, self.starts, self.rows, mask, queries[start:stop], by_table,
                near[start:stop], shape, reach, sums, keys,
            )  # fmt: skip
            keys.sort(axis=1)  # equal distances are in the order of places until here
            hamming.split(keys, distances[start:stop], found[start:stop])

        state = 8 * (2 * reach + 256) + 4 * (bits + 2)
        tile = max(ABREAST, min(_ABREAST, _STATE_BYTES // state))
        pool.run(search, pairwise(query_edges(count, tile, workers)), workers)
        return distances, found

    def mask(self, chosen: Filter | None) -> NDArray[np.uint64]:
        """A bit for every place that holds an allowed code."""
        if chosen is None:
            return self.filled
        return chosen.form(self, lambda: _as_bits(chosen.allowed[self.rows]) & self.filled)


def build(blocks: Blocks, *, cells: int | None = None, threads: int | None = None) -> Cells:
    """Deal codes out to cells.

    Needs, at its peak, the memory of the result and two bytes for each code.

    Args:
        blocks: the database.
        cells: how many, up to 65,536; about one for each 1,024 codes, and 16,384 at most, when
            left out.
        threads: number of threads; all processors when left out.

    Example:
        >>> build(arrange(np.zeros((3000, 4), np.uint8))).starts
        array([ 0, 12])
    """
    count, bytes_each = blocks.count, width(blocks.bits)
    cells = max(1, min(_MOST, count // _EACH) if cells is None else cells)
    rng = np.random.default_rng(1000)
    drawn = take(blocks, rng.integers(0, max(count, 1), _DRAWN * cells * bool(count)))
    centres = arrange(rng.permutation(np.unique(drawn, axis=0))[:cells], blocks.bits)
    own = np.empty(count, np.uint16)
    source = blocks.planes.reshape(-1)

    def assign(start: int) -> None:
        part = restore(blocks, start, start + _STEP)
        own[start : start + len(part)] = scan.knn(centres, part, 1, threads=1)[1][:, 0]

    pool.run(assign, [(start,) for start in range(0, count, _STEP)], threads)
    sizes = np.bincount(own, minlength=centres.count)
    starts = np.zeros(centres.count + 1, np.int64)
    np.cumsum(-(-sizes // BLOCK), out=starts[1:])
    total = int(starts[-1])
    kind: type[np.integer] = np.uint32 if count <= np.iinfo(np.uint32).max else np.int64
    rows: NDArray[np.integer] = np.zeros(total * BLOCK, kind)
    placing.place(own, 0, starts[:-1] * BLOCK, rows)

    planes = np.empty((total, bytes_each, BLOCK), np.uint8)
    filled = np.empty(total * BLOCK // 64, np.uint64)
    cell_of = np.repeat(np.arange(centres.count), np.diff(starts))
    farthest = ~restore(centres)
    farthest[:, -1:] &= np.uint8(scan.pad_mask(blocks.bits))

    def fill(first: int) -> None:
        last = min(first + _STEP // BLOCK, total)
        cell = cell_of[first:last]
        left = sizes[cell] - (np.arange(first, last) - starts[cell]) * BLOCK
        holds = np.arange(BLOCK) < left[:, None]
        own_rows = rows[first * BLOCK : last * BLOCK]
        kernels.gather(source, own_rows, left, farthest[cell], planes[first:last])
        filled[first * BLOCK // 64 : last * BLOCK // 64] = _as_bits(holds)

    pool.run(fill, [(first,) for first in range(0, total, _STEP // BLOCK)], threads)
    return Cells(Blocks(planes, total * BLOCK, blocks.bits), count, starts, rows, centres, filled)


def _as_bits(marks: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Marks, a multiple of 64, as bits of words, the first one lowest."""
    return np.packbits(marks, bitorder="little").view("<u8").astype(np.uint64, copy=False)
