"""OrthoHash: one loss, the cosine to fixed binary class weights (Hoe et al., 2021)."""

import math

import jax
import jax.numpy as jnp

from jaxhash.losses import Loss, total
from jaxhash.losses.centres import centres
from jaxhash.losses.dhih import logits
from jaxhash.losses.options import number
from jaxhash.losses.relevance import targets


def orthohash(
    latent: jax.Array,
    labels: jax.Array,
    classes: int,
    *,
    margin: float = 0.2,
    scale: float | None = None,
    label_smoothing: float = 0.0,
) -> Loss:
    """Softmax cross-entropy of scale (cos(u, o_j) - margin [j is the item's own class]).

    o_j are the fixed centres of `centres.centres`. A latent that is normalised over the batch
    (the head's activation "normalised") keeps the bits balanced. Several labels are a target
    of equal shares (`relevance.targets`).

    Args:
        latent: normalised outputs (n, bits).
        labels: int (n,) or bool (n, classes).
        classes: number of classes.
        margin: taken off the cosine of an item's own classes.
        scale: of the cosines; sqrt(bits) unless given.
        label_smoothing: share of the target spread over all classes.

    Raises:
        ValueError: fewer codes of so many bits than classes, a negative margin, a scale that is not
            above 0, or a label_smoothing outside [0, 1).

    Example:
        >>> loss, terms = orthohash(jnp.ones((2, 8)), jnp.array([0, 3]), 4)
        >>> sorted(terms)
        ['classification']

    Source:
        Hoe et al., One loss for all: deep hashing with a single cosine similarity based
        learning objective, NeurIPS 2021; margin and scale of its released code. Ours: the
        centres, where the paper compares several kinds.
    """
    number("label_smoothing", label_smoothing, at_least=0, below=1)
    n, bits = latent.shape
    kernel = jnp.asarray(centres(classes, bits).T)
    scale = math.sqrt(bits) if scale is None else scale
    scores = logits(latent, kernel, labels, reading="cosine", margin=margin, scale=scale)
    wanted = targets(labels, classes, label_smoothing)
    return total({"classification": -(wanted * jax.nn.log_softmax(scores)).sum() / n})
