"""Convolution of images of few channels, such as colours, with our own pass on CPU.

A library's convolution lays out what each place sees and takes a matrix product, which is mostly
laying out where there are three channels. As a sum of one channel at one place of the kernel after
the other, each times all outputs of it, XLA's CPU backend fuses it into a single pass.
"""

import functools

import jax
from jax import lax

from jaxhash.nets.cpu.convolution import library_convolve
from jaxhash.nets.cpu.depthwise import views


@functools.partial(jax.jit, static_argnames="stride", inline=True)  # traced once a shape
def convolve(images: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolve, borders padded with zeros as `depthwise` does.

    Args:
        images: (n, h, w, c), c being small.
        kernel: (k, k, c, out), of the same dtype.
        stride: of the places in both directions.

    Returns:
        (n, ceil(h / stride), ceil(w / stride), out).

    Raises:
        ValueError: the kernel is not square, or its channels are not the images'.

    Example:
        >>> images, kernel = jax.numpy.ones((1, 9, 8, 3)), jax.numpy.ones((3, 3, 3, 16))
        >>> convolve(images, kernel, stride=2).shape
        (1, 5, 4, 16)
    """
    if images.ndim != 4 or kernel.shape[:3] != (len(kernel), len(kernel), images.shape[3]):
        raise ValueError(
            f"got images of shape {images.shape} and a kernel of shape {kernel.shape}; they must "
            "be (n, h, w, c) and (k, k, c, out)"
        )
    return lax.platform_dependent(
        images,
        kernel,
        cpu=lambda images, kernel: spread(images, kernel, stride),
        default=lambda images, kernel: library_convolve(images, kernel, stride),
    )


def spread(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`convolve` as a sum over the channels and the places of the kernel."""
    total, *others = (
        one[..., channel : channel + 1] * kernel[None, None, None, i, j, channel]
        for i, j, one in views(images, len(kernel), stride)
        for channel in range(images.shape[3])
    )
    return sum(others, start=total)
