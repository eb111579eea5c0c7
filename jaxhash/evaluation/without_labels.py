"""Measures of codes without labels: how well they keep the nearest neighbours by features."""

from collections.abc import Callable
from typing import Any

import numpy as np

import search
from jaxhash.encoding import Encoded
from jaxhash.evaluation import measures

QUERIES = 1000
"""Queries, evenly spaced among all images; each is left out of its own ranking."""
NEIGHBOURS = 10


def evaluate(
    encoded: Encoded,
    *,
    bits: int,
    seed: int,
    pool: int = 1000,
    neighbours: int = NEIGHBOURS,
    queries: int = QUERIES,
    threads: int | None = None,
    on_stage: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Recall of the exact feature neighbours, balance and distinct codes, ready for JSON.

    Args:
        encoded: codes and features of all images.
        bits: length of the codes.
        seed: of the run.
        pool: nearest codes that would be re-ranked; lowered to all there are.
        neighbours: of each image, by Euclidean distance of features: those to be found.
        queries: number of queries, evenly spaced among all images.
        threads: of the exact search.
        on_stage: called with "features" and "codes" when these are ranked.

    Returns:
        "recall": the share of these neighbours among the `neighbours` nearest codes ("codes") and
        among the `pool` nearest ones ("pool"), expected values over all orders of equal distances;
        "share_of_ones": the least and the largest of a bit, "bit_entropy", "distinct_codes".

    Raises:
        ValueError: there are fewer than two images, or a number is below 1.

    Example:
        >>> evaluate(encoded, bits=64, seed=0)["recall"]["pool"]  # doctest: +SKIP
        0.998
    """
    n = len(encoded.codes)
    if n < 2:
        raise ValueError(f"there is {n} image, and neighbours need two or more")
    for name, value in (("pool", pool), ("neighbours", neighbours), ("queries", queries)):
        if value < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
    neighbours, pool = min(neighbours, n - 1), min(pool, n - 1)
    asking = np.unique(np.linspace(0, n - 1, min(queries, n)).round().astype(int))
    on_stage("features")
    _, nearest = search.euclidean_knn(
        encoded.features[asking], encoded.features, neighbours + 1, threads=threads
    )
    on_stage("codes")
    found = np.zeros(2)
    for query, ids in zip(asking, nearest, strict=True):
        # Among images with equal features a query may not find itself: then the last result goes.
        wanted = ids[ids != query][:neighbours]
        apart = np.bitwise_count(encoded.codes ^ encoded.codes[query]).sum(axis=1, dtype=np.int32)
        apart[query] = bits + 1
        found += [_expected(apart, wanted, cut).mean() for cut in (neighbours, pool)]
    found /= len(asking)
    ones = np.unpackbits(encoded.codes, axis=1)[:, :bits].mean(axis=0)
    return {
        "labels": False,
        "bits": bits,
        "images": n,
        "queries": len(asking),
        "neighbours": neighbours,
        "pool": pool,
        "seed": seed,
        "ties": "expected value over all orders of equal Hamming distances",
        "recall": {"codes": float(found[0]), "pool": float(found[1])},
        "share_of_ones": {"least": float(ones.min()), "largest": float(ones.max())},
        "bit_entropy": measures.bit_entropy(encoded.codes, bits),
        "distinct_codes": measures.distinct(encoded.codes),
    }


def _expected(apart: np.ndarray, wanted: np.ndarray, cut: int) -> np.ndarray:
    """For each wanted item the share of the orders of equal distances that have it in the cut."""
    counts = np.bincount(apart)
    nearer = np.cumsum(counts) - counts
    at = apart[wanted]
    return np.clip((cut - nearer[at]) / counts[at], 0, 1)


def report(results: dict[str, Any]) -> str:
    """The numbers of `evaluate` to print.

    Example:
        >>> print(report(results))  # doctest: +SKIP
        itq, 64 bits, 2,000 images without labels, 1,000 of them asking, seed 0
    """
    k, recall = results["neighbours"], results["recall"]
    ones = results["share_of_ones"]
    return "\n".join(
        (
            f"{results['method']}, {results['bits']} bits, {results['images']:,} images without "
            f"labels, {results['queries']:,} of them asking, seed {results['seed']}",
            f"of the {k} nearest by features: {recall['codes']:.4f} are among the {k} nearest "
            f"codes, {recall['pool']:.4f} in the pool of {results['pool']:,} that features put in "
            "order",
            f"a bit is 1 for {ones['least']:.3f} to {ones['largest']:.3f} of the images; "
            f"{results['distinct_codes']:,} distinct codes, {results['bit_entropy']:.3f} bits of "
            "entropy per bit",
        )
    )
