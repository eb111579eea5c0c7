"""Images varied on the device, batched, inside the compiled step.

A policy is "none" or steps of `STEPS` joined by dashes, such as "crop-flip-cutout". Every image
gets its own draw. To add a step: a function `(key, images) -> images`, and a row.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def steps(policy: str) -> tuple[str, ...]:
    """The names of a policy's steps, in order.

    Raises:
        ValueError: one that is not in `STEPS`.

    Example:
        >>> steps("crop-flip"), steps("none")
        (('crop', 'flip'), ())
    """
    names = () if policy == "none" else tuple(policy.split("-"))
    for name in names:
        if name not in STEPS:
            raise ValueError(
                f"augment is {policy!r}, and {name!r} is no step; give none, or some of "
                f"{', '.join(STEPS)} joined by dashes"
            )
    return names


def augment(key: jax.Array, items: jax.Array, policy: str) -> jax.Array:
    """Vary a batch of prepared images (n, h, w, c); same shape and dtype.

    Raises:
        ValueError: an unknown step, or a policy other than "none" for features.

    Example:
        >>> augment(jax.random.key(0), jnp.zeros((2, 32, 32, 3)), "crop-flip").shape
        (2, 32, 32, 3)
    """
    names = steps(policy)
    if names and items.ndim != 4:
        raise ValueError(f"augment is {policy!r}, but features cannot be varied; give none")
    for number, name in enumerate(names):
        items = STEPS[name](jax.random.fold_in(key, number), items)
    return items


def crop(key: jax.Array, images: jax.Array) -> jax.Array:
    """Shift by up to an eighth of the side either way; what comes into view is the reflection.

    The same as padding by reflection and cropping at random.
    """
    n, height, width, _ = images.shape
    keys = jax.random.split(key)
    rows, columns = (
        _reflect(jnp.arange(side)[None] + _whole(draw, n, -(side // 8), side // 8), side)
        for draw, side in zip(keys, (height, width), strict=True)
    )
    # Gathering by index is as fast as slicing on CPU, and needs no padded copy.
    return jax.vmap(lambda image, row, column: image[row[:, None], column[None]])(
        images, rows, columns
    )


def flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror left and right, every second image on average."""
    return jnp.where(_coin(key, images), images[:, :, ::-1], images)


def turn(key: jax.Array, images: jax.Array) -> jax.Array:
    """Turn by a multiple of 90 degrees and mirror at random: for views from above, without a top.

    Raises:
        ValueError: images that are not square.
    """
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"turn needs square images, got {images.shape[1]} x {images.shape[2]}")
    across, down, swap = jax.random.split(key, 3)
    images = jnp.where(_coin(across, images), images[:, :, ::-1], images)
    images = jnp.where(_coin(down, images), images[:, ::-1], images)
    return jnp.where(_coin(swap, images), images.swapaxes(1, 2), images)


def cutout(key: jax.Array, images: jax.Array) -> jax.Array:
    """Blank a square of a quarter of the side, around any pixel, with 0: the mean after `prepare`.

    Source: DeVries and Taylor, Improved regularization of convolutional neural networks with
    cutout, 2017.
    """
    n, height, width, _ = images.shape
    inside = []
    for draw, side in zip(jax.random.split(key), (height, width), strict=True):
        first = _whole(draw, n, 0, side - 1) - side // 8
        pixels = jnp.arange(side)[None]
        inside.append((pixels >= first) & (pixels < first + side // 4))
    hole = inside[0][:, :, None, None] & inside[1][:, None, :, None]
    return jnp.where(hole, 0, images)


def affine(key: jax.Array, images: jax.Array) -> jax.Array:
    """Turn by up to 15 degrees, scale and shear by up to 15 %, shift by up to 8 %: for digits.

    Written characters keep their meaning under these, and not under a flip. Bilinear; beyond the
    border the nearest pixel goes on.
    """
    n = len(images)
    keys = jax.random.split(key, 6)
    angle = _between(keys[0], n, -jnp.pi / 12, jnp.pi / 12)
    scale_y, scale_x = (1 / _between(draw, n, 0.85, 1.15) for draw in keys[1:3])
    shear = _between(keys[3], n, -0.15, 0.15)
    # From the result's pixel to the image's: shear, then scale, then turn.
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.stack(
        [
            jnp.stack([cos * scale_y, (cos * shear - sin) * scale_x], axis=-1),
            jnp.stack([sin * scale_y, (sin * shear + cos) * scale_x], axis=-1),
        ],
        axis=1,
    )
    shift = jnp.stack([_between(draw, n, -0.08, 0.08) for draw in keys[4:]], axis=-1)
    return warp(images, matrix, shift)


def zoom(key: jax.Array, images: jax.Array) -> jax.Array:
    """Cut out a box of 1/2 to all of the area and 3:4 to 4:3 in shape, and stretch it to full size.

    Source: the usual ImageNet crop (Szegedy et al., Going deeper with convolutions, CVPR 2015),
    with boxes that are not as small.
    """
    n = len(images)
    size, shape, y, x = jax.random.split(key, 4)
    area = _between(size, n, 0.5, 1.0)
    ratio = jnp.exp(_between(shape, n, -jnp.log(4 / 3), jnp.log(4 / 3)))
    # Sides as shares of the image's; a box that sticks out is clipped to it.
    sides = jnp.minimum(jnp.stack([jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)], -1), 1)
    room = (1 - sides) / 2
    centre = jnp.stack([_between(y, n, -1, 1), _between(x, n, -1, 1)], -1) * room
    return warp(images, sides[:, :, None] * jnp.eye(2)[None], centre)


def colour(key: jax.Array, images: jax.Array) -> jax.Array:
    """Vary brightness (0.2 of the spread), contrast and saturation (by up to 20 %)."""
    n = len(images)
    keys = jax.random.split(key, 3)
    light, contrast, saturation = (
        _between(draw, n, *ends)[:, None, None, None].astype(images.dtype)
        for draw, ends in zip(keys, ((-0.2, 0.2), (0.8, 1.2), (0.8, 1.2)), strict=True)
    )
    grey = images.mean(axis=-1, keepdims=True)
    images = grey + saturation * (images - grey)
    level = images.mean(axis=(1, 2, 3), keepdims=True)
    return level + contrast * (images - level) + light


STEPS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "crop": crop,
    "flip": flip,
    "turn": turn,
    "cutout": cutout,
    "affine": affine,
    "zoom": zoom,
    "colour": colour,
}


def warp(images: jax.Array, matrix: jax.Array, shift: jax.Array) -> jax.Array:
    """Sample images (n, h, w, c) where a linear map puts their pixels, bilinearly.

    The result's pixel at p, measured from the centre in image sides, shows the image at
    matrix @ p + shift. matrix: (n, 2, 2) and shift: (n, 2), in the order (y, x). Beyond the border
    the nearest pixel goes on.

    Example:
        >>> image = jnp.arange(4.0).reshape(1, 1, 4, 1)
        >>> warp(image, jnp.eye(2)[None], jnp.array([[0.0, 0.25]])).ravel().tolist()
        [1.0, 2.0, 3.0, 3.0]
    """
    _, height, width, _ = images.shape
    grid = jnp.stack(
        jnp.meshgrid(
            *((jnp.arange(side) + 0.5) / side - 0.5 for side in (height, width)), indexing="ij"
        )
    )

    def one(image: jax.Array, matrix: jax.Array, shift: jax.Array) -> jax.Array:
        # Element by element: accelerators would round the factors of a matrix product.
        ends = []
        for axis, side in enumerate((height, width)):
            at = matrix[axis, 0] * grid[0] + matrix[axis, 1] * grid[1] + shift[axis]
            at = jnp.clip((at + 0.5) * side - 0.5, 0, side - 1)
            low = jnp.floor(at).astype(jnp.int32)
            ends.append((low, jnp.minimum(low + 1, side - 1), (at - low)[:, :, None]))
        (top, bottom, down), (left, right, across) = ends
        upper = image[top, left] * (1 - across) + image[top, right] * across
        lower = image[bottom, left] * (1 - across) + image[bottom, right] * across
        return (upper * (1 - down) + lower * down).astype(image.dtype)

    return jax.vmap(one)(images, matrix, shift)


def _reflect(index: jax.Array, side: int) -> jax.Array:
    """Mirror indices at the first and the last pixel, once, without repeating it."""
    index = jnp.abs(index)
    return jnp.where(index >= side, 2 * (side - 1) - index, index)


def _whole(key: jax.Array, n: int, low: int, high: int) -> jax.Array:
    """One whole number in low .. high for each image, int32 (n, 1)."""
    return jax.random.randint(key, (n, 1), low, high + 1)


def _between(key: jax.Array, n: int, low: float | jax.Array, high: float | jax.Array) -> jax.Array:
    return jax.random.uniform(key, (n,), minval=low, maxval=high)


def _coin(key: jax.Array, images: jax.Array) -> jax.Array:
    return jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
