"""The items of an index in batches: id, code, feature, path and label of each."""

import copy
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxhash.items.records import ItemRecords
from search import HashIndex

MOST, BYTES = 1 << 14, 1 << 24
"""Items in a batch, at most, and bytes of their codes and features."""


class Batch(NamedTuple):
    """Some items, in the order of their ids.

    ids: int64 (m,). codes: uint8 (m, ceil(bits / 8)), pad bits zero. features: float16 or float32
    (m, d), None for an index without. paths, labels: a text or None for each.
    """

    ids: NDArray[np.int64]
    codes: NDArray[np.uint8]
    features: NDArray[np.floating] | None
    paths: list[str | None]
    labels: list[str | None]


def batches(index: HashIndex, records: ItemRecords | None = None) -> Iterator[Batch]:
    """All items of an index as it is now, by id; memory stays bounded.

    Args:
        index: to take apart.
        records: what is known of its items; by default what the index keeps.

    Example:
        >>> [batch.ids.tolist() for batch in batches(HashIndex(np.zeros((2, 1), np.uint8)))]
        [[0, 1]]
    """
    index = copy.copy(index)  # later changes of the other one are not seen
    records = ItemRecords(index) if records is None else records
    ids, step = index.ids, _step(index)
    for start in range(0, len(ids), step):
        some = ids[start : start + step]
        codes, features = index.get(some)
        paths = [as_text(records.path(item)) for item in some.tolist()]
        labels = [as_text(name) for name in records.class_names(some.tolist())]
        yield Batch(some, codes, features, paths, labels)


def dimensions(index: HashIndex) -> tuple[np.dtype, int] | None:
    """Type and length of an index's features; None for one without.

    Example:
        >>> dimensions(HashIndex(np.zeros((2, 1), np.uint8))) is None
        True
    """
    _, features = index.get([])
    return None if features is None else (features.dtype, features.shape[1])


def as_text(name: str | None) -> str | None:
    r"""A name in characters that every database takes: bytes that are not UTF-8 become \xNN.

    Example:
        >>> print(as_text("caf\udce9.jpg"))
        caf\xe9.jpg
    """
    return None if name is None else os.fsencode(name).decode("utf-8", "backslashreplace")


def _step(index: HashIndex) -> int:
    kind = dimensions(index)
    row = (index.bits + 7) // 8 + (0 if kind is None else kind[0].itemsize * kind[1])
    return max(1, min(MOST, BYTES // row))
