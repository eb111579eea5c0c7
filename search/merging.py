"""Results of the parts of a database, merged into the results of the whole."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search import codes as _codes
from search.kernels import merging

Result = tuple[NDArray, NDArray]
Within = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]


def merge(*results: Result, k: int | None = None) -> Result:
    """The `k` best of several results for the same queries, in (distance, id) order.

    Exact when each part of the database gave its own `k` best: merged shards equal the whole,
    however the items were divided, as long as ids are global and no item is in two shards.

    Args:
        results: pairs (distances, ids) as a search returns them, all of one width (q, w):
            int32 or float32 rows in (distance, id) order, missing results (id -1) last.
        k: results for each query, at most w; w when left out.

    Returns:
        distances (q, k) of the type given, ids int64 (q, k).

    Raises:
        TypeError, ValueError: naming the result by its position.

    Example:
        >>> one = np.array([[1, 4]], np.int32), np.array([[7, 2]])
        >>> two = np.array([[1, 1]], np.int32), np.array([[3, 9]])
        >>> merge(one, two)
        (array([[1, 1]], dtype=int32), array([[3, 7]]))
    """
    if not results:
        raise ValueError("results: give at least one pair (distances, ids)")
    for position, result in enumerate(results):
        _check(f"results[{position}]", result, results[0][0])
    width = results[0][1].shape[1]
    k = width if k is None else _codes.check_count(k, "k")
    if k > width:
        raise ValueError(f"k must be at most the {width} results that each part gives, not {k}")
    return merge_nearest(results, k)


def merge_nearest(results: Sequence[Result], k: int) -> Result:
    """`merge` without checks, for results known to be valid."""
    if len(results) == 1 and results[0][1].shape[1] == k:
        return results[0]
    if len(results) == 1 or k == 0 or not len(results[0][1]):
        return results[0][0][:, :k], results[0][1][:, :k]
    distances = np.stack([distances for distances, _ in results])
    return merge_tables(distances, np.stack([ids for _, ids in results]), k)


def merge_tables(distances: NDArray, ids: NDArray[np.int64], k: int) -> Result:
    """The `k` best of tables (parts, q, w) of ranked results: distances and ids (q, k)."""
    parts, queries, width = ids.shape
    starts = (np.arange(parts * queries) * width).reshape(parts, queries)
    best, found = np.empty((queries, k), distances.dtype), np.empty((queries, k), np.int64)
    merging.merge(
        distances.reshape(-1), ids.reshape(-1), starts, starts + width, np.arange(queries + 1) * k,
        best.reshape(-1), found.reshape(-1),
    )  # fmt: skip
    return best, found


def merge_within(parts: Sequence[Within]) -> Within:
    """Radius results of several parts of a database as one, in (distance, id) order.

    Example:
        >>> part = np.array([0, 1]), np.array([3], np.int32), np.array([5])
        >>> merge_within([part, (part[0], part[1] - 1, part[2] + 1)])[2]
        array([6, 5])
    """
    if len(parts) == 1:
        return parts[0]
    before = np.cumsum([0] + [len(ids) for _, _, ids in parts])
    places = np.stack([own + start for (own, _, _), start in zip(parts, before, strict=False)])
    offsets = np.sum([own for own, _, _ in parts], axis=0)
    distances, ids = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.int64)
    merging.merge(
        np.concatenate([near for _, near, _ in parts]),
        np.concatenate([each for _, _, each in parts]),
        places[:, :-1].copy(), places[:, 1:].copy(), offsets, distances, ids,
    )  # fmt: skip
    return offsets, distances, ids


def _check(name: str, result: Result, first: NDArray) -> None:
    """A pair of arrays (q, w) like the first one, each row in order."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"{name} must be a pair (distances, ids)")
    distances, ids = result
    for part, array in (("distances", distances), ("ids", ids)):
        _codes.refuse_subclass(array, f"{name}: {part}")
        if not isinstance(array, np.ndarray) or array.ndim != 2:
            raise TypeError(f"{name}: {part} must be a NumPy array of shape (q, k)")
    if distances.dtype not in (np.int32, np.float32) or ids.dtype != np.int64:
        raise TypeError(
            f"{name} must be int32 or float32 distances with int64 ids, "
            f"not {distances.dtype} and {ids.dtype}"
        )
    if distances.shape != ids.shape or distances.shape != first.shape:
        raise ValueError(
            f"{name} has the shapes {distances.shape} and {ids.shape}, the first {first.shape}; "
            "every part must answer the same queries with the same k"
        )
    if distances.dtype != first.dtype:
        raise TypeError(f"{name} has distances of type {distances.dtype}, the first {first.dtype}")
    near, far = distances[:, :-1], distances[:, 1:]
    before, after = ids[:, :-1], ids[:, 1:]
    ordered = (near < far) | ((near == far) & (before < after)) | (after == -1)
    if not ordered.all() or np.any((before == -1) & (after != -1)):
        raise ValueError(f"{name} is not in (distance, id) order with missing results last")
