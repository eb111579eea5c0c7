"""Kernel of the approximate search: a sweep of the cells that are near each query.

No kernel checks its arguments.
"""

import numpy as np

from search.kernels.compiling import compiled
from search.kernels.hamming import MISSING, limit_of, order, sweep
from search.kernels.shared import BLOCK, ROW_BITS, ROW_MASK
from search.kernels.vectors import LANES
from search.kernels.words import query_words


@compiled
def gather(planes, rows, left, farthest, out):  # type: ignore[no-untyped-def]
    """Fill blocks with the codes of some rows, and what is left of a block with its farthest code.

    planes: uint8, flat, of all codes; rows: of the code at each place of the blocks; left: int64
    (blocks,), codes that each block and those after it in its cell have; farthest: uint8 (blocks,
    width); out: uint8 (blocks, width, BLOCK).
    """
    count, width, _ = out.shape
    for block in range(count):
        held = min(left[block], BLOCK)
        for lane in range(held):
            row = np.int64(rows[block * BLOCK + lane])
            at = row // BLOCK * width * BLOCK + row % BLOCK
            for plane in range(width):
                out[block, plane, lane] = planes[at + plane * BLOCK]
        for plane in range(width):
            out[block, plane, held:] = farthest[block, plane]


@compiled
def probe(  # type: ignore[no-untyped-def]
    planes, bits, starts, rows, allowed, asked, by_table, cells, shape, k, sums, out
):  # fmt: skip
    """The k nearest codes of each query among those of its cells.

    First every query sees the nearest of its cells, which lowers its bound, then the others. Each
    cell is swept once for all the queries that want it, so what one of them finds, and in which
    order, does not depend on the others.

    planes: uint8, flat; starts: int64 (cells + 1,), the block that each cell begins at; rows: of
    the code at each place; allowed: uint64, a bit for every place; asked: uint8 (queries,
    width); by_table: see `query_words`; cells: int64 (queries, probes), nearest first; out: int64
    (queries, k), keys by distance, filled up with MISSING.
    """
    abreast, groups = len(shape) // 8, len(shape) % 8
    wide = sums.itemsize == 2
    per_block = BLOCK // LANES
    queries, width = asked.shape
    probes = cells.shape[1]
    words = query_words(asked, np.int64(1), by_table)
    length = len(words) // queries  # words of a query,
    each = length // width  # and of a byte of it
    paired = np.int64(by_table and abreast > 1)  # tables are of two queries, see `query_words`
    keys = np.empty((queries, 2 * k + 256), np.int64)
    filled = np.zeros(queries, np.int64)
    counts = np.zeros((queries, bits + 2), np.int32)
    below = np.zeros(queries, np.int64)
    bounds = np.full(queries, bits + 1, np.int64)
    ends = np.empty(len(starts), np.int64)
    wanting = np.empty(queries * probes, np.int32)
    owners = np.zeros(queries + abreast, np.int64)
    limits = np.zeros(queries + abreast, np.uint64)
    abreast_words = np.zeros((queries + abreast) * length, np.uint64)
    for first, last in ((0, 1), (1, probes)):
        # The queries that want each cell, by a counting sort; ends[c] is where those of c end.
        ends[:] = 0
        for query in range(queries):
            for position in range(first, last):
                ends[cells[query, position] + 1] += 1
        for cell in range(len(ends) - 1):
            ends[cell + 1] += ends[cell]
        for query in range(queries):
            for position in range(first, last):
                cell = cells[query, position]
                wanting[ends[cell]] = query
                ends[cell] += 1
        begin = 0
        for cell in range(len(starts) - 1):
            awake = 0
            for want in range(begin, ends[cell]):
                query = wanting[want]
                if bounds[query] == 0:
                    continue
                owners[awake] = query
                limits[awake] = limit_of(bounds[query], wide)
                quad, lane = awake // abreast, awake % abreast
                shift = np.uint64(4 * (lane & paired))
                for plane in range(width):
                    place = (((quad * width + plane) * abreast + lane) >> paired) * each
                    for part in range(each):
                        word = words[(query * width + plane) * each + part] << shift
                        if shift > 0:  # the table has been begun by the query before
                            word |= abreast_words[place + part]
                        abreast_words[place + part] = word
                awake += 1
            begin = ends[cell]
            if awake == 0:
                continue
            places = (awake + abreast - 1) // abreast * abreast
            for place in range(awake, places):
                limits[place] = 0
            sweep(
                planes, len(rows), width, starts[cell] * per_block, starts[cell + 1] * per_block,
                groups, abreast_words, shape, allowed, k, sums, owners,
                keys, filled, counts, below, bounds, limits[:places],
            )  # fmt: skip
    cursors = np.empty(bits + 2, np.int64)
    ordered = np.empty(k + 1, np.int64)
    for query in range(queries):
        order(keys[query], filled[query], counts[query], bounds[query], cursors, ordered)
        for position in range(k):
            key = ordered[position]
            if key != MISSING:
                key = key >> ROW_BITS << ROW_BITS | np.int64(rows[key & ROW_MASK])
            out[query, position] = key
