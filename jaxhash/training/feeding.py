"""Which rows form each training batch, and how they reach the device.

The rows of every step are a pure function of the seed and the step, so that a resumed run sees
the batches that the unbroken one would have seen.
"""

import functools
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxhash import sharding
from jaxhash.prefetch import ahead
from jaxhash.training.sampling import balanced_batch, class_pair_batch, members

SHARE_ON_DEVICE = 0.25
"""Items that take more than this share of a device's memory are streamed to it."""

Rows = Callable[[int], np.ndarray]
"""A step's number -> the rows of its batch, int32 (batch_size,), among the training items."""


class Batch(NamedTuple):
    """Items (n, ...) and their labels, int32 (n,) or bool (n, classes)."""

    items: Any
    labels: Any


# ---------------------------------------------------------------- which rows


def shuffled(seed: int, images: int, batch_size: int) -> Rows:
    """The rows of each step: epochs of all images in a new order, cut into batches.

    What does not fill a batch is left to the next order.

    Raises:
        ValueError: a batch larger than an epoch.

    Example:
        >>> rows = shuffled(seed=0, images=6, batch_size=3)
        >>> np.sort([*rows(0), *rows(1)]).tolist()
        [0, 1, 2, 3, 4, 5]
    """
    if not 1 <= batch_size <= images:
        raise ValueError(
            f"batch_size is {batch_size}, and there are {images} training images; "
            f"choose a batch_size of at most {images}"
        )
    per_epoch = images // batch_size

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(images).astype(np.int32)

    def rows(step: int) -> np.ndarray:
        epoch, batch = divmod(step, per_epoch)
        return order(epoch)[batch * batch_size : (batch + 1) * batch_size]

    return rows


def class_pairs(seed: int, labels: np.ndarray, batch_size: int) -> Rows:
    """The rows of each step as MHCLN draws them: `sampling.class_pair_batch`.

    batch_size: a multiple of 3, since a triplet takes 3 rows.

    Raises:
        ValueError: another batch_size, or labels that no triplet can be made of.
    """
    if batch_size % 3:
        raise ValueError(
            f"batch_size is {batch_size}, and a triplet takes 3 rows; "
            f"choose a multiple of 3, for example {max(batch_size // 3, 1) * 3}"
        )

    def rows(step: int) -> np.ndarray:
        rng = np.random.default_rng((seed, step))
        return class_pair_batch(rng, labels, batch_size // 3).astype(np.int32)

    rows(0)  # unsuitable labels show now, and not in the middle of the preparations
    return rows


def balanced(seed: int, labels: np.ndarray, batch_size: int) -> Rows:
    """The rows of each step, the same number of each class: `sampling.balanced_batch`.

    Raises:
        ValueError: a batch_size that the classes do not divide, or several labels an image.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1])
        >>> np.sort(labels[balanced(0, labels, batch_size=4)(7)]).tolist()
        [0, 0, 1, 1]
    """
    by_class = members(labels)
    classes = len(by_class)
    per_class = max(batch_size // classes, 1)

    def rows(step: int) -> np.ndarray:
        rng = np.random.default_rng((seed, step))
        return balanced_batch(rng, by_class, per_class).astype(np.int32)

    if batch_size != per_class * classes:
        raise ValueError(
            f"batch_size is {batch_size}, and a balanced batch takes as many of each of {classes} "
            f"classes; choose a multiple of {classes}, for example {per_class * classes}"
        )
    return rows


# ---------------------------------------------------------------- from where


def fits(items: Any, device: jax.Device) -> bool:
    """Whether items are a plain array that leaves the device most of its memory.

    Example:
        >>> fits(np.zeros((10, 8, 8, 1), np.uint8), jax.devices()[0])
        True
    """
    # A memory map is an ndarray too, but one that was mapped because it is large.
    if type(items) is not np.ndarray:
        return False
    statistics = None if device.platform == "cpu" else device.memory_stats()
    memory = (statistics or {}).get("bytes_limit", 16 * 2**30)
    return items.nbytes < SHARE_ON_DEVICE * memory


def stream(
    items: Any, train: np.ndarray, labels: np.ndarray, rows: Rows, steps: range, mesh: Mesh
) -> Generator[Batch, None, None]:
    """The batches of some steps on the devices, read and sent while earlier ones train.

    train: rows of `items`, one for each label. rows: for each step, positions in `train`. Each
    process reads only the part of a batch that is its own.
    """

    def read(step: int) -> Batch:
        batch = rows(step)
        own = batch[sharding.rows_of_this_process(len(batch), mesh)]
        return Batch(
            sharding.distribute(np.ascontiguousarray(items[train[own]]), len(batch), mesh),
            sharding.distribute(labels[own], len(batch), mesh),
        )

    return ahead(read, steps)
