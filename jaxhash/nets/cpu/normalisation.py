"""Batch normalisation and GELU as one operation with few passes over memory."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

EPSILON = 1e-5


@jax.custom_vjp
def normalise_and_gelu(
    x: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """GELU of the batch-normalised x, and the mean and variance that normalised it.

    x: (..., c); scale, bias: float32 (c,). Returns (..., c) in x's dtype and two float32 (c,). No
    gradient flows through the two statistics: they are for the running averages.

    The derivative keeps x and the statistics only. Automatic differentiation would keep each
    intermediate of the GELU too, and on CPU recompute the whole chain wherever it is used.

    Source: Ioffe and Szegedy, Batch normalization, ICML 2015; Hendrycks and Gimpel, Gaussian
    error linear units, 2016, in its tanh form.

    Example:
        >>> y, mean, var = normalise_and_gelu(jnp.ones((4, 2, 2, 8)), jnp.ones(8), jnp.zeros(8))
        >>> y.shape, mean.shape, float(var[0])
        ((4, 2, 2, 8), (8,), 0.0)
    """
    return _forward(x, scale, bias)[0]


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[Any, Any]:
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(jnp.float32)
    mean = wide.mean(axes)
    # Rounding may leave a constant channel just below zero.
    var = jnp.maximum(jnp.square(wide).mean(axes) - jnp.square(mean), 0)
    y = gelu_of_normalised(x, mean, var, scale, bias)
    return (y, mean, var), (x, mean, var, scale, bias)


def _backward(saved: Any, slopes: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, var, scale, bias = saved
    axes = tuple(range(x.ndim - 1))
    inverse = jax.lax.rsqrt(var + EPSILON)
    standard = (x.astype(jnp.float32) - _wide(mean, x)) * _wide(inverse, x)
    _, pull = jax.vjp(nn.gelu, standard * _wide(scale, x) + _wide(bias, x))
    (slope,) = pull(slopes[0].astype(jnp.float32))
    bias_slope = slope.sum(axes)
    scale_slope = (slope * standard).sum(axes)
    count = x.size // x.shape[-1]
    centred = slope - _wide(bias_slope / count, x) - standard * _wide(scale_slope / count, x)
    return (centred * _wide(scale * inverse, x)).astype(x.dtype), scale_slope, bias_slope


normalise_and_gelu.defvjp(_forward, _backward)


def gelu_of_normalised(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array
) -> jax.Array:
    """GELU of x normalised by given statistics, in x's dtype."""
    slope = scale * jax.lax.rsqrt(var + EPSILON)
    shifted = x.astype(jnp.float32) * _wide(slope, x) + _wide(bias - mean * slope, x)
    return nn.gelu(shifted).astype(x.dtype)


def _wide(channels: jax.Array, x: jax.Array) -> jax.Array:
    """(c,) -> (1, ..., c), to stand beside x."""
    return channels.reshape((1,) * (x.ndim - 1) + channels.shape)


class NormaliseAndGelu(nn.Module):
    """The layer: batch statistics in training, their running averages otherwise.

    Over several devices the batch is the global one: `mean` is taken of the whole sharded array.
    """

    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """(..., c) -> (..., c) in the same dtype."""
        c = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (c,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (c,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (c,), jnp.float32)
        if not train:
            return gelu_of_normalised(x, mean.value, var.value, scale, bias)
        y, batch_mean, batch_var = normalise_and_gelu(x, scale, bias)
        if not self.is_initializing():
            keep = self.momentum
            mean.value = keep * mean.value + (1 - keep) * batch_mean
            var.value = keep * var.value + (1 - keep) * batch_var
        return y
