"""Build the optax optimiser of a recipe."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxhash.recipes import Recipe


def schedule(recipe: Recipe, total_steps: int) -> optax.Schedule:
    """The trunk's learning rate at each step, counted from 0.

    constant: the same throughout. step: multiplied by drop_factor at each of the drops. cosine:
    up in a straight line over the warm-up, then down along half a cosine. one-cycle: up and down
    in straight lines. The last two end at final_rate times the highest.

    Raises:
        ValueError: total_steps below 1.

    Example:
        >>> rate = schedule(Recipe(learning_rate=1.0, schedule="cosine", steps=4), 4)
        >>> [round(float(rate(step)), 2) for step in range(4)]
        [1.0, 0.85, 0.5, 0.15]
    """
    if total_steps < 1:
        raise ValueError(f"total_steps is {total_steps}; a run has at least 1")
    highest = recipe.learning_rate
    if recipe.schedule == "constant":
        return optax.constant_schedule(highest)
    if recipe.schedule == "step":
        drops = {math.ceil(drop * total_steps): recipe.drop_factor for drop in recipe.drops}

        def steps(count: Any) -> jax.Array:
            rate = jnp.float32(highest)
            for at, factor in drops.items():
                rate = jnp.where(count >= at, rate * factor, rate)
            return rate

        return steps

    warmup = recipe.warmup * total_steps
    final = recipe.final_rate

    def rises_and_falls(count: Any) -> jax.Array:
        count = jnp.asarray(count, jnp.float32)
        # The first step of a warm-up already moves; counting from 1 gives it a rate above 0.
        rise = jnp.minimum((count + 1) / max(warmup, 1), 1)
        fallen = jnp.clip((count - warmup) / max(total_steps - warmup, 1), 0, 1)
        if recipe.schedule == "cosine":
            fallen = (1 - jnp.cos(jnp.pi * fallen)) / 2
        return highest * rise * (1 - (1 - final) * fallen)

    return rises_and_falls


def decayed(params: Any) -> Any:
    """Which parameters weight decay acts on unless it acts on all: a tree of bools like params.

    Those with two or more axes: kernels do, biases and the scales of normalisations do not.

    Example:
        >>> decayed({"conv": {"kernel": jnp.ones((3, 3, 1, 8)), "bias": jnp.ones(8)}})
        {'conv': {'bias': False, 'kernel': True}}
    """
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def rates(recipe: Recipe, params: Any, trunk: Mapping[str, float] | None = None) -> Any:
    """Learning rate of each parameter in multiples of the trunk's: a tree of floats like params.

    latent_rate and classifier_rate below params["head"]["latent"] and params["head"]["classifier"],
    times bias_rate for every leaf named "bias".

    trunk: of each of its layers, by name, where they differ; 0 for those that do not learn.

    Example:
        >>> recipe = Recipe(classifier_rate=10, bias_rate=2, steps=1)
        >>> layer = {"bias": 0.0, "kernel": 0.0}
        >>> rates(recipe, {"head": {"classifier": layer, "latent": layer}})["head"]
        {'classifier': {'bias': 20, 'kernel': 10}, 'latent': {'bias': 2.0, 'kernel': 1.0}}
    """
    layers = {"latent": recipe.latent_rate, "classifier": recipe.classifier_rate}

    def rate(path: tuple[Any, ...], _: Any) -> float:
        names = [str(getattr(entry, "key", entry)) for entry in path]
        if names[0] == "head":
            layer = layers.get(names[1], 1.0)
        else:
            layer = 1.0 if trunk is None else trunk[names[1]]
        return layer * recipe.bias_rate if names[-1] == "bias" else layer

    return jax.tree_util.tree_map_with_path(rate, params)


def with_frozen(params: Any, trunk: Mapping[str, float] | None) -> Any:
    """The parameters, those of layers of the trunk with a rate of 0 without a gradient.

    Whatever is computed from images by them alone then needs none either, and keeps nothing for it.

    trunk: the rates of its layers, by name; None where all of them learn.

    Example:
        >>> params = {"trunk": {"stem": jnp.ones(()), "head": jnp.ones(())}}
        >>> rates = {"stem": 0, "head": 1}
        >>> total = lambda params: sum(with_frozen(params, rates)["trunk"].values())
        >>> {name: float(one) for name, one in jax.grad(total)(params)["trunk"].items()}
        {'head': 1.0, 'stem': 0.0}
    """
    if trunk is None:
        return params
    layers = {
        name: one if trunk[name] else jax.tree.map(jax.lax.stop_gradient, one)
        for name, one in params["trunk"].items()
    }
    return dict(params) | {"trunk": layers}


def build(
    recipe: Recipe, total_steps: int, trunk: Mapping[str, float] | None = None
) -> optax.GradientTransformation:
    """The optimiser: clip, decay, accumulate, then scale by each parameter's rate and the schedule.

    Weight decay is added to the gradient (sgd, adam) or to the step (adamw); either way it is
    multiplied by the parameter's own rate.

    trunk: as for `rates`.

    Raises:
        ValueError: total_steps below 1.

    Example:
        >>> optimiser = build(Recipe(learning_rate=0.1, steps=100), 100)
        >>> state = optimiser.init({"trunk": {"kernel": jnp.ones((2, 2))}})
    """
    parts = []
    if recipe.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(recipe.clip_norm))
    spared = None if recipe.decay_all else decayed
    decay = optax.add_decayed_weights(recipe.weight_decay, mask=spared)
    if recipe.weight_decay and recipe.optimizer != "adamw":
        parts.append(decay)
    if recipe.optimizer == "sgd":
        if recipe.momentum:
            parts.append(optax.trace(recipe.momentum, nesterov=recipe.nesterov))
    else:
        parts.append(optax.scale_by_adam(recipe.momentum, recipe.beta2, nesterov=recipe.nesterov))
    if recipe.weight_decay and recipe.optimizer == "adamw":
        parts.append(decay)
    apart = (recipe.latent_rate, recipe.classifier_rate, recipe.bias_rate) != (1, 1, 1)
    if apart or trunk is not None:
        parts.append(
            optax.stateless(
                lambda updates, _: jax.tree.map(
                    lambda update, rate: update * rate, updates, rates(recipe, updates, trunk)
                )
            )
        )
    parts.append(optax.scale_by_learning_rate(schedule(recipe, total_steps)))
    return optax.chain(*parts)
