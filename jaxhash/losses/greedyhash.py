"""GreedyHash: a classifier that reads the code's very bits (Su et al., 2018)."""

import jax
import jax.numpy as jnp

from jaxhash.losses import Loss, total
from jaxhash.losses.dlbhc import classification
from jaxhash.losses.options import number


def greedyhash(
    latent: jax.Array,
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: float = 0.1,
    label_smoothing: float = 0.0,
) -> Loss:
    """Classification from the signs of the latent, plus alpha mean |u - sign(u)|^3.

    The signs, and their straight-through gradient, are the head's: activation "signs". Several
    labels are a target of equal shares (`relevance.targets`), which is ours: the paper has one
    label an image.

    Args:
        latent: linear outputs (n, bits).
        logits: (n, classes), computed from the latent's signs.
        labels: int (n,) or bool (n, classes).
        alpha: weight of the quantisation error.
        label_smoothing: share of the target spread over all classes.

    Raises:
        ValueError: a negative alpha, or a label_smoothing outside [0, 1).

    Example:
        >>> loss, terms = greedyhash(jnp.full((2, 8), 2.0), jnp.zeros((2, 4)), jnp.array([0, 3]))
        >>> round(float(terms["quantisation"]), 4)
        0.1

    Source:
        Su et al., Greedy hash: towards fast optimization for accurate hash coding in CNN,
        NeurIPS 2018; alpha and the mean over the bits of its released code for CIFAR-10.
    """
    number("alpha", alpha, at_least=0)
    apart = jnp.abs(jnp.abs(latent.astype(jnp.float32)) - 1)
    return total(
        {
            "classification": classification(logits, labels, label_smoothing=label_smoothing),
            "quantisation": alpha * (apart**3).mean(),
        }
    )
