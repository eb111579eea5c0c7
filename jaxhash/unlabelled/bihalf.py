"""Bi-half coding, learned: cosines of codes near those of features, bits 1 for half the images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxhash.unlabelled.layer import Layer, check, split_at_medians

RATE, BATCH, PULL = 1e-4, 256, 0.1
"""Of Adam, images at once, and the strength of the pull towards the halves (6 in the release)."""


def bihalf(features: np.ndarray, bits: int, *, seed: int = 0, steps: int = 1000) -> Layer:
    """A linear layer learned by gradient descent, without labels.

    Of each batch and bit the larger half of the outputs u becomes +1 and the smaller one -1, which
    is the b next to u that has bits of the most entropy. The loss is the mean of (cos(b_i, b_j) -
    cos(x_i, x_j))^2 over pairs; its gradient by b is handed to u, with a pull PULL (u - b) / (n
    bits).

    Args:
        features: float32 (n, d), two or more.
        bits: length of the code; any.
        seed: of the directions it starts from, and of the batches.
        steps: of gradient descent.

    Raises:
        ValueError: nothing to learn from, or steps below 1.

    Example:
        >>> bihalf(np.eye(4, dtype=np.float32), 6, steps=1).kernel.shape
        (4, 6)

    Source: Li and van Gemert, Deep unsupervised image hashing by maximizing bit entropy, AAAI 2021.
    Ours: Adam and its rate, the weak pull, and that it starts from random directions among the
    principal ones; the features are those of a network that is not trained, less their mean.
    """
    check(features)
    if steps < 1:
        raise ValueError(f"steps is {steps}; give 1 or more")
    apart = (features - features.mean(axis=0)).astype(np.float32)
    apart /= np.sqrt(np.square(apart).mean())
    n, d = apart.shape
    rng = np.random.default_rng(seed)
    kernel = jnp.asarray(_start(features, bits, rng) / np.sqrt(d), jnp.float32)
    size = min(n, BATCH) // 2 * 2
    optimiser = optax.adam(RATE)
    state = optimiser.init(kernel)
    for _ in range(steps):
        batch = jnp.asarray(apart[rng.choice(n, size, replace=False)])
        kernel, state = _step(kernel, state, batch)
    return split_at_medians(features, np.asarray(kernel))


def _start(features: np.ndarray, bits: int, rng: np.random.Generator) -> np.ndarray:
    """Random directions, (d, bits), in the space that the principal ones span."""
    n, d = features.shape
    apart = features - features.mean(axis=0, dtype=np.float64)
    _, directions = np.linalg.eigh(apart.T @ apart)
    used = min(n - 1, d, bits)
    return directions[:, ::-1][:, :used] @ rng.standard_normal((used, bits)) * np.sqrt(d / used)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _step(
    kernel: jax.Array, state: optax.OptState, batch: jax.Array
) -> tuple[jax.Array, optax.OptState]:
    def loss(kernel: jax.Array) -> jax.Array:
        codes = halves(batch @ kernel)
        return jnp.square(_cosines(codes) - _cosines(batch)).mean()

    gradient = jax.grad(loss)(kernel)
    updates, state = optax.adam(RATE).update(gradient, state)
    return optax.apply_updates(kernel, updates), state


@jax.custom_vjp
def halves(latent: jax.Array) -> jax.Array:
    """+1 for the larger half of each column, -1 for the other one.

    Example:
        >>> halves(jnp.array([[3.0], [1.0], [2.0], [0.5]])).ravel().tolist()
        [1.0, -1.0, 1.0, -1.0]
    """
    ranks = jnp.argsort(jnp.argsort(latent, axis=0), axis=0)
    return jnp.where(ranks >= latent.shape[0] // 2, 1.0, -1.0)


def _forward(latent: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    codes = halves(latent)
    return codes, (latent, codes)


def _backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    latent, codes = kept
    return (gradient + PULL * (latent - codes) / latent.size,)


halves.defvjp(_forward, _backward)


def _cosines(rows: jax.Array) -> jax.Array:
    rows = rows / jnp.maximum(jnp.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows @ rows.T
