"""One answer from a database whose shards lie apart: asked each, merged exactly.

From coarse to fine, the candidates are the nearest codes of the whole database: the shards' own
nearest are merged into one pool, then each shard re-ranks those members of it that it holds, and
these results are merged again. A pool for each shard would be another, larger one, with other
answers.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from search.codes import check_count
from search.merging import Result, merge

S = TypeVar("S", bound="Shard")
Each = Callable[[Callable[[S], Result], Sequence[S]], Iterable[Result]]
"""How all shards are asked: as `map`, in whatever order, or at once."""


class Shard(Protocol):
    """A part of a database, with ids that no other part has, as `HashIndex` is one."""

    @property
    def search(self) -> Callable[..., Result]:
        """`search(queries, k, **options)`: the nearest of the shard."""

    @property
    def rerank(self) -> Callable[..., Result]:
        """`rerank(query_features, ids, k, **options)`: the best of candidates that it holds."""


def search_shards(
    shards: Sequence[S],
    queries: NDArray[np.uint8],
    k: int,
    *,
    query_features: NDArray[np.floating] | None = None,
    query_latents: NDArray[np.floating] | None = None,
    threshold: float = 0.5,
    pool: int | None = None,
    radius: int | None = None,
    each: Each = map,
) -> Result:
    """What `HashIndex.search` of all shards' items in one index gives, bit for bit.

    Args:
        shards: the parts, with disjoint ids: indexes, or whatever stands for one elsewhere.
        queries: uint8 (q, ceil(bits / 8)).
        k: results for each query.
        query_features: as in `HashIndex.search`.
        query_latents: likewise.
        threshold: likewise.
        pool: candidates for each query, of all shards together.
        radius: as in `HashIndex.search`.
        each: how the shards are asked: `map` by default, one after the other;
            `concurrent.futures.Executor.map` asks them at once.

    Returns:
        distances and ids (q, k), as `HashIndex.search`.

    Raises:
        TypeError, ValueError: from the shards, naming the argument.

    Example:
        >>> from search import HashIndex
        >>> codes = np.array([[1], [3], [255]], np.uint8)
        >>> shards = [HashIndex(codes[:1]), HashIndex(codes[1:], ids=np.array([1, 2]))]
        >>> search_shards(shards, codes[2:], 2)
        (array([[0, 6]], dtype=int32), array([[2, 1]]))
    """
    if not shards:
        raise ValueError("shards: give at least one")
    k = check_count(k, "k")
    fine: dict[str, Any] = {}
    if query_latents is not None:
        fine = {"query_latents": query_latents, "threshold": threshold}
    if pool is None or (query_features is None and query_latents is None):
        # Each shard's own best: those by codes, or of all within a radius, or an error.
        options = fine | {"pool": pool, "radius": radius, "query_features": query_features}
        options = {name: value for name, value in options.items() if value is not None}
        return _merged(each(lambda shard: shard.search(queries, k, **options), shards))
    pool = check_count(pool, "pool")
    coarse = {} if radius is None else {"radius": radius}
    _, near = _merged(each(lambda shard: shard.search(queries, pool, **coarse), shards))
    return _merged(each(lambda shard: shard.rerank(query_features, near, k, **fine), shards))


def _merged(results: Iterable[Result]) -> Result:
    return merge(*results)
