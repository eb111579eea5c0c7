"""3 x 3 convolution and 2 x 2 max-pooling, with a forward and a backward pass of our own on CPU.

XLA's CPU backend computes a convolution's forward pass well and its gradients several times
slower, and max-pooling's gradient element by element. Here both are written as what that backend
does best, large matrix products and fused element-wise passes. Other platforms keep the
library's own: which one runs is decided when the program is lowered for its device.

The convolution is Winograd's minimal filtering (Lavin and Gray, Fast algorithms for convolutional
neural networks, CVPR 2016, sections 3 and 4): every m x m tile of the output comes from
(m + 2)^2 products in place of 9 m^2. As the three transforms are linear, both gradients are the
same kind of sum: the image's gradient is a convolution with the turned kernel, the kernel's
gradient is a product of the transformed image with the transformed output gradient.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

# One row per output of the transform, for tiles of m = 2 and of m = 4 outputs a side.
# IMAGE is B^T, KERNEL is G and OUTPUT is A^T in the paper's notation.
IMAGE = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    4: (
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
}
KERNEL = {
    2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
}
OUTPUT = {
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
}

Matrix = Sequence[Sequence[float]]
Grid = list[list[jax.Array]]  # a small matrix whose entries are arrays of one shape


def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve with a 3 x 3 kernel, stride 1, borders padded with zeros.

    images: (n, h, w, c); kernel: (3, 3, c, out), of the same dtype. Returns (n, h, w, out) in that
    dtype; products are accumulated in float32.

    Raises:
        ValueError: the kernel is not 3 x 3, or its channels are not the images'.

    Example:
        >>> convolve(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 16))).shape
        (1, 8, 8, 16)
    """
    if images.ndim != 4 or kernel.ndim != 4:
        raise ValueError(
            f"images and kernel must have 4 axes, (n, h, w, c) and (3, 3, c, out): got shapes "
            f"{images.shape} and {kernel.shape}"
        )
    if kernel.shape[:3] != (3, 3, images.shape[3]):
        raise ValueError(
            f"kernel has shape {kernel.shape}: images of {images.shape[3]} channels need "
            f"(3, 3, {images.shape[3]}, out)"
        )
    return _convolve(images, kernel)


def max_pool(images: jax.Array) -> jax.Array:
    """Maximum over 2 x 2 windows with stride 2; an odd last row or column is dropped.

    images: (n, h, w, c). Returns (n, h // 2, w // 2, c). The gradient goes to the first of equal
    maxima in reading order.

    Raises:
        ValueError: a side is shorter than 2.

    Example:
        >>> float(max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, 0, 0, 0])
        5.0
    """
    if images.ndim != 4 or min(images.shape[1:3]) < 2:
        raise ValueError(f"images of shape {images.shape} have no 2 x 2 window to pool")
    return _max_pool(images)


# ---- convolution ------------------------------------------------------------------------------


@jax.custom_vjp
def _convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.platform_dependent(images, kernel, cpu=_winograd, default=_library_convolve)


def _convolve_forward(
    images: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(images, kernel), (images, kernel)


def _convolve_backward(
    saved: tuple[jax.Array, jax.Array], slope: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return lax.platform_dependent(
        *saved, slope, cpu=_winograd_gradients, default=_library_gradients
    )


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _library_convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _library_gradients(
    images: jax.Array, kernel: jax.Array, slope: jax.Array
) -> tuple[jax.Array, jax.Array]:
    _, pull = jax.vjp(_library_convolve, images, kernel)
    return pull(slope)


def _tile(dtype: jnp.dtype) -> int:
    """Side of an output tile.

    Larger tiles save more products but round worse: at 4, float32 keeps five digits, and
    bfloat16's eight bits would leave one.
    """
    return 4 if dtype == jnp.float32 else 2


def _winograd(images: jax.Array, kernel: jax.Array) -> jax.Array:
    m = _tile(images.dtype)
    _, h, w, _ = images.shape
    products = [
        [_multiply(a, b) for a, b in zip(*rows, strict=True)]
        for rows in zip(_transform_images(images, m), _transform_kernel(kernel, m), strict=True)
    ]
    return _join(_transform(products, OUTPUT[m]), h, w).astype(images.dtype)


def _winograd_gradients(
    images: jax.Array, kernel: jax.Array, slope: jax.Array
) -> tuple[jax.Array, jax.Array]:
    m = _tile(images.dtype)
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    seen = _transform_images(images, m)
    wanted = _transform_slope(slope, m)
    products = [
        [_correlate(a, b) for a, b in zip(*rows, strict=True)]
        for rows in zip(seen, wanted, strict=True)
    ]
    grid = _transform(products, _transpose(KERNEL[m]))
    gradient = jnp.stack([jnp.stack(row) for row in grid]).astype(kernel.dtype)
    return _winograd(slope, turned), gradient


def _multiply(tiles: jax.Array, weights: jax.Array) -> jax.Array:
    """(n, s, t, c) x (c, out) -> float32 (n, s, t, out), as one matrix product."""
    flat = tiles.reshape(-1, tiles.shape[-1])
    product = jnp.dot(flat, weights, preferred_element_type=jnp.float32)
    return product.reshape(*tiles.shape[:-1], -1)


def _correlate(tiles: jax.Array, slopes: jax.Array) -> jax.Array:
    """(n, s, t, c) and (n, s, t, out) -> float32 (c, out), summed over all tiles."""
    return lax.dot_general(
        tiles.reshape(-1, tiles.shape[-1]),
        slopes.reshape(-1, slopes.shape[-1]),
        (((0,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )


# ---- transforms -------------------------------------------------------------------------------


def _transform_images(images: jax.Array, m: int) -> Grid:
    """Images (n, h, w, c) -> (m + 2)^2 arrays (n, tiles down, tiles across, c)."""
    # Without the barrier, whatever made the images is computed again in each of the arrays.
    images = lax.optimization_barrier(images)
    _, h, w, _ = images.shape
    down, across = -(-h // m), -(-w // m)
    padding = ((0, 0), (1, 1 + down * m - h), (1, 1 + across * m - w), (0, 0))
    padded = jnp.pad(images, padding)
    rows, columns = (down - 1) * m + 1, (across - 1) * m + 1
    window = [
        [padded[:, i : i + rows : m, j : j + columns : m] for j in range(m + 2)]
        for i in range(m + 2)
    ]
    return _rounded(_transform(window, IMAGE[m]), images.dtype)


def _transform_slope(slope: jax.Array, m: int) -> Grid:
    """Gradient of the output (n, h, w, out) -> (m + 2)^2 arrays: `_transform_output`'s adjoint."""
    slope = lax.optimization_barrier(slope)
    n, h, w, out = slope.shape
    down, across = -(-h // m), -(-w // m)
    padded = jnp.pad(slope, ((0, 0), (0, down * m - h), (0, across * m - w), (0, 0)))
    tiles = padded.reshape(n, down, m, across, m, out)
    window = [[tiles[:, :, i, :, j] for j in range(m)] for i in range(m)]
    return _rounded(_transform(window, _transpose(OUTPUT[m])), slope.dtype)


def _transform_kernel(kernel: jax.Array, m: int) -> Grid:
    """Kernel (3, 3, c, out) -> (m + 2)^2 arrays (c, out)."""
    entries = [[kernel[i, j].astype(jnp.float32) for j in range(3)] for i in range(3)]
    grid = _rounded(_transform(entries, KERNEL[m]), kernel.dtype)
    # Keeps a transposed kernel from being folded into the product, which is slower for it.
    return lax.optimization_barrier(grid)


def _transform(grid: Grid, matrix: Matrix) -> Grid:
    """matrix . grid . matrix^T, where the grid's entries are arrays."""
    by_column = [
        [_combine(row, [line[j] for line in grid]) for j in range(len(grid[0]))] for row in matrix
    ]
    return [[_combine(row, line) for row in matrix] for line in by_column]


def _combine(weights: Sequence[float], arrays: Sequence[jax.Array]) -> jax.Array:
    """The weighted sum of arrays, in float32, without the terms that are zero."""
    terms = [
        array.astype(jnp.float32) if weight == 1 else array.astype(jnp.float32) * weight
        for weight, array in zip(weights, arrays, strict=True)
        if weight != 0
    ]
    return sum(terms[1:], start=terms[0])


def _join(grid: Grid, h: int, w: int) -> jax.Array:
    """m x m arrays (n, down, across, out) -> (n, h, w, out), cut to size."""
    tiles = jnp.stack([jnp.stack(row, axis=3) for row in grid], axis=2)
    n, down, m, across, _, out = tiles.shape
    return tiles.reshape(n, down * m, across * m, out)[:, :h, :w]


def _rounded(grid: Grid, dtype: jnp.dtype) -> Grid:
    return [[array.astype(dtype) for array in row] for row in grid]


def _transpose(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


# ---- pooling ----------------------------------------------------------------------------------


@jax.custom_vjp
def _max_pool(images: jax.Array) -> jax.Array:
    return lax.platform_dependent(images, cpu=_window_max, default=_library_max_pool)


def _max_pool_forward(images: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    pooled = _max_pool(images)
    return pooled, (images, pooled)


def _max_pool_backward(saved: tuple[jax.Array, jax.Array], slope: jax.Array) -> tuple[jax.Array]:
    gradient = lax.platform_dependent(
        *saved, slope, cpu=_window_max_gradient, default=_library_max_pool_gradient
    )
    return (gradient,)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _library_max_pool(images: jax.Array) -> jax.Array:
    return lax.reduce_window(images, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _library_max_pool_gradient(images: jax.Array, pooled: jax.Array, slope: jax.Array) -> jax.Array:
    del pooled
    _, pull = jax.vjp(_library_max_pool, images)
    return pull(slope)[0]


def _windows(images: jax.Array) -> list[jax.Array]:
    """The four arrays (n, h // 2, w // 2, c) of each window's corners, in reading order."""
    _, h, w, _ = images.shape
    h, w = h // 2 * 2, w // 2 * 2
    return [images[:, i:h:2, j:w:2] for i in range(2) for j in range(2)]


def _window_max(images: jax.Array) -> jax.Array:
    a, b, c, d = _windows(images)
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def _window_max_gradient(images: jax.Array, pooled: jax.Array, slope: jax.Array) -> jax.Array:
    _, h, w, _ = images.shape
    taken = jnp.zeros(pooled.shape, bool)
    parts = []
    for corner in _windows(images):
        wins = (corner == pooled) & ~taken
        parts.append(jnp.where(wins, slope, 0))
        taken = taken | wins
    gradient = _join([parts[:2], parts[2:]], h // 2 * 2, w // 2 * 2)
    return jnp.pad(gradient, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
