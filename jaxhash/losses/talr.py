"""TALR: average precision over ties, relaxed (He, Cakir, Bargal and Sclaroff, 2018)."""

import jax
import jax.numpy as jnp

from jaxhash.losses import Loss, total
from jaxhash.losses.options import number
from jaxhash.losses.relevance import check, similar


def talr(
    latent: jax.Array, labels: jax.Array, *, gamma: float = 1.0, bins: int | None = None
) -> Loss:
    """1 minus the relaxed tie-aware average precision, each item a query to the others.

    Codes are z = tanh(gamma u), distances (bits - z_i . z_j) / 2. A pair adds to the two nearest
    of `bins` + 1 histogram bins from 0 to bits, in linear parts. With c+ the histogram of the
    query's similar items, C+ its running sum and C that of all items,

    AP = 1/N+ sum_d c+_d (C+_(d-1) + C+_d + 1) / (C_(d-1) + C_d + 1).

    The mean is over the queries with similar items in the batch; without any the loss is 0.

    Args:
        latent: linear outputs (n, bits).
        labels: int (n,) or bool (n, classes); two items that share a class are similar.
        gamma: slope of the tanh.
        bins: of the histogram; bits unless given, and half of it from 32 bits on.

    Raises:
        ValueError: a gamma that is not above 0, or bins that are no whole number of 1 or more.

    Example:
        >>> codes = 9 * jnp.array([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
        >>> round(float(talr(codes, jnp.array([0, 0, 1]))[0]), 4)
        0.0

    Source:
        He et al., Hashing as tie-aware learning to rank, CVPR 2018; the simplified form, the
        tanh and the number of bins of its released code.
    """
    number("gamma", gamma, above=0)
    number("bins", bins, at_least=1, whole=True)
    n, bits = latent.shape
    labels = check(labels, n)
    if bins is None:
        bins = bits if bits < 32 else bits // 2
    z = jnp.tanh(gamma * latent.astype(jnp.float32))
    # In bins. In full precision: accelerators round the factors of a product by default.
    distances = (bits - jnp.matmul(z, z.T, precision="highest")) * (bins / (2 * bits))
    near = jnp.abs(distances[:, :, None] - jnp.arange(bins + 1, dtype=jnp.float32)[None, None, :])
    pulses = jnp.maximum(1 - near, 0)
    others = ~jnp.eye(n, dtype=bool)
    positives = similar(labels) & others
    c = jnp.where(positives[:, :, None], pulses, 0).sum(axis=1)
    both = jnp.where(others[:, :, None], pulses, 0).sum(axis=1)
    # The running sums before and after a bin: twice the one after, less the bin itself.
    hits, seen = (2 * jnp.cumsum(each, axis=1) - each + 1 for each in (c, both))
    count = positives.sum(axis=1, dtype=jnp.float32)
    precision = (c * hits / seen).sum(axis=1) / jnp.maximum(count, 1)
    queries = (count > 0).sum(dtype=jnp.float32)
    missed = jnp.where(count > 0, 1 - precision, 0).sum() / jnp.maximum(queries, 1)
    return total({"average_precision": missed})
