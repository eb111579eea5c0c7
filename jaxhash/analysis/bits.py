"""Statistics of the bits of codes: how balanced, how independent and how class-specific they are.

Pure functions of codes uint8 (n, ceil(bits / 8)) and labels, integers (n,) or bool (n, classes).
`latents` looks at what was before the threshold, `bit_plots` draws what both return, and
`notebooks/bit_distributions.ipynb` walks through them.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

import search
from search.codes import pad_mask, validate
from search.measures.counting import Counter

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


# ---------------------------------------------------------------- single bits


def balance(codes: NDArray[np.uint8], bits: int | None = None) -> Floats:
    """The share of items for which each bit is one: float64 (bits,); balanced is 0.5.

    Raises:
        TypeError, ValueError: the codes are not codes, or there are none.

    Example:
        >>> balance(search.pack([[1, 0], [1, 1]]), 2)
        array([1. , 0.5])
    """
    return _unpack(codes, bits).mean(axis=0)


def entropy(shares: ArrayLike) -> Floats:
    """The information of a bit that is one with probability `shares`, in bits: 1 at most, at 0.5.

    Raises:
        ValueError: a share is outside [0, 1].

    Example:
        >>> entropy([0.0, 0.5, 1.0])
        array([0., 1., 0.])
    """
    ones = np.asarray(shares, np.float64)
    if not np.all((ones >= 0) & (ones <= 1)):
        raise ValueError("shares must be from 0 to 1; give what `balance` returns")
    both = np.stack([ones, 1 - ones])
    logs = np.log2(both, out=np.zeros_like(both), where=both > 0)
    return np.abs((both * logs).sum(axis=0))


def class_balance(
    codes: NDArray[np.uint8], labels: NDArray[Any], classes: int, bits: int | None = None
) -> Floats:
    """The share of each class's items for which each bit is one: what the bits respond to.

    Returns:
        float64 (classes, bits); NaN in the rows of classes without items.

    Raises:
        TypeError, ValueError: the codes are not codes, or the labels do not fit them.

    Example:
        >>> codes = search.pack([[1, 0], [1, 1], [0, 1]])
        >>> class_balance(codes, np.array([0, 0, 1]), 2, 2)
        array([[1. , 0.5],
               [0. , 1. ]])
    """
    each = _unpack(codes, bits)
    shares = np.full((classes, each.shape[1]), np.nan)
    for number in range(classes):
        members = _members(labels, number, len(each), classes)
        if members.any():
            shares[number] = each[members].mean(axis=0)
    return shares


# ---------------------------------------------------------------- bits together


def correlation(codes: NDArray[np.uint8], bits: int | None = None) -> Floats:
    """Pearson's correlation between each two bits, over the items.

    Returns:
        float64 (bits, bits), symmetric; NaN in the rows and columns of bits that never change,
        for which there is none.

    Raises:
        TypeError, ValueError: the codes are not codes, or there are none.

    Example:
        >>> correlation(search.pack([[1, 0, 1], [0, 1, 1]]), 3)
        array([[ 1., -1., nan],
               [-1.,  1., nan],
               [nan, nan, nan]])
    """
    centred = _centred(codes, bits)
    covariance = centred.T @ centred / len(centred)
    spread = np.sqrt(np.diag(covariance))
    scale = np.outer(spread, spread)
    matrix = np.full(scale.shape, np.nan)
    np.divide(covariance, scale, out=matrix, where=scale > 0)
    return np.clip(matrix, -1, 1)


def effective_bits(matrix: NDArray[np.floating]) -> float:
    """How many independent bits the varying ones are worth, from their `correlation`.

    The participation ratio of the correlation's eigenvalues, (sum of them)^2 / sum of squares:
    the number of bits where none are correlated, 1 where all of them are the same bit.

    Example:
        >>> effective_bits(np.eye(48))
        48.0
        >>> effective_bits(np.ones((48, 48)))
        1.0
    """
    varying = int(np.isfinite(np.diag(matrix)).sum())
    return varying**2 / float(np.nansum(np.square(matrix))) if varying else 0.0


class Projection(NamedTuple):
    """Codes in the plane of their largest variance.

    positions: float64 (n, 2). explained: float64 (2,), share of the variance along each axis.
    """

    positions: Floats
    explained: Floats


def project(codes: NDArray[np.uint8], bits: int | None = None) -> Projection:
    """The codes' first two principal components: a map of them.

    Squared distance in the space of the bits is Hamming distance, so what is far apart here
    differs in at least that many bits; the converse does not hold. Axes point to where the first
    of the bits with the largest weight is one, so that the same codes give the same map anywhere.

    Raises:
        TypeError, ValueError: the codes are not codes, or there are none.

    Example:
        >>> project(search.pack([[0, 0], [1, 1]]), 2).explained.round(3)
        array([1., 0.])
    """
    centred = _centred(codes, bits)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    chosen = axes[:, ::-1][:, :2]
    weights = np.abs(chosen)
    strongest = (weights > weights.max(axis=0, keepdims=True) - 1e-6).argmax(axis=0)
    chosen = chosen * np.sign(chosen[strongest, np.arange(chosen.shape[1])])
    variances = np.maximum(variances[::-1], 0)
    total = variances.sum()
    positions, explained = np.zeros((len(centred), 2)), np.zeros(2)
    if total > 0:
        positions[:, : chosen.shape[1]] = centred @ chosen
        explained[: chosen.shape[1]] = variances[:2] / total
    return Projection(positions, explained)


# ---------------------------------------------------------------- distances between codes


class Distances(NamedTuple):
    """Pairs of different items by Hamming distance: int64 (bits + 1,) each.

    within: of items that share a class. between: of items that do not.
    """

    within: Integers
    between: Integers


def class_distances(
    codes: NDArray[np.uint8],
    labels: NDArray[Any],
    bits: int | None = None,
    *,
    threads: int | None = None,
) -> Distances:
    """How many pairs of items lie at each Hamming distance, those of one class apart.

    Each pair counts once, an item with itself not at all; the time grows with n^2.

    Raises:
        TypeError, ValueError: the codes are not codes, or the labels do not fit them.

    Example:
        >>> class_distances(search.pack([[0, 0], [0, 1], [1, 1]]), np.array([0, 0, 1]), 2)
        Distances(within=array([0, 1, 0]), between=array([0, 1, 1]))
    """
    itself = np.arange(len(codes))
    counter = Counter.of(codes, codes, labels, labels, bits, itself)
    parts: list[Integers] = []
    counter.each(lambda rows, counts: parts.append(counts.sum(axis=0)), threads)
    pairs = np.sum(parts, axis=0) // 2  # each was counted from both of its ends
    return Distances(pairs[1::2], pairs[0::2])


def separation(distances: Distances) -> float:
    """The chance that a pair of one class is nearer than a pair of two; equal distances half.

    1 where the classes keep apart, 0.5 where the codes know nothing about them (the area under
    the ROC curve of the distance). NaN where there are no pairs of either kind.

    Example:
        >>> separation(Distances(np.array([0, 1, 0]), np.array([0, 1, 1])))
        0.75
    """
    within, between = (np.asarray(one, np.float64) for one in distances)
    pairs = within.sum() * between.sum()
    if not pairs:
        return float("nan")
    farther = between.sum() - np.cumsum(between)
    return float(within @ (farther + between / 2) / pairs)


class Groups(NamedTuple):
    """The distinct codes among n, the most frequent first, equal ones in ascending order.

    codes: uint8 (u, ceil(bits / 8)). sizes: int64 (u,), items that have each. group: int64 (n,),
    the row in `codes` of each item's.
    """

    codes: NDArray[np.uint8]
    sizes: Integers
    group: Integers


def distinct(codes: NDArray[np.uint8], bits: int | None = None) -> Groups:
    """The distinct codes, and the items that share each, which search by codes cannot tell apart.

    Raises:
        TypeError, ValueError: the codes are not codes, or there are none.

    Example:
        >>> distinct(np.array([[7], [9], [9]], np.uint8))[1:]
        (array([2, 1]), array([1, 0, 0]))
    """
    codes, bits = _check(codes, bits)
    masked = codes.copy()
    masked[:, -1] &= pad_mask(bits)
    rows = masked.view(np.dtype((np.void, masked.shape[1])))[:, 0]
    _, first, group, sizes = np.unique(
        rows, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(-sizes, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return Groups(masked[first[order]], sizes[order], place[group])


def purity(groups: Groups, labels: NDArray[Any]) -> Floats:
    """The share of each distinct code's items that are of its commonest class: float64 (u,).

    Raises:
        ValueError: the labels do not fit the items.

    Example:
        >>> purity(distinct(np.array([[7], [9], [9], [9]], np.uint8)), np.array([0, 0, 1, 1]))
        array([0.66666667, 1.        ])
    """
    labels = np.asarray(labels)
    classes = int(labels.max(initial=-1)) + 1 if labels.ndim == 1 else labels.shape[-1]
    commonest = np.zeros(len(groups.sizes), np.int64)
    for number in range(classes):
        members = groups.group[_members(labels, number, len(groups.group), classes)]
        np.maximum(commonest, np.bincount(members, minlength=len(commonest)), out=commonest)
    return commonest / groups.sizes


# ---------------------------------------------------------------- checks


def _check(codes: NDArray[np.uint8], bits: int | None) -> tuple[NDArray[np.uint8], int]:
    codes, bits = validate(codes, bits)
    if not len(codes):
        raise ValueError("codes must hold at least one item")
    return np.ascontiguousarray(codes), bits


def _unpack(codes: NDArray[np.uint8], bits: int | None) -> NDArray[np.uint8]:
    codes, bits = _check(codes, bits)
    return search.unpack(codes, bits)


def _centred(codes: NDArray[np.uint8], bits: int | None) -> Floats:
    """The bits (n, bits) without their mean."""
    each = _unpack(codes, bits).astype(np.float64)
    return each - each.mean(axis=0, keepdims=True)


def _members(labels: NDArray[Any], number: int, count: int, classes: int) -> NDArray[np.bool_]:
    """Which items are of a class."""
    labels = np.asarray(labels)
    if len(labels) != count:
        raise ValueError(f"labels has {len(labels)} rows for {count} items")
    if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"labels must be class numbers from 0 to {classes - 1}")
        return labels == number
    if labels.ndim == 2 and labels.dtype == np.bool_ and labels.shape[1] == classes:
        return labels[:, number]
    raise ValueError(
        f"labels must be integers (n,) or bool (n, {classes}), not {labels.dtype} {labels.shape}"
    )
