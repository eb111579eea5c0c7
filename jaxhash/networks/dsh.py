"""DSH's convolutional network for small images (Liu et al., CVPR 2016, figure 1)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

MIN_SIZE = 8

_xavier = nn.initializers.xavier_uniform()


def ceil_pad(size: int, window: int, stride: int) -> tuple[int, int]:
    """Padding at the end that makes pooling cover the last pixels, as Caffe rounds up.

    Example:
        >>> ceil_pad(32, 3, 2)
        (0, 1)
    """
    return 0, (window - size) % stride if size > window else window - size


def pool_largest(images: jax.Array) -> jax.Array:
    """Maximum over 3 x 3 windows with stride 2, (n, h, w, c) -> (n, ceil((h - 1) / 2), ..., c).

    Example:
        >>> pool_largest(jnp.ones((1, 32, 32, 3))).shape
        (1, 16, 16, 3)
    """
    return _over_windows(images, jnp.maximum, 2, fill=-jnp.inf)


def pool_average(images: jax.Array) -> jax.Array:
    """Mean over the same windows as `pool_largest`, of the pixels that lie in the image."""
    sides = images.shape[1:3]
    sums = _over_windows(images, jnp.add, 2, fill=0)
    rows, columns = (
        np.minimum(3, side - 2 * np.arange(count))
        for side, count in zip(sides, sums.shape[1:3], strict=True)
    )
    share = 1 / (rows[:, None] * columns[None])
    return sums * jnp.asarray(share, images.dtype)[None, :, :, None]


def normalise_within_channel(images: jax.Array, alpha: float, beta: float) -> jax.Array:
    """Local response normalisation over a 3 x 3 window of each channel, (n, h, w, c).

    x / (1 + alpha * mean(x^2 in the window, zeros beyond the border))^beta, as in the authors'
    released network definition.
    """
    squares = jnp.pad(images * images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    energy = _over_windows(squares, jnp.add, 1, fill=0) / 9
    return images * (1 + alpha * energy) ** -beta


def _over_windows(
    images: jax.Array,
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    stride: int,
    fill: float,
) -> jax.Array:
    """Combine the pixels of every 3 x 3 window, along one axis and then along the other.

    Written as shifted views, whose gradient XLA fuses; the gradient of its own pooling goes
    pixel by pixel on CPU, and makes a training step take a third longer.
    """
    for axis in (1, 2):
        edges = [(0, 0)] * 4
        edges[axis] = ceil_pad(images.shape[axis], 3, stride)
        images = jnp.pad(images, edges, constant_values=fill)
        last = images.shape[axis] - 2
        first, *others = (
            jax.lax.slice_in_dim(images, shift, shift + last, stride, axis) for shift in range(3)
        )
        images = first
        for other in others:
            images = combine(images, other)
    return images


class Trunk(nn.Module):
    """Images (n, h, w, c) -> fc500 after its ReLU, as features and as the latent layer's input.

    Three 5 x 5 convolutions of 32, 32 and 64 channels, each followed by pooling 3 x 3 with stride
    2: max before the ReLU in the first block, average in the other two (before the ReLU in the
    second, as the released code has it, after it in the third). Xavier initialisation.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Return (features, hidden), the same (n, 500) array."""
        x = images.astype(self.dtype)
        x = self._conv(32, "conv1")(x)
        x = pool_largest(x)
        x = normalise_within_channel(nn.relu(x), 5e-5, 0.75)
        x = self._conv(32, "conv2")(x)
        x = nn.relu(pool_average(x))
        x = normalise_within_channel(x, 5e-5, 0.75)
        x = nn.relu(self._conv(64, "conv3")(x))
        x = pool_average(x)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(500, kernel_init=_xavier, dtype=self.dtype, name="fc500")(x))
        return x, x

    def _conv(self, channels: int, name: str) -> nn.Module:
        return nn.Conv(
            channels, (5, 5), padding=2, kernel_init=_xavier, dtype=self.dtype, name=name
        )
