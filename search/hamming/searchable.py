"""What can be searched: a protocol of two methods, and codes in blocks that meet it by a scan."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from search.filters import Filter
from search.hamming import scan
from search.hamming.blocks import Blocks
from search.merging import Within

Nearest = tuple[NDArray[np.int32], NDArray[np.int64]]


class Searchable(Protocol):
    """Codes that can be searched: `Scanned`, `search.hamming.buckets.Buckets`, `...tables.Tables`.

    Arguments and results are those of `scan.knn` and `scan.radius`, ties included: implementations
    differ in time and memory alone.
    """

    @property
    def blocks(self) -> Blocks:
        """The codes that a scan compares with each query."""
        ...

    def knn(
        self,
        queries: NDArray[np.uint8],
        k: int,
        *,
        allowed: NDArray[np.bool_] | Filter | None = None,
        threads: int | None = None,
    ) -> Nearest:
        """The k nearest codes of every query by Hamming distance, ties by row."""
        ...

    def radius(
        self,
        queries: NDArray[np.uint8],
        radius: int | NDArray[np.integer],
        *,
        allowed: NDArray[np.bool_] | Filter | None = None,
        threads: int | None = None,
    ) -> Within:
        """All codes within a Hamming distance of every query, ties by row."""
        ...


@dataclass(frozen=True)
class Scanned:
    """A database that is searched by a scan, or a copy of some of its rows.

    Attributes:
        blocks: the n codes.
        rows: int64 (n,), ascending: the rows that the codes have in their database; None when
            they are all of it, row by row.

    Example:
        >>> from search.hamming.blocks import arrange
        >>> few = Scanned(arrange(np.array([[7], [1]], np.uint8)), np.array([20, 30]))
        >>> few.knn(np.array([[0]], np.uint8), 1)
        (array([[1]], dtype=int32), array([[30]]))
    """

    blocks: Blocks
    rows: NDArray[np.int64] | None = None

    def knn(
        self,
        queries: NDArray[np.uint8],
        k: int,
        *,
        allowed: NDArray[np.bool_] | Filter | None = None,
        threads: int | None = None,
    ) -> Nearest:
        """As `scan.knn`."""
        distances, found = scan.knn(self.blocks, queries, k, allowed=allowed, threads=threads)
        if self.rows is not None and len(self.rows):
            found = np.where(found < 0, scan.NO_ROW, self.rows[found])
        return distances, found

    def radius(
        self,
        queries: NDArray[np.uint8],
        radius: int | NDArray[np.integer],
        *,
        allowed: NDArray[np.bool_] | Filter | None = None,
        threads: int | None = None,
    ) -> Within:
        """As `scan.radius`."""
        offsets, distances, found = scan.radius(
            self.blocks, queries, radius, allowed=allowed, threads=threads
        )
        return offsets, distances, found if self.rows is None else self.rows[found]
