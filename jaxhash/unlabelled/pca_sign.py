"""Signs of the principal components: the shortest way to a code."""

import numpy as np

from jaxhash.unlabelled.layer import Layer, centred, principal


def pca_sign(features: np.ndarray, bits: int, *, seed: int = 0) -> Layer:
    """One bit for each of the first principal directions: on which side of the mean.

    bit_b = [(x - mean) · v_b > 0]. Later directions hold little, and get a bit all the same: longer
    codes are not always better. It has nothing to draw, so that every seed gives the same.

    Args:
        features: float32 (n, d), of more images than bits.
        bits: length of the code, at most d.
        seed: not used.

    Raises:
        ValueError: fewer directions than bits, or nothing to learn from.

    Example:
        >>> pca_sign(np.eye(4, dtype=np.float32), 2).kernel.shape
        (4, 2)

    Source: Wang, Kumar and Chang, Semi-supervised hashing for scalable image retrieval, CVPR 2010,
    where it is what others are compared with.
    """
    return centred(features, principal(features, bits, "pca-sign"))
