"""Counting items by distance and relevance, chunk by chunk over the queries, on several threads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search import threads as pool
from search.codes import check_count, pad_mask, refuse_subclass, validate
from search.kernels import ranking as kernels
from search.measures.relevance import Relevance, relate, words

# Queries counted per task: enough work to hand to a thread, few enough that the counts of 4,096
# bits stay within a few megabytes.
CHUNK = 128


@dataclass(frozen=True)
class Counter:
    """Checked and laid out arguments, ready to be counted chunk by chunk.

    Attributes:
        queries: uint64 (q, words).
        codes: uint64 (words, n), so that vector registers fill with one word of many codes.
        relevance: labels of both.
        bits: number of bits in a code.
        exclude: int64 (q,) database row each query leaves out, -1 for none, or None.
    """

    queries: NDArray[np.uint64]
    codes: NDArray[np.uint64]
    relevance: Relevance
    bits: int
    exclude: NDArray[np.int64] | None

    @classmethod
    def of(
        cls,
        query_codes: NDArray[np.uint8],
        database_codes: NDArray[np.uint8],
        query_labels: NDArray[Any],
        database_labels: NDArray[Any],
        bits: int | None,
        exclude: NDArray[np.int64] | None,
    ) -> "Counter":
        """Check the arguments that every measure shares; errors name them."""
        query_codes, bits = validate(query_codes, bits, "query_codes")
        database_codes, _ = validate(database_codes, bits, "database_codes")
        queries, database = len(query_codes), len(database_codes)
        if queries == 0:
            raise ValueError("query_codes must hold at least one query to be measured")
        return cls(
            _masked_words(query_codes, bits),
            np.ascontiguousarray(_masked_words(database_codes, bits).T),
            relate(query_labels, database_labels, queries, database),
            bits,
            check_exclude(exclude, queries, database),
        )

    @property
    def database(self) -> int:
        """Number of database items."""
        return self.codes.shape[1]

    @property
    def shortest(self) -> int:
        """Items in the shortest ranking: one less than the database where a query is left out."""
        return self.database - int(self.exclude is not None and bool((self.exclude >= 0).any()))

    def cuts(self, values: Sequence[int], name: str) -> NDArray[np.int64]:
        """Cut-offs as int64, each from 1 to the length of the shortest ranking."""
        return check_cuts(values, name, self.shortest)

    def each(self, part: Callable[[slice, NDArray[np.int64]], None], threads: int | None) -> None:
        """Call `part(rows, counts)` for chunks of the queries, on several threads."""

        def task(start: int) -> None:
            rows = slice(start, min(start + CHUNK, len(self.queries)))
            part(rows, self._count(rows))

        pool.run(task, [(start,) for start in range(0, len(self.queries), CHUNK)], threads)

    def found(
        self, cuts: NDArray[np.int64], threads: int | None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Expected relevant items within each cut, (q, m), and all relevant items, (q,)."""
        steps, inverse = np.unique(cuts, return_inverse=True)
        found = np.empty((len(self.queries), steps.size))
        relevant = np.empty(len(self.queries), np.int64)

        def part(rows: slice, counts: NDArray[np.int64]) -> None:
            kernels.expected_relevant(counts, steps, found[rows])
            relevant[rows] = counts[:, 1::2].sum(axis=1)

        self.each(part, threads)
        return found[:, inverse], relevant

    def _count(self, rows: slice) -> NDArray[np.int64]:
        """Items per query and distance, the relevant ones apart: see `search.kernels.ranking`."""
        queries = self.queries[rows]
        counts = np.zeros((len(queries), 2 * (self.bits + 1)), np.int64)
        count = kernels.count_by_class if self.relevance.single else kernels.count_by_mask
        count(queries, self.codes, self.relevance.query[rows], self.relevance.database, counts)
        if self.exclude is not None:
            (chosen,) = np.nonzero(self.exclude[rows] >= 0)
            left_out = self.exclude[rows][chosen]
            different = queries[chosen] ^ self.codes[:, left_out].T
            distances = np.bitwise_count(different).sum(axis=1, dtype=np.int64)
            relevant = self.relevance.of_pairs(chosen + rows.start, left_out)
            counts[chosen, 2 * distances + relevant] -= 1
        return counts


def check_exclude(
    exclude: NDArray[np.int64] | None, queries: int, database: int
) -> NDArray[np.int64] | None:
    """`exclude` as int64 (q,) of database rows or -1, or None."""
    if exclude is None:
        return None
    refuse_subclass(exclude, "exclude")
    exclude = np.asarray(exclude)
    if not np.issubdtype(exclude.dtype, np.integer):
        raise TypeError(f"exclude must be integers, not {exclude.dtype}")
    if exclude.shape != (queries,):
        raise ValueError(
            f"exclude must have the shape ({queries},), one row per query, not {exclude.shape}"
        )
    if exclude.min() < -1 or exclude.max() >= database:
        raise ValueError(
            f"exclude must be database rows below {database}, or -1 for none, not "
            f"{exclude.min()} to {exclude.max()}"
        )
    return exclude.astype(np.int64)


def check_cuts(values: Sequence[int], name: str, longest: int) -> NDArray[np.int64]:
    """Cut-offs as int64 (m,), each from 1 to `longest`."""
    cuts = np.array([check_positive(value, name) for value in values], np.int64)
    if cuts.size and cuts.max() > longest:
        raise ValueError(
            f"{name} goes up to {cuts.max()}, but the shortest ranking has only {longest} items"
        )
    return cuts


def check_positive(value: int, name: str) -> int:
    """`value` as an int of at least one."""
    if check_count(value, name) == 0:
        raise ValueError(f"{name} must be at least 1, not 0")
    return int(value)


def _masked_words(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint64]:
    """Codes as rows of 64-bit words, with whatever stands in the pad bits taken out."""
    whole = words(codes)
    whole.view(np.uint8)[:, codes.shape[1] - 1] &= pad_mask(bits)
    return whole
