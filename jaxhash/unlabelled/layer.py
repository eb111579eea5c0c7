"""The linear hash layer that methods without labels return, and the checks that they share."""

from typing import NamedTuple

import numpy as np


class Layer(NamedTuple):
    """A hash layer: bit b of features x is 1 where x @ kernel[:, b] + bias[b] is above 0.

    kernel: float32 (d, bits). bias: float32 (bits,).
    """

    kernel: np.ndarray
    bias: np.ndarray

    def latent(self, features: np.ndarray) -> np.ndarray:
        """Features (n, d) -> float32 (n, bits), whose signs are the bits.

        Example:
            >>> Layer(np.ones((2, 1), np.float32), np.zeros(1, np.float32)).latent(np.eye(2)).T
            array([[1., 1.]], dtype=float32)
        """
        return np.asarray(features, np.float32) @ self.kernel + self.bias


def centred(features: np.ndarray, directions: np.ndarray) -> Layer:
    """The layer that projects features, less their mean, on directions (d, bits)."""
    mean = features.mean(axis=0, dtype=np.float64)
    return Layer(directions.astype(np.float32), -(mean @ directions).astype(np.float32))


def split_at_medians(features: np.ndarray, directions: np.ndarray) -> Layer:
    """The layer that gives every bit to one half of the features, along directions (d, bits)."""
    directions = directions.astype(np.float32)
    return Layer(directions, -np.median(features @ directions, axis=0).astype(np.float32))


def principal(features: np.ndarray, bits: int, method: str) -> np.ndarray:
    """The directions of largest variance, (d, bits), largest first, each with its larger side up.

    Raises:
        ValueError: the features do not vary in so many directions; the message says what to do.

    Example:
        >>> principal(np.array([[0.0, 1], [2, 1], [4, 1]]), 1, "itq").T
        array([[1., 0.]])
    """
    check(features)
    n, _ = features.shape
    check_count(n, bits, method)
    apart = features - features.mean(axis=0, dtype=np.float64)
    values, directions = np.linalg.eigh(apart.T @ apart)
    rank = int((values > values[-1] * 1e-9).sum())
    if bits > rank:
        raise ValueError(
            f"{method} needs a direction for each of {bits} bits, and these {n} images vary in "
            f"{rank}; give bits {rank} or fewer, more images, or method lsh, which takes any number"
        )
    directions = directions[:, ::-1][:, :bits]
    # An eigenvector's sign is free: fixed, so that machines agree.
    largest = np.abs(directions).argmax(axis=0)
    return directions * np.sign(directions[largest, np.arange(bits)])


def check_some(images: int) -> None:
    """Refuse fewer than two images.

    Raises:
        ValueError: the message says what to do.
    """
    if images < 2:
        raise ValueError(
            f"there is {images} image to learn from, and codes need two or more, better some "
            "hundred; add images"
        )


def check_count(images: int, bits: int, method: str) -> None:
    """Refuse more bits than images can have directions.

    Raises:
        ValueError: the message says what to do.
    """
    if images <= bits:
        raise ValueError(
            f"{method} needs more images than bits, and there are {images} for {bits} bits; give "
            f"bits {max(images - 1, 1)} or fewer, more images, or method lsh, which takes any "
            "number"
        )


def check(features: np.ndarray) -> None:
    """Refuse features from which no code can be learned.

    Raises:
        ValueError: fewer than two, or all alike; the message says what to do.
    """
    check_some(len(features))
    if np.ptp(features, axis=0).max() < 1e-6:
        raise ValueError(
            f"all {len(features)} images are alike to the network; there is nothing to tell apart; "
            "give images that differ"
        )
