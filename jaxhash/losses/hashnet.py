"""HashNet: a weighted likelihood of pairs, and a tanh that turns into a sign (Cao et al., 2017)."""

import jax
import jax.numpy as jnp

from jaxhash.losses import Loss, total
from jaxhash.losses.options import number
from jaxhash.losses.relevance import check, similar


def _mean(values: jax.Array, chosen: jax.Array) -> jax.Array:
    """Mean of the chosen values, 0 where none is."""
    return jnp.where(chosen, values, 0).sum() / jnp.maximum(chosen.sum(dtype=jnp.float32), 1)


def hashnet(
    latent: jax.Array,
    labels: jax.Array,
    progress: jax.Array | float = 1.0,
    *,
    alpha: float | None = None,
    growth: float = 50.0,
) -> Loss:
    """HashNet's loss: how unlikely the similarities of the batch's pairs are, given their codes.

    With z = tanh(beta u) and theta = alpha z_i . z_j, a pair is similar with probability
    sigmoid(theta) and costs log(1 + e^theta) - s_ij theta. Similar pairs together weigh as much
    as dissimilar ones: the loss is the sum of the two means, each 0 where there is no such pair.
    beta grows as sqrt(1 + growth progress): from 1 to 7, as the released code's does in its
    10,000 steps.

    Args:
        latent: signed, unbounded outputs (n, bits).
        labels: int (n,) or bool (n, classes); two items that share a class are similar.
        progress: share of the training that is done, in [0, 1].
        alpha: scale of the inner products; 10 / bits unless given.
        growth: of beta, as above.

    Raises:
        ValueError: an alpha that is not above 0, or a negative growth.

    Example:
        >>> loss, terms = hashnet(jnp.zeros((3, 8)), jnp.array([0, 0, 1]))
        >>> round(float(terms["similar"]), 4)  # log 2
        0.6931

    Source:
        Cao et al., HashNet: deep learning to hash by continuation, ICCV 2017.
        Ours: the table's row normalises the latent over the batch, as bits that start alike would
        saturate when trained from scratch; similar pairs are weighed within the batch and not over
        the data, and all alike, where the paper weighs multi-label pairs by the share of their
        labels in common (the released code does not).
    """
    number("alpha", alpha, above=0)
    number("growth", growth, at_least=0)
    n, bits = latent.shape
    labels = check(labels, n)
    beta = jnp.sqrt(jnp.float32(1) + growth * progress)
    z = jnp.tanh(beta * latent.astype(jnp.float32))
    theta = (10 / bits if alpha is None else alpha) * (z @ z.T)
    alike, others = similar(labels), ~jnp.eye(n, dtype=bool)
    return total(
        {
            # log(1 + e^theta) - theta = log(1 + e^-theta)
            "similar": _mean(jax.nn.softplus(-theta), alike & others),
            "dissimilar": _mean(jax.nn.softplus(theta), ~alike & others),
        }
    )
