"""Codes left as they lie, row by row: for arrays and files that are not to be converted."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.collection.merge import merge_checked
from search.filters import Filter, as_filter
from search.hamming import scan

# Codes rearranged at a time: what a thread's share of the last cache level holds.
CHUNK_BYTES = 1 << 23


@dataclass(frozen=True)
class Rows:
    """Packed codes (n, ceil(bits / 8)), scanned by rearranging one piece after the other.

    Slower than `scan.Blocks`, which do not rearrange, but nothing is converted or copied: an
    `.npy` file of codes can be searched where it is mapped. Pad bits are masked in passing.

    Example:
        >>> Rows(np.array([[7], [1]], np.uint8), 8).knn(np.zeros((1, 1), np.uint8), 1)
        (array([[1]], dtype=int32), array([[1]]))
    """

    codes: NDArray[np.uint8]
    bits: int

    def __len__(self) -> int:
        return len(self.codes)

    def _pieces(self, threads: int | None) -> Iterator[tuple[int, int, scan.Blocks]]:
        """(first row, one past the last, the piece as blocks), one after the other."""
        step = max(scan.BLOCK, CHUNK_BYTES // self.codes.shape[1] // scan.BLOCK * scan.BLOCK)
        for start in range(0, max(1, len(self.codes)), step):
            piece = self.codes[start : start + step]
            yield start, start + len(piece), scan.arrange(piece, self.bits, threads=threads)

    def knn(
        self,
        queries: NDArray[np.uint8],
        k: int,
        *,
        allowed: NDArray[np.bool_] | Filter | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """As `scan.knn`."""
        mask = None if allowed is None else as_filter(allowed, len(self)).allowed
        best: tuple[NDArray, NDArray] | None = None
        for start, stop, blocks in self._pieces(threads):
            part = None if mask is None else mask[start:stop]
            distances, rows = scan.knn(blocks, queries, k, allowed=part, threads=threads)
            np.add(rows, start, out=rows, where=rows >= 0)
            found = distances, rows
            best = found if best is None else merge_checked([best, found], k)
        assert best is not None
        return best

    def radius(
        self,
        queries: NDArray[np.uint8],
        radius: int,
        *,
        allowed: NDArray[np.bool_] | Filter | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        """As `scan.radius`."""
        mask = None if allowed is None else as_filter(allowed, len(self)).allowed
        parts = []
        for start, stop, blocks in self._pieces(threads):
            part = None if mask is None else mask[start:stop]
            found = scan.radius(blocks, queries, radius, allowed=part, threads=threads)
            parts.append((found[0], found[1], found[2] + start))
        return join(parts)


def join(
    parts: list[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]],
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Radius results of several parts of a database as one, in (distance, id) order.

    Example:
        >>> part = np.array([0, 1]), np.array([3], np.int32), np.array([5])
        >>> join([part, (part[0], part[1] - 1, part[2] + 1)])[2]
        array([6, 5])
    """
    if len(parts) == 1:
        return parts[0]
    queries = len(parts[0][0]) - 1
    owners = np.concatenate([np.repeat(np.arange(queries), np.diff(part[0])) for part in parts])
    distances = np.concatenate([part[1] for part in parts])
    ids = np.concatenate([part[2] for part in parts])
    order = np.lexsort((ids, distances, owners))
    offsets = np.sum([part[0] for part in parts], axis=0)
    return offsets, distances[order], ids[order]
