"""What each device computes in an exact search of codes, and how the lists of all are merged.

Distances come from the matrix units, as products of vectors of +-1, or from population counts of
words. `jaxhash.device_search` checks what is asked, and calls these.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxhash import sharding


@functools.partial(jax.jit, static_argnames=("k", "way", "mesh"))
def nearest(
    words: jax.Array, allowed: jax.Array, queries: jax.Array, *, k: int, way: str, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
    """The k nearest rows of each query over all devices, in (distance, row) order.

    Args:
        words: uint32 (devices, blocks, rows, w), divided over the mesh.
        allowed: bool (devices, blocks, rows): which rows may be results.
        queries: uint32 (q, w).
        k: results for each query.
        way: "products" or "counts".
        mesh: the devices.

    Returns:
        float32 (q, k), infinite where there are fewer, and int32 (q, k), rows of the database.

    Example:
        >>> nearest(words, allowed, queries, k=1, way="counts", mesh=mesh)  # doctest: +SKIP
    """
    over, whole = PartitionSpec(sharding.AXIS), PartitionSpec()

    def on_one(words: jax.Array, allowed: jax.Array, queries: jax.Array) -> Any:
        words, allowed = words[0], allowed[0]
        blocks, rows, _ = words.shape
        start = lax.axis_index(sharding.AXIS) * (blocks * rows)
        few = min(k, rows)
        shape = len(queries), k
        begun = jnp.full(shape, -jnp.inf), jnp.zeros(shape, jnp.int32)

        def of_block(best: Any, block: Any) -> Any:
            number, own, may = block
            near = jnp.where(may, -DISTANCES[way](queries, own), -jnp.inf)
            # The smaller row is first among equal ones, in a block and, as earlier blocks stand
            # before later ones, among blocks.
            values, places = lax.top_k(near, few)
            return _best(
                jnp.concatenate([best[0], values], axis=1),
                jnp.concatenate([best[1], places + start + number * rows], axis=1),
                k,
            ), None

        best, _ = lax.scan(of_block, begun, (jnp.arange(blocks), words, allowed))
        values, found = (lax.all_gather(each, sharding.AXIS, axis=1, tiled=True) for each in best)
        return _best(values, found, k)

    scan = jax.shard_map(
        on_one,
        mesh=mesh,
        in_specs=(over, over, whole),
        out_specs=(whole, whole),
        check_vma=False,  # all devices hold the same merged lists, which it cannot see
    )
    values, found = scan(words, allowed, queries)
    return -values, found


def _best(values: jax.Array, rows: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    values, places = lax.top_k(values, k)
    return values, jnp.take_along_axis(rows, places, axis=1)


def _by_counts(queries: jax.Array, words: jax.Array) -> jax.Array:
    """float32 (q, n): the number of different bits."""
    different = lax.population_count(queries[:, None] ^ words[None])
    return different.sum(axis=-1, dtype=jnp.int32).astype(jnp.float32)


def _by_products(queries: jax.Array, words: jax.Array) -> jax.Array:
    """The same from x y = w - 2 d for vectors of w numbers +-1 that differ in d of them.

    Sums of +-1 are whole numbers of at most 4,096, which float32 holds exactly in any order.
    """
    products = lax.dot_general(
        _signs(queries),
        _signs(words),
        (((1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    return (32 * words.shape[1] - products) / 2


DISTANCES = {"products": _by_products, "counts": _by_counts}


def _signs(words: jax.Array) -> jax.Array:
    bits = (words[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)[None, None]) & 1
    return 1 - 2 * bits.reshape(len(words), -1).astype(jnp.bfloat16)


@functools.partial(jax.jit, static_argnames=("mesh",))
def rerank(
    features: jax.Array, queries: jax.Array, candidates: jax.Array, *, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
    """Candidates int32 (q, pool), -1 for none, in (Euclidean distance, row) order."""
    over, whole = PartitionSpec(sharding.AXIS), PartitionSpec()

    def on_one(features: jax.Array, queries: jax.Array, candidates: jax.Array) -> jax.Array:
        held = features.shape[1]
        rows = candidates - lax.axis_index(sharding.AXIS) * held
        here = (candidates >= 0) & (rows >= 0) & (rows < held)
        own = features[0][jnp.where(here, rows, 0)].astype(jnp.float32)
        squared = jnp.square(own - queries[:, None]).sum(axis=-1)
        # Each candidate lies on one device; the others add nothing.
        return lax.psum(jnp.where(here, squared, 0), sharding.AXIS)

    squared = jax.shard_map(
        on_one, mesh=mesh, in_specs=(over, whole, whole), out_specs=whole, check_vma=False
    )(features, queries, candidates)
    missing = candidates < 0
    squared = jnp.where(missing, jnp.inf, squared)
    last = jnp.where(missing, jnp.iinfo(jnp.int32).max, candidates)
    squared, last = lax.sort((squared, last), dimension=1, num_keys=2)
    return jnp.sqrt(squared), jnp.where(last == jnp.iinfo(jnp.int32).max, -1, last)
