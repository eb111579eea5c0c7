"""How a scan is dealt out: tiles of queries, ranges of blocks, and the threads they are worth."""

from search.hamming.blocks import Blocks

ABREAST = 4  # queries that a pass of the kernel compares with the codes it has loaded
_STATE_BYTES = 1 << 19  # what a tile of queries may keep in the second-level cache
TILE = 64
_WORK = 1 << 21  # pairs of bytes to compare that make it worth while to wake a thread


def tile_size(k: int, bits: int) -> int:
    """How many queries share one pass over the codes: as many as keep their state in cache.

    Example:
        >>> tile_size(10, 64)
        64
    """
    state = 8 * (2 * k + 256) + 4 * (bits + 2)
    return max(ABREAST, min(TILE, _STATE_BYTES // state) // ABREAST * ABREAST)


def workers_for(blocks: Blocks, queries: int, workers: int) -> int:
    """How many threads the work is worth."""
    return max(1, min(workers, queries * blocks.planes.size // _WORK))


def by_query(blocks: Blocks, queries: int, workers: int) -> bool:
    """Whether no thread shares a query, which leaves nothing to merge: where there are enough."""
    return queries >= 2 * ABREAST * workers or len(blocks.planes) < workers or workers == 1


def query_edges(queries: int, tile: int, workers: int) -> list[int]:
    """Edges of tiles of queries, as many for each thread."""
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
