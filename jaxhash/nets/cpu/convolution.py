"""3 x 3 convolution, alone or followed by 2 x 2 max-pooling, with our own passes on CPU.

XLA's CPU backend computes a convolution's forward pass well and its gradients several times
slower, and max-pooling's gradient element by element. Here both are written as what that backend
does best: a few large matrix products, with element-wise work between them. Other platforms keep
the library's own; which one runs is settled when the program is lowered for its device.

The convolution is Winograd's minimal filtering (Lavin and Gray, Fast algorithms for convolutional
neural networks, CVPR 2016, sections 3 and 4): a 4 x 4 tile of the output takes 36 multiplications
in place of 144. The gradients are its adjoint, so that they save as much.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxhash.nets.cpu.transforms import (
    alone,
    grid,
    image_gradient,
    join,
    kernel_gradient,
    output_image,
    output_tiles,
    split,
    transform_images,
    transform_kernel,
    transform_slope,
    transform_slope_tiles,
)
from jaxhash.nets.cpu.winograd import TILE


def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve with a 3 x 3 kernel, stride 1, borders padded with zeros.

    images: (n, h, w, c); kernel: (3, 3, c, out), of the same dtype, float32 or bfloat16. Returns
    (n, h, w, out) in that dtype. On CPU the products are taken in float32 for both.

    Raises:
        ValueError: the kernel is not 3 x 3, or its channels or dtype are not the images'.

    Example:
        >>> convolve(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 16))).shape
        (1, 8, 8, 16)
    """
    _check(images, kernel)
    return lax.platform_dependent(images, kernel, cpu=_convolve, default=library_convolve)


def convolve_and_pool(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve`, then the maximum over 2 x 2 windows; an odd last row or column is dropped.

    Returns (n, h // 2, w // 2, out). The gradient goes to the first of equal maxima in reading
    order. On CPU the full-size output is never laid out as an image.

    Raises:
        ValueError: as `convolve`, or the images have a side shorter than 2.

    Example:
        >>> convolve_and_pool(jnp.ones((1, 9, 8, 3)), jnp.ones((3, 3, 3, 16))).shape
        (1, 4, 4, 16)
    """
    _check(images, kernel)
    if min(images.shape[1:3]) < 2:
        raise ValueError(f"images of shape {images.shape} have no 2 x 2 window to pool")
    return lax.platform_dependent(
        images, kernel, cpu=_convolve_and_pool, default=library_convolve_and_pool
    )


def _check(images: jax.Array, kernel: jax.Array) -> None:
    if images.ndim != 4 or kernel.shape[:3] != (3, 3, images.shape[3]):
        raise ValueError(
            f"got images of shape {images.shape} and a kernel of shape {kernel.shape}; they must "
            f"be (n, h, w, c) and (3, 3, c, out)"
        )
    if images.dtype != kernel.dtype:
        raise ValueError(
            f"images are {images.dtype} and kernel is {kernel.dtype}; cast one of them"
        )


def library_convolve(images: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """`convolve` by XLA's own convolution, which knows any kernel and any stride."""
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def library_convolve_and_pool(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve_and_pool` by XLA's own convolution and pooling."""
    full = library_convolve(images, kernel)
    return lax.reduce_window(full, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


# ---- forward and backward ---------------------------------------------------------------------
# In between, everything is (p, n, down, across, channels): entry (i, j) of a k x k tile is row
# p = i * k + j, so that a transform along both of a tile's sides is one small matrix product. The
# gradients need the same transforms as the output: they are kept, about twice the images' memory.

Saved = tuple[jax.Array, ...]


@jax.custom_vjp
def _convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolve_forward(images, kernel)[0]


def _convolve_forward(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Saved]:
    _, h, w, _ = images.shape
    tiles, weights = transform_images(images), transform_kernel(kernel)
    output = output_image(multiply(tiles, weights), h, w).astype(images.dtype)
    return output, (_like(images), tiles, weights)


def _convolve_backward(saved: Saved, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    like, tiles, weights = saved
    return _gradients(like, tiles, weights, transform_slope(slope))


_convolve.defvjp(_convolve_forward, _convolve_backward)


@jax.custom_vjp
def _convolve_and_pool(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolve_and_pool_forward(images, kernel)[0]


def _convolve_and_pool_forward(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Saved]:
    _, h, w, _ = images.shape
    tiles, weights = transform_images(images), transform_kernel(kernel)
    full = output_tiles(multiply(tiles, weights))
    upper, lower = (jnp.maximum(*row) for row in _corners(full))
    pooled = jnp.maximum(upper, lower).reshape(-1, *full.shape[1:])
    # In a pass of its own: else what the gradient keeps is all of `full`, not a byte a window.
    saved = _like(images), tiles, weights, alone(_first_largest, full)
    return join(pooled, h // 2, w // 2).astype(images.dtype), saved


def _corners(full: jax.Array) -> list[list[jax.Array]]:
    """The corners [[a, b], [c, d]] of each window, (half, half, n, down, across, c) each."""
    half = TILE // 2
    windows = full.reshape(half, 2, half, 2, *full.shape[1:])
    return [[windows[:, i, :, j] for j in range(2)] for i in range(2)]


def _first_largest(full: jax.Array) -> jax.Array:
    """The first corner of each window, in reading order, that holds its maximum: int8, 0 to 3."""
    (a, b), (c, d) = _corners(full)
    above = jnp.maximum(a, b) >= jnp.maximum(c, d)
    corner = jnp.where(above, jnp.where(a >= b, 0, 1), jnp.where(c >= d, 2, 3))
    return corner.astype(jnp.int8)


def _convolve_and_pool_backward(saved: Saved, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    like, tiles, weights, winner = saved
    _, h, w, _ = like.shape
    half = TILE // 2
    # Alone, or what made the slopes would be computed again for each corner of a window.
    slopes = alone(lambda slope: split(slope, *grid(h, w), half), slope)
    within = slopes.shape[1:]
    corner = jnp.arange(4, dtype=jnp.int8).reshape(1, 2, 1, 2, 1, 1, 1, 1)
    spread = jnp.where(
        winner[:, None, :, None] == corner, slopes.reshape(half, 1, half, 1, *within), 0
    )
    slopes = transform_slope_tiles(spread.reshape(4 * half * half, *within))
    return _gradients(like, tiles, weights, slopes)


_convolve_and_pool.defvjp(_convolve_and_pool_forward, _convolve_and_pool_backward)


def _like(images: jax.Array) -> jax.Array:
    """No images, of the same size, channels and dtype."""
    return jnp.zeros((0, *images.shape[1:]), images.dtype)


def _gradients(
    like: jax.Array, tiles: jax.Array, weights: jax.Array, slopes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The images' and the kernel's gradients, from the output's, transformed."""
    _, h, w, _ = like.shape
    kernel_slope = kernel_gradient(_correlate(tiles, slopes))
    image_slope = image_gradient(multiply(slopes, weights.swapaxes(1, 2)), h, w)
    return image_slope.astype(like.dtype), kernel_slope.astype(like.dtype)


def multiply(tiles: jax.Array, weights: jax.Array) -> jax.Array:
    """(p, n, down, across, c) x (p, c, out) -> float32 (p, n, down, across, out)."""
    flat = tiles.reshape(len(tiles), -1, tiles.shape[-1])
    products = jnp.matmul(flat, weights, preferred_element_type=jnp.float32)
    return products.reshape(*tiles.shape[:-1], -1)


def _correlate(tiles: jax.Array, slopes: jax.Array) -> jax.Array:
    """(p, n, down, across, c) and (..., out) -> float32 (p, c, out), summed over all tiles."""
    flat = (x.reshape(len(x), -1, x.shape[-1]) for x in (tiles, slopes))
    return jnp.einsum("ptc,pto->pco", *flat, preferred_element_type=jnp.float32)
