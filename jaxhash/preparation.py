"""Stored images or features made ready for a network: channels, size and scale, on the device."""

import jax
import jax.numpy as jnp


def prepare(
    items: jax.Array, mean: jax.Array, std: jax.Array, size: int | None = None
) -> jax.Array:
    """Stored items -> what a network takes: float32, resized, zero mean and unit spread.

    items: uint8 (n, h, w, c), brought to [0, 1] first, or float (n, d) features, taken as they
    are. mean, std: (c,) or (d,), in those units. size: side in pixels of the square result, for
    which the middle of the longer side is kept, as of files; None keeps the items' own. Shrinking
    averages over the pixels it drops.

    Raises:
        ValueError: mean or std do not fit the last axis, or size is given for features.

    Example:
        >>> white = jnp.full((1, 8, 8, 1), 255, jnp.uint8)
        >>> prepare(white, jnp.array([0.5]), jnp.array([0.5]), size=32).shape
        (1, 32, 32, 1)
    """
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    for name, value in (("mean", mean), ("std", std)):
        if value.shape != items.shape[-1:]:
            raise ValueError(
                f"{name} has shape {value.shape} for items of shape {items.shape}; give one value "
                "for each channel"
            )
    x = items.astype(jnp.float32)
    if items.dtype == jnp.uint8:
        x = x / 255
    if size is not None:
        if items.ndim != 4:
            raise ValueError(f"size is {size}, but items of shape {items.shape} are no images")
        if items.shape[1:3] != (size, size):
            n, height, width, c = items.shape
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            x = x[:, top : top + side, left : left + side]
            x = jax.image.resize(x, (n, size, size, c), "linear", antialias=True)
    per_channel = (1,) * (x.ndim - 1) + (-1,)
    return (x - mean.reshape(per_channel)) / std.reshape(per_channel)


def with_channels(images: jax.Array, channels: int) -> jax.Array:
    """uint8 (n, h, w, c) -> (n, h, w, channels): grey spread over RGB, or RGB as its luma.

    Raises:
        ValueError: another number of channels.

    Example:
        >>> with_channels(jnp.full((1, 2, 2, 3), 200, jnp.uint8), 1)[0, 0, 0].tolist()
        [200]
    """
    have = images.shape[-1]
    if have == channels:
        return images
    if have == 1:
        return jnp.broadcast_to(images, (*images.shape[:-1], channels))
    if (have, channels) == (3, 1):
        # ITU-R BT.601, as every decoder of greyscale images has it.
        luma = images.astype(jnp.float32) @ jnp.array([[0.299], [0.587], [0.114]])
        return jnp.round(luma).astype(jnp.uint8)
    raise ValueError(f"the model takes images of {channels} channels, and got {have}")
