"""DSH's convolutional network for small images (Liu et al., CVPR 2016, figure 1)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

MIN_SIZE = 8

_xavier = nn.initializers.xavier_uniform()


def ceil_pad(size: int, window: int, stride: int) -> tuple[int, int]:
    """Padding at the end that makes pooling cover the last pixels, as Caffe rounds up.

    Example:
        >>> ceil_pad(32, 3, 2)
        (0, 1)
    """
    return 0, (window - size) % stride if size > window else window - size


def normalise_within_channel(images: jax.Array, alpha: float, beta: float) -> jax.Array:
    """Local response normalisation over a 3 x 3 window of each channel, (n, h, w, c).

    x / (1 + alpha * mean(x^2 in the window, zeros beyond the border))^beta, as in the authors'
    released network definition.
    """
    energy = nn.avg_pool(images * images, (3, 3), (1, 1), "SAME", count_include_pad=True)
    return images * (1 + alpha * energy) ** -beta


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
        x = self._largest(x)
        x = normalise_within_channel(nn.relu(x), 5e-5, 0.75)
        x = self._conv(32, "conv2")(x)
        x = nn.relu(self._average(x))
        x = normalise_within_channel(x, 5e-5, 0.75)
        x = nn.relu(self._conv(64, "conv3")(x))
        x = self._average(x)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(500, kernel_init=_xavier, dtype=self.dtype, name="fc500")(x))
        return x, x

    def _conv(self, channels: int, name: str) -> nn.Module:
        return nn.Conv(
            channels, (5, 5), padding=2, kernel_init=_xavier, dtype=self.dtype, name=name
        )

    def _largest(self, x: jax.Array) -> jax.Array:
        return self._pool(nn.max_pool, x)

    def _average(self, x: jax.Array) -> jax.Array:
        return self._pool(nn.avg_pool, x, count_include_pad=False)

    def _pool(self, pool: Any, x: jax.Array, **options: Any) -> jax.Array:
        padding = [ceil_pad(size, 3, 2) for size in x.shape[1:3]]
        return pool(x, (3, 3), (2, 2), padding, **options)
