"""Results and candidates as they travel between machines: exact, in half the bytes or fewer.

Ids of a shard lie close together, so they travel as the least of them and uint32 offsets from it;
Hamming distances travel as uint16. What does not fit travels as it is.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.hamming.scan import NO_DISTANCE
from search.merging import Result

NO_OFFSET = np.iinfo(np.uint32).max
"""In place of the id -1, of what is missing."""
NO_SHORT = np.iinfo(np.uint16).max
"""In place of the distance of what is missing."""


class Ids(NamedTuple):
    """Ids (q, k): uint32 offsets from `first`, or the int64 ids themselves where it is None."""

    first: int | None
    values: NDArray[np.uint32] | NDArray[np.int64]


class Packed(NamedTuple):
    """A result of a search on its way."""

    distances: NDArray[np.uint16] | NDArray[np.int32] | NDArray[np.float32]
    ids: Ids


def pack_ids(ids: NDArray[np.int64]) -> Ids:
    """Ids on their way; -1 is none.

    Example:
        >>> pack_ids(np.array([[700, 705, -1]])).values.tolist()
        [[0, 5, 4294967295]]
    """
    first, last = ends(ids)
    if last - first >= NO_OFFSET:
        return Ids(None, ids)
    return Ids(first, np.where(ids != -1, ids - first, NO_OFFSET).astype(np.uint32))


def unpack_ids(packed: Ids) -> NDArray[np.int64]:
    """What `pack_ids` was given."""
    if packed.first is None:
        return np.asarray(packed.values, np.int64)
    ids = packed.values.astype(np.int64) + packed.first
    ids[packed.values == NO_OFFSET] = -1
    return ids


def pack(result: Result) -> Packed:
    """A result on its way.

    Args:
        result: distances int32 or float32 (q, k), and ids int64 (q, k), as of a search.

    Example:
        >>> pack((np.array([[3]], np.int32), np.array([[9]]))).distances.dtype
        dtype('uint16')
    """
    distances, ids = result
    if distances.dtype == np.int32:
        missing = distances == NO_DISTANCE
        if not (distances[~missing] >= NO_SHORT).any():
            distances = np.where(missing, NO_SHORT, distances).astype(np.uint16)
    return Packed(distances, pack_ids(ids))


def unpack(packed: Packed) -> Result:
    """What `pack` was given."""
    distances = packed.distances
    if distances.dtype == np.uint16:
        missing = distances == NO_SHORT
        distances = distances.astype(np.int32)
        distances[missing] = NO_DISTANCE
    return distances, unpack_ids(packed.ids)


def ends(ids: NDArray[np.int64]) -> tuple[int, int]:
    """The least and the largest of ids without the -1 of what is missing; (0, -1) if all are.

    Example:
        >>> ends(np.array([[7, 3, -1]]))
        (3, 7)
    """
    there = ids[ids != -1]
    return (int(there.min()), int(there.max())) if there.size else (0, -1)


def between(ids: NDArray[np.int64], first: int, last: int) -> NDArray[np.int64]:
    """The candidates of each query that lie between two ids, and as few of -1 as rows allow.

    Args:
        ids: int64 (q, p).
        first, last: both included.

    Returns:
        int64 (q, most of a query), each row in its order.

    Example:
        >>> between(np.array([[7, 3, 9], [8, -1, -1]]), 7, 9)
        array([[ 7,  9],
               [ 8, -1]])
    """
    inside = (ids >= first) & (ids <= last) & (ids != -1)
    counts = inside.sum(axis=1)
    kept = np.full((len(ids), int(counts.max(initial=0))), -1, np.int64)
    kept[np.arange(kept.shape[1]) < counts[:, None]] = ids[inside]
    return kept
