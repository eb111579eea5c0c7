"""The table of methods, how a method calls its loss, and what a recipe refuses."""

import dataclasses

import jax.numpy as jnp
import pytest

from jaxhash.losses import total
from jaxhash.method import METHODS, Method, Recipe
from jaxhash.nets import NETWORKS, Outputs, head
from jaxhash.nets.head import ACTIVATIONS, CLASSIFIERS
from jaxhash.recipes import FROM_SCRATCH, STARTS
from jaxhash.training import augment

OUTPUTS = Outputs(jnp.ones((3, 2)), jnp.full((3, 4), 0.25), jnp.zeros((3, 2)))
LABELS = jnp.array([0, 1, 0])


@pytest.mark.parametrize("name", METHODS)
def test_row(name):
    method = METHODS[name]
    assert method.name == name
    assert method.source
    assert method.activation in ACTIVATIONS
    assert method.classifier in CLASSIFIERS
    assert method.network in {"", *NETWORKS}
    assert method.batches in ("shuffled", "class-pair")
    assert method.recipe.start in head.STARTS
    augment.steps(method.recipe.augment)
    # A bit is 1 in the upper half of what the activation can give.
    assert method.threshold == (0.5 if method.activation == "sigmoid" else 0.0)


def test_the_papers_methods_are_there():
    wanted = {"dlbhc", "ssdh", "dsh", "dhih", "dhih-r2", "dhih-r3", "dhih-r4"}
    wanted |= {"mhcln", "mhcln-semihard", "mhcln-paper"}
    wanted |= {"hashnet", "greedyhash", "csq", "dpn", "orthohash", "talr"}
    assert wanted <= set(METHODS)
    assert METHODS["mhcln-paper"].batches == "class-pair"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("dlbhc", {"learning_rate": 1e-3, "batch_size": 32, "steps": 50_000, "drops": (0.5,)}),
        ("dlbhc", {"latent_rate": 1, "classifier_rate": 10, "bias_rate": 2, "start": "dlbhc"}),
        ("ssdh", {"latent_rate": 1, "classifier_rate": 10, "bias_rate": 2, "start": "ssdh"}),
        ("ssdh", {"learning_rate": 1e-3, "batch_size": 32, "steps": 50_000, "drops": (0.5,)}),
        # The released solver's step: rate 1e-3 on half our gradient, decay 0.004.
        ("dsh", {"learning_rate": 1e-3 / 2, "weight_decay": 0.004 * 2, "batch_size": 200}),
        ("dsh", {"bias_rate": 2, "steps": 70_000, "drops": (60 / 70, 65 / 70), "start": "xavier"}),
        ("mhcln", {"learning_rate": 1e-4, "momentum": 0.5, "beta2": 0.9, "batch_size": 90}),
        ("mhcln", {"weight_decay": 0, "steps": 10_000, "start": "he-average"}),
        ("hashnet", {"learning_rate": 3e-4, "latent_rate": 10, "bias_rate": 1, "nesterov": True}),
        ("hashnet", {"drops": (0.2, 0.4, 0.6, 0.8), "drop_factor": 0.5, "decay_all": True}),
        ("csq", {"learning_rate": 1e-6, "latent_rate": 100, "batch_size": 64, "epochs": 90}),
        ("csq", {"drop_factor": 0.7, "weight_decay": 0, "start": "uniform"}),
        # The released loss is a sum over 64 bits, ours a mean.
        ("dpn", {"optimizer": "sgd", "learning_rate": 64e-4, "weight_decay": 5e-4 / 64}),
        ("dpn", {"latent_rate": 1, "batch_size": 256, "epochs": 200, "drops": (0.5,)}),
        ("greedyhash", {"learning_rate": 1e-3, "batch_size": 32, "epochs": 50, "drops": (0.6,)}),
        ("orthohash", {"learning_rate": 1e-5, "latent_rate": 10, "batch_size": 256, "epochs": 100}),
        ("talr", {"learning_rate": 1e-3, "latent_rate": 10, "batch_size": 250, "epochs": 50}),
    ],
)
def test_published_recipes(name, wanted):
    """Numbers of the files that `jaxhash.published` names."""
    recipe = dataclasses.asdict(METHODS[name].recipe)
    assert {key: recipe[key] for key in wanted} == wanted


def test_starts_have_one_list_of_names():
    assert tuple(head.STARTS) == STARTS


def toy(latent, labels, classes, progress, *, weight=1.0):
    return total({"toy": weight * progress * classes * latent.sum() + labels.sum()})


def test_a_loss_gets_what_it_names():
    """What a newcomer writes: one function, one row."""
    method = dataclasses.replace(METHODS["dsh"], name="toy", objective=toy)
    loss, terms = method.loss(OUTPUTS, LABELS, classes=2, progress=0.5, weight=3.0)
    assert float(loss) == float(terms["toy"]) == 3 * 0.5 * 2 * 3 + 1
    assert method.options() == {"weight": 1.0}
    with pytest.raises(ValueError, match="'toy' needs classes"):
        method.loss(OUTPUTS, LABELS)


def test_defaults_of_a_row_can_be_overridden():
    method: Method = dataclasses.replace(METHODS["dsh"], objective=toy, defaults={"weight": 0.0})
    assert float(method.loss(OUTPUTS, LABELS, classes=2)[0]) == 1
    assert float(method.loss(OUTPUTS, LABELS, classes=2, weight=1.0)[0]) == 7
    assert method.options(weight=2.0) == {"weight": 2.0}


def test_unknown_options_are_named():
    message = "unknown option 'beta' for method 'dsh'; this loss takes margin, alpha"
    with pytest.raises(ValueError, match=message):
        METHODS["dsh"].loss(OUTPUTS, LABELS, beta=1)
    with pytest.raises(ValueError, match=message):
        METHODS["dsh"].options(beta=1)


def test_missing_inputs_are_named():
    with pytest.raises(ValueError, match="'dhih' needs kernel"):
        METHODS["dhih"].loss(OUTPUTS, LABELS)
    with pytest.raises(ValueError, match="'dlbhc' needs logits"):
        METHODS["dlbhc"].loss(OUTPUTS._replace(logits=None), LABELS)


def test_label_smoothing_of_the_recipe_reaches_losses_that_take_it():
    recipe = dataclasses.replace(FROM_SCRATCH, label_smoothing=0.2)
    assert METHODS["dlbhc"].options(recipe)["label_smoothing"] == 0.2
    assert METHODS["dlbhc"].options(recipe, label_smoothing=0.1)["label_smoothing"] == 0.1
    assert "label_smoothing" not in METHODS["dsh"].options(recipe)


# ---- recipes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "lamb"}, "optimizer is 'lamb'; choose one of sgd"),
        ({"schedule": "linear"}, "schedule is 'linear'; choose one of constant"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"warmup": 1.5}, "warmup is 1.5"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"drops": (0.5, 0.2)}, "drops is"),
        ({"drops": (1.0,)}, "drops is"),
        ({"steps": None}, "either steps or epochs"),
        ({"epochs": 2.0}, "either steps or epochs"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_recipes_refuse(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{"steps": 10, **fields})


def test_length_of_a_run():
    assert Recipe(steps=7).total_steps(10_000) == 7
    assert Recipe(batch_size=100, epochs=1.5).total_steps(1_050) == 15
    assert Recipe(batch_size=100, epochs=1).total_steps(30) == 1  # less than one batch
