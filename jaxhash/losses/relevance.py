"""Labels as the losses need them: which items are similar, and the target class probabilities."""

import jax
import jax.numpy as jnp


def check(labels: jax.Array, n: int) -> jax.Array:
    """Return the labels if they are int (n,) or bool (n, classes).

    Raises:
        ValueError: another shape.
        TypeError: another dtype; multi-label rows must be bool, lest counts pass for labels.
    """
    if labels.shape[:1] != (n,) or labels.ndim not in (1, 2):
        raise ValueError(
            f"labels has shape {labels.shape} for {n} items; give int labels ({n},) or "
            f"bool rows ({n}, classes)"
        )
    wanted = jnp.integer if labels.ndim == 1 else jnp.bool_
    if not jnp.issubdtype(labels.dtype, wanted):
        raise TypeError(
            f"labels are {labels.dtype} of shape {labels.shape}; give int32 of shape (n,) for one "
            "class each, or bool of shape (n, classes) for several"
        )
    return labels


def similar(labels: jax.Array) -> jax.Array:
    """Which items share a class: int (n,) or bool (n, classes) -> bool (n, n).

    The diagonal is True, except for items of a multi-label set that carry no label at all.

    Raises:
        ValueError, TypeError: labels of another form.

    Example:
        >>> similar(jnp.array([3, 1, 3])).astype(int).tolist()
        [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    """
    labels = check(labels, labels.shape[0])
    if labels.ndim == 1:
        return labels[:, None] == labels[None, :]
    counts = labels.astype(jnp.float32)
    return counts @ counts.T > 0


def membership(labels: jax.Array, classes: int) -> jax.Array:
    """Which classes each item has: float32 (n, classes) of 0 and 1.

    labels: int (n,) or bool (n, classes).

    Raises:
        ValueError, TypeError: labels of another form.

    Example:
        >>> membership(jnp.array([1, 0]), 2).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    labels = check(labels, labels.shape[0])
    if labels.ndim == 1:
        return jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    if labels.shape[1] != classes:
        raise ValueError(f"labels have {labels.shape[1]} columns for {classes} classes")
    return labels.astype(jnp.float32)


def targets(labels: jax.Array, classes: int, smoothing: float = 0.0) -> jax.Array:
    """Class probabilities to aim at: int (n,) or bool (n, classes) -> float32 (n, classes).

    Rows sum to 1; an item with several labels spreads its 1 evenly over them, which served
    multi-label hashing best among the choices compared for OrthoHash (Hoe et al., 2021,
    supplement). An item without any label, or with an int label outside 0 .. classes - 1, gets a
    row of zeros, and so adds nothing to a cross-entropy. `smoothing` mixes in that share of the
    uniform distribution.

    Raises:
        ValueError: labels of another form, or rows of another width than `classes`.

    Example:
        >>> targets(jnp.array([[True, True, False, False]]), 4).tolist()
        [[0.5, 0.5, 0.0, 0.0]]
    """
    rows = membership(labels, classes)
    rows = rows / jnp.maximum(rows.sum(axis=1, keepdims=True), 1)
    labelled = rows.any(axis=1, keepdims=True)
    return jnp.where(labelled, (1 - smoothing) * rows + smoothing / classes, 0)
