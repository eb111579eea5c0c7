"""DSH: a contrastive loss over every pair of the batch (Liu et al., CVPR 2016)."""

import jax
import jax.numpy as jnp

from jaxhash.losses import Loss, total
from jaxhash.losses.options import number
from jaxhash.losses.relevance import check, similar


def squared_distances(x: jax.Array) -> jax.Array:
    """|x_i - x_j|^2 of rows (n, d) -> float32 (n, n), through one matrix product.

    Never negative and exactly 0 on the diagonal. The gradient is the exact one, also where rows
    coincide, because no square root is taken.

    Example:
        >>> squared_distances(jnp.array([[0.0, 0.0], [3.0, 4.0]])).tolist()
        [[0.0, 25.0], [25.0, 0.0]]
    """
    x = x.astype(jnp.float32)
    norms = jnp.square(x).sum(axis=1)
    # In full precision: accelerators round the factors by default, and distances near 0 and near
    # the margin decide which pairs pull.
    products = jnp.matmul(x, x.T, precision="highest")
    distances = norms[:, None] + norms[None, :] - 2 * products
    return jnp.where(jnp.eye(len(x), dtype=bool), 0, jnp.maximum(distances, 0))


@jax.custom_jvp
def distance_to_signs(x: jax.Array) -> jax.Array:
    """||x| - 1|, elementwise, with the paper's subgradient at its three corners.

    The subgradient (equation 6) is +1 where -1 <= x <= 0 or x >= 1, and -1 elsewhere: at 0, where
    a plain |.| would leave an activation stuck between both signs, it pushes.

    Example:
        >>> jax.vmap(jax.grad(distance_to_signs))(jnp.array([-1.0, 0.0, 1.0])).tolist()
        [1.0, 1.0, 1.0]
    """
    return jnp.abs(jnp.abs(x) - 1)


@distance_to_signs.defjvp
def _distance_to_signs_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    rises = ((x >= -1) & (x <= 0)) | (x >= 1)
    return distance_to_signs(x), jnp.where(rises, 1.0, -1.0).astype(x.dtype) * dx


def dsh(
    latent: jax.Array,
    labels: jax.Array,
    *,
    margin: float | None = None,
    alpha: float = 0.01,
) -> Loss:
    """DSH's loss over all n (n - 1) / 2 unordered pairs of the batch, averaged over the pairs.

    A pair with squared distance D = |b_i - b_j|^2 costs D / 2 if it is similar,
    max(margin - D, 0) / 2 if not, and alpha (||b_i| - 1|_1 + ||b_j| - 1|_1) either way, the norms
    being sums over the bits. Every item is in n - 1 pairs, so the regulariser's mean over the
    pairs is 2 alpha / n sum_i ||b_i| - 1|_1. A batch of one has no pair: only that term is left.

    Args:
        latent: linear outputs (n, bits).
        labels: int (n,), or bool (n, classes), where a pair is similar if it shares a class.
        margin: 2 bits unless given: at +-1, that is half the bits.
        alpha: weight of the regulariser.

    Raises:
        ValueError: a margin that is not above 0, or a negative alpha.

    Example:
        >>> codes = jnp.array([[1.0, 1.0], [1.0, -1.0]])
        >>> float(dsh(codes, jnp.array([0, 0]))[0]), float(dsh(codes, jnp.array([0, 1]))[0])
        (2.0, 0.0)

    Source:
        equations 3 and 4 of the paper, with the subgradients of its equations 5 and 6. The
        released layer's gradient is half of this loss's, so a learning rate from there matches half
        of it here.
    """
    number("margin", margin, above=0)
    number("alpha", alpha, at_least=0)
    n, bits = latent.shape
    latent = latent.astype(jnp.float32)
    margin = 2.0 * bits if margin is None else margin
    labels = check(labels, n)
    distances = squared_distances(latent)
    # `margin - D > 0` strictly: a pair exactly at the margin is far enough (equation 5).
    apart = jnp.where(distances < margin, margin - distances, 0)
    cost = jnp.where(similar(labels), distances, apart) / 2
    above_diagonal = jnp.triu(jnp.ones((n, n), bool), k=1)
    pairs = max(n * (n - 1) // 2, 1)
    return total(
        {
            "pairs": jnp.where(above_diagonal, cost, 0).sum() / pairs,
            "regulariser": 2 * alpha * distance_to_signs(latent).sum() / n,
        }
    )
