"""Approximate search with a stated recall: how many cells it takes is measured, not assumed.

Recall is counted by distance: of the k that a search finds, the share that is no farther than the
true k-th nearest. It is measured on a sample of the database's own codes, each searched among the
others, and so holds for queries that are like the database.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from search.filters import Filter
from search.hamming.blocks import Blocks, take
from search.hamming.cells import Cells
from search.hamming.searchable import Nearest, Searchable, Within

_SAMPLE = 1024  # queries that the recall is measured with, of
_DRAWN = 64  # times as many places that are looked at for them
_LEAST = 1 << 16  # codes below which the exact search is as fast
_FEW = 4  # times as many codes as neighbours, at least, for cells to be of use
_SEEN = 0.5  # share of the codes that cells may compare, at most, to be faster than all of them


def worthwhile(exact: Searchable) -> bool:
    """Whether there are so many codes that cells may be faster than to compare them all.

    Example:
        >>> from search.hamming.blocks import arrange
        >>> from search.hamming.searchable import Scanned
        >>> worthwhile(Scanned(arrange(np.zeros((500, 4), np.uint8))))
        False
    """
    return len(exact.blocks) >= _LEAST


@dataclass(frozen=True)
class Probed:
    """Cells of which the nearest few are searched: `knn` is approximate, `radius` is not."""

    cells: Cells
    probes: int
    exact: Searchable

    @property
    def blocks(self) -> Blocks:
        """The codes that are compared."""
        return self.cells.blocks

    def knn(
        self,
        queries: NDArray[np.uint8],
        k: int,
        *,
        allowed: NDArray[np.bool_] | Filter | None = None,
        threads: int | None = None,
    ) -> Nearest:
        """As `scan.knn`, but that nearer codes may be in cells that were not searched.

        Where those searched hold fewer than k, the search is exact.
        """
        distances, rows = self.cells.knn(
            queries, k, probes=self.probes, allowed=allowed, threads=threads
        )
        few = np.flatnonzero((rows < 0).any(axis=1))
        if len(few):
            distances[few], rows[few] = self.exact.knn(
                queries[few], k, allowed=allowed, threads=threads
            )
        return distances, rows

    def radius(
        self,
        queries: NDArray[np.uint8],
        radius: int | NDArray[np.integer],
        *,
        allowed: NDArray[np.bool_] | Filter | None = None,
        threads: int | None = None,
    ) -> Within:
        """As `scan.radius`."""
        return self.exact.radius(queries, radius, allowed=allowed, threads=threads)


@dataclass(frozen=True)
class Approximate:
    """Codes in cells, beside an exact way to search them.

    Attributes:
        cells: the codes.
        exact: the same codes, searched exactly.
    """

    cells: Cells
    exact: Searchable
    _chosen: dict[tuple[int, float, int], Searchable] = field(default_factory=dict)

    def at(
        self,
        k: int,
        recall: float,
        *,
        allowed: Filter | None = None,
        threads: int | None = None,
    ) -> Searchable:
        """What finds this share of the k nearest, or more, on the average of queries.

        It is the exact search where cells would save nothing. Measured when first asked for each
        k and share, and again when a 64th of all codes has come to be allowed, or no longer is.

        Args:
            k: results for each query.
            recall: the share, above 0; from 1 on the search is exact.
            allowed: which codes may be results, as it will be in the searches.
            threads: number of threads; all processors when left out.
        """
        count = self.cells.count if allowed is None else int(np.count_nonzero(allowed.allowed))
        if recall >= 1 or k == 0 or _FEW * k >= count:
            return self.exact
        key = k, recall, -(-64 * count // self.cells.count)
        if key not in self._chosen:
            self._chosen[key] = self._choose(k, recall, allowed, threads)
        return self._chosen[key]

    def _choose(
        self, k: int, recall: float, allowed: Filter | None, threads: int | None
    ) -> Searchable:
        """The least number of cells, to a sixteenth of it, that has the recall."""
        sample = self._sample(allowed)
        if _DRAWN * len(sample) < _SAMPLE:
            return self.exact
        # The first of k + 1 is the code itself, or one that equals it.
        last = self.exact.knn(sample, k + 1, allowed=allowed, threads=threads)[0][:, -1:]

        def enough(probes: int) -> bool:
            near, _ = self.cells.knn(sample, k + 1, probes=probes, allowed=allowed, threads=threads)
            shares = (near[:, 1:] <= last).mean(axis=1)
            return bool(shares.mean() - shares.std() / np.sqrt(len(shares)) >= recall)

        few, probes, most = 0, 1, len(self.cells.centres)
        while probes < most and not enough(probes):
            few, probes = probes, min(2 * probes, most)
        while probes - few > 1 + few // 16:
            middle = (few + probes) // 2
            if enough(middle):
                probes = middle
            else:
                few = middle
        compared = self.cells.compared(sample, probes, threads)
        if compared > _SEEN * len(self.exact.blocks):
            return self.exact
        return Probed(self.cells, probes, self.exact)

    def _sample(self, allowed: Filter | None) -> NDArray[np.uint8]:
        """Allowed codes that stand for queries."""
        rng = np.random.default_rng(95)
        places = rng.integers(0, len(self.cells.blocks), _DRAWN * _SAMPLE)
        held = self.cells.mask(allowed)[places // 64] >> (places % 64).astype(np.uint64)
        return take(self.cells.blocks, places[held & np.uint64(1) == 1][:_SAMPLE])
