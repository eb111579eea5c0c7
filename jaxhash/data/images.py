"""Images too many for memory: a lazy sequence that decodes on demand."""

import os
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxhash.data.dataset import as_rows
from jaxhash.data.decoding import (
    DIGEST_BYTES,
    Undecodable,
    check_channels,
    check_size,
    decode_all,
)


class Images:
    """Image files as a sequence of uint8 arrays, decoded when indexed, on a pool of threads.

    Args:
        paths: Image files.
        size: Side in pixels: every image becomes a square, as in `decoding.decode`.
        channels: 3 for RGB, 1 for greyscale.
        threads: Number of decoding threads; all cores by default.

    Attributes:
        digests: None, or after `keep_digests` uint8 (n, `decoding.DIGEST_BYTES`): the head of the
            SHA-256 of each file that was decoded; zeros for files that were not.

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
        self.digests: np.ndarray | None = None
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

    def keep_digests(self) -> None:
        """From now on, note for each file that is decoded what its bytes were.

        Files are then read whole, once, where otherwise a decoder may read a part of them.
        """
        if self.digests is None:
            self.digests = np.zeros((len(self.paths), DIGEST_BYTES), np.uint8)

    def read(
        self, rows: np.ndarray, known: Container[bytes] = ()
    ) -> tuple[np.ndarray, list[tuple[int, str]]]:
        """Decodes rows, and says which could not be: uint8 (len(rows), ...), [(row, reason)].

        The pixels of a row that failed are zero, and so are those of files whose digests are
        `known`, which are not decoded. That needs `keep_digests`.
        """
        pixels = np.empty((len(rows), *self.shape[1:]), np.uint8)
        files = [self.paths[row] for row in rows]
        digests = None if self.digests is None else np.zeros((len(rows), DIGEST_BYTES), np.uint8)
        failed = decode_all(
            files, pixels, size=self.size, pool=self._pool, digests=digests, known=known
        )
        if self.digests is not None:
            self.digests[rows] = digests
        return pixels, [(int(rows[position]), reason) for position, reason in failed]
