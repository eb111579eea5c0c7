"""Latents, float (n, bits), and what other thresholds would make of them.

Pure functions; `bit_plots` draws what they return.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import search
from jaxhash.analysis.bits import Floats, Integers, balance, entropy


def histogram(
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
        >>> counts, edges = histogram(np.array([[-1.0, 0.0, 1.0]]), 0.0, bins=2)
        >>> counts, edges
        (array([2, 1]), array([-1.,  0.,  1.]))
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; give at least 1")
    values = np.asarray(_check(latent), np.float64).ravel()
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
    """Balance, entropy and mean average precision at m thresholds; float64 (m,) each.

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
    """Balance and mean average precision of the codes that other thresholds would give.

    Args:
        query_latent: of the queries, float (q, bits).
        latent: of the database, float (n, bits).
        query_labels: of the queries, as `search.measure` takes them.
        labels: of the database.
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
    query_latent, latent = _check(query_latent, "query_latent"), _check(latent)
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


def extremes(latent: NDArray[np.floating], bit: int, count: int) -> tuple[Integers, Integers]:
    """The items that a bit responds to most and least, by its latent; equal ones by row.

    latent: (n, bits). Returns rows int64 (count,) each, the most extreme ones first.

    Raises:
        ValueError: there is no such bit, or there are fewer items than `count`.

    Example:
        >>> extremes(np.array([[0.1], [0.9], [0.5]]), 0, 2)
        (array([1, 2]), array([0, 2]))
    """
    latent = _check(latent)
    if not 0 <= bit < latent.shape[1]:
        raise ValueError(f"bit is {bit}; the latent has the bits 0 to {latent.shape[1] - 1}")
    if not 0 <= count <= len(latent):
        raise ValueError(f"count is {count}; give at most the {len(latent)} items there are")
    column = latent[:, bit]
    most = np.argsort(-column, kind="stable")[:count]
    return most, np.argsort(column, kind="stable")[:count]


def _check(latent: NDArray[np.floating], name: str = "latent") -> NDArray[np.floating]:
    latent = np.asarray(latent)
    if latent.ndim != 2 or not latent.size:
        raise ValueError(f"{name} must have the shape (n, bits), not {latent.shape}")
    if not np.isfinite(latent).all():
        raise ValueError(f"{name} holds NaN or infinity; there is no bit for that")
    return latent
