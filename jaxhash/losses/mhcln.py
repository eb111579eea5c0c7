"""MHCLN: triplets on normalised activations, decided and balanced bits (Roy et al., 2018)."""

import jax
import jax.numpy as jnp

from jaxhash.losses import Loss, total
from jaxhash.losses.dlbhc import balance_penalty, push_penalty
from jaxhash.losses.dsh import squared_distances
from jaxhash.losses.options import number
from jaxhash.losses.relevance import check, similar

TRIPLETS = ("batch-all", "semi-hard", "rows")


def normalised(latent: jax.Array) -> jax.Array:
    """Rows of length 1, float32 (n, bits); rows near zero fade out instead of exploding.

    Example:
        >>> normalised(jnp.array([[0.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """
    latent = latent.astype(jnp.float32)
    squares = jnp.square(latent).sum(axis=1, keepdims=True)
    return latent / jnp.sqrt(jnp.maximum(squares, 1e-6))


def _mean(values: jax.Array, chosen: jax.Array) -> jax.Array:
    """Mean of the chosen values, 0 where none is."""
    return jnp.where(chosen, values, 0).sum() / jnp.maximum(chosen.sum(dtype=jnp.float32), 1)


def batch_all(distances: jax.Array, alike: jax.Array, alpha: float) -> jax.Array:
    """Mean of max(0, D_ap - D_an + alpha) over every triplet the batch holds, 0 without any.

    A triplet is an anchor, another item similar to it, and one that is not. distances: squared,
    float32 (n, n). alike: bool (n, n).

    Example:
        >>> d = jnp.array([[0.0, 1.0, 4.0], [1.0, 0.0, 1.0], [4.0, 1.0, 0.0]])
        >>> same = jnp.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
        >>> float(batch_all(d, same, 1.0))  # anchor 0 is content, anchor 1 costs 1
        0.5
    """
    others = ~jnp.eye(len(distances), dtype=bool)
    valid = (alike & others)[:, :, None] & ~alike[:, None, :]
    cost = distances[:, :, None] - distances[:, None, :] + alpha
    # The count is a sum of floats: the triplets of a large batch overflow an int32.
    positives = (alike & others).sum(axis=1, dtype=jnp.float32)
    count = (positives * (~alike).sum(axis=1, dtype=jnp.float32)).sum()
    return jnp.where(valid & (cost > 0), cost, 0).sum() / jnp.maximum(count, 1)


def semi_hard(distances: jax.Array, alike: jax.Array, alpha: float) -> jax.Array:
    """Mean of max(0, D_ap - D_an + alpha) over the positive pairs, each with one chosen negative.

    The negative is the nearest one farther from the anchor than the positive is; where none is,
    the farthest one. Pairs whose anchor has no negative are left out. Arguments as `batch_all`.

    Example:
        >>> d = jnp.array([[0.0, 1.0, 4.0], [1.0, 0.0, 1.0], [4.0, 1.0, 0.0]])
        >>> same = jnp.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
        >>> float(semi_hard(d, same, 1.0))
        0.5

    Source:
        Schroff et al., FaceNet, CVPR 2015, section 3.2.
    """
    negatives = ~alike
    farther = negatives[:, None, :] & (distances[:, None, :] > distances[:, :, None])
    nearest = jnp.where(farther, distances[:, None, :], jnp.inf).min(axis=2)
    farthest = jnp.where(negatives, distances, 0).max(axis=1, keepdims=True)
    negative = jnp.where(farther.any(axis=2), nearest, farthest)
    pairs = alike & ~jnp.eye(len(distances), dtype=bool) & negatives.any(axis=1, keepdims=True)
    cost = jnp.where(pairs, distances - negative + alpha, 0)
    return _mean(jnp.maximum(cost, 0), pairs)


def rows(u: jax.Array, alpha: float) -> jax.Array:
    """Mean triplet cost of a batch laid out as anchors, positives, negatives, a third each.

    u: normalised activations (3 t, bits), as `sampling.class_pair_batch` orders its items.

    Raises:
        ValueError: the batch is not three equal parts.

    Example:
        >>> float(rows(jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 0.2))
        0.0
    """
    if len(u) % 3:
        raise ValueError(
            f"a batch of {len(u)} is no anchors, positives and negatives; triplets='rows' needs "
            "class-pair batches, of three equal parts"
        )
    anchors, positives, negatives = jnp.split(u, 3)
    near = jnp.square(anchors - positives).sum(axis=1)
    far = jnp.square(anchors - negatives).sum(axis=1)
    return jnp.maximum(near - far + alpha, 0).mean()


def mhcln(
    latent: jax.Array,
    labels: jax.Array,
    *,
    triplets: str = "batch-all",
    alpha: float = 0.2,
    push_weight: float = 0.001,
    balance_weight: float = 1.0,
) -> Loss:
    """MHCLN's loss: triplets + 0.001 push + 1 balance, with the weights as options.

    Only the triplet term sees the activations normalised to length 1. A batch without any triplet
    has the other two terms left.

    Args:
        latent: sigmoid activations (n, bits).
        labels: int (n,) or bool (n, classes); two items that share a class are positives of each
            other.
        triplets: every one of the batch ("batch-all"), one negative for each positive pair
            ("semi-hard"), or those the batch was drawn as ("rows", the released code's).
        alpha: margin of a triplet.
        push_weight: weight of `dlbhc.push_penalty`.
        balance_weight: weight of `dlbhc.balance_penalty`.

    Raises:
        ValueError: `triplets` is none of the three, or another option is negative.

    Example:
        >>> loss, terms = mhcln(jnp.full((4, 8), 0.5), jnp.array([0, 0, 1, 1]))
        >>> round(float(terms["triplets"]), 3)
        0.2

    Source:
        Roy et al., Deep metric and hash-code learning for content-based retrieval of remote
        sensing images, IGARSS 2018; the values of its released code.
    """
    if triplets not in TRIPLETS:
        raise ValueError(f"triplets is {triplets!r}; choose one of {', '.join(TRIPLETS)}")
    for name, value in (
        ("alpha", alpha),
        ("push_weight", push_weight),
        ("balance_weight", balance_weight),
    ):
        number(name, value, at_least=0)
    labels = check(labels, len(latent))
    u = normalised(latent)
    if triplets == "rows":
        metric = rows(u, alpha)
    else:
        mine = batch_all if triplets == "batch-all" else semi_hard
        metric = mine(squared_distances(u), similar(labels), alpha)
    return total(
        {
            "triplets": metric,
            "push": push_weight * push_penalty(latent),
            "balance": balance_weight * balance_penalty(latent),
        }
    )
