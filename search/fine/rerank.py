"""The fine half of coarse-to-fine: order a pool of candidates by a finer distance.

The hierarchy is the one of Lin, Yang, Hsiao and Chen, "Deep Learning of Binary Hash Codes for
Fast Image Retrieval" (CVPR Workshops 2015): a pool by Hamming distance, then Euclidean distance
of the features. `asymmetric` does without a feature store.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from search import codes as _codes
from search import paging
from search import threads as _threads
from search.kernels import euclidean
from search.memory import check_answer

# A task below this many bytes costs more to hand to a thread than it saves: a thread reads 100 rows
# of 4,096 float32 (1.6 MB) in some 90 microseconds, and may take half as long to wake up.
LEAST_TASK = 1 << 21
LOOK_UP = 32  # bytes that could be read while one number is looked up in a table
# Candidates whose distances are held at a time: larger jobs go in groups of queries.
MOST_CANDIDATES = 1 << 22
# Dimensions of features: no network has more, and a file that claims them is damaged.
MOST_DIMENSIONS = 1 << 24


def rerank(
    query_features: NDArray[np.floating],
    features: NDArray[np.floating],
    ids: NDArray[np.int64],
    k: int,
    *,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `k` candidates of each query that are nearest by Euclidean distance.

    Distances are summed as direct differences in float32, whatever the type of the features, and
    do not depend on the number of threads or on the other candidates.

    Args:
        query_features: float (q, d), finite.
        features: float16 or float32 (n, d), in memory or memory-mapped; only candidates are read.
        ids: integer (q, p), rows of `features`; -1 for no candidate; repetitions count once.
        k: results for each query.
        threads: at most this many; all processors when None.

    Returns:
        distances float32 (q, k), not squared, ascending, equal ones by id; ids int64 (q, k).
        Where there are fewer than k candidates: infinity and -1.

    Raises:
        TypeError, ValueError: naming the argument; also when a candidate's features hold NaN or
            infinity.

    Example:
        >>> features = np.array([[0, 0], [3, 4], [6, 8]], np.float32)
        >>> rerank(features[:1], features, np.array([[2, 1]]), 2)
        (array([[ 5., 10.]], dtype=float32), array([[1, 2]]))
    """
    queries = check_queries(query_features)
    features = check_features(features)
    if queries.shape[1] != features.shape[1]:
        raise ValueError(
            f"query_features have {queries.shape[1]} dimensions, features {features.shape[1]}"
        )
    ids = _check_ids(ids, len(queries), len(features))
    k = _codes.check_count(k, "k")
    row_bytes = features.shape[1] * features.itemsize
    raw = frozen(features.view(np.uint16) if features.dtype == np.float16 else features)
    contiguous = raw.flags.c_contiguous
    mapped = contiguous and paging.owner(features) is not None

    # Without annotations, which would be evaluated at every call.
    def distances(queries, rows):  # type: ignore[no-untyped-def]
        source = raw
        if mapped:
            wanted = np.sort(rows, axis=None) if len(rows) > 1 else rows[0]
            paging.fetch(features, wanted[np.searchsorted(wanted, 0) :])
        if not contiguous:
            # Only the candidates are copied, never the store.
            source, rows = frozen(np.ascontiguousarray(raw[rows.ravel()])), _in_order(rows)
        squared = _in_parallel(
            euclidean.squared_distances, frozen(queries), source, rows, row_bytes, threads
        )
        return np.sqrt(squared, out=squared)

    most = MOST_CANDIDATES if contiguous else max(1, (1 << 26) // max(1, row_bytes))
    best, found = _nearest(distances, queries, ids, k, most)
    if not np.isfinite(best[found >= 0]).all():
        raise ValueError(
            "features: some candidates hold NaN or infinity, or values too large for a distance "
            "in float32; clean or scale the features"
        )
    return best, found


def asymmetric(
    query_latents: NDArray[np.floating],
    codes: NDArray[np.uint8],
    ids: NDArray[np.int64],
    k: int,
    *,
    bits: int | None = None,
    threshold: float = 0.5,
    spread: float = 0.5,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `k` candidates of each query nearest to its real-valued latent, from the codes alone.

    A stored bit b stands for the value `threshold + (2 b - 1) spread`, and the distance is

        d(z, b) = sqrt( sum over j of (z_j - threshold - (2 b_j - 1) spread)^2 ).

    The query is not cut into bits, so candidates at one Hamming distance are told apart by how
    sure the query was of the bits in which they differ: the square differs between two codes by
    4 spread |z_j - threshold| for each bit, so `spread` scales the distances and never changes
    their order. The idea is that of Gordo, Perronnin, Gong and Lazebnik, "Asymmetric Distances
    for Binary Embeddings" (PAMI 2014), with two given levels for the learned expectations; the
    sums go by tables of 256 entries a byte, as in Jégou, Douze and Schmid, "Product Quantization
    for Nearest Neighbor Search" (PAMI 2011).

    Args:
        query_latents: float (q, bits), finite: what the network gave before the threshold.
        codes: uint8 (n, ceil(bits / 8)).
        ids: integer (q, p), rows of `codes`; -1 for no candidate; repetitions count once.
        k: results for each query.
        bits: number of bits in a code; eight a byte when left out.
        threshold: of the method: 0.5 after a sigmoid (the default), 0 for signed latents.
        spread: distance of the two levels from the threshold: 0.5 (the default) makes them 0 and
            1 after a sigmoid, 1 with threshold 0 makes them -1 and 1.
        threads: at most this many; all processors when None.

    Returns:
        distances float32 (q, k), ascending, equal ones by id; ids int64 (q, k).
        Where there are fewer than k candidates: infinity and -1.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> codes = np.array([[0b10000000], [0b01000000]], np.uint8)
        >>> latents = np.array([[0.9, 0.6]], np.float32)
        >>> asymmetric(latents, codes, np.array([[0, 1]]), 2, bits=2)[1]
        array([[0, 1]])
    """
    codes, bits = _codes.validate(codes, bits)
    latents = check_queries(query_latents, "query_latents")
    if latents.shape[1] != bits:
        raise ValueError(f"query_latents have {latents.shape[1]} columns for codes of {bits} bits")
    if not np.isfinite(threshold):
        raise ValueError(f"threshold must be finite, not {threshold}")
    if not (np.isfinite(spread) and spread > 0):
        raise ValueError(f"spread must be finite and above 0, not {spread}")
    ids = _check_ids(ids, len(latents), len(codes))
    k = _codes.check_count(k, "k")
    codes = frozen(np.ascontiguousarray(codes))

    def distances(latents, rows):  # type: ignore[no-untyped-def]
        tables = frozen(_byte_tables(latents, threshold, spread))
        squared = _in_parallel(
            euclidean.table_sums, tables, codes, rows, LOOK_UP * codes.shape[1], threads
        )
        return np.sqrt(squared, out=squared)

    return _nearest(distances, latents, ids, k, MOST_CANDIDATES)


def check_queries(array: NDArray[np.floating], name: str = "query_features") -> NDArray[np.float32]:
    """`array` as contiguous float32 (q, d), finite; errors speak of `name`."""
    _codes.refuse_subclass(array, name)
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        kind = getattr(array, "dtype", type(array).__name__)
        raise TypeError(f"{name} must be a NumPy array of floats, not {kind}")
    if array.ndim != 2:
        raise ValueError(f"{name} must have the shape (q, d), not {array.shape}")
    if array.dtype == np.float32:
        queries = np.ascontiguousarray(array)
    else:
        with np.errstate(over="ignore"):
            queries = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(queries).all():
        raise ValueError(f"{name} must be finite in float32, but hold NaN or infinity")
    return queries


def check_features(array: NDArray[np.floating]) -> NDArray[np.floating]:
    """`array` as a plain view of float16 or float32 (n, d); its values are not looked at."""
    _codes.refuse_subclass(array, "features")
    if not isinstance(array, np.ndarray):
        raise TypeError(f"features must be a NumPy array, not {type(array).__name__}")
    if array.dtype not in (np.float16, np.float32) or not array.dtype.isnative:
        raise TypeError(
            f"features must be float16 or float32 in native byte order, not {array.dtype.str}; "
            "convert them once, with astype"
        )
    if array.ndim != 2:
        raise ValueError(f"features must have the shape (n, d), not {array.shape}")
    if array.shape[1] > MOST_DIMENSIONS:
        raise ValueError(
            f"features must have at most {MOST_DIMENSIONS} dimensions, not {array.shape[1]}"
        )
    return array.view(np.ndarray)


def as_single(features: NDArray[np.floating], threads: int | None = None) -> NDArray[np.float32]:
    """A copy of float16 or float32 features (n, d) in float32, at the speed of memory.

    NaN in float16 may come out as infinity, on processors that have no float16.

    Example:
        >>> as_single(np.array([[0.5]], np.float16))
        array([[0.5]], dtype=float32)
    """
    if features.dtype != np.float16 or not features.flags.c_contiguous:
        return features.astype(np.float32, order="C")
    out = np.empty(features.shape, np.float32)
    half = frozen(features.view(np.uint16))
    pieces = min(2 * _threads.resolve(threads), 1 + features.nbytes // LEAST_TASK)
    tasks = [(half, start, stop, out) for start, stop in _parts(len(features), pieces)]
    _threads.run(euclidean.widen_rows, tasks, threads)
    return out


def _check_ids(ids: NDArray[np.int64], queries: int, rows: int) -> NDArray[np.int64]:
    """`ids` as a new int64 array (q, p), each row ascending, repetitions turned into -1."""
    _codes.refuse_subclass(ids, "ids")
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu":
        kind = getattr(ids, "dtype", type(ids).__name__)
        raise TypeError(f"ids must be a NumPy array of integers, not {kind}")
    if ids.ndim != 2 or len(ids) != queries:
        raise ValueError(f"ids must have the shape ({queries}, p), not {ids.shape}")
    if ids.size and (ids.min() < -1 or ids.max() >= rows):
        raise ValueError(
            f"ids must be rows of the {rows} items, or -1; found {ids.min()} to {ids.max()}"
        )
    # Ascending, a store is read in the order of the disk and equal distances come out by id.
    ordered = np.sort(ids.astype(np.int64), axis=1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = -1
    return ordered


def _nearest(distances, queries, ids, k, most):  # type: ignore[no-untyped-def]
    """The `k` best of `ids` by `distances(queries, rows)`, at most about `most` at a time."""
    check_answer(len(ids), k)
    best = np.full((len(ids), k), np.inf, np.float32)
    found = np.full((len(ids), k), -1, np.int64)
    group = max(1, most // max(1, ids.shape[1]))
    for start in range(0, len(ids) if k and ids.shape[1] else 0, group):
        rows = np.ascontiguousarray(ids[start : start + group])
        near = distances(queries[start : start + group], rows)
        picked = smallest(near, min(k, rows.shape[1]))
        lines = np.arange(len(rows))[:, None]
        best[start : start + group, : picked.shape[1]] = near[lines, picked]
        found[start : start + group, : picked.shape[1]] = rows[lines, picked]
    return best, found


def smallest(distances: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Columns of the `k` smallest entries of each row in order, equal ones by column.

    Example:
        >>> smallest(np.array([[2.0, 1.0, 1.0]], np.float32), 2)
        array([[1, 2]])
    """
    # The bits of floats from 0 up order as the floats do: one 64-bit key, no indirection.
    keys = distances.view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(distances.shape[1], dtype=np.uint64)
    if k < distances.shape[1]:
        keys = np.partition(keys, k, axis=1)[:, :k]
    keys.sort(axis=1)
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _in_parallel(kernel, queries, items, rows, row_bytes, threads):  # type: ignore[no-untyped-def]
    """Run a kernel over all candidates, split evenly whatever the number of queries."""
    out = np.empty(rows.shape, np.float32)
    flat, results = frozen(rows.reshape(-1)), out.reshape(-1)
    pieces = min(4 * _threads.resolve(threads), 1 + rows.size * row_bytes // LEAST_TASK)
    tasks = [
        (queries, items, flat, rows.shape[1], start, stop, results)
        for start, stop in _parts(rows.size, pieces)
    ]
    _threads.run(kernel, tasks, threads)
    return out


def _parts(total: int, pieces: int) -> list[tuple[int, int]]:
    """(start, stop) of equal parts of `total`."""
    return list(pairwise(total * piece // pieces for piece in range(pieces + 1)))


def _in_order(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the gathered candidates, -1 where there was none."""
    positions = np.arange(rows.size, dtype=np.int64).reshape(rows.shape)
    return np.where(rows < 0, -1, positions)


def frozen(array: NDArray) -> NDArray:
    """A read-only view: numba compiles one kernel for it instead of two."""
    view = array.view()
    view.flags.writeable = False
    return view


def _byte_tables(
    latents: NDArray[np.float32], threshold: float, spread: float
) -> NDArray[np.float32]:
    """Float32 (q, bytes, 256): what each value of each code byte adds to the squared distance."""
    queries, bits = latents.shape
    width = _codes.width(bits)
    squares = np.zeros((2, queries, width * 8))
    squares[0, :, :bits] = np.square(latents.astype(np.float64) - (threshold - spread))
    squares[1, :, :bits] = np.square(latents.astype(np.float64) - (threshold + spread))
    low, high = squares.reshape(2, queries, width, 8)
    bytes_ = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float64)
    return (high @ bytes_.T + low @ (1 - bytes_).T).astype(np.float32)
