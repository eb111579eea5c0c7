"""The identity as a trunk, for a head that is trained on features computed before."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Trunk(nn.Module):
    """Features (n, d) -> themselves, for re-ranking and for the head; nothing is learned here."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Return (features, hidden), the same array."""
        return features, features
