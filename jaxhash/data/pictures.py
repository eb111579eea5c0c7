"""Paths, PIL images and arrays of any size, made into the batch that a model takes."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxhash.data import decoding
from jaxhash.data.decoding import Undecodable


def as_items(images: Any, item_shape: tuple[int, ...]) -> Any:
    """Turn images of any size and form into a batch of a model's size and channels.

    Each picture is brought to the size as image files are: its short side is resampled, and the
    middle of its long side kept.

    Args:
        images: one picture or a list of them: a path, a PIL image, or an array uint8 (height,
            width) or (height, width, 1 or 3). Or a batch: uint8 (n, height, width, channels) of
            any size, or, where the model takes features, float (n, d); or any lazy sequence with
            a `shape` of that form, which is returned as it is.
        item_shape: (height, width, channels) or (d,): what the model takes.

    Returns:
        uint8 (n, height, width, 1 or 3), or the features unchanged.

    Raises:
        ValueError: a picture cannot be decoded, or is of another kind.
        TypeError: something that is no picture.

    Example:
        >>> as_items(np.zeros((40, 60, 3), np.uint8), (32, 32, 3)).shape
        (1, 32, 32, 3)
    """
    if len(item_shape) == 1:
        return _features(images, item_shape[0])
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return _batch(images, item_shape)
    if hasattr(images, "shape") and not isinstance(images, np.ndarray):
        return images  # a lazy sequence or a device array that knows its size
    if is_one(images, item_shape):
        images = [images]
    if not isinstance(images, Sequence):
        raise TypeError(
            f"images must be a path, a picture, or a list of them, not {type(images).__name__}"
        )
    pixels = [_one(image, item_shape, f"image {at}") for at, image in enumerate(images)]
    return np.stack(pixels) if pixels else np.empty((0, *item_shape), np.uint8)


def is_one(images: Any, item_shape: tuple[int, ...]) -> bool:
    """Whether `as_items` takes this for a single picture: a path, a PIL image, or its array.

    Example:
        >>> is_one("a.jpg", (32, 32, 3)), is_one(["a.jpg"], (32, 32, 3))
        (True, False)
    """
    if len(item_shape) == 1:
        return False
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    return isinstance(images, str | os.PathLike | Image.Image)


def _features(images: Any, length: int) -> Any:
    if hasattr(images, "shape") and len(images.shape) == 2:
        return images
    raise ValueError(
        f"the model takes feature vectors, an array (n, {length}), and no pictures; give the "
        "features that its training data was made of"
    )


def _one(image: Any, item_shape: tuple[int, ...], name: str) -> np.ndarray:
    """A picture as uint8 (height, width, channels) of the model."""
    height, width, channels = item_shape
    size = height if height == width else None
    if isinstance(image, np.ndarray):
        if image.ndim == 2:
            image = image[:, :, None]
        if image.ndim != 3:
            raise ValueError(
                f"{name} has the shape {image.shape}; give (height, width) or (height, width, "
                "channels)"
            )
        return _batch(image[None], item_shape, name)[0]
    if isinstance(image, Image.Image):
        pixels = decoding.from_pil(image, size=size, channels=1 if channels == 1 else 3)
    elif isinstance(image, str | os.PathLike):
        try:
            pixels = decoding.decode(
                os.fspath(image), size=size, channels=1 if channels == 1 else 3
            )
        except Undecodable as error:
            raise Undecodable(f"{os.fspath(image)}: {error}") from None
    else:
        raise TypeError(
            f"{name} is {type(image).__name__}; give a path, a PIL image or an array of uint8"
        )
    return _check_size(pixels[None], item_shape, name)[0]


def _batch(images: np.ndarray, item_shape: tuple[int, ...], name: str = "images") -> np.ndarray:
    """A batch of one size, resampled where it is not the model's."""
    if images.dtype != np.uint8:
        raise ValueError(
            f"{name} must be uint8 with values 0 to 255, not {images.dtype}; for values in [0, 1] "
            "give (images * 255).round().astype(np.uint8)"
        )
    if images.shape[3] not in (1, 3):
        raise ValueError(f"{name} must have 1 or 3 channels, not {images.shape[3]}")
    if images.shape[1:3] == item_shape[:2] or not len(images):
        return images
    if min(images.shape[1:3]) < 1:
        raise ValueError(f"{name} must have pixels, not the shape {images.shape}")
    if item_shape[0] == item_shape[1]:
        return decoding.resize(images, item_shape[0])
    return _check_size(images, item_shape, name)


def _check_size(images: np.ndarray, item_shape: tuple[int, ...], name: str) -> np.ndarray:
    if images.shape[1:3] != item_shape[:2]:
        raise ValueError(
            f"{name} is {images.shape[2]} x {images.shape[1]} pixels, and the model takes "
            f"{item_shape[1]} x {item_shape[0]}, which is no square to crop to; resize it first"
        )
    return images
