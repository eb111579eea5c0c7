"""DLBHC and SSDH: a classifier that reads the code layer (Lin et al., 2015; Yang et al., 2018)."""

import jax
import jax.numpy as jnp

from jaxhash.losses import Loss, Terms, total
from jaxhash.losses.options import number
from jaxhash.losses.relevance import targets


def classification(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0, multilabel: str = "share"
) -> jax.Array:
    """Mean cross-entropy of logits (n, classes) against labels, float32 scalar.

    With one label each it is the softmax cross-entropy. With several, `multilabel="share"` is the
    softmax cross-entropy against the labels divided by their number (see `relevance.targets`);
    `"binary"` is a sigmoid cross-entropy of every class on its own, averaged over the classes.
    Items without any label count in the mean, and add 0 under "share".

    Raises:
        ValueError: `multilabel` is neither, label_smoothing is outside [0, 1), or the labels do
            not fit the logits.

    Example:
        >>> round(float(classification(jnp.zeros((2, 4)), jnp.array([0, 3]))), 4)  # log 4
        1.3863
    """
    n, classes = logits.shape
    logits = logits.astype(jnp.float32)
    if multilabel not in ("share", "binary"):
        raise ValueError(f"multilabel is {multilabel!r}; choose share or binary")
    number("label_smoothing", label_smoothing, at_least=0, below=1)
    if labels.ndim == 2 and multilabel == "binary":
        wanted = (1 - label_smoothing) * labels.astype(jnp.float32) + label_smoothing / 2
        # log(1 - sigmoid(z)) = log_sigmoid(-z), which does not cancel for large z.
        right = wanted * jax.nn.log_sigmoid(logits)
        wrong = (1 - wanted) * jax.nn.log_sigmoid(-logits)
        return -(right + wrong).mean()
    wanted = targets(labels, classes, label_smoothing)
    return -(wanted * jax.nn.log_softmax(logits)).sum() / n


def push_penalty(latent: jax.Array) -> jax.Array:
    """How far a sigmoid latent (n, bits) is from undecided: -1/bits mean_i |a_i - 0.5|^2.

    Lies in [-1/4, 0] and falls as the activations approach 0 and 1. MHCLN uses it as written;
    SSDH's release halves it.

    Example:
        >>> float(push_penalty(jnp.array([[0.0, 1.0]])))
        -0.25
    """
    return -jnp.square(latent.astype(jnp.float32) - 0.5).mean()


def balance_penalty(latent: jax.Array) -> jax.Array:
    """How far each item is from half ones: mean_i (mean_k a_ik - 0.5)^2 of a sigmoid latent.

    Example:
        >>> float(balance_penalty(jnp.array([[1.0, 1.0], [0.0, 1.0]])))
        0.125
    """
    return jnp.square(latent.astype(jnp.float32).mean(axis=1) - 0.5).mean()


def dlbhc(
    logits: jax.Array,
    labels: jax.Array,
    *,
    label_smoothing: float = 0.0,
    multilabel: str = "share",
) -> Loss:
    """DLBHC's loss: the classification loss through the sigmoid code layer, and nothing else.

    Args:
        logits: (n, classes), computed from the latent activations.
        labels: int (n,) or bool (n, classes).
        label_smoothing: share of the target spread over all classes.
        multilabel: "share" or "binary", see `classification`.

    Raises:
        ValueError: what `classification` refuses.

    Example:
        >>> loss, terms = dlbhc(jnp.zeros((2, 4)), jnp.array([0, 3]))

    Source:
        Lin et al., Deep learning of binary hash codes for fast image retrieval, CVPRW 2015,
        section 3.1. The paper has one label an image; `multilabel` is ours.
    """
    terms: Terms = {
        "classification": classification(
            logits, labels, label_smoothing=label_smoothing, multilabel=multilabel
        )
    }
    return total(terms)


def ssdh(
    latent: jax.Array,
    logits: jax.Array,
    labels: jax.Array,
    *,
    push_weight: float = 1.0,
    balance_weight: float = 1.0,
    label_smoothing: float = 0.0,
    multilabel: str = "share",
) -> Loss:
    """SSDH's loss: DLBHC's, decided bits, and codes of half ones.

    CE - 1/(2 n bits) sum (a - 0.5)^2 + 1/(2 n) sum_i (mean_k a_ik - 0.5)^2, with the two weights.

    Args:
        latent: sigmoid activations (n, bits).
        logits: (n, classes).
        labels: int (n,) or bool (n, classes).
        push_weight: weight of the second term.
        balance_weight: weight of the third.
        label_smoothing: share of the target spread over all classes.
        multilabel: "share" or "binary", see `classification`.

    Raises:
        ValueError: a negative weight, or what `classification` refuses.

    Example:
        >>> loss, terms = ssdh(jnp.ones((2, 8)), jnp.zeros((2, 4)), jnp.array([0, 3]))
        >>> sorted(terms)
        ['balance', 'classification', 'push']

    Source:
        Yang, Lin and Chen, Supervised learning of semantics-preserving hash via deep
        convolutional neural networks, TPAMI 2018, with the factors 1/2 of the released layers.
    """
    number("push_weight", push_weight, at_least=0)
    number("balance_weight", balance_weight, at_least=0)
    terms: Terms = {
        "classification": classification(
            logits, labels, label_smoothing=label_smoothing, multilabel=multilabel
        ),
        "push": push_weight * push_penalty(latent) / 2,
        "balance": balance_weight * balance_penalty(latent) / 2,
    }
    return total(terms)
