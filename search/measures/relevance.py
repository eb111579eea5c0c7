"""Relevance by labels, of one class each or of several, checked and laid out for speed.

Two items are relevant to each other when they share at least one label. Single labels stay
integers; several labels become bit masks of 64-bit words, so that sharing one is a bitwise and.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search import threads as pool
from search.codes import refuse_subclass
from search.kernels import ranking as kernels

# Queries whose listed items are looked up at once, which bounds the memory of the look-up.
CHUNK = 256


@dataclass(frozen=True)
class Relevance:
    """The labels of queries and database.

    Attributes:
        query: int32 (q,), or masks uint64 (q, words).
        database: int32 (n,), or masks uint64 (words, n).
    """

    query: NDArray[Any]
    database: NDArray[Any]

    @property
    def single(self) -> bool:
        """Whether every item has one class, rather than any number of labels."""
        return self.query.ndim == 1

    def of_pairs(self, queries: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether database row `rows[i]` is relevant to query `queries[i]`; shapes broadcast."""
        if self.single:
            return self.query[queries] == self.database[rows]
        relevant = np.zeros(np.broadcast_shapes(queries.shape, rows.shape), np.bool_)
        for word, masks in enumerate(self.database):
            relevant |= (self.query[queries, word] & masks[rows]) != 0
        return relevant

    def of_lists(self, ids: NDArray[np.int64], threads: int | None) -> NDArray[np.bool_]:
        """Whether each listed row is relevant to the query of its list; (q, k) like `ids`."""
        relevant = np.empty(ids.shape, np.bool_)

        def part(start: int) -> None:
            rows = ids[start : start + CHUNK]
            queries = np.arange(start, start + len(rows))[:, None]
            relevant[start : start + CHUNK] = self.of_pairs(queries, rows)

        pool.run(part, [(start,) for start in range(0, len(ids), CHUNK)], threads)
        return relevant

    def per_query(self, threads: int | None) -> NDArray[np.int64]:
        """(q,) how many database items are relevant to each query."""
        if self.single:
            classes, sizes = np.unique(self.database, return_counts=True)
            sizes = np.append(sizes, 0)
            place = np.searchsorted(classes, self.query)
            classes = np.append(classes, -1)
            return np.where(classes[place] == self.query, sizes[place], 0).astype(np.int64)
        # Images repeat their sets of labels: each distinct set is counted once.
        masks, inverse = np.unique(self.query, axis=0, return_inverse=True)
        counts = np.empty(len(masks), np.int64)

        def part(start: int) -> None:
            rows = slice(start, start + CHUNK)
            kernels.count_sharing(masks[rows], self.database, counts[rows])

        pool.run(part, [(start,) for start in range(0, len(masks), CHUNK)], threads)
        return counts[inverse.reshape(-1)]


def relate(
    query_labels: NDArray[Any], database_labels: NDArray[Any], queries: int, database: int
) -> Relevance:
    """Check the labels of `queries` queries and `database` items, and lay them out.

    Raises:
        TypeError: labels are neither integers (n,) nor bool (n, classes), or not both alike.
        ValueError: a wrong number of items or classes, or a class below 0 or beyond int32.

    Example:
        >>> relate(np.array([1]), np.array([0, 1]), 1, 2).per_query(threads=1)
        array([1])
    """
    query = _checked(query_labels, "query_labels", queries)
    rows = _checked(database_labels, "database_labels", database)
    if query.ndim != rows.ndim:
        raise TypeError(
            "query_labels and database_labels must be of one kind, both integers (n,) or both "
            f"bool (n, classes), not {query.shape} and {rows.shape}"
        )
    if query.ndim == 1:
        return Relevance(query, rows)
    if query.shape[1] != rows.shape[1]:
        raise ValueError(
            "query_labels and database_labels must have the same classes, not "
            f"{query.shape[1]} and {rows.shape[1]}"
        )
    masks = words(np.packbits(query, axis=1))
    return Relevance(masks, np.ascontiguousarray(words(np.packbits(rows, axis=1)).T))


def words(rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Rows of bytes as rows of 64-bit words, filled up with zeros; always a copy.

    Example:
        >>> words(np.zeros((3, 6), np.uint8)).shape
        (3, 1)
    """
    count, width = rows.shape
    filled = np.zeros((count, -(-width // 8) * 8), np.uint8)
    filled[:, :width] = rows
    return filled.view(np.uint64)


def _checked(labels: NDArray[Any], name: str, count: int) -> NDArray[Any]:
    """Labels as int32 (n,) or bool (n, classes)."""
    refuse_subclass(labels, name)
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.dtype != np.bool_:
        raise TypeError(
            f"{name} of shape {labels.shape} must be bool, not {labels.dtype}; "
            "several labels are given as a bool matrix (n, classes); convert with .astype(bool)"
        )
    if labels.ndim == 1 and not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"{name} of shape {labels.shape} must be integers, not {labels.dtype}")
    if labels.ndim not in (1, 2) or (labels.ndim == 2 and labels.shape[1] == 0):
        raise ValueError(f"{name} must have the shape (n,) or (n, classes), not {labels.shape}")
    if len(labels) != count:
        raise ValueError(f"{name} must have {count} rows, one per code or list, not {len(labels)}")
    if labels.ndim == 2:
        return labels
    if labels.size and (labels.min() < 0 or labels.max() > np.iinfo(np.int32).max):
        raise ValueError(
            f"{name} must be classes from 0 up, not {labels.min()} to {labels.max()}; "
            "items without a class are rows of False in a bool matrix (n, classes)"
        )
    return np.ascontiguousarray(labels, dtype=np.int32)
