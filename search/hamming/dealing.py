"""How a scan is divided: tiles of queries, ranges of blocks, and how many threads are worth it."""

import math

from search.hamming.blocks import Blocks

ABREAST = 4  # queries that a pass of the kernel compares with the codes it has loaded
# A tile's results and counts, of which what is written to next shall stay in the second-level
# cache. With half as much, fewer queries share a pass over the codes: a tenth slower at k = 1000.
_STATE_BYTES = 1 << 20
TILE = 64
# Pairs of bytes to compare that make it worth while to wake a thread: a tenth of a millisecond or
# two, of which handing over, waiting and merging take a third.
_WORK = 1 << 23
_MERGED = 64  # pairs of bytes that are compared in the time that merging one result takes


def tile_size(k: int, bits: int) -> int:
    """How many queries share one pass over the codes: as many as keep their state in cache.

    Example:
        >>> tile_size(10, 64)
        64
    """
    state = 8 * (2 * k + 256) + 4 * (bits + 2)
    return max(ABREAST, min(TILE, _STATE_BYTES // state) // ABREAST * ABREAST)


def worth(blocks: Blocks, queries: int) -> int:
    """How many threads the work is worth, however many there are."""
    return max(1, queries * blocks.planes.size // _WORK)


def workers_for(blocks: Blocks, queries: int, workers: int) -> int:
    """How many of the threads the work is worth."""
    return min(workers, worth(blocks, queries))


def most_sharing(blocks: Blocks, k: int) -> int:
    """How many threads may share a query before more of them would make it slower.

    With w threads the comparisons take 1 / w of their time, but w lists of `k` results have to be
    kept and merged: the sum is least where both take as long.

    Example:
        >>> import numpy as np
        >>> blocks = Blocks(np.empty((7813, 8, 256), np.uint8), 2_000_000, 64)
        >>> [most_sharing(blocks, k) for k in (10, 1000, 10_000)]
        [158, 15, 5]
    """
    return max(1, math.isqrt(blocks.planes.size // (_MERGED * max(1, k))))


def workers_for_nearest(blocks: Blocks, queries: int, k: int, workers: int) -> int:
    """How many threads the search for the `k` nearest of each query is worth."""
    workers = workers_for(blocks, queries, workers)
    if by_query(blocks, queries, workers):
        return workers
    # Few enough to share each query, or as many as can have queries of their own.
    return min(workers, max(most_sharing(blocks, k), queries // (2 * ABREAST)))


def by_query(blocks: Blocks, queries: int, workers: int) -> bool:
    """Whether each thread gets queries of its own, with nothing to merge: given enough queries."""
    return queries >= 2 * ABREAST * workers or len(blocks.planes) < workers or workers == 1


def query_edges(queries: int, tile: int, workers: int) -> list[int]:
    """Edges of tiles of queries, the same number of tiles for each thread."""
    tiles = -(-max(1, -(-queries // tile)) // workers) * workers
    step = -(-queries // tiles)
    return edges(queries, max(ABREAST, -(-step // ABREAST) * ABREAST))


def split(blocks: Blocks, queries: int, tile: int, workers: int) -> tuple[list[int], list[int]]:
    """Edges of the tiles of queries and of the ranges of blocks that make up the tasks."""
    total = len(blocks.planes)
    workers = workers_for(blocks, queries, workers)
    if by_query(blocks, queries, workers):
        return query_edges(queries, tile, workers), [0, total]
    return edges(queries, min(tile, max(queries, 1))), edges(total, -(-total // workers))


def edges(total: int, step: int) -> list[int]:
    """0, step, 2 step, ... and `total`."""
    return [*range(0, total, step), total]
