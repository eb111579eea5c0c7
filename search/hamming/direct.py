"""Search in plain arrays of codes, without an index."""

import numpy as np
from numpy.typing import NDArray

from search.codes import check_count, validate_queries
from search.hamming import scan
from search.hamming.blocks import arrange
from search.memory import check_answer


def hamming_knn(
    queries: NDArray[np.uint8],
    codes: NDArray[np.uint8],
    k: int,
    *,
    bits: int | None = None,
    threads: int | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The k nearest codes of every query by Hamming distance, ties by id.

    For more than one search over the same codes, a `HashIndex` saves their rearrangement.

    Args:
        queries: uint8 (q, ceil(bits / 8)), or (ceil(bits / 8),) for a single one; pad bits are
            masked.
        codes: uint8 (n, ceil(bits / 8)); the id of a code is its row.
        k: results for each query.
        bits: bits in a code; eight a byte when left out.
        threads: number of threads; all processors when left out.

    Returns:
        distances int32 (q, k) and ids int64 (q, k), in (distance, id) order; both (k,) for a
        single query. Where there are fewer than k: id -1, with the largest int32 as distance.

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape or range.

    Example:
        >>> codes = np.array([[0b1111], [0b0001], [0b0011]], np.uint8)
        >>> hamming_knn(np.zeros((1, 1), np.uint8), codes, 2)
        (array([[1, 2]], dtype=int32), array([[1, 2]]))
    """
    blocks = arrange(codes, bits, threads=threads)
    queries, alone = validate_queries(queries, blocks.bits)
    k = check_count(k, "k")
    check_answer(len(queries), k)
    distances, ids = scan.knn(blocks, queries, k, threads=threads)
    return (distances[0], ids[0]) if alone else (distances, ids)


def hamming_radius(
    queries: NDArray[np.uint8],
    codes: NDArray[np.uint8],
    radius: int,
    *,
    bits: int | None = None,
    threads: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """All codes within a Hamming distance of every query, that distance included, ties by id.

    Args:
        queries: uint8 (q, ceil(bits / 8)), or (ceil(bits / 8),) for a single one; pad bits are
            masked.
        codes: uint8 (n, ceil(bits / 8)); the id of a code is its row.
        radius: the largest distance of a result.
        bits: bits in a code; eight a byte when left out.
        threads: number of threads; all processors when left out.

    Returns:
        offsets int64 (q + 1,), distances int32 and ids int64: query i has the results
        offsets[i] to offsets[i + 1], in (distance, id) order.

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape or range.

    Example:
        >>> codes = np.array([[0b1111], [0b0001], [0b0011]], np.uint8)
        >>> hamming_radius(np.zeros((1, 1), np.uint8), codes, 2)
        (array([0, 2]), array([1, 2], dtype=int32), array([1, 2]))
    """
    blocks = arrange(codes, bits, threads=threads)
    queries, _ = validate_queries(queries, blocks.bits)
    return scan.radius(blocks, queries, check_count(radius, "radius"), threads=threads)
