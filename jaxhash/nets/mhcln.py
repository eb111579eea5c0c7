"""MHCLN's three dense layers on the features of a frozen network (Roy et al., 2018)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxhash.nets.head import he_average

SLOPE = 0.2


class Trunk(nn.Module):
    """Features (n, d) -> themselves, and d -> 1024 -> 512 under them for the latent layer.

    Leaky ReLU of slope 0.2 after both layers, no dropout, no normalisation; kernels start as in
    the released tflib/ops/conv2d.py, uniform with variance 4 / (inputs + outputs). The paper's d is
    2048: the last pooling layer of Inception-v3. Features pass through untouched in float32,
    since re-ranking by them needs no training.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Return (features, hidden) of shapes (n, d) and (n, 512)."""
        hidden = features.astype(self.dtype)
        for width in (1024, 512):
            hidden = nn.Dense(width, kernel_init=he_average, dtype=self.dtype, name=f"fc{width}")(
                hidden
            )
            hidden = nn.leaky_relu(hidden, SLOPE)
        return features, hidden
