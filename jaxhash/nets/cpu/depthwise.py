"""Depthwise convolution: one small kernel for each channel, with our own passes on CPU.

There, `channelwise` takes the sums where it can. Elsewhere on CPU they are sums of shifted images,
one for each place of the kernel, which XLA fuses into a single pass: it takes a tenth of the time
of XLA's own grouped convolution. Other platforms keep the library's; which one runs is settled
when the program is lowered for its device.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxhash.nets.cpu import channelwise


def relu6(x: jax.Array) -> jax.Array:
    """x between 0 and 6."""
    return jnp.clip(x, 0, 6)


@functools.partial(jax.jit, static_argnames="stride", inline=True)  # traced once a shape
def depthwise(images: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int = 1) -> jax.Array:
    """Convolve each channel with a kernel of its own, borders padded with zeros, then relu6.

    Padding is TensorFlow's "SAME": where an odd number of zeros is needed, the last side has the
    one more.

    Args:
        images: (n, h, w, c).
        kernel: (k, k, c), of the same dtype.
        bias: (c,), of the same dtype.
        stride: of the places in both directions.

    Returns:
        (n, ceil(h / stride), ceil(w / stride), c), from 0 to 6.

    Raises:
        ValueError: the kernel is not square, or its channels or the bias's are not the images'.

    Example:
        >>> depthwise(jnp.ones((1, 9, 8, 4)), jnp.ones((3, 3, 4)), jnp.zeros(4), stride=2).shape
        (1, 5, 4, 4)
    """
    side, channels = len(kernel), images.shape[-1]
    if images.ndim != 4 or kernel.shape != (side, side, channels) or bias.shape != (channels,):
        raise ValueError(
            f"got images of shape {images.shape}, a kernel of shape {kernel.shape} and a bias of "
            f"shape {bias.shape}; they must be (n, h, w, c), (k, k, c) and (c,)"
        )
    on_cpu = by_vectors if channelwise.knows(images, kernel, stride) else by_shifting
    return lax.platform_dependent(
        images,
        kernel,
        bias,
        cpu=lambda images, kernel, bias: on_cpu(images, kernel, bias, stride),
        default=lambda images, kernel, bias: activated(grouped(images, kernel, stride), bias),
    )


def activated(sums: jax.Array, bias: jax.Array) -> jax.Array:
    """relu6 of sums (n, h, w, c) and a bias (c,)."""
    return relu6(sums + bias[None, None, None])


def by_shifting(images: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int) -> jax.Array:
    """`depthwise` by `shifted`."""
    return activated(shifted(images, kernel, stride), bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def by_vectors(images: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int) -> jax.Array:
    """`depthwise` by `channelwise`; where a gradient is wanted, by `shifted`, which has one."""
    return channelwise.convolve(images, kernel, bias, stride)


def _value_and_pull(images: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int) -> Any:
    return jax.vjp(functools.partial(by_shifting, stride=stride), images, kernel, bias)


by_vectors.defvjp(_value_and_pull, lambda stride, pull, slope: pull(slope))


def grouped(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The sums of `depthwise` by XLA's own convolution, a group for each channel."""
    return lax.conv_general_dilated(
        images,
        kernel[:, :, None],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=images.shape[3],
    )


def shifted(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The sums of `depthwise`: of shifted images, each times its place of the kernel."""
    total, *others = (
        one * kernel[None, None, None, i, j] for i, j, one in views(images, len(kernel), stride)
    )
    return sum(others, start=total)


def views(images: jax.Array, size: int, stride: int) -> Iterator[tuple[int, int, jax.Array]]:
    """What each place (i, j) of a kernel sees, with the padding of `depthwise`.

    Yields:
        (i, j, images (n, ceil(h / stride), ceil(w / stride), c)), in reading order.

    Example:
        >>> [one.shape for _, _, one in views(jnp.ones((1, 9, 8, 4)), 2, 3)]
        [(1, 3, 3, 4), (1, 3, 3, 4), (1, 3, 3, 4), (1, 3, 3, 4)]
    """
    _, *sides, _ = images.shape
    ends = [(-(-side // stride) - 1) * stride + 1 for side in sides]
    missing = [max(end + size - 1 - side, 0) for end, side in zip(ends, sides, strict=True)]
    edges = [(zeros // 2, zeros - zeros // 2) for zeros in missing]
    # Behind the barrier XLA sees no unpadded images, which it would compute anew for the middle.
    padded = lax.optimization_barrier(jnp.pad(images, ((0, 0), *edges, (0, 0))))
    for i in range(size):
        for j in range(size):
            yield i, j, padded[:, i : i + ends[0] : stride, j : j + ends[1] : stride]
