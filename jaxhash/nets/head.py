"""The latent layer that becomes the code, the classifier above it, and the trunk below it."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxhash.nets.outputs import Outputs

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sigmoid": jax.nn.sigmoid,  # DLBHC, SSDH, MHCLN: bits where the latent is above 0.5
    "tanh": jnp.tanh,  # signed and bounded: bits where it is above 0
    "linear": lambda latent: latent,  # DSH: signed, held near -1 and +1 by its regulariser
    "signs": lambda latent: latent,  # GreedyHash: linear, and the classifier reads its signs
    "normalised": lambda latent: latent,  # OrthoHash, HashNet: normalised over the batch, below
}

CLASSIFIERS = ("bias", "plain", "none")

Initializer = Callable[..., Any]


class Start(NamedTuple):
    """How the two layers of a head are initialised; the classifier's bias is 0 in all of them.

    latent, classifier: initialisers of the kernels. bias: of the latent layer's bias, given the
    number of its inputs.
    """

    latent: Initializer
    bias: Callable[[int], Initializer]
    classifier: Initializer


_normal = nn.initializers.normal
_scaled = nn.initializers.variance_scaling
_fan_in = nn.initializers.lecun_normal()
_he = _scaled(2.0, "fan_in", "normal")
_third = _scaled(1 / 3, "fan_in", "uniform")
he_average = _scaled(2.0, "fan_avg", "uniform")
"""Uniform, with variance 4 / (inputs + outputs): MHCLN's."""
caffe_xavier = _scaled(1.0, "fan_in", "uniform")
"""Caffe's "xavier" filler, DSH's: uniform, with variance 1 / inputs. Elsewhere "xavier", after
Glorot and Bengio, divides by the mean of inputs and outputs."""


def _zero(inputs: int) -> Initializer:
    return nn.initializers.zeros_init()


def _one(inputs: int) -> Initializer:
    return nn.initializers.constant(1.0)


def _uniform(inputs: int) -> Initializer:
    """Between -1 and 1 over the root of the inputs."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -(inputs**-0.5), inputs**-0.5
    )


STARTS = {
    # For training from scratch: keeps the latent's variance near the trunk's whatever the trunk's
    # width, and its mean at the activation's centre, so that no bit starts saturated.
    "fan-in": Start(_fan_in, _zero, _fan_in),
    # DLBHC's released definition, meant for a pretrained fc7: every bit starts near sigmoid(1).
    "dlbhc": Start(_normal(0.005), _one, _normal(0.01)),
    # SSDH's.
    "ssdh": Start(_normal(0.01), _zero, _normal(0.2)),
    # DSH's.
    "xavier": Start(caffe_xavier, _zero, caffe_xavier),
    # HashNet's, DPN's and OrthoHash's, which have no classifier.
    "normal": Start(_normal(0.01), _zero, _normal(0.01)),
    # TALR's: variance 2 / inputs.
    "he": Start(_he, _zero, _he),
    # MHCLN's: uniform, variance 4 / (inputs + outputs).
    "he-average": Start(he_average, _zero, he_average),
    # The default of PyTorch's linear layers: GreedyHash, CSQ.
    "uniform": Start(_third, _uniform, _third),
}


def one_of(name: str, value: str, known: Iterable[str]) -> str:
    """Return `value` if it is among the `known` names.

    Raises:
        ValueError: it is not; the message lists those that are.

    Example:
        >>> one_of("activation", "tanh", ACTIVATIONS)
        'tanh'
    """
    names = tuple(known)
    if value not in names:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(names)}")
    return value


def signs(latent: jax.Array) -> jax.Array:
    """-1 or +1 where the latent is at most or above 0, with the gradient of the latent itself.

    Source: Su et al., Greedy hash, NeurIPS 2018: the straight-through gradient.

    Example:
        >>> signs(jnp.array([-0.5, 0.0, 2.0])).tolist()
        [-1.0, -1.0, 1.0]
    """
    # x - x is exactly 0, so that the values are -1 and +1 to the last bit.
    fixed = jax.lax.stop_gradient(latent)
    return jnp.where(fixed > 0, 1.0, -1.0) + (latent - fixed)


def of_unit_square(features: jax.Array) -> jax.Array:
    """Each row scaled to a mean square of 1, so that one learning rate suits any features.

    Example:
        >>> of_unit_square(jnp.array([[3.0, -3.0]])).tolist()
        [[1.0, -1.0]]
    """
    square = jnp.square(features).mean(axis=1, keepdims=True)
    return features / jnp.sqrt(jnp.maximum(square, 1e-12))


class Head(nn.Module):
    """Hidden activations (n, d) -> latent (n, bits) and logits (n, classes) or None, in float32.

    Always float32, also under a bfloat16 trunk: the two layers cost nothing, and the threshold
    that makes the bits should not fall into a rounding step.

    Two activations are more than a function. "signs" puts the signs of the latent before the
    classifier. "normalised" is batch normalisation without scale or shift, which makes each bit 1
    for about half of the items; its running statistics are in "batch_stats", under any trunk.

    hidden: for a head on the features of a frozen backbone, which are then scaled to a mean square
    of 1: units of a ReLU layer below the latent layer, 0 for none. None for any other head.
    """

    bits: int
    classes: int
    activation: str = "sigmoid"
    classifier: str = "bias"
    start: str = "fan-in"  # a row of STARTS; `init` is taken by flax
    hidden: int | None = None

    @nn.compact
    def __call__(self, hidden: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array | None]:
        """Code layer first, classifier on top of its activations (DLBHC, section 3)."""
        start = STARTS[self.start]
        hidden = hidden.astype(jnp.float32)
        if self.hidden is not None:
            hidden = of_unit_square(hidden)
        if self.hidden:
            hidden = nn.relu(nn.Dense(self.hidden, kernel_init=_he, name="hidden")(hidden))
        latent = nn.Dense(
            self.bits,
            kernel_init=start.latent,
            bias_init=start.bias(hidden.shape[-1]),
            name="latent",
        )(hidden)
        latent = ACTIVATIONS[self.activation](latent)
        if self.activation == "normalised":
            latent = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                use_scale=False,
                use_bias=False,
                # Of some thousand numbers: the exact variance costs nothing.
                use_fast_variance=False,
                name="normalisation",
            )(latent)
        if self.classifier == "none":
            return latent, None
        classifier = nn.Dense(
            self.classes,
            use_bias=self.classifier == "bias",
            kernel_init=start.classifier,
            name="classifier",
        )
        return latent, classifier(signs(latent) if self.activation == "signs" else latent)


class HashNetwork(nn.Module):
    """A trunk with a head on it; what `nets.build` returns for every row of the table.

    The trunk maps items to `(features, hidden)`: what re-ranking compares, and what the latent
    layer reads. They are the same array unless dropout or further layers lie between.
    """

    trunk: nn.Module
    head: Head
    name_of_network: str
    takes: str = "images"
    min_size: int = 1

    def __call__(self, items: jax.Array, *, train: bool) -> Outputs:
        """Items (n, h, w, c) or (n, d), already normalised -> Outputs."""
        self._check(items.shape)
        features, hidden = self.trunk(items, train=train)  # type: ignore[operator]
        latent, logits = self.head(hidden, train=train)
        return Outputs(features.astype(jnp.float32), latent, logits)

    def look(self, items: jax.Array) -> jax.Array:
        """The trunk's features of items, float32 (n, d)."""
        self._check(items.shape)
        features, _ = self.trunk(items, train=False)  # type: ignore[operator]
        return features.astype(jnp.float32)

    def finish(self, features: jax.Array) -> Outputs:
        """Outputs for features, under a head that reads them."""
        return Outputs(features, *self.head(features, train=False))

    def _check(self, shape: tuple[int, ...]) -> None:
        if self.takes == "features" and len(shape) != 2:
            raise ValueError(
                f"network {self.name_of_network!r} takes features (n, d), got items of shape "
                f"{shape}; choose a network for images, or bring features"
            )
        if self.takes == "images" and len(shape) != 4:
            raise ValueError(
                f"network {self.name_of_network!r} takes images (n, height, width, channels), got "
                f"items of shape {shape}; choose a network for features (mhcln), or bring images"
            )
        if self.takes == "images" and min(shape[1:3]) < self.min_size:
            raise ValueError(
                f"network {self.name_of_network!r} needs images of at least {self.min_size} "
                f"pixels a side, got {shape[1]} x {shape[2]}; raise image_size"
            )
