"""The items of an index in batches: id, code, feature, path and label of each."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxhash.retrieval import ItemRecords
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


def batches(index: HashIndex, classes: Sequence[str] = ()) -> Iterator[Batch]:
    """All items of an index as it is now, by id; memory stays bounded.

    Args:
        index: to take apart.
        classes: names of folders that are labels, for an index that keeps files and no labels.

    Example:
        >>> [batch.ids.tolist() for batch in batches(HashIndex(np.zeros((2, 1), np.uint8)))]
        [[0, 1]]
    """
    index = copy.copy(index)  # later changes of the other one are not seen
    records, ids = ItemRecords(index), index.ids
    step = _step(index)
    for start in range(0, len(ids), step):
        some = ids[start : start + step]
        codes, features = index.get(some)
        known = some.tolist()
        paths = [None] * len(known) if records.paths is None else records.titles(known)
        labels = records.class_names(known)
        if records.labels is None and records.paths is not None:
            labels = [_folder(path, classes) for path in paths]
        yield Batch(some, codes, features, [*map(as_text, paths)], [*map(as_text, labels)])


def dimensions(index: HashIndex) -> tuple[np.dtype, int] | None:
    """Type and length of an index's features; None for one without.

    Example:
        >>> dimensions(HashIndex(np.zeros((2, 1), np.uint8))) is None
        True
    """
    _, features = index.get([])
    return None if features is None else (features.dtype, features.shape[1])


def as_text(name: str | None) -> str | None:
    """A name in characters that every database takes: bytes that are no UTF-8 as `\\udcXX`.

    Example:
        >>> as_text("caf\\udce9.jpg")
        'caf\\\\udce9.jpg'
    """
    return None if name is None else name.encode("utf-8", "backslashreplace").decode()


def _step(index: HashIndex) -> int:
    kind = dimensions(index)
    row = (index.bits + 7) // 8 + (0 if kind is None else kind[0].itemsize * kind[1])
    return max(1, min(MOST, BYTES // row))


def _folder(path: str | None, classes: Sequence[str]) -> str | None:
    folder = None if path is None else Path(path).parent.name
    return folder if folder in classes else None
