"""Iterative quantisation: principal components, turned so that little is lost by rounding."""

import numpy as np

from jaxhash.unlabelled.layer import Layer, centred, principal

ITERATIONS = 50
"""As published."""
SHRUNK = 0.5
"""Share of the identity in the scatter within classes, which few labels tell little of."""


def itq(
    features: np.ndarray,
    bits: int,
    *,
    seed: int = 0,
    labels: np.ndarray | None = None,
    iterations: int = ITERATIONS,
) -> Layer:
    """Principal directions times the rotation R that brings the components near their signs.

    V: centred features on the first principal directions, (n, bits). From a random rotation,
    alternately B = sign(V R), and the R that minimises |B - V R|, which is an orthogonal
    Procrustes problem: with V^T B = S Ω T^T, R = S T^T.

    Args:
        features: float32 (n, d), of more images than bits.
        bits: length of the code, at most d.
        seed: of the rotation it starts from.
        labels: int (n,), -1 where there is none: directions in which images of one class differ
            are shortened first (`within_classes`), those of all images are then as above.
        iterations: how often it is improved.

    Raises:
        ValueError: fewer directions than bits, nothing to learn from, or iterations below 0.

    Example:
        >>> itq(np.eye(4, dtype=np.float32), 2).bias.shape
        (2,)

    Source: Gong and Lazebnik, Iterative quantization: a Procrustean approach to learning binary
    codes, CVPR 2011; with labels also Strecha et al., LDAHash, TPAMI 2012.
    """
    if iterations < 0:
        raise ValueError(f"iterations is {iterations}; give 0 or more")
    shorter = np.eye(features.shape[1]) if labels is None else within_classes(features, labels)
    directions = shorter @ principal(features @ shorter, bits, "itq")
    components = ((features - features.mean(axis=0)) @ directions).astype(np.float32)
    start = np.random.default_rng(seed).standard_normal((bits, bits))
    rotation = np.linalg.qr(start)[0].astype(np.float32)
    for _ in range(iterations):
        signs = np.where(components @ rotation > 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd(components.T @ signs)
        rotation = left @ right
    return centred(features, directions @ rotation)


def within_classes(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The matrix (d, d) that makes the scatter within classes the same in all directions.

    The inverse root of (1 - SHRUNK) S + SHRUNK tr(S) / d, where S is the mean of (x - m)(x - m)^T
    over the images with labels and m the mean of their class. The identity where no class has two.

    Example:
        >>> within_classes(np.eye(3), np.array([0, 1, -1])).tolist() == np.eye(3).tolist()
        True
    """
    d = features.shape[1]
    scatter, count = np.zeros((d, d)), 0
    for label in np.unique(labels[labels >= 0]):
        own = features[labels == label].astype(np.float64)
        own -= own.mean(axis=0)
        scatter += own.T @ own
        count += len(own) - 1
    if count == 0 or not scatter.any():
        return np.eye(d)
    scatter /= count
    shrunk = (1 - SHRUNK) * scatter + SHRUNK * np.trace(scatter) / d * np.eye(d)
    values, directions = np.linalg.eigh(shrunk)
    return directions / np.sqrt(values) @ directions.T
