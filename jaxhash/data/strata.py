"""Stratified sampling of rows by their labels, of one or several classes an item."""

from collections.abc import Iterator

import numpy as np


def class_counts(labels: np.ndarray, rows: np.ndarray, classes: int) -> np.ndarray:
    """int64 (classes,): how many of the rows have each class.

    Example:
        >>> class_counts(np.array([0, 2, 2]), np.array([1, 2]), 3).tolist()
        [0, 0, 2]
    """
    if labels.ndim == 2:
        return labels[rows].sum(axis=0, dtype=np.int64)
    return np.bincount(labels[rows], minlength=classes)


def has_any(labels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """bool (n,): which items have at least one of the classes that are True in wanted."""
    if labels.ndim == 2:
        return np.asarray((labels & wanted[None]).any(axis=1))
    return np.asarray(wanted[labels])


def strata(labels: np.ndarray) -> np.ndarray:
    """One class number for each item: its class, or the rarest of its classes, or -1 for none."""
    if labels.ndim == 1:
        return labels
    counts = labels.sum(axis=0, dtype=np.int64)
    rarity = np.where(labels, counts[None], np.iinfo(np.int64).max)
    return np.where(labels.any(axis=1), np.argmin(rarity, axis=1), -1)


def draw_share(
    labels: np.ndarray,
    rows: np.ndarray,
    share: float,
    rng: np.random.Generator,
    *,
    round_up: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """A share of every class among the rows, and the other rows.

    The number of rows of a class is rounded up, or else to the nearest that leaves one row of it.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> drawn, rest = draw_share(np.repeat([0, 1], 5), np.arange(10), 0.4, rng)
        >>> np.bincount(np.repeat([0, 1], 5)[drawn]).tolist(), rest.size
        ([2, 2], 6)
    """
    drawn = np.zeros(rows.size, bool)
    for positions in _groups(strata(labels)[rows]):
        exact = share * positions.size
        # 0.07 * 100 is a little more than 7 in binary: rounded up it must not become 8.
        up, near = int(np.ceil(exact - 1e-9)), int(np.floor(exact + 0.5))
        size = up if round_up else min(near, positions.size - 1)
        drawn[rng.permutation(positions)[:size]] = True
    return rows[drawn], rows[~drawn]


def draw_total(
    labels: np.ndarray, rows: np.ndarray, total: int, rng: np.random.Generator
) -> np.ndarray:
    """A number of rows, in shares of the classes as equal as the number and the classes allow."""
    # Turn t of a class is its t-th drawn item: taking low turns first goes round the classes.
    # Within a turn the order is random, so no class is favoured when the number runs out.
    turn = np.empty(rows.size, np.int64)
    for positions in _groups(strata(labels)[rows]):
        turn[rng.permutation(positions)] = np.arange(positions.size)
    order = rng.permutation(rows.size)
    return np.sort(rows[order[np.argsort(turn[order], kind="stable")][:total]])


def draw_each(
    labels: np.ndarray, rows: np.ndarray, size: int, classes: int, rng: np.random.Generator
) -> np.ndarray:
    """So many rows for each class, no row twice, the rarest class first.

    Raises:
        LookupError: with a class number and what is left of it, where that is too little.
    """
    free = np.ones(rows.size, bool)
    own = labels[rows]
    for number in np.argsort(class_counts(labels, rows, classes), kind="stable"):
        has = own[:, number] if labels.ndim == 2 else own == number
        positions = np.flatnonzero(has & free)
        if positions.size < size:
            raise LookupError(int(number), int(positions.size))
        free[rng.choice(positions, size, replace=False)] = False
    return rows[~free]


def _groups(values: np.ndarray) -> Iterator[np.ndarray]:
    """Positions of each different value, values ascending, positions ascending."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order])) + 1
    return (group for group in np.split(order, starts) if group.size)
