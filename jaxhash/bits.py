"""What the bits of codes do: how often, how independently and for which classes they are one.

Pure functions of codes uint8 (n, ceil(bits / 8)), of latents float (n, bits) before the threshold,
and of labels, integers (n,) or bool (n, classes). `bit_plots` draws what they return, and
`notebooks/bit_distributions.ipynb` walks through them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

import search
from search.codes import pad_mask, validate
from search.counting import Counter

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
        raise ValueError("shares must be from 0 to 1: give what `balance` returns")
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


def extremes(latent: NDArray[np.floating], bit: int, count: int) -> tuple[Integers, Integers]:
    """The items that a bit responds to most and least, by its latent; equal ones by row.

    latent: (n, bits). Returns rows int64 (count,) each, the most extreme ones first.

    Raises:
        ValueError: there is no such bit, or there are fewer items than `count`.

    Example:
        >>> extremes(np.array([[0.1], [0.9], [0.5]]), 0, 2)
        (array([1, 2]), array([0, 2]))
    """
    latent = _check_latent(latent)
    if not 0 <= bit < latent.shape[1]:
        raise ValueError(f"bit is {bit}: the latent has the bits 0 to {latent.shape[1] - 1}")
    if not 0 <= count <= len(latent):
        raise ValueError(f"count is {count}: give at most the {len(latent)} items there are")
    column = latent[:, bit]
    most = np.argsort(-column, kind="stable")[:count]
    return most, np.argsort(column, kind="stable")[:count]


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
    """The distinct codes and the items that share them; within one, search cannot tell apart.

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


# ---------------------------------------------------------------- latents and thresholds


def latent_histogram(
    latent: NDArray[np.floating], threshold: float, bins: int = 60
) -> tuple[Integers, Floats]:
    """Counts of latent values between edges of equal distance, one of which is the threshold.

    So no bar mixes zeros and ones. A value on an edge counts to the left of it, as a value at the
    threshold is a zero.

    Args:
        latent: float (n, bits), finite.
        threshold: Above it, a bit is one.
        bins: Bars between the smallest and the largest value; one or two more are needed to meet
            the threshold.

    Returns:
        counts int64 (m,), edges float64 (m + 1,).

    Raises:
        ValueError: the latent is not finite or empty, or there are no bins.

    Example:
        >>> counts, edges = latent_histogram(np.array([[-1.0, 0.0, 1.0]]), 0.0, bins=2)
        >>> counts, edges
        (array([2, 1]), array([-1.,  0.,  1.]))
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}: give at least 1")
    values = np.asarray(_check_latent(latent), np.float64).ravel()
    lowest, highest = min(values.min(), threshold), max(values.max(), threshold)
    step = (highest - lowest) / bins or 1.0
    below, above = np.ceil((threshold - lowest) / step), np.ceil((highest - threshold) / step)
    if values.min() <= threshold:
        below = max(below, 1)  # room for zeros that lie at the threshold itself
    edges = threshold + step * np.arange(-below, above + 1)
    # Rounding may leave the extreme values just outside.
    places = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, len(edges) - 2)
    return np.bincount(places, minlength=len(edges) - 1), edges


class Sweep(NamedTuple):
    """What codes would be at other thresholds; float64 (m,) each.

    ones: share of ones over all bits. entropy: mean over the bits, in bits. mean_average_precision:
    of the queries, tie-aware, over the whole ranking.
    """

    ones: Floats
    entropy: Floats
    mean_average_precision: Floats


def sweep(
    query_latent: NDArray[np.floating],
    latent: NDArray[np.floating],
    query_labels: NDArray[Any],
    labels: NDArray[Any],
    thresholds: Sequence[float] | NDArray[np.floating],
    *,
    exclude: Integers | None = None,
    threads: int | None = None,
) -> Sweep:
    """Cut the same latents at other thresholds: what that does to balance and to the ranking.

    Args:
        query_latent, latent: float (q, bits) and (n, bits), of queries and database.
        query_labels, labels: of both, as `search.measure` takes them.
        thresholds: (m,), or (m, bits) for each bit its own, such as the medians.
        exclude: the database row that each query leaves out, see `search.measure`.
        threads: at most this many; all processors when None.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> latent, labels = np.array([[0.1, 0.2], [0.4, 0.3], [0.9, 0.8]]), np.array([0, 0, 1])
        >>> sweep(latent[:1], latent, labels[:1], labels, [0.25, 0.5]).mean_average_precision
        array([0.91666667, 1.        ])
    """
    query_latent, latent = _check_latent(query_latent, "query_latent"), _check_latent(latent)
    bits = latent.shape[1]
    if query_latent.shape[1] != bits:
        raise ValueError(f"query_latent has {query_latent.shape[1]} bits, and latent {bits}")
    cuts = np.asarray(thresholds, np.float64)
    if cuts.ndim == 1:
        cuts = cuts[:, None]
    if cuts.ndim != 2 or cuts.shape[1] not in (1, bits):
        raise ValueError(f"thresholds must have the shape (m,) or (m, {bits}), not {cuts.shape}")
    if not np.isfinite(cuts).all():
        raise ValueError("thresholds must be finite")
    rows = []
    for cut in cuts:
        codes = search.pack(latent > cut[None])
        average = search.average_precision(
            search.pack(query_latent > cut[None]),
            codes,
            query_labels,
            labels,
            bits=bits,
            exclude=exclude,
            threads=threads,
        )
        ones = balance(codes, bits)
        rows.append((ones.mean(), entropy(ones).mean(), average.mean()))
    return Sweep(*np.array(rows, np.float64).reshape(-1, 3).T)


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


def _check_latent(latent: NDArray[np.floating], name: str = "latent") -> NDArray[np.floating]:
    latent = np.asarray(latent)
    if latent.ndim != 2 or not latent.size:
        raise ValueError(f"{name} must have the shape (n, bits), not {latent.shape}")
    if not np.isfinite(latent).all():
        raise ValueError(f"{name} holds NaN or infinity: there is no bit for that")
    return latent


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
