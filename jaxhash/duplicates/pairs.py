"""Pairs of items whose pictures are copies of one another: near in codes, then in features."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search import HashIndex

NEIGHBOURS = 100
"""Nearest codes of an item that are compared; copies beyond are joined by way of others."""
BATCH, COMPARED = 1024, 8192
"""Items that are looked up at once, and pairs whose features are in memory at once."""
SIMILARITY = 0.85
"""Cosine of the features of two copies, at least; chosen by docs/results/duplicates.md."""
RADIUS = 0.25
"""Part of the bits in which the codes of two copies differ, at most."""


class Mirrored(NamedTuple):
    """What a model makes of the mirror images of some items.

    ids: int64 (m,). codes: uint8 (m, ceil(bits / 8)). features: float (m, d).
    """

    ids: NDArray[np.int64]
    codes: NDArray[np.uint8]
    features: NDArray[np.floating]


class Pairs(NamedTuple):
    """Pairs of ids, the smaller first; each once.

    first, second: int64 (m,). similarity: float32 (m,), the cosine of their features.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarity: NDArray[np.float32]


def find(
    index: HashIndex,
    *,
    similarity: float = SIMILARITY,
    radius: int | None = None,
    mirrored: Iterable[Mirrored] | None = None,
    on_batch: Callable[[int], Any] | None = None,
) -> Pairs:
    """Find the pairs of an index.

    Args:
        index: with features.
        similarity: the cosine of two copies' features, at least; above 0, at most 1.
        radius: largest Hamming distance of their codes; a quarter of the bits by default.
        mirrored: look for items near to these mirror images instead; in batches.
        on_batch: called with the number of items of each batch that was looked up.

    Returns:
        The pairs, sorted by ids.

    Raises:
        ValueError: the index keeps no features, or a number is out of range.

    Example:
        >>> alike = np.ones((2, 3), np.float32)
        >>> find(HashIndex(np.zeros((2, 1), np.uint8), features=alike)).second
        array([1])
    """
    check(similarity)
    if radius is None:
        radius = int(index.bits * RADIUS)
    if radius < 0:
        raise ValueError(f"radius is {radius}; give 0 or more")
    if index.get([])[1] is None:
        raise ValueError("the index keeps no features to compare; encode its images with features")
    found: list[Pairs] = []
    for ids, codes, features in _items(index) if mirrored is None else mirrored:
        found.append(_near(index, ids, codes, features, radius, similarity))
        if on_batch is not None:
            on_batch(len(ids))
    return best(found)


def check(similarity: float) -> None:
    """Refuse what is no similarity of two copies.

    Raises:
        ValueError: it is out of range.

    Example:
        >>> check(0.9)
    """
    if not 0 < similarity <= 1:
        raise ValueError(f"similarity is {similarity}; give a number above 0 and up to 1")


def _items(index: HashIndex) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    ids = index.ids
    for start in range(0, len(ids), BATCH):
        codes, features = index.get(ids[start : start + BATCH])
        assert features is not None
        yield ids[start : start + BATCH], codes, features


def _near(
    index: HashIndex,
    ids: NDArray[np.int64],
    codes: NDArray[np.uint8],
    features: NDArray[np.floating],
    radius: int,
    similarity: float,
) -> Pairs:
    """The pairs of some items, or of their mirror images, with items of the index."""
    count = min(NEIGHBOURS + 1, len(index))  # and the item itself
    _, others = index.search(codes, count, radius=radius)
    rows, places = np.nonzero((others >= 0) & (others != ids[:, None]))
    others = others[rows, places]
    own, cosine = _unit(features), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), COMPARED):
        part = slice(start, start + COMPARED)
        distinct, at = np.unique(others[part], return_inverse=True)
        theirs = index.get(distinct)[1]
        assert theirs is not None
        cosine[part] = np.einsum("ij,ij->i", own[rows[part]], _unit(theirs)[at])
    good = cosine >= similarity - 1e-6  # equal ones round to a little below 1
    one, other = ids[rows[good]], others[good]
    first, second = np.minimum(one, other), np.maximum(one, other)
    return Pairs(first, second, np.minimum(cosine[good], 1))


def best(found: Sequence[Pairs]) -> Pairs:
    """Pairs of several searches, each once, as it is most alike.

    Example:
        >>> best([find(index), find(index, mirrored=batches)])  # doctest: +SKIP
    """
    if not found:
        none = np.empty(0, np.int64)
        return Pairs(none, none, np.empty(0, np.float32))
    first, second, cosine = map(np.concatenate, zip(*found, strict=True))
    order = np.lexsort((-cosine, second, first))
    first, second = first[order], second[order]
    new = np.ones(len(order), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return Pairs(first[new], second[new], cosine[order][new])


def _unit(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Features of length 1; of length 0 where they are 0."""
    single = features.astype(np.float32)
    length: NDArray[np.float32] = np.linalg.norm(single, axis=1, keepdims=True)
    length[length == 0] = 1
    single /= length
    return single
