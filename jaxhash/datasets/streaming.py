"""Images too many for memory: a lazy sequence that decodes on demand, and a loader over it."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxhash.datasets.dataset import Items, as_rows
from jaxhash.datasets.decoding import Undecodable, check_channels, check_size, decode_all

if TYPE_CHECKING:
    import grain


class Images:
    """Image files as a sequence of uint8 arrays, decoded when indexed, on a pool of threads.

    Args:
        paths: Image files.
        size: Side in pixels: every image becomes a square, as in `decoding.decode`.
        channels: 3 for RGB, 1 for greyscale.
        threads: Number of decoding threads; all cores by default.

    Example:
        >>> Images(["a.jpg", "b.png"], size=64).shape
        (2, 64, 64, 3)
    """

    def __init__(
        self, paths: Sequence[str], *, size: int, channels: int = 3, threads: int | None = None
    ) -> None:
        check_size(size)
        check_channels(channels)
        self.paths = tuple(paths)
        self.size = size
        self.channels = channels
        self._pool = ThreadPoolExecutor(threads or os.cpu_count(), thread_name_prefix="decode")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, size, size, channels)."""
        return (len(self.paths), self.size, self.size, self.channels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always uint8."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Decodes the images an integer, a slice, integers or a boolean mask names.

        Raises:
            Undecodable: where one of them cannot be decoded; `read` goes on without it.
        """
        rows, single = as_rows(index, len(self))
        pixels, failed = self.read(rows)
        if failed:
            row, reason = failed[0]
            raise Undecodable(f"{self.paths[row]}: {reason}")
        return pixels[0] if single else pixels

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, list[tuple[int, str]]]:
        """Decodes rows, and says which could not be: uint8 (len(rows), ...), [(row, reason)].

        The pixels of a row that failed are zero.
        """
        pixels = np.empty((len(rows), *self.shape[1:]), np.uint8)
        files = [self.paths[row] for row in rows]
        failed = decode_all(files, pixels, size=self.size, pool=self._pool)
        return pixels, [(int(rows[position]), reason) for position, reason in failed]


class Batch(NamedTuple):
    """Some rows of a dataset, and the images or features in them."""

    rows: np.ndarray
    """int64 (b,) row numbers: labels and paths are looked up with them."""
    items: np.ndarray
    """uint8 (b, height, width, channels) or float32 (b, d)."""
    failed: list[tuple[int, str]]
    """(row, reason) of rows that were left out because they could not be decoded."""


def stream(
    items: Items,
    rows: np.ndarray,
    *,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    epochs: int | None = 1,
    drop_remainder: bool = False,
    skip_undecodable: bool = False,
    prefetch: int = 2,
) -> "grain.DatasetIterator[Batch]":
    """Batches of items read ahead in the background, in an order that can be resumed exactly.

    The iterator has `get_state()` and `set_state(state)` (a small dict that JSON can hold): an
    iterator made with the same arguments and set to that state continues with the batch that
    would have come next.

    Args:
        items: What to read from, e.g. `Dataset.items`.
        rows: int64 row numbers to go through, e.g. `Split.train`.
        batch_size: Rows in a batch; the last of an epoch can be smaller.
        shuffle: Draw a new order for every epoch.
        seed: Decides the orders.
        epochs: How often to go through all rows; None goes on for ever.
        drop_remainder: Leave out a last batch that is not full.
        skip_undecodable: Leave out images that cannot be decoded and name them in
            `Batch.failed`, instead of stopping at the first.
        prefetch: Number of batches to read ahead.

    Raises:
        ValueError: where no batch can be made of the arguments.

    Example:
        >>> import numpy as np
        >>> [batch.rows.tolist() for batch in stream(np.eye(5), np.arange(5), batch_size=2)]
        [[0, 1], [2, 3], [4]]
    """
    # Half a second of imports that a dataset in memory does not need.
    import grain

    rows = np.asarray(rows, np.int64)
    if batch_size < 1:
        raise ValueError(f"batch_size: at least 1, not {batch_size}.")
    if rows.ndim != 1 or rows.size == 0:
        raise ValueError("rows: there is nothing to stream.")
    if drop_remainder and batch_size > rows.size:
        raise ValueError(f"batch_size: {batch_size} is more than the {rows.size} rows.")

    def read(positions: np.ndarray) -> Batch:
        wanted = rows[positions]
        if not (skip_undecodable and isinstance(items, Images)):
            return Batch(wanted, items[wanted], [])
        pixels, failed = items.read(wanted)
        if failed:
            good = ~np.isin(wanted, [row for row, _ in failed])
            wanted, pixels = wanted[good], pixels[good]
        return Batch(wanted, pixels, failed)

    positions = grain.MapDataset.range(rows.size)
    if shuffle:
        positions = positions.shuffle(seed=seed)
    batches = positions.batch(batch_size, drop_remainder=drop_remainder).repeat(epochs).map(read)
    # Two threads suffice: one batch is decoded by the pool while the next one is handed over.
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=max(1, prefetch))
    return iter(batches.to_iter_dataset(options))
