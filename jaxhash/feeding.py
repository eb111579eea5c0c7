"""How training batches reach the step: which rows, from where, and ahead of time.

The rows of every step are a pure function of the seed and the step, so that a resumed run sees
the batches that the unbroken one would have seen.
"""

import functools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxhash import sharding
from jaxhash.sampling import class_pair_batch

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
            f"batch_size is {batch_size}, and there are {images} training images: "
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
            f"batch_size is {batch_size}, and a triplet takes 3 rows: "
            f"choose a multiple of 3, for example {max(batch_size // 3, 1) * 3}"
        )

    def rows(step: int) -> np.ndarray:
        rng = np.random.default_rng((seed, step))
        return class_pair_batch(rng, labels, batch_size // 3).astype(np.int32)

    rows(0)  # unsuitable labels show now, and not in the middle of the preparations
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
    items: Any,
    rows: np.ndarray,
    labels: np.ndarray,
    batches: Iterable[np.ndarray],
    mesh: Mesh,
    *,
    ahead: int = 3,
) -> "Prefetched":
    """Batches on the devices, read and sent by a background thread while earlier ones train.

    rows: of `items`, one for each label. batches: for each step, positions in `rows`, all of one
    length. Each process reads only the part of a batch that is its own.
    """

    def produce() -> Iterator[Batch]:
        for batch in batches:
            own = batch[sharding.own_rows(len(batch), mesh)]
            yield Batch(
                sharding.distribute(np.ascontiguousarray(items[rows[own]]), len(batch), mesh),
                sharding.distribute(labels[own], len(batch), mesh),
            )

    return Prefetched(produce, ahead)


class Prefetched:
    """Iterates over what a generator function yields, running it in a thread of its own.

    At most `ahead` values wait in memory. An exception in the thread is raised where the values
    are read. Close it, or use it in a `with`, to end the thread early.

    Example:
        >>> with Prefetched(lambda: iter(range(3)), ahead=2) as values:
        ...     list(values)
        [0, 1, 2]
    """

    def __init__(self, produce: Callable[[], Iterator[Any]], ahead: int = 2) -> None:
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(produce,), daemon=True)
        self._thread.start()

    def _run(self, produce: Callable[[], Iterator[Any]]) -> None:
        try:
            for value in produce():
                if not self._put(("value", value)):
                    return
            self._put(("end", None))
        except BaseException as error:
            self._put(("error", error))

    def _put(self, message: tuple[str, Any]) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(message, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._closed.is_set():
            raise StopIteration
        kind, value = self._queue.get()
        if kind == "value":
            return value
        self.close()
        if kind == "error":
            raise value
        raise StopIteration

    def close(self) -> None:
        """End the thread; what it had ready is dropped."""
        self._closed.set()
        self._thread.join()

    def __enter__(self) -> "Prefetched":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
