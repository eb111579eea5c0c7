"""Iterative quantisation: principal components, turned so that little is lost by rounding."""

import numpy as np

from jaxhash.unlabelled.layer import Layer, centred, principal

ITERATIONS = 50
"""As published."""


def itq(features: np.ndarray, bits: int, *, seed: int = 0, iterations: int = ITERATIONS) -> Layer:
    """Principal directions times the rotation R that brings the components near their signs.

    V: centred features on the first principal directions, (n, bits). From a random rotation,
    alternately B = sign(V R), and the R that minimises |B - V R|, which is an orthogonal
    Procrustes problem: with V^T B = S Ω T^T, R = S T^T.

    Args:
        features: float32 (n, d), of more images than bits.
        bits: length of the code, at most d.
        seed: of the rotation it starts from.
        iterations: how often it is improved.

    Raises:
        ValueError: fewer directions than bits, nothing to learn from, or iterations below 0.

    Example:
        >>> itq(np.eye(4, dtype=np.float32), 2).bias.shape
        (2,)

    Source: Gong and Lazebnik, Iterative quantization: a Procrustean approach to learning binary
    codes, CVPR 2011.
    """
    if iterations < 0:
        raise ValueError(f"iterations is {iterations}; give 0 or more")
    directions = principal(features, bits, "itq")
    components = ((features - features.mean(axis=0)) @ directions).astype(np.float32)
    start = np.random.default_rng(seed).standard_normal((bits, bits))
    rotation = np.linalg.qr(start)[0].astype(np.float32)
    for _ in range(iterations):
        signs = np.where(components @ rotation > 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd(components.T @ signs)
        rotation = left @ right
    return centred(features, directions @ rotation)
