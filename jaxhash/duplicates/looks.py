"""A second look at pairs whose features are less alike than those of copies: small grey pictures.

A copy that is smaller than what the network looks at is enlarged, and blurred by that: its features
move away from the original's, and its lights and darks do not.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from jaxhash.duplicates import files
from jaxhash.duplicates.pairs import Pairs

MAYBE = 0.7
"""Cosine of the features of two pictures that are looked at, at least."""
SAME = 0.99
"""Correlation of the small pictures of two copies, at least; chosen by docs/results/duplicates.md.
"""


def confirmed(
    found: Pairs, path_of: Callable[[int], str | None], *, similarity: float, same: float = SAME
) -> Pairs:
    """The pairs that are alike enough by their features, or else by their small pictures.

    Args:
        found: from `pairs.find`, with a similarity of `MAYBE` or lower.
        path_of: the file of an item; None where it has none.
        similarity: the cosine from which on no pictures are looked at.
        same: the correlation of two small pictures, at least.

    Example:
        >>> maybe = Pairs(np.array([3]), np.array([5]), np.full(1, 0.8, np.float32))
        >>> len(confirmed(maybe, {}.get, similarity=0.85).first)
        0
    """
    good = found.similarity >= similarity - 1e-6
    maybe = np.flatnonzero(~good & (found.similarity >= MAYBE))
    good[maybe] = correlations(found.first[maybe], found.second[maybe], path_of) >= same
    return Pairs(found.first[good], found.second[good], found.similarity[good])


def correlations(
    first: NDArray[np.int64], second: NDArray[np.int64], path_of: Callable[[int], str | None]
) -> NDArray[np.float32]:
    """How alike the small pictures of pairs of items are: -1 to 1, and 0 where one cannot be seen.

    Example:
        >>> correlations(np.array([3]), np.array([5]), {}.get)
        array([0.], dtype=float32)
    """
    ids, at = np.unique(np.concatenate([first, second]), return_inverse=True)
    side = files.SIDE
    looks = np.zeros((len(ids), side * side), np.float32)

    def fill(row: int) -> None:
        pattern = files.pattern(path_of(int(ids[row])))
        if pattern is not None:
            looks[row] = pattern.ravel() / max(float(np.linalg.norm(pattern)), 1e-6)

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(len(ids))))
    left, right = at.reshape(2, -1)
    together: NDArray[np.float32] = np.empty(len(left), np.float32)
    for row, (one, other) in enumerate(zip(left, right, strict=True)):
        together[row] = looks[one] @ looks[other]
    return together
