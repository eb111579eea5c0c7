"""Locality-sensitive hashing: random directions, which learn nothing but where to split."""

import numpy as np

from jaxhash.unlabelled.layer import Layer, check, split_at_medians


def lsh(features: np.ndarray, bits: int, *, seed: int = 0) -> Layer:
    """One random direction for each bit, split at the median of the features.

    Directions are at right angles to one another, as far as there are dimensions: blocks of d.

    Args:
        features: float32 (n, d), two or more.
        bits: length of the code; any.
        seed: of the directions.

    Raises:
        ValueError: nothing to learn from.

    Example:
        >>> lsh(np.eye(4, dtype=np.float32), 6).kernel.shape
        (4, 6)

    Source: Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002.
    """
    check(features)
    rng, d = np.random.default_rng(seed), features.shape[1]
    blocks = [
        np.linalg.qr(rng.standard_normal((d, min(d, bits - start))))[0]
        for start in range(0, bits, d)
    ]
    return split_at_medians(features, np.concatenate(blocks, axis=1))
