"""Fixed binary class centres, far from each other: the targets of CSQ, DPN and OrthoHash."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from jaxhash.losses.relevance import membership

_WORK = 10**9  # multiplications spent on a selection: about a second
_CANDIDATES = 20_000
_ALL_CODES = 12  # up to so many bits, every code there is is a candidate


@functools.lru_cache(maxsize=32)
def centres(classes: int, bits: int, *, seed: int = 0) -> np.ndarray:
    """One code a class: float32 (classes, bits) of -1 and +1, read-only, no two of them alike.

    Where bits is a power of two and 2 bits >= classes: the rows of a Hadamard matrix, any two of
    which are bits / 2 apart, and their negatives. Elsewhere: chosen one by one among many random
    codes, always the one farthest from its nearest centre so far; for some thousand classes and
    more, where choosing would take too long, distinct random codes. The same arguments always give
    the same centres.

    Raises:
        ValueError: there are fewer codes than classes.

    Example:
        >>> centres(4, 2).tolist()
        [[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]]

    Source:
        Yuan et al., Central similarity quantization, CVPR 2020, for the Hadamard
        rows; the choice among random codes is ours, where the paper draws until some are far apart.
    """
    if bits < 32 and classes > 2**bits:
        raise ValueError(
            f"{bits} bits make {2**bits} codes, and {classes} classes need one each; give at least "
            f"{(classes - 1).bit_length()} bits"
        )
    if bits & (bits - 1) == 0 and classes <= 2 * bits:
        rows = scipy.linalg.hadamard(bits)
        chosen = np.concatenate([rows, -rows])[:classes].astype(np.float32)
    else:
        chosen = _farthest(_candidates(classes, bits, np.random.default_rng(seed)), classes)
    chosen.setflags(write=False)
    return chosen


def _candidates(classes: int, bits: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct codes (m, bits), m >= classes, in a random order."""
    if bits <= _ALL_CODES or 2**bits <= 4 * classes:
        numbers = rng.permutation(2**bits)
        return (2 * (numbers[:, None] >> np.arange(bits) & 1) - 1).astype(np.float32)
    wanted = max(min(_CANDIDATES, _WORK // (classes * bits)), classes)
    # Distinct codes are at least 3/4 of all: half as many again, and a few, are nearly always
    # enough at once.
    while True:
        drawn = np.packbits(rng.random((wanted + wanted // 2 + 64, bits)) < 0.5, axis=1)
        distinct = rng.permutation(np.unique(drawn, axis=0))[:wanted]
        if len(distinct) == wanted:
            return 2 * np.unpackbits(distinct, axis=1, count=bits).astype(np.float32) - 1


def _farthest(candidates: np.ndarray, count: int) -> np.ndarray:
    """So many of the candidates: the first, then always the one farthest from those chosen."""
    if len(candidates) * count * candidates.shape[1] > 2 * _WORK:
        return candidates[:count].copy()
    chosen = [0]
    # Of codes of -1 and +1, the larger the product, the nearer.
    nearest = candidates @ candidates[0]
    while len(chosen) < count:
        nearest[chosen[-1]] = np.inf
        chosen.append(int(nearest.argmin()))
        np.maximum(nearest, candidates @ candidates[chosen[-1]], out=nearest)
    return candidates[chosen]


def aims(labels: jax.Array, classes: int, bits: int) -> jax.Array:
    """The target code of each item, its class's centre: float32 (n, bits) of -1 and +1.

    For an item of several classes: the majority of their centres, bit by bit; where they tie, the
    bit of one further code drawn once. Rows of zeros for items without a class.

    labels: int (n,) or bool (n, classes).

    Raises:
        ValueError, TypeError: labels of another form; fewer codes than classes.

    Example:
        >>> aims(jnp.array([[True, False, True], [False, False, False]]), 3, 4).shape
        (2, 4)

    Source:
        Yuan et al., who draw even bits at random.
    """
    own = membership(labels, classes)
    # In full precision: sums of -1 and +1 are told from 0.
    votes = jnp.matmul(own, centres(classes, bits), precision="highest")
    even = tie_break(bits)[None, :]
    return jnp.where(own.any(axis=1)[:, None], jnp.where(votes == 0, even, jnp.sign(votes)), 0)


@functools.lru_cache(maxsize=32)
def tie_break(bits: int, *, seed: int = 1) -> np.ndarray:
    """The code that decides where the centres of an item's classes tie: float32 (bits,), -1 or +1.

    Example:
        >>> tie_break(8).shape
        (8,)
    """
    return np.where(np.random.default_rng(seed).random(bits) < 0.5, -1, 1).astype(np.float32)
