"""Exact nearest neighbours by Euclidean distance over all features: the reference for the codes.

The distances to a block of features come out of one matrix product, 1/2 |x|^2 - q.x, which orders
like the distance itself and runs at the speed of the processor's matrix routines. The best few
more than `k` are kept, and their distances computed again as direct differences.
"""

import numpy as np
from numpy.typing import NDArray

from search import codes as _codes
from search import threads as _threads
from search.fine.rerank import as_single, check_features, check_queries, rerank
from search.memory import check_answer

# Bytes of features in float32, and of their products with a chunk of queries, held at a time.
BLOCK_BYTES = 1 << 26
# Queries multiplied with a block at once, and queries whose candidates one thread selects.
CHUNK = 512
PART = 64
# Queries that walk the features together: bounds the memory of their candidates.
GROUP = 1 << 14


def euclidean_knn(
    query_features: NDArray[np.floating],
    features: NDArray[np.floating],
    k: int,
    *,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `k` nearest rows of all features, by Euclidean distance.

    Candidates are found by float32 matrix products, a few more than `k`, and put in order by
    `rerank`. An item can only be missed where rounding in float32 hides that it is nearer than
    the last candidate. Features are read block by block, once for every 16,384 queries.

    Args:
        query_features: float (q, d), finite.
        features: float16 or float32 (n, d), finite, in memory or memory-mapped.
        k: results for each query.
        threads: at most this many for selecting; matrix products use as many as NumPy's BLAS
            was told to. All processors when None.

    Returns:
        distances float32 (q, k), not squared, ascending, equal ones by id; ids int64 (q, k).
        Where there are fewer than k features: infinity and -1.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> features = np.array([[0, 0], [3, 4], [6, 8]], np.float32)
        >>> euclidean_knn(features[1:2], features, 2)
        (array([[0., 5.]], dtype=float32), array([[1, 0]]))
    """
    queries = check_queries(query_features)
    features = check_features(features)
    if queries.shape[1] != features.shape[1]:
        raise ValueError(
            f"query_features have {queries.shape[1]} dimensions, features {features.shape[1]}"
        )
    k = _codes.check_count(k, "k")
    check_answer(len(queries), k)
    kept = min(len(features), k + k // 8 + 32)
    best = np.full((len(queries), k), np.inf, np.float32)
    found = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(queries) if k and kept else 0, GROUP):
        group = slice(start, start + GROUP)
        ids = _candidates(queries[group], features, kept, threads)
        best[group], found[group] = rerank(queries[group], features, ids, k, threads=threads)
    return best, found


def _candidates(
    queries: NDArray[np.float32],
    features: NDArray[np.floating],
    kept: int,
    threads: int | None,
) -> NDArray[np.int64]:
    """The `kept` rows of smallest score for each query, in no order."""
    rows = max(1, BLOCK_BYTES // (4 * max(CHUNK, features.shape[1])))
    # Centring changes no distance, and smaller norms mean smaller rounding errors.
    sample = np.linspace(0, len(features) - 1, 1024).astype(int)
    with np.errstate(over="ignore", invalid="ignore"):
        centre = features[sample].astype(np.float32).mean(axis=0)
        queries = queries - centre
    keys = np.full((len(queries), kept), np.iinfo(np.uint64).max)
    limits = np.full(len(queries), np.inf, np.float32)
    for first in range(0, len(features), rows):
        with np.errstate(over="ignore", invalid="ignore"):
            block = as_single(features[first : first + rows], threads)
            block -= centre
            halves = np.einsum("nd,nd->n", block, block) / 2
        if not np.isfinite(halves).all():
            raise ValueError(
                "features: some rows hold NaN or infinity, or values too large for a distance "
                "in float32; clean or scale the features"
            )
        for start in range(0, len(queries), CHUNK):
            scores = queries[start : start + CHUNK] @ block.T
            np.subtract(halves, scores, out=scores)
            tasks = [
                (
                    scores[part : part + PART],
                    first,
                    keys[start : start + CHUNK][part : part + PART],
                    limits[start : start + CHUNK][part : part + PART],
                )
                for part in range(0, len(scores), PART)
            ]
            _threads.run(_keep_smallest, tasks, threads)
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _keep_smallest(
    scores: NDArray[np.float32],
    first: int,
    keys: NDArray[np.uint64],
    limits: NDArray[np.float32],
) -> None:
    """Merge the scores of rows `first` and up into the smallest `keys`, in place.

    A key is a score, its bits arranged to order as numbers, with the row behind it. `limits` are
    the largest scores kept; after the first block few scores are below them.
    """
    kept = keys.shape[1]
    bounds = limits
    if np.isinf(limits).any() and scores.shape[1] > kept:
        bounds = np.minimum(limits, np.partition(scores, kept - 1, axis=1)[:, kept - 1])
    queries, columns = np.nonzero(scores <= bounds[:, None])
    if not queries.size:
        return
    counts = np.bincount(queries, minlength=len(scores))
    places = np.arange(queries.size) - np.repeat(np.cumsum(counts) - counts, counts)
    bits = scores[queries, columns].view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
    merged = np.full((len(scores), kept + counts.max()), np.iinfo(np.uint64).max)
    merged[:, :kept] = keys
    merged[queries, kept + places] = ordered << np.uint64(32) | (columns + first).astype(np.uint64)
    merged.partition(kept - 1, axis=1)
    keys[:] = merged[:, :kept]
    largest = (keys[:, -1] >> np.uint64(32)).astype(np.uint32)
    full = keys[:, -1] < np.iinfo(np.uint64).max
    back = np.where(largest >> 31, largest & np.uint32(0x7FFFFFFF), ~largest)
    limits[:] = np.where(full, back.astype(np.uint32).view(np.float32), np.inf)
