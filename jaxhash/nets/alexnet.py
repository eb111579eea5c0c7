"""AlexNet, as torchvision ships its weights and as the 2012 paper has it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxhash.nets.dsh import ceil_pad

# 63 -> 15 -> 7 -> 3 -> 1: the smallest side after which every pooling window is filled.
MIN_SIZE = 63


def bins(size: int, count: int) -> np.ndarray:
    """Averages of `count` even, possibly overlapping parts of a line, as a (count, size) matrix.

    Part i covers pixels floor(i size / count) to ceil((i + 1) size / count).

    Example:
        >>> bins(3, 2).round(1).tolist()
        [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
    """
    matrix = np.zeros((count, size), np.float32)
    for part in range(count):
        first, last = part * size // count, -(-(part + 1) * size // count)
        matrix[part, first:last] = 1 / (last - first)
    return matrix


def pool_to(images: jax.Array, side: int) -> jax.Array:
    """Average pooling (n, h, w, c) -> (n, side, side, c), whatever h and w are.

    Example:
        >>> pool_to(jnp.ones((1, 3, 3, 2)), 6).shape
        (1, 6, 6, 2)
    """
    _, height, width, _ = images.shape
    if height != side:
        images = jnp.einsum("ph,nhwc->npwc", bins(height, side).astype(images.dtype), images)
    if width != side:
        images = jnp.einsum("qw,npwc->npqc", bins(width, side).astype(images.dtype), images)
    return images


def normalise_across_channels(images: jax.Array) -> jax.Array:
    """AlexNet's local response normalisation over 5 neighbouring channels, (n, h, w, c).

    x / (1 + 1e-4 / 5 sum x^2)^0.75, with the constants of the Caffe reference model.
    """
    energy = images * images
    sums = nn.avg_pool(energy[..., None], (1, 1, 5), (1, 1, 1), "SAME")[..., 0]
    return images * (1 + 1e-4 * sums) ** -0.75


class Trunk(nn.Module):
    """Images (n, h, w, c), at least 63 pixels a side -> fc7 after its ReLU, (n, 4096).

    The defaults are the layers of torchvision's `alexnet`, which has published ImageNet weights:
    convolutions of 64, 192, 384, 256 and 256 channels (Krizhevsky, One weird trick for
    parallelizing convolutional neural networks, 2014), in one group, without normalisation. The
    2012 paper's, which DLBHC starts from in Caffe's version (`caffenet` in the table), are 96,
    256, 384, 384 and 256 channels, two groups in the second, fourth and fifth, and response
    normalisation after the first two poolings. Both: 3 x 3 max pooling of stride 2 after the
    first, second and fifth, then fc6 and fc7 with 4096 units, and dropout 0.5 on the outputs of
    both, where the 2012 paper has it (torchvision has it on their inputs).

    Images of other sizes than it is meant for are pooled to 6 x 6 before fc6.
    """

    widths: tuple[int, ...] = (64, 192, 384, 256, 256)
    groups: tuple[int, ...] = (1, 1, 1, 1, 1)
    first_padding: int = 2
    respond: bool = False
    units: int = 4096
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Return (features, hidden): fc7, and fc7 after dropout."""
        x = images.astype(self.dtype)
        windows = ((11, 4, self.first_padding), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
        for number, (window, stride, padding) in enumerate(windows, start=1):
            x = nn.Conv(
                self.widths[number - 1],
                (window, window),
                strides=stride,
                padding=padding,
                feature_group_count=self.groups[number - 1],
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=f"conv{number}",
            )(x)
            x = nn.relu(x)
            if number in (1, 2, 5):
                # torchvision rounds a pooled side down, Caffe up.
                edges = [ceil_pad(side, 3, 2) if self.respond else (0, 0) for side in x.shape[1:3]]
                x = nn.max_pool(x, (3, 3), (2, 2), edges)
            if number in (1, 2) and self.respond:
                x = normalise_across_channels(x)
        x = pool_to(x, 6).reshape(len(x), -1)
        for name in ("fc6", "fc7"):
            x = nn.Dense(
                self.units, kernel_init=nn.initializers.he_normal(), dtype=self.dtype, name=name
            )(x)
            features = nn.relu(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(features)
        return features, x


def caffenet(*, dtype: Any = jnp.float32) -> Trunk:
    """The 2012 paper's layers in the order of the Caffe reference model; meant for 227 pixels.

    Example:
        >>> caffenet().widths
        (96, 256, 384, 384, 256)
    """
    return Trunk(
        widths=(96, 256, 384, 384, 256),
        groups=(1, 2, 1, 2, 2),
        first_padding=0,
        respond=True,
        dtype=dtype,
    )
