"""CSQ: every bit classified as its class centre's bit (Yuan et al., 2020)."""

import jax
import jax.numpy as jnp

from jaxhash.losses import Loss, total
from jaxhash.losses.centres import aims
from jaxhash.losses.options import number


def csq(
    latent: jax.Array, labels: jax.Array, classes: int, *, quantisation_weight: float = 1e-4
) -> Loss:
    """Binary cross-entropy between an item's bits and its centre's, plus a quantisation error.

    With c in {-1, 1} the centre's bit, (1 + c) / 2 meets (1 + tanh u) / 2 = sigmoid(2 u), which
    costs log(1 + e^(-2 u c)), averaged over items and bits. The quantisation error is the
    mean of (|tanh u| - 1)^2. Items without a class have the second term alone.

    Args:
        latent: linear outputs (n, bits).
        labels: int (n,) or bool (n, classes); for several labels see `centres.aims`.
        classes: number of classes, each with a centre of `centres.centres`.
        quantisation_weight: weight of the second term.

    Raises:
        ValueError: fewer codes of so many bits than classes, or a negative weight.

    Example:
        >>> loss, terms = csq(jnp.zeros((2, 8)), jnp.array([0, 3]), 4)
        >>> round(float(terms["centre"]), 4)  # log 2
        0.6931

    Source:
        Yuan et al., Central similarity quantization for efficient image and video retrieval,
        CVPR 2020; the quantisation error and its weight as in public implementations.
    """
    number("quantisation_weight", quantisation_weight, at_least=0)
    u = latent.astype(jnp.float32)
    c = aims(labels, classes, latent.shape[1])
    return total(
        {
            "centre": jnp.where(c == 0, 0, jax.nn.softplus(-2 * u * c)).mean(),
            "quantisation": quantisation_weight * jnp.square(jnp.abs(jnp.tanh(u)) - 1).mean(),
        }
    )
