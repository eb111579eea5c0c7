"""3 x 3 convolution, alone or followed by 2 x 2 max-pooling, with our own passes on CPU.

XLA's CPU backend computes a convolution's forward pass well and its gradients several times
slower, and max-pooling's gradient element by element. Here both are written as what that backend
does best: a few large matrix products, with element-wise work between them. Other platforms keep
the library's own; which one runs is settled when the program is lowered for its device.

The convolution is Winograd's minimal filtering (Lavin and Gray, Fast algorithms for convolutional
neural networks, CVPR 2016, sections 3 and 4): a 4 x 4 tile of the output takes 36 multiplications
in place of 144. The gradients are its adjoint, so that they save as much.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Side of an output tile. At 4 float32 keeps five digits; a larger one would save more products and
# keep fewer.
TILE = 4

# One row per output of the transform, along one side of a tile: B^T, G and A^T in the paper.
IMAGE = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
OUTPUT = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)


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
    _, h, w, _ = like.shape
    return _gradients(like, tiles, weights, _split(slope, *_tiles(h, w), TILE))


_convolve.defvjp(_convolve_forward, _convolve_backward)


@jax.custom_vjp
def _convolve_and_pool(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolve_and_pool_forward(images, kernel)[0]


def _convolve_and_pool_forward(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Saved]:
    _, h, w, _ = images.shape
    tiles, weights = transform_images(images), transform_kernel(kernel)
    full = _mix(OUTPUT, multiply(tiles, weights))
    upper, lower = (jnp.maximum(*row) for row in _corners(full))
    pooled = jnp.maximum(upper, lower).reshape(-1, *full.shape[1:])
    # In a pass of its own: else what the gradient keeps is all of `full`, not a byte a window.
    saved = _like(images), tiles, weights, _alone(_first_largest, full)
    return _join(pooled, h // 2, w // 2).astype(images.dtype), saved


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
    slopes = _alone(lambda slope: _split(slope, *_tiles(h, w), half), slope)
    within = slopes.shape[1:]
    corner = jnp.arange(4, dtype=jnp.int8).reshape(1, 2, 1, 2, 1, 1, 1, 1)
    spread = jnp.where(
        winner[:, None, :, None] == corner, slopes.reshape(half, 1, half, 1, *within), 0
    )
    return _gradients(like, tiles, weights, spread.reshape(4 * half * half, *within))


_convolve_and_pool.defvjp(_convolve_and_pool_forward, _convolve_and_pool_backward)


def _like(images: jax.Array) -> jax.Array:
    """No images, of the same size, channels and dtype."""
    return jnp.zeros((0, *images.shape[1:]), images.dtype)


def _gradients(
    like: jax.Array, tiles: jax.Array, weights: jax.Array, slopes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The images' and the kernel's gradients, from the output's (TILE^2, n, down, across, out)."""
    _, h, w, _ = like.shape
    slopes = _mix(OUTPUT.T, slopes)
    kernel_slope = _mix(KERNEL.T, _correlate(tiles, slopes)).reshape(3, 3, *weights.shape[1:])
    image_slope = _add_windows(_mix(IMAGE.T, multiply(slopes, weights.swapaxes(1, 2))), h, w)
    return image_slope.astype(like.dtype), kernel_slope.astype(like.dtype)


def output_image(products: jax.Array, h: int, w: int) -> jax.Array:
    """The products of tiles and weights -> the output (n, h, w, out) in float32."""
    return _join(_mix(OUTPUT, products), h, w)


def multiply(tiles: jax.Array, weights: jax.Array) -> jax.Array:
    """(p, n, down, across, c) x (p, c, out) -> float32 (p, n, down, across, out)."""
    flat = tiles.reshape(len(tiles), -1, tiles.shape[-1])
    products = jnp.matmul(flat, weights, preferred_element_type=jnp.float32)
    return products.reshape(*tiles.shape[:-1], -1)


def _correlate(tiles: jax.Array, slopes: jax.Array) -> jax.Array:
    """(p, n, down, across, c) and (..., out) -> float32 (p, c, out), summed over all tiles."""
    flat = (x.reshape(len(x), -1, x.shape[-1]) for x in (tiles, slopes))
    return jnp.einsum("ptc,pto->pco", *flat, preferred_element_type=jnp.float32)


# ---- transforms -------------------------------------------------------------------------------


def transform_images(images: jax.Array) -> jax.Array:
    """Images (n, h, w, c) -> float32 ((TILE + 2)^2, n, down, across, c), a row an entry.

    Sums of every fourth pixel, weighted, along one side and then along the other: a fifth of the
    operations of a product with whole windows, and no copies of the pixels that these share.
    """
    n, h, w, c = images.shape
    down, across = _tiles(h, w)
    ends = ((1, tiles * TILE + 1 - size) for tiles, size in ((down, h), (across, w)))
    padded = jnp.pad(images, ((0, 0), *ends, (0, 0)))
    rows = _alone(lambda padded: _transform_windows(padded[None], down), padded)
    tiles = _transform_windows(rows.reshape(TILE + 2, n * down, -1, c), across)
    return tiles.reshape(-1, n, down, across, c)


def _transform_windows(pixels: jax.Array, count: int) -> jax.Array:
    """(a, b, pixels, ...) -> float32 (a, TILE + 2, b, count, ...): windows along the third axis."""
    weights = jnp.asarray(IMAGE, jnp.float32)
    last = (count - 1) * TILE + 1
    total = jnp.float32(0)
    for i in range(TILE + 2):
        seen = lax.slice_in_dim(pixels, i, i + last, TILE, axis=2).astype(jnp.float32)
        total = total + weights[:, i].reshape(1, -1, *(1,) * (pixels.ndim - 1)) * seen[:, None]
    return total


def transform_kernel(kernel: jax.Array) -> jax.Array:
    """Kernel (3, 3, c, out) -> float32 ((TILE + 2)^2, c, out)."""
    return _mix(KERNEL, kernel.astype(jnp.float32).reshape(9, *kernel.shape[2:]))


def _mix(matrix: np.ndarray, entries: jax.Array) -> jax.Array:
    """Apply a (q, p) transform along both sides of tiles: (p^2, ...) -> float32 (q^2, ...)."""
    both, flat = np.kron(matrix, matrix), entries.reshape(len(entries), -1)
    # The transforms of bfloat16 slopes are whole numbers small enough to be exact in it.
    mixed = jnp.dot(jnp.asarray(both, flat.dtype), flat, preferred_element_type=jnp.float32)
    return mixed.reshape(-1, *entries.shape[1:])


def _tiles(h: int, w: int) -> tuple[int, int]:
    """How many tiles cover h x w outputs, (down, across)."""
    return -(-h // TILE), -(-w // TILE)


def _alone(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """What `function` gives of the arrays, made once and laid out in memory.

    XLA's CPU backend would else compute it again inside each expression that reads it. It fuses
    nothing across a branch, and the barrier hides that this one is always taken.
    """
    like = jax.eval_shape(function, *arrays)
    taken = lax.optimization_barrier(jnp.bool_(True))
    return lax.cond(taken, function, lambda *_: jnp.zeros(like.shape, like.dtype), *arrays)


def _add_windows(windows: jax.Array, h: int, w: int) -> jax.Array:
    """Entries of windows back at their pixels, (n, h, w, c), where overlapping windows add up.

    Gathers with constant indices: XLA's CPU backend makes one vectorised pass of them, where
    padding and adding takes several.
    """
    k = TILE + 2
    _, n, down, across, c = windows.shape
    grid = windows.reshape(k, k, n, down, across, c).transpose(2, 0, 1, 3, 4, 5)
    total = jnp.zeros((n, h, w, c), windows.dtype)
    for row, i, in_row in _seen_by(h, down):
        for column, j, in_column in _seen_by(w, across):
            places = i[:, None], j, row[:, None], column
            part = grid.at[:, *places].get(mode="promise_in_bounds")
            inside = (in_row[:, None] & in_column)[None, :, :, None]
            total += jnp.where(inside, part, 0)
    return total


def _seen_by(size: int, tiles: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The at most two windows along one side that see each pixel.

    Each is (which window, which of its entries, whether there is one), int and bool (size,).
    """
    window, entry = np.divmod(np.arange(size) + 1, TILE)  # the first window starts at pixel -1
    last = np.minimum(window, tiles - 1), entry, window < tiles
    overlaps = (entry < 2) & (window > 0)  # the last two entries of the window before
    before = np.maximum(window - 1, 0), np.where(entry < 2, entry + TILE, 0), overlaps
    return [last, before]


def _split(images: jax.Array, down: int, across: int, m: int) -> jax.Array:
    """(n, h, w, c) -> (m^2, n, down, across, c): m x m tiles side by side, zeros outside."""
    n, h, w, c = images.shape
    padded = jnp.pad(images, ((0, 0), (0, down * m - h), (0, across * m - w), (0, 0)))
    grid = padded.reshape(n, down, m, across, m, c).transpose(2, 4, 0, 1, 3, 5)
    return grid.reshape(m * m, n, down, across, c)


def _join(tiles: jax.Array, h: int, w: int) -> jax.Array:
    """The inverse of `_split`, cut to (n, h, w, c)."""
    m = math.isqrt(len(tiles))
    _, n, down, across, c = tiles.shape
    grid = tiles.reshape(m, m, n, down, across, c).transpose(2, 3, 0, 4, 1, 5)
    return grid.reshape(n, down * m, across * m, c)[:, :h, :w]
