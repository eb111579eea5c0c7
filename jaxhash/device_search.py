"""Exact nearest-neighbour search of a database that lies on GPUs, TPUs or other devices of jax.

`search` scans codes on the CPU and defines the answers; this gives the same neighbours in the same
(distance, id) order. The rows are divided over the devices. Each scans its own, block by
block, and keeps the k best of what it saw; the lists of all devices are then merged. Distances
come from the matrix units, as products of vectors of +-1, or from population counts of words.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxhash import sharding
from jaxhash.device_kernels import nearest, rerank
from search import HashIndex
from search import codes as _codes
from search.fine.rerank import check_queries
from search.hamming.scan import NO_DISTANCE
from search.memory import check_answer

BLOCK = 1 << 16
"""Codes whose distances to all queries of a call are held at a time, on each device."""
QUERIES = 1024
"""Queries in one call, at most; fewer are filled up to a power of two, to compile few programs."""
CANDIDATES = 1 << 26
"""Numbers of candidates' features, at most, that one call of a re-ranking gathers."""
MOST = 1 << 30
"""Codes of one database, at most: rows are int32 on the devices."""
WAYS = ("products", "counts")


@dataclass(frozen=True)
class Placed:
    """A database on devices, as `place` left it.

    Attributes:
        words: uint32 (devices, blocks, rows, ceil(bits / 32)), pad bits zero.
        allowed: bool (devices, blocks, rows): False for rows that fill up the last blocks.
        features: float16 or float32 (devices, rows, d); None without.
        ids: int64 (n,), ascending, on the host: row i of the database has ids[i].
        bits: number of bits in a code.
        mesh: the devices.
    """

    words: jax.Array
    allowed: jax.Array
    features: jax.Array | None
    ids: np.ndarray
    bits: int
    mesh: Mesh

    def __len__(self) -> int:
        return len(self.ids)


def place(
    database: HashIndex | np.ndarray,
    *,
    bits: int | None = None,
    features: np.ndarray | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Placed:
    """Put a database on devices, its rows divided over them.

    Needs 4 ceil(bits / 32) bytes for each code, and what the features take, over all devices
    together. Later changes of the index are not seen: place it again.

    Args:
        database: an index, with its features where it has some; or codes uint8
            (n, ceil(bits / 8)), which get the ids 0 to n - 1.
        bits: number of bits in a code, for an array; eight a byte when left out.
        features: float16 or float32 (n, d), for an array.
        devices: of this process; all of them when left out.

    Returns:
        The placed database, for `knn` and `coarse_to_fine`.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> len(place(np.array([[7], [1]], np.uint8)))
        2
    """
    if isinstance(database, HashIndex):
        if bits is not None or features is not None:
            raise ValueError("bits and features are the index's own; leave them out")
        ids, bits = np.array(database.ids), database.bits
        codes, features = database.get(ids)
    else:
        codes, bits = _codes.validate(database, bits, "database")
        ids = np.arange(len(codes))
        if features is not None:
            _check_features(features, len(codes))
    if len(ids) > MOST:
        raise ValueError(
            f"the database has {len(ids)} codes; {MOST} are the most; divide it, see search.merge"
        )
    mesh = sharding.local_mesh(devices)
    share = max(1, -(-len(ids) // mesh.size))
    blocks = -(-share // BLOCK)
    rows = -(-share // blocks)
    shape = (mesh.size, blocks, rows)
    held = blocks * rows  # of each device; the last ones may hold fewer, or none
    packed = _pack(codes, bits)
    words = np.zeros((mesh.size * held, packed.shape[1]), np.uint32)
    words[: len(ids)] = packed
    over = NamedSharding(mesh, PartitionSpec(sharding.AXIS))
    put = functools.partial(jax.device_put, device=over)
    fine = None
    if features is not None:
        full = np.zeros((mesh.size * held, features.shape[1]), features.dtype)
        full[: len(ids)] = features
        fine = put(full.reshape(mesh.size, held, features.shape[1]))
    return Placed(
        put(words.reshape(*shape, -1)),
        put((np.arange(mesh.size * held) < len(ids)).reshape(shape)),
        fine,
        ids,
        bits,
        mesh,
    )


def knn(
    placed: Placed,
    queries: np.ndarray,
    k: int,
    *,
    radius: int | None = None,
    where: np.ndarray | None = None,
    way: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest codes of each query by Hamming distance, as `HashIndex.search` gives them.

    Args:
        placed: the database.
        queries: uint8 (q, ceil(bits / 8)); pad bits are ignored.
        k: results for each query.
        radius: largest distance of a result, that distance included.
        where: bool (n,), one for each of `placed.ids`: the items to search.
        way: "products" of +-1 in bfloat16, exact up to the longest codes, or "counts" of
            different bits; products where the device has matrix units, by default.

    Returns:
        distances int32 (q, k) and ids int64 (q, k), in (distance, id) order. Where there are
        fewer than k: id -1, with the largest int32 for a distance.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> knn(place(np.array([[7], [1]], np.uint8)), np.array([[0]], np.uint8), 1)
        (array([[1]], dtype=int32), array([[1]]))
    """
    queries = _codes.validate(queries, placed.bits, "queries")[0]
    k = _codes.check_count(k, "k")
    radius = None if radius is None else _codes.check_count(radius, "radius")
    check_answer(len(queries), k)
    nearest = _Nearest(placed, _reach(placed, k), _way(way, placed.mesh), where)
    distances = np.full((len(queries), k), NO_DISTANCE, np.int32)
    ids = np.full((len(queries), k), -1, np.int64)
    for part in _parts(len(queries), QUERIES):
        own, rows = nearest(queries[part])
        found = np.isfinite(own) if radius is None else own <= radius
        head = np.s_[part, : own.shape[1]]
        distances[head] = np.where(found, np.where(found, own, 0).astype(np.int32), NO_DISTANCE)
        ids[head] = _ids(placed, rows, found)
    return distances, ids


def coarse_to_fine(
    placed: Placed,
    queries: np.ndarray,
    query_features: np.ndarray,
    k: int,
    pool: int,
    *,
    radius: int | None = None,
    where: np.ndarray | None = None,
    way: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k items of smallest Euclidean distance among the `pool` nearest by Hamming distance.

    Args:
        placed: the database, with features.
        queries: uint8 (q, ceil(bits / 8)); pad bits are ignored.
        query_features: float (q, d), finite.
        k: results for each query.
        pool: candidates for each query, of the whole database and not of each device.
        radius: largest Hamming distance of a candidate.
        where: bool (n,), one for each of `placed.ids`: the items to search.
        way: as in `knn`.

    Returns:
        distances float32 (q, k), not squared, and ids int64 (q, k), in (distance, id) order.
        Where there are fewer than k: infinity and -1. Distances are sums in float32 in the
        device's order: against those of `HashIndex.search` they differ by rounding.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> codes, features = np.array([[7], [1]], np.uint8), np.array([[0.0], [1.0]], np.float32)
        >>> placed = place(codes, features=features)
        >>> coarse_to_fine(placed, codes[:1], features[:1], 1, pool=2)
        (array([[0.]], dtype=float32), array([[0]]))

    Source: Lin, Yang, Hsiao and Chen, "Deep Learning of Binary Hash Codes for Fast Image
        Retrieval" (CVPR Workshops 2015), section 3.3.
    """
    if placed.features is None:
        raise ValueError("the database has no features; place it with some, or search by codes")
    queries = _codes.validate(queries, placed.bits, "queries")[0]
    k, pool = _codes.check_count(k, "k"), _codes.check_count(pool, "pool")
    radius = None if radius is None else _codes.check_count(radius, "radius")
    fine = check_queries(query_features)
    width = placed.features.shape[-1]
    if fine.shape != (len(queries), width):
        raise ValueError(
            f"query_features must have the shape ({len(queries)}, {width}), not {fine.shape}"
        )
    check_answer(len(queries), k)
    nearest = _Nearest(placed, _reach(placed, pool), _way(way, placed.mesh), where)
    best = np.full((len(queries), k), np.inf, np.float32)
    ids = np.full((len(queries), k), -1, np.int64)
    group = CANDIDATES // max(1, nearest.k * width)
    for part in _parts(len(queries), min(QUERIES, max(1, 1 << group.bit_length() >> 1))):
        coarse, rows = nearest(queries[part])
        inside = np.isfinite(coarse) if radius is None else coarse <= radius
        filled = _filled(fine[part])
        candidates = _filled(np.where(inside, rows, -1).astype(np.int32), -1)
        own, found = rerank(placed.features, filled, candidates, mesh=placed.mesh)
        own, found = np.asarray(own)[: len(coarse)], np.asarray(found)[: len(coarse)]
        if not np.isfinite(own[found >= 0]).all():
            raise ValueError(
                "features: some candidates hold NaN or infinity, or values too large for a "
                "distance in float32; clean or scale the features"
            )
        reach = min(k, nearest.k)
        own, found = own[:, :reach], found[:, :reach]
        best[part, :reach], ids[part, :reach] = own, _ids(placed, found, found >= 0)
    return best, ids


class _Nearest:
    """The compiled scan for one database, k, filter and way; called with codes of queries."""

    def __init__(self, placed: Placed, k: int, way: str, where: np.ndarray | None) -> None:
        self.placed, self.k, self.way = placed, k, way
        self.allowed = placed.allowed if where is None else _filter(placed, where)

    def __call__(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 distances (q, k), infinite where there is none, and int32 rows (q, k)."""
        placed, count = self.placed, len(queries)
        words = _filled(_pack(queries, placed.bits))
        distances, rows = nearest(
            placed.words, self.allowed, words, k=self.k, way=self.way, mesh=placed.mesh
        )
        return np.asarray(distances)[:count], np.asarray(rows)[:count]


# ---------------------------------------------------------------- checks and conversions


def _pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes as uint32 (n, ceil(bits / 32)), pad bits zero; which bit is where does not matter."""
    padded = np.zeros((len(codes), 4 * -(-bits // 32)), np.uint8)
    padded[:, : codes.shape[1]] = codes
    padded[:, codes.shape[1] - 1] &= _codes.pad_mask(bits)
    return padded.view(np.uint32)


def _filled(rows: np.ndarray, value: int = 0) -> np.ndarray:
    """Rows up to the next power of two, so that few shapes are compiled."""
    full = np.full((1 << max(0, len(rows) - 1).bit_length(), *rows.shape[1:]), value, rows.dtype)
    full[: len(rows)] = rows
    return full


def _parts(count: int, most: int) -> list[slice]:
    return [slice(start, start + most) for start in range(0, count, most)]


def _reach(placed: Placed, k: int) -> int:
    return max(1, min(k, len(placed)))


def _ids(placed: Placed, rows: np.ndarray, found: np.ndarray) -> np.ndarray:
    if not len(placed):
        return np.full(rows.shape, -1)
    return np.where(found, placed.ids[np.where(found, rows, 0)], -1)


def _way(way: str | None, mesh: Mesh) -> str:
    if way is None:
        return "counts" if mesh.devices.flat[0].platform == "cpu" else "products"
    if way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, not {way!r}")
    return way


def _filter(placed: Placed, where: np.ndarray) -> jax.Array:
    _codes.refuse_subclass(where, "where")
    where = np.asarray(where)
    if where.dtype != np.bool_ or where.shape != (len(placed),):
        raise ValueError(
            f"where must be bool of the shape ({len(placed)},), one for each of the ids, "
            f"not {where.dtype} {where.shape}"
        )
    full = np.zeros(placed.allowed.size, bool)
    full[: len(where)] = where
    return jax.device_put(full.reshape(placed.allowed.shape), placed.allowed.sharding)


def _check_features(features: np.ndarray, count: int) -> None:
    _codes.refuse_subclass(features, "features")
    if not isinstance(features, np.ndarray) or features.dtype not in (np.float16, np.float32):
        kind = getattr(features, "dtype", type(features).__name__)
        raise TypeError(f"features must be a NumPy array of float16 or float32, not {kind}")
    if features.ndim != 2 or len(features) != count:
        raise ValueError(f"features must have the shape ({count}, d), not {features.shape}")
