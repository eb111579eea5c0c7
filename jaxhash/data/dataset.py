"""`Dataset`: labelled images or features, the form that every source is loaded into."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

PARTS = ("train", "validation", "test", "database", "query", "all")
"""The names a part of a dataset can have; `all` is the only part of a dataset without a split."""


class Items(Protocol):
    """The interface of `Dataset.items`: length, shape, dtype, and batches by row numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, height, width, channels) of images or (n, d) of features."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of what indexing returns."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images or feature vectors, all parts in one sequence, parts as row numbers.

    Attributes:
        name: What to call it in results, e.g. "cifar10" or the folder's name.
        kind: "images" or "features".
        items: uint8 (n, height, width, channels) or float32 (n, d). A NumPy array, a memory map,
            or a lazy sequence; `items[row_numbers]` gives an array for every one of them.
        labels: int32 (n,) class numbers, or bool (n, classes) where an item can have several
            classes; None where nothing is labelled.
        parts: int64 row numbers by part name, disjoint: some of `PARTS`.
        classes: Class names; class number c is `classes[c]`.
        paths: Where each image came from, as the operating system spells it, or None.
        skipped: (path, reason) of every file that was left out.
        passed: number of files that are no images, by kind, such as "videos".
        digests: of files that were decoded into `items`, the head of each one's SHA-256, uint8
            (n, `decoding.DIGEST_BYTES`); None where that was not noted.

    Raises:
        ValueError: where the fields do not fit together.

    Example:
        >>> import numpy as np
        >>> pixels = np.zeros((4, 8, 8, 1), np.uint8)
        >>> labels = np.array([0, 1, 0, 1], np.int32)
        >>> parts = {"train": np.array([0, 1]), "test": np.array([2, 3])}
        >>> len(Dataset("tiny", "images", pixels, labels, parts, ("cat", "dog")))
        4
    """

    name: str
    kind: Literal["images", "features"]
    items: Items
    labels: np.ndarray | None
    parts: dict[str, np.ndarray]
    classes: tuple[str, ...]
    paths: tuple[str, ...] | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    passed: dict[str, int] = field(default_factory=dict)
    digests: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Refuses fields that contradict each other."""
        n = len(self.items)
        if n == 0:
            raise ValueError(f"{self.name}: no items to load")
        dtype, axes = ("uint8", 4) if self.kind == "images" else ("float32", 2)
        if self.items.dtype != np.dtype(dtype) or len(self.items.shape) != axes:
            raise ValueError(
                f"{self.name}: {self.kind} are {dtype} with {axes} axes, not {self.items.dtype} "
                f"with {len(self.items.shape)}"
            )
        if self.labels is not None:
            check_labels(self.name, self.labels, n, len(self.classes))
        if self.paths is not None and len(self.paths) != n:
            raise ValueError(f"{self.name}: {len(self.paths)} paths for {n} items")
        if self.digests is not None and len(self.digests) != n:
            raise ValueError(f"{self.name}: {len(self.digests)} digests for {n} items")
        seen = np.zeros(n, bool)
        for part, rows in self.parts.items():
            if part not in PARTS:
                raise ValueError(f"{self.name}: a part is one of {', '.join(PARTS)}, not {part!r}")
            if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
                raise ValueError(f"{self.name}: part {part!r} must be a 1-d array of row numbers")
            if rows.size and (rows.min() < 0 or rows.max() >= n):
                raise ValueError(f"{self.name}: part {part!r} has rows outside 0..{n - 1}")
            if seen[rows].any() or np.unique(rows).size != rows.size:
                raise ValueError(f"{self.name}: part {part!r} repeats rows; parts are disjoint")
            seen[rows] = True

    def __len__(self) -> int:
        """Number of items in all parts."""
        return len(self.items)

    @property
    def multi_label(self) -> bool:
        """Whether an item can belong to several classes."""
        return self.labels is not None and self.labels.ndim == 2


def check_labels(name: str, labels: np.ndarray, n: int, classes: int) -> None:
    """Refuses labels that are not one class number, or one row of flags, for each of n items."""
    if len(labels) != n:
        raise ValueError(f"{name}: {len(labels)} labels for {n} items")
    if labels.ndim == 1 and labels.dtype == np.int32:
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"{name}: class numbers run from {labels.min()} to {labels.max()}, but there are "
                f"{classes} classes"
            )
    elif labels.ndim == 2 and labels.dtype == np.bool_:
        if labels.shape[1] != classes:
            raise ValueError(f"{name}: {labels.shape[1]} label columns for {classes} classes")
    else:
        raise ValueError(
            f"{name}: labels are int32 (n,) or bool (n, classes), not {labels.dtype} with "
            f"{labels.ndim} axes"
        )


def consecutive_parts(sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Row numbers of parts that lie one behind the other.

    Example:
        >>> consecutive_parts({"train": 2, "test": 1})
        {'train': array([0, 1]), 'test': array([2])}
    """
    parts, start = {}, 0
    for part, size in sizes.items():
        parts[part] = np.arange(start, start + size, dtype=np.int64)
        start += size
    return parts


def as_rows(index: Any, n: int) -> tuple[np.ndarray, bool]:
    """An index into n rows as int64 row numbers, and whether it named a single row.

    Args:
        index: An integer, a slice, a list or array of integers (negative ones count from the
            end), or a boolean mask of length n.
        n: Number of rows.

    Raises:
        IndexError: for anything else, and for rows that do not exist.

    Example:
        >>> as_rows(slice(0, 6, 2), 5)
        (array([0, 2, 4]), False)
    """
    if isinstance(index, slice):
        return np.arange(*index.indices(n), dtype=np.int64), False
    rows = np.asarray(index)
    if rows.size == 0 and isinstance(index, Sequence):
        rows = rows.astype(np.int64)
    if rows.dtype == np.bool_:
        if rows.shape != (n,):
            raise IndexError(f"a boolean index needs shape ({n},), not {rows.shape}")
        return np.flatnonzero(rows), False
    if rows.ndim > 1 or not np.issubdtype(rows.dtype, np.integer):
        raise IndexError("rows are chosen by an integer, a slice, integers or a boolean mask")
    rows = rows.astype(np.int64)
    if rows.size and (rows.min() < -n or rows.max() >= n):
        raise IndexError(f"row {rows.max() if rows.max() >= n else rows.min()} of {n} rows")
    single = rows.ndim == 0
    rows = np.atleast_1d(rows)
    return np.where(rows < 0, rows + n, rows), single
