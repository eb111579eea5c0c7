"""Batches that a plain shuffle does not give: balanced ones, and triplets of two classes.

Pure functions of a NumPy generator: seeded by (seed, step), a resumed run draws what the unbroken
one would have.
"""

from collections.abc import Sequence

import numpy as np


def _check(labels: np.ndarray) -> np.ndarray:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}; drawing batches by class needs "
            "one int label each; use shuffled batches for several labels an image"
        )
    return labels


def class_pair_batch(
    rng: np.random.Generator, labels: np.ndarray, triplets: int = 30
) -> np.ndarray:
    """Indices int64 (3 triplets,) of anchors, positives and negatives, a third each.

    Draws one class for anchors and positives and another one for the negatives, as MHCLN's
    released code does at every iteration. Within a triplet the anchor is never its own positive;
    across triplets images repeat. Feed it to the loss with `triplets="rows"`.

    Raises:
        ValueError: labels that are not int (n,), no class with two images, or only one class.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> batch = class_pair_batch(rng, np.array([0, 0, 0, 1, 1, 1]), triplets=2)
        >>> len(batch)
        6
    """
    if triplets < 1:
        raise ValueError(f"triplets is {triplets}; a batch needs at least 1")
    classes, sizes = np.unique(_check(labels), return_counts=True)
    if len(classes) < 2 or sizes.max() < 2:
        raise ValueError("class-pair batches need two classes, one of them with two images")
    positive = rng.choice(classes[sizes > 1])
    negative = rng.choice(classes[classes != positive])
    same = np.flatnonzero(labels == positive)
    other = np.flatnonzero(labels == negative)
    anchors = rng.integers(len(same), size=triplets)
    # A step of 1 .. len - 1 round the class never comes back to the anchor.
    positives = (anchors + rng.integers(1, len(same), size=triplets)) % len(same)
    return np.concatenate([same[anchors], same[positives], rng.choice(other, triplets)])


def members(labels: np.ndarray) -> list[np.ndarray]:
    """The indices of each class's images, int64, class by class.

    Raises:
        ValueError: labels that are not int (n,).

    Example:
        >>> [one.tolist() for one in members(np.array([2, 0, 2]))]
        [[1], [0, 2]]
    """
    order = np.argsort(_check(labels), kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def balanced_batch(
    rng: np.random.Generator,
    members: Sequence[np.ndarray],
    per_class: int = 20,
    classes: int | None = None,
) -> np.ndarray:
    """Indices int64 of a shuffled batch with `per_class` images of each of `classes` classes.

    members: the indices of each class's images, see `members`.

    All classes unless fewer are asked for, which are then drawn anew for each batch. A class
    with fewer images than `per_class` repeats some.

    Source: DSH trains on SVHN with 20 images of each class a batch (Liu et al., IJCV 2019,
    section 5.1).

    Raises:
        ValueError: more classes asked for than there are.

    Example:
        >>> rng, labels = np.random.default_rng(0), np.array([0, 0, 0, 0, 1, 1])
        >>> batch = balanced_batch(rng, members(labels), per_class=2)
        >>> np.sort(labels[batch]).tolist()
        [0, 0, 1, 1]
    """
    if per_class < 1:
        raise ValueError(f"per_class is {per_class}; a batch needs at least 1")
    known = len(members)
    wanted = known if classes is None else classes
    if not 1 <= wanted <= known:
        raise ValueError(f"classes is {classes}; the labels hold {known} classes")
    drawn = range(known) if wanted == known else rng.choice(known, wanted, replace=False)
    batch = [
        rng.choice(members[one], per_class, replace=len(members[one]) < per_class) for one in drawn
    ]
    return rng.permutation(np.concatenate(batch))
