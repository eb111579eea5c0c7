"""A network that is compiled in no time, with all that a run has to keep: batch statistics too."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxhash.nets import Network

SIDE = 8


class Trunk(nn.Module):
    """A convolution of stride two, normalised, and a dense layer."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        x = nn.Conv(8, (3, 3), strides=2, dtype=self.dtype)(images)
        x = nn.BatchNorm(use_running_average=not train, dtype=self.dtype)(x)
        features = nn.relu(x).reshape(len(images), -1)
        return features, nn.Dense(32, dtype=self.dtype)(features)


NETWORK = Network("small", Trunk, image_size=SIDE)
