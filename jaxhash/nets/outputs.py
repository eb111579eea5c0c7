"""What every network returns."""

from typing import NamedTuple

import jax


class Outputs(NamedTuple):
    """Outputs of a forward pass.

    features: float32 (n, D), what re-ranking compares by Euclidean distance.
    latent: float32 (n, bits), the relaxed code; its bits are `latent > method.threshold`.
    logits: float32 (n, classes), or None where the method has no classifier.
    """

    features: jax.Array
    latent: jax.Array
    logits: jax.Array | None
