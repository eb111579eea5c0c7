"""DHIH, as its abstract reads: a classifier less sensitive to the right class's weights.

He, Feng, Liu and Huang (2020) is known to this project by its abstract alone: a hash layer with a
pointwise loss that acts through the model's sensitivity to the weight matrix, so that features of
one class draw together and those of different classes apart. With h the latent activations, w_j
the weights of class j and theta_j the angle between them, a softmax's logits react to w_j as
|h| cos(theta_j). Each reading below makes the logit of the right class y react less, so that h has
to align more with w_y for the item to be classified. None of this is the authors' formula, and no
figure of theirs is claimed.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxhash.losses import Loss, total
from jaxhash.losses.options import number
from jaxhash.losses.relevance import check, targets

READINGS = ("scale", "angular", "cosine", "temperature")
NORMALISE = ("none", "kernel", "both")
_OF_READING = {
    "factor": "scale",
    "multiple": "angular",
    "anneal_from": "angular",
    "anneal_to": "angular",
    "margin": "cosine",
}
"""Options that act in one reading alone."""

# Directions of vectors shorter than this fade out instead of turning infinitely fast.
_SHORTEST = 1e-3


def _norms(x: jax.Array, axis: int) -> jax.Array:
    squares = jnp.square(x).sum(axis=axis, keepdims=True)
    return jnp.sqrt(jnp.maximum(squares, _SHORTEST**2))


def scaled(cosines: jax.Array, factor: float) -> jax.Array:
    """Reading R1: psi(theta) = factor cos where cos > 0, cos / factor elsewhere; 0 < factor <= 1.

    Example:
        >>> scaled(jnp.array([0.5, -0.5]), 0.5).tolist()
        [0.25, -1.0]
    """
    return jnp.where(cosines > 0, cosines * factor, cosines / factor)


def angular(cosines: jax.Array, multiple: int) -> jax.Array:
    """Reading R2: psi(theta) = (-1)^q cos(m theta) - 2 q, on theta in [q pi / m, (q + 1) pi / m].

    Falls from 1 at theta = 0 to 1 - 2 m at pi, without a jump. cos(m theta) is taken as a
    Chebyshev polynomial of the cosine, whose gradient stays finite where the angle's does not.

    Example:
        >>> angular(jnp.array([1.0, 0.0, -1.0]), 2).tolist()
        [1.0, -1.0, -3.0]

    Source:
        Liu et al., Large-margin softmax loss, ICML 2016, equation 5.
    """
    before, chebyshev = jnp.ones_like(cosines), cosines
    for _ in range(multiple - 1):
        before, chebyshev = chebyshev, 2 * cosines * chebyshev - before
    borders = [math.cos(part * math.pi / multiple) for part in range(1, multiple)]
    q = sum((cosines <= border).astype(cosines.dtype) for border in borders)
    sign = 1 - 2 * (q % 2)
    return sign * chebyshev - 2 * q


def logits(
    latent: jax.Array,
    kernel: jax.Array,
    labels: jax.Array,
    *,
    reading: str = "scale",
    scale: float | None = None,
    factor: float = 0.8,
    multiple: int = 2,
    margin: float = 0.2,
    normalise: str | None = None,
    anneal: jax.Array | float = 0.0,
) -> jax.Array:
    """Class scores (n, classes) float32, with those of an item's own classes held back.

    z_j = s |w_j| |h| cos(theta_j) for the other classes; for its own (all of them, with several
    labels) cos is replaced by psi:

    R1 "scale": psi = factor cos where cos > 0, cos / factor elsewhere.
    R2 "angular": L-Softmax's psi with the angle `multiple`; mixed as (anneal cos + psi) /
        (anneal + 1).
    R3 "cosine": psi = cos - margin, with h and w_j normalised (CosFace, OrthoHash).
    R4 "temperature": psi = cos; only s acts.

    `normalise` sets |w_j| ("kernel"), or |w_j| and |h| ("both"), to 1; unless given it is "both"
    for R3 and "none" for the others. `scale` is s; unless given it is 1 for R1 and R2, 2 for R4,
    and for R3 sqrt(2) log(classes - 1), at least 1, as OrthoHash found best.

    latent: tanh activations (n, bits). kernel: (bits, classes). labels: int (n,) or bool
    (n, classes).

    Raises:
        ValueError: an unknown reading or normalise, factor outside (0, 1], multiple below 1, a
            negative margin, a scale that is not above 0.

    Example:
        >>> one = jnp.ones((1, 1))
        >>> float(logits(one, one, jnp.array([0]), reading="scale", factor=0.5)[0, 0])
        0.5
    """
    if reading not in READINGS:
        raise ValueError(f"reading is {reading!r}; choose one of {', '.join(READINGS)}")
    normalise = normalise or ("both" if reading == "cosine" else "none")
    if normalise not in NORMALISE:
        raise ValueError(f"normalise is {normalise!r}; choose one of {', '.join(NORMALISE)}")
    number("factor", factor, above=0, at_most=1)
    number("multiple", multiple, at_least=1, whole=True)
    number("margin", margin, at_least=0)
    number("scale", scale, above=0)
    classes = kernel.shape[1]
    if scale is None:
        scales = {"cosine": max(math.sqrt(2) * math.log(max(classes - 1, 1)), 1.0)}
        scale = scales.get(reading, 2.0 if reading == "temperature" else 1.0)

    latent, kernel = latent.astype(jnp.float32), kernel.astype(jnp.float32)
    lengths, weights = _norms(latent, 1), _norms(kernel, 0)
    cosines = (latent @ kernel) / (lengths * weights)
    if reading == "scale":
        held_back = scaled(cosines, factor)
    elif reading == "angular":
        held_back = (anneal * cosines + angular(cosines, multiple)) / (1 + anneal)
    elif reading == "cosine":
        held_back = cosines - margin
    else:
        held_back = cosines
    own = targets(check(labels, len(latent)), classes) > 0
    reach = scale * (lengths if normalise != "both" else 1.0)
    reach = reach * (weights if normalise == "none" else 1.0)
    return reach * jnp.where(own, held_back, cosines)


def quantisation(latent: jax.Array) -> jax.Array:
    """Mean of ||h| - 1| over items and bits, for signed activations (n, bits) in [-1, 1].

    Example:
        >>> float(quantisation(jnp.array([[0.5, -1.0]])))
        0.25
    """
    return jnp.abs(jnp.abs(latent.astype(jnp.float32)) - 1).mean()


def dhih(
    latent: jax.Array,
    labels: jax.Array,
    kernel: jax.Array,
    progress: jax.Array | float = 1.0,
    *,
    reading: str = "scale",
    scale: float | None = None,
    factor: float = 0.8,
    multiple: int = 2,
    margin: float = 0.2,
    normalise: str | None = None,
    anneal_from: float = 1000.0,
    anneal_to: float = 0.1,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Loss:
    """Softmax cross-entropy of held-back logits, plus beta times the quantisation error.

    See `logits` for the readings and their switches. R2 starts as a plain softmax and turns into
    L-Softmax: its `anneal` falls geometrically from `anneal_from` to `anneal_to` as `progress`
    goes from 0 to 1. Several labels are a target of equal shares (`relevance.targets`).

    Args:
        latent: tanh activations (n, bits).
        labels: int (n,) or bool (n, classes).
        kernel: the classifier's weights (bits, classes); a bias would be a way round them, so there
            is none.
        progress: share of the training that is done, in [0, 1].
        reading: "scale", "angular", "cosine" or "temperature", see `logits`.
        scale: see `logits`.
        factor: of "scale".
        multiple: of "angular".
        margin: of "cosine".
        normalise: "none", "kernel" or "both", see `logits`.
        anneal_from: of "angular", at the start.
        anneal_to: of "angular", at the end.
        beta: weight of the quantisation error.
        label_smoothing: share of the target spread over all classes.

    Raises:
        ValueError: an option that `logits` refuses, an anneal that is not above 0, a negative beta,
            or a label_smoothing outside [0, 1).

    Example:
        >>> loss, terms = dhih(jnp.ones((2, 8)), jnp.array([0, 1]), jnp.ones((8, 2)))
        >>> float(terms["quantisation"])
        0.0

    Source:
        He, Feng, Liu and Huang, DHIH, 2020: its abstract, see the head of this file.
    """
    number("anneal_from", anneal_from, above=0)
    number("anneal_to", anneal_to, above=0)
    number("beta", beta, at_least=0)
    number("label_smoothing", label_smoothing, at_least=0, below=1)
    scores = logits(
        latent,
        kernel,
        labels,
        reading=reading,
        scale=scale,
        factor=factor,
        multiple=multiple,
        margin=margin,
        normalise=normalise,
        anneal=anneal_from * (anneal_to / anneal_from) ** progress,
    )
    wanted = targets(labels, kernel.shape[1], label_smoothing)
    return total(
        {
            "classification": -(wanted * jax.nn.log_softmax(scores)).sum() / len(latent),
            "quantisation": beta * quantisation(latent),
        }
    )


def idle(values: Mapping[str, Any]) -> dict[str, str]:
    """The options without effect given the others, each with the reason.

    values: all options of `dhih`.

    Example:
        >>> idle({"reading": "cosine", "margin": 0.2, "factor": 0.8})
        {'factor': "it acts with reading 'scale' alone, and reading is 'cosine'"}
    """
    reading = values["reading"]
    return {
        name: f"it acts with reading {own!r} alone, and reading is {reading!r}"
        for name, own in _OF_READING.items()
        if name in values and own != reading
    }
