"""DSH's convolutional network for small images (Liu et al., CVPR 2016, figure 1)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxhash.nets.head import caffe_xavier

MIN_SIZE = 8


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
    return _over_windows(images, jnp.maximum, fill=-jnp.inf)


def pool_average(images: jax.Array) -> jax.Array:
    """Mean over the same windows as `pool_largest`, of the pixels that lie in the image."""
    sides = images.shape[1:3]
    sums = _over_windows(images, jnp.add, fill=0)
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
    energy = _sum_around(images * images) / 9
    # On CPU a power takes ten times as long as the logarithm and exponential that it stands for.
    return images * jnp.exp(-beta * jnp.log(1 + alpha * energy))


def _over_windows(
    images: jax.Array, combine: Callable[[jax.Array, jax.Array], jax.Array], fill: float
) -> jax.Array:
    """Combine the pixels of every 3 x 3 window at stride 2, along one axis and then the other.

    A window is an even pixel, the odd one after it and the next even one. Split so, everything is
    an element-wise pass over whole slices, and so is the gradient; XLA's own pooling goes pixel by
    pixel on CPU in its gradient, and that of strided slices spreads zeros between their entries.
    """
    for axis in (1, 2):
        count = max(images.shape[axis] // 2, 1)
        edges = [(0, 0)] * 4
        edges[axis] = 0, 2 * (count + 1) - images.shape[axis]
        padded = jnp.pad(images, edges, constant_values=fill)
        pairs = padded.reshape(*padded.shape[:axis], count + 1, 2, *padded.shape[axis + 1 :])
        even, odd = (jnp.squeeze(half, axis + 1) for half in jnp.split(pairs, 2, axis + 1))
        first, middle, last = (
            jax.lax.slice_in_dim(part, start, start + count, axis=axis)
            for part, start in ((even, 0), (odd, 0), (even, 1))
        )
        images = combine(combine(first, middle), last)
    return images


def _sum_around(images: jax.Array) -> jax.Array:
    """Sum over the 3 x 3 window around every pixel, zeros beyond the border."""
    for axis in (1, 2):
        side = images.shape[axis]
        edges = [(0, 0)] * 4
        edges[axis] = 1, 1
        padded = jnp.pad(images, edges)
        before, here, after = (
            jax.lax.slice_in_dim(padded, shift, shift + side, axis=axis) for shift in range(3)
        )
        images = before + here + after
    return images


def convolve_in_fours(
    images: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated` of (n, h, w, c) with the channels filled up to fours.

    On CPU the forward pass of three channels takes four times as long as that of four. The zeros
    add nothing to the value.

    Example:
        >>> images, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((5, 5, 3, 2))
        >>> convolve_in_fours(
        ...     images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ... ).shape
        (1, 8, 8, 2)
    """
    missing = -images.shape[3] % 4
    wider = jnp.pad(images, ((0, 0), (0, 0), (0, 0), (0, missing)))
    taller = jnp.pad(kernel, ((0, 0), (0, 0), (0, missing), (0, 0)))
    return jax.lax.conv_general_dilated(wider, taller, *arguments, **options)


class Trunk(nn.Module):
    """Images (n, h, w, c) -> fc500 after its ReLU, as features and as the latent layer's input.

    Three 5 x 5 convolutions of 32, 32 and 64 channels, each followed by pooling 3 x 3 with stride
    2: max before the ReLU in the first block, average in the other two (before the ReLU in the
    second, as the released code has it, after it in the third). Caffe's xavier
    initialisation.
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
        x = nn.relu(nn.Dense(500, kernel_init=caffe_xavier, dtype=self.dtype, name="fc500")(x))
        return x, x

    def _conv(self, channels: int, name: str) -> nn.Module:
        return nn.Conv(
            channels,
            (5, 5),
            padding=2,
            kernel_init=caffe_xavier,
            dtype=self.dtype,
            conv_general_dilated=convolve_in_fours,
            name=name,
        )
