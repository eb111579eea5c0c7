"""Small images that a network wants larger: a lazy sequence that enlarges on demand."""

import math
from typing import Any

import numpy as np

from jaxhash.data.dataset import Items, as_rows
from jaxhash.data.decoding import check_size, resize

MOST = 2**30
"""Bytes up to which images are enlarged at once, and kept so: reading them again costs nothing."""


class Enlarged:
    """Images as squares of another size, resampled when indexed: a batch costs its own memory.

    Args:
        images: uint8 (n, height, width, channels), as `dataset.Items`.
        size: Side in pixels; pixels are those of `decoding.resize`.

    Attributes:
        images: The images in their own size.

    Example:
        >>> import numpy as np
        >>> Enlarged(np.zeros((2, 8, 8, 3), np.uint8), 32)[[1]].shape
        (1, 32, 32, 3)
    """

    def __init__(self, images: Items, size: int) -> None:
        check_size(size)
        self.images = images
        self.size = size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, size, size, channels)."""
        return (len(self.images), self.size, self.size, self.images.shape[3])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always uint8."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Enlarges the images an integer, a slice, integers or a boolean mask names."""
        rows, single = as_rows(index, len(self))
        pixels = resize(self.images[rows], self.size)
        return pixels[0] if single else pixels


def is_large(shape: tuple[int, ...], size: int | None) -> bool:
    """Whether images become larger as squares of a size, and more than `MOST` bytes of them.

    shape: (n, height, width, channels).

    Example:
        >>> is_large((60_000, 32, 32, 3), 224), is_large((1_000, 32, 32, 3), 224)
        (True, False)
    """
    if size is None or size * size <= shape[1] * shape[2]:
        return False
    return math.prod((shape[0], size, size, shape[3])) > MOST


def resized(images: np.ndarray, size: int | None, memory_limit: int | None = None) -> Items:
    """Images as squares of a size, in memory or, where they would be large, enlarged on demand.

    images: uint8 (n, height, width, channels). size and memory_limit: as in `decoding.resize`.

    Raises:
        ValueError: as `decoding.resize`, where they are not enlarged on demand.

    Example:
        >>> import numpy as np
        >>> resized(np.zeros((2, 8, 8, 3), np.uint8), 32).shape
        (2, 32, 32, 3)
    """
    if size is not None and is_large(images.shape, size):
        return Enlarged(images, size)
    return resize(images, size, memory_limit=memory_limit)
