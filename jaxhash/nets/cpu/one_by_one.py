"""Image by image on CPU, so that what lies between two layers stays in the processor's cache."""

from collections.abc import Callable

import jax
from jax import lax


def one_by_one(function: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
    """What a function that treats each image alone makes of all: on CPU, one after the other.

    The first layers of a network make tens of megabytes of a batch, and wait for the memory; of one
    image, they make what the cache keeps. Where there are several devices the images go in at once:
    they are split between the devices, which a loop over them would gather.

    Args:
        function: images (m, h, w, c) -> (m, ...), for m of 1 and n.
        images: (n, h, w, c).

    Returns:
        What the function returns, (n, ...).

    Example:
        >>> one_by_one(lambda images: images.sum(axis=3), jax.numpy.ones((2, 8, 8, 3))).shape
        (2, 8, 8)
    """
    if len(images) == 1 or jax.device_count() > 1:
        return function(images)
    return lax.platform_dependent(images, cpu=lambda x: each(function, x), default=function)


def each(function: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
    """`one_by_one` as a loop."""
    return lax.map(lambda image: function(image[None])[0], images)
