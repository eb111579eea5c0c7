"""Schedules against formulas, and whole optimisers against their update written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxhash.recipes import Recipe
from jaxhash.training.optimiser import build, decayed, rates, schedule


def values(recipe, total):
    rate = jax.jit(schedule(recipe, total))
    return np.array([rate(step) for step in range(total)])


def test_constant():
    np.testing.assert_allclose(values(Recipe(learning_rate=0.3, steps=5), 5), 0.3)


def test_step_drops_at_fractions_of_the_run():
    recipe = Recipe(learning_rate=1.0, schedule="step", drops=(0.3, 0.8), drop_factor=0.5, steps=10)
    np.testing.assert_allclose(values(recipe, 10), [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25])


@pytest.mark.parametrize("warmup", [0.0, 0.25])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_and_one_cycle(warmup, final):
    total = 40
    options = {"learning_rate": 2.0, "warmup": warmup, "final_rate": final, "steps": total}
    up = warmup * total
    cosine, line = np.empty(total), np.empty(total)
    for step in range(total):
        rise = min((step + 1) / up, 1) if up else 1
        fallen = max(step - up, 0) / (total - up)
        cosine[step] = 2 * rise * (final + (1 - final) * (1 + np.cos(np.pi * fallen)) / 2)
        line[step] = 2 * rise * (final + (1 - final) * (1 - fallen))
    np.testing.assert_allclose(
        values(Recipe(schedule="cosine", **options), total), cosine, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        values(Recipe(schedule="one-cycle", **options), total), line, rtol=1e-4, atol=1e-5
    )
    # The highest rate is reached, and the run goes on at the last one.
    assert values(Recipe(schedule="one-cycle", **options), total).max() == pytest.approx(2)
    after = schedule(Recipe(schedule="cosine", **options), total)(10 * total)
    np.testing.assert_allclose(after, 2 * final, atol=1e-6)


@pytest.mark.parametrize("name", ["constant", "step", "cosine", "one-cycle"])
def test_a_run_of_one_step_moves(name):
    recipe = Recipe(schedule=name, warmup=0.2, drops=(0.5,), steps=1)
    assert schedule(recipe, 1)(0) > 0


def test_no_steps_is_refused():
    with pytest.raises(ValueError, match="total_steps is 0"):
        build(Recipe(steps=1), 0)


def tree(rng):
    def layer(*shape):
        return {
            "kernel": rng.normal(size=shape).astype(np.float32),
            "bias": rng.normal(size=shape[-1]).astype(np.float32),
        }

    return {
        "trunk": {"conv": layer(2, 3), "norm": {"scale": np.ones(3, np.float32)}},
        "head": {"latent": layer(3, 2)},
    }


def test_decay_spares_biases_and_norms(rng):
    assert decayed(tree(rng)) == {
        "trunk": {"conv": {"kernel": True, "bias": False}, "norm": {"scale": False}},
        "head": {"latent": {"kernel": True, "bias": False}},
    }


def test_rates_by_path(rng):
    recipe = Recipe(latent_rate=3, classifier_rate=10, bias_rate=2, steps=1)
    params = tree(rng)
    params["head"]["classifier"] = params["head"]["latent"]
    assert rates(recipe, params) == {
        "trunk": {"conv": {"kernel": 1, "bias": 2}, "norm": {"scale": 1}},
        "head": {
            "latent": {"kernel": 3, "bias": 6},
            "classifier": {"kernel": 10, "bias": 20},
        },
    }


def by_hand(recipe, params, gradients, total):
    """Three optimisers written out, leaf by leaf, in float64."""
    params = jax.tree.map(np.float64, params)
    factors, decays = rates(recipe, params), decayed(params)
    if recipe.decay_all:
        decays = jax.tree.map(lambda _: True, decays)
    memory = jax.tree.map(lambda p: (np.zeros_like(p), np.zeros_like(p)), params)
    rate = schedule(recipe, total)
    for step, gradient in enumerate(gradients):
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in jax.tree.leaves(gradient)))
        shrink = min(1, recipe.clip_norm / norm) if recipe.clip_norm else 1

        def update(p, g, factor, decay, m, step=step, shrink=shrink):
            g = shrink * g + (
                recipe.weight_decay * p if decay and recipe.optimizer != "adamw" else 0
            )
            first, second = m
            if recipe.optimizer == "sgd":
                first[...] = recipe.momentum * first + g
                move = g + recipe.momentum * first if recipe.nesterov else first
            else:
                first[...] = recipe.momentum * first + (1 - recipe.momentum) * g
                second[...] = recipe.beta2 * second + (1 - recipe.beta2) * g**2
                mean = first / (1 - recipe.momentum ** (step + 1))
                square = second / (1 - recipe.beta2 ** (step + 1))
                move = mean / (np.sqrt(square) + 1e-8)
            if decay and recipe.optimizer == "adamw":
                move = move + recipe.weight_decay * p
            return p - float(rate(step)) * factor * move

        params = jax.tree.map(
            update,
            params,
            gradient,
            factors,
            decays,
            memory,
            is_leaf=lambda x: isinstance(x, np.ndarray),
        )
    return params


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "momentum": 0.0},
        {"optimizer": "sgd", "weight_decay": 0.1, "latent_rate": 10, "bias_rate": 2},
        {"optimizer": "sgd", "nesterov": True, "weight_decay": 0.1, "clip_norm": 0.5},
        {"optimizer": "adam", "momentum": 0.5, "beta2": 0.9, "weight_decay": 0.1},
        {"optimizer": "adamw", "weight_decay": 0.1, "latent_rate": 3, "clip_norm": 1.0},
        {"optimizer": "sgd", "weight_decay": 0.1, "decay_all": True, "latent_rate": 10},
    ],
)
def test_updates_equal_those_written_out(options, rng):
    recipe = Recipe(learning_rate=0.1, schedule="cosine", steps=4, **options)
    params = tree(rng)
    gradients = [tree(rng) for _ in range(4)]
    optimiser = build(recipe, 4)
    ours, state = jax.tree.map(jnp.asarray, params), optimiser.init(params)
    step = jax.jit(optimiser.update)
    for gradient in gradients:
        updates, state = step(gradient, state, ours)
        ours = optax.apply_updates(ours, updates)
    wanted = by_hand(recipe, params, gradients, 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), ours, wanted)
