"""Winograd's transforms of tiles: by compiled vectors where they can be, else as XLA has it best.

In between, everything is (p, n, down, across, channels): entry (i, j) of a k x k tile is row
p = i * k + j. A name's compiled form is in `tiles`, which says where it can be taken.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxhash.nets.cpu import tiles
from jaxhash.nets.cpu.winograd import IMAGE, TILE

SIZE = (TILE + 2) ** 2  # entries of a window


def transform_images(images: jax.Array) -> jax.Array:
    """Images (n, h, w, c) -> float32 (SIZE, n, down, across, c), a row an entry.

    Sums of every fourth pixel, weighted, along one side and then along the other: a fifth of the
    operations of a product with whole windows, and no copies of the pixels that these share.
    """
    n, h, w, c = images.shape
    down, across = grid(h, w)
    if tiles.know(images):
        return _windows_of("images", images)
    ends = ((1, count * TILE + 1 - size) for count, size in ((down, h), (across, w)))
    padded = jnp.pad(images, ((0, 0), *ends, (0, 0)))
    rows = alone(lambda padded: _transform_windows(padded[None], down), padded)
    rows = rows.reshape(TILE + 2, n * down, padded.shape[2], c)
    windows = _transform_windows(rows, across)
    return windows.reshape(SIZE, n, down, across, c)


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
    """Kernel (3, 3, c, out) -> float32 (SIZE, c, out)."""
    entries = kernel.astype(jnp.float32).reshape(9, *kernel.shape[2:])
    return _both_sides("kernel", entries)


def kernel_gradient(slopes: jax.Array) -> jax.Array:
    """The adjoint of `transform_kernel`: (SIZE, c, out) -> (3, 3, c, out)."""
    return _both_sides("kernel_gradient", slopes).reshape(3, 3, *slopes.shape[1:])


def output_tiles(products: jax.Array) -> jax.Array:
    """The products of tiles and weights -> the output's tiles (TILE^2, n, down, across, out)."""
    return _both_sides("output_tiles", products)


def output_image(products: jax.Array, h: int, w: int) -> jax.Array:
    """`output_tiles`, as images (n, h, w, out) in float32."""
    if tiles.know(products):
        return _images_of("output", products, h, w)
    return join(output_tiles(products), h, w)


def transform_slope(slope: jax.Array) -> jax.Array:
    """The adjoint of `output_image`: (n, h, w, out) -> (SIZE, n, down, across, out)."""
    if tiles.know(slope):
        return _windows_of("slope", slope)
    return transform_slope_tiles(split(slope, *grid(*slope.shape[1:3]), TILE))


def transform_slope_tiles(slopes: jax.Array) -> jax.Array:
    """The adjoint of `output_tiles`."""
    return _both_sides("slope_tiles", slopes)


def image_gradient(products: jax.Array, h: int, w: int) -> jax.Array:
    """The adjoint of `transform_images`: (SIZE, n, down, across, c) -> (n, h, w, c)."""
    if tiles.know(products):
        return _images_of("image_gradient", products, h, w)
    return _add_windows(_both_sides("image_gradient", products), h, w)


def _windows_of(name: str, images: jax.Array) -> jax.Array:
    """By compiled vectors, images (n, h, w, c) -> (SIZE, n, down, across, c)."""
    n, h, w, c = images.shape
    down, across = grid(h, w)
    windows = tiles.transformed(name, images, (SIZE, n * down, across, c))
    return windows.reshape(SIZE, n, down, across, c)


def _images_of(name: str, windows: jax.Array, h: int, w: int) -> jax.Array:
    """By compiled vectors, windows (SIZE, n, down, across, c) -> (n, h, w, c)."""
    _, n, down, across, c = windows.shape
    planes = windows.reshape(SIZE, n * down, across, c)
    return tiles.transformed(name, planes, (n, h, w, c))


def _both_sides(name: str, entries: jax.Array) -> jax.Array:
    """Apply a transform along both sides of tiles: (p^2, ..., c) -> float32 (q^2, ..., c)."""
    between, matrix = entries.shape[1:], tiles.TRANSFORMS[name].matrix
    if tiles.know(entries):
        planes = entries.reshape(len(entries), math.prod(between[:-1]), 1, between[-1])
        made = tiles.transformed(name, planes, (len(matrix) ** 2, *planes.shape[1:]))
    else:
        both, flat = np.kron(matrix, matrix), entries.reshape(len(entries), -1)
        # The transforms of bfloat16 slopes are whole numbers small enough to be exact in it.
        made = jnp.dot(jnp.asarray(both, flat.dtype), flat, preferred_element_type=jnp.float32)
    return made.reshape(len(matrix) ** 2, *between)


def grid(h: int, w: int) -> tuple[int, int]:
    """How many tiles cover h x w outputs, (down, across)."""
    return -(-h // TILE), -(-w // TILE)


def alone(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
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
    apart = windows.reshape(k, k, n, down, across, c).transpose(2, 0, 1, 3, 4, 5)
    total = jnp.zeros((n, h, w, c), windows.dtype)
    for row, i, in_row in _seen_by(h, down):
        for column, j, in_column in _seen_by(w, across):
            places = i[:, None], j, row[:, None], column
            part = apart.at[:, *places].get(mode="promise_in_bounds")
            inside = (in_row[:, None] & in_column)[None, :, :, None]
            total += jnp.where(inside, part, 0)
    return total


def _seen_by(size: int, count: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The at most two windows along one side that see each pixel.

    Each is (which window, which of its entries, whether there is one), int and bool (size,).
    """
    window, entry = np.divmod(np.arange(size) + 1, TILE)  # the first window starts at pixel -1
    last = np.minimum(window, count - 1), entry, window < count
    overlaps = (entry < 2) & (window > 0)  # the last two entries of the window before
    before = np.maximum(window - 1, 0), np.where(entry < 2, entry + TILE, 0), overlaps
    return [last, before]


def split(images: jax.Array, down: int, across: int, m: int) -> jax.Array:
    """(n, h, w, c) -> (m^2, n, down, across, c): m x m tiles side by side, zeros outside."""
    n, h, w, c = images.shape
    padded = jnp.pad(images, ((0, 0), (0, down * m - h), (0, across * m - w), (0, 0)))
    apart = padded.reshape(n, down, m, across, m, c).transpose(2, 4, 0, 1, 3, 5)
    return apart.reshape(m * m, n, down, across, c)


def join(entries: jax.Array, h: int, w: int) -> jax.Array:
    """The inverse of `split`, cut to (n, h, w, c)."""
    m = math.isqrt(len(entries))
    _, n, down, across, c = entries.shape
    apart = entries.reshape(m, m, n, down, across, c).transpose(2, 3, 0, 4, 1, 5)
    return apart.reshape(n, down * m, across * m, c)[:, :h, :w]
