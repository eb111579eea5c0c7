"""The last blocks of a backbone learn with the head; those before them stay as they were."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_backbone
from test_unlabelled import draw

import jaxhash
from jaxhash import models, nets, runs
from jaxhash.config import Config
from jaxhash.data import photographs
from jaxhash.recipes import Recipe
from jaxhash.training import defaults, finetuning, loop, optimiser, planning
from jaxhash.training.backbones import Backbone
from jaxhash.training.steps import initial_variables
from jaxhash.trees import flatten

SIDE = 8
LAYERS = {"stem": (12, 9), "block1": (9, 9), "block2": (9, 9), "head": (9, 20)}
TUNED: dict[str, Any] = {
    **{"network": "blocks", "method": "dlbhc", "bits": 8, "hidden": 5},
    **{"finetune_blocks": 1, "epochs": 2, "batch_size": 8},
}


class Blocks(nn.Module):
    """Averages over the quarters of an image, then dense layers of the names in `LAYERS`."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        n, side, _, channels = images.shape
        quarters = images.reshape(n, 2, side // 2, 2, side // 2, channels).mean(axis=(2, 4))
        x = quarters.reshape(n, -1).astype(self.dtype)
        for name, (_, width) in LAYERS.items():
            x = nn.tanh(nn.Dense(width, dtype=self.dtype, name=name)(x))
        return x, x


@pytest.fixture(autouse=True)
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A backbone of two blocks, whose package is a file made here."""
    rng = np.random.default_rng(5)
    weights = {}
    for name, shape in LAYERS.items():
        weights[f"{name}/kernel"] = rng.normal(size=shape).astype(np.float32)
        weights[f"{name}/bias"] = rng.normal(size=shape[1]).astype(np.float32)
    return small_backbone.known(
        "blocks", Blocks, weights, tmp_path, monkeypatch, package="block-weights", side=SIDE
    )


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for seed, name in enumerate(("cat", "dog", "fox")):
        draw(tmp_path / "pets" / name, 16, seed)
    return tmp_path / "pets"


def trunk_of(model: models.Model) -> dict[str, np.ndarray]:
    return flatten(model.variables["params"]["trunk"])


def test_the_last_blocks_learn_and_the_others_stay(pets: Path, backbone: Backbone) -> None:
    said: list[str] = []
    model = jaxhash.train(pets, None, say=said.append, weight_decay=0.1, **TUNED)
    assert "on blocks, whose last 1 blocks are fine-tuned" in said[0]
    before, after = flatten(backbone.params()), trunk_of(model)
    same = {name: np.array_equal(before[name], after[name]) for name in before}
    assert same == {name: name.startswith(("stem", "block1")) for name in before}
    assert (model.spec.network, model.spec.hidden) == ("blocks", 5)
    assert (model.spec.mean, model.spec.item_shape) == ((0.5,) * 3, (SIDE, SIDE, 3))


def test_frozen_layers_have_no_gradient_and_cost_none(backbone: Backbone) -> None:
    module = nets.NETWORKS["blocks"].build(bits=4, classes=3, hidden=0)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(6, SIDE, SIDE, 3)), jnp.float32)
    variables = initial_variables(module, jax.random.key(0), images.shape[1:])
    params = finetuning.with_weights(backbone, variables)["params"]

    def loss(params: Any, rates: Any) -> jax.Array:
        params = optimiser.with_frozen(params, rates)
        outputs, _ = nets.apply(module, {"params": params}, images, train=False)
        return jnp.square(outputs.latent).sum()

    rates = finetuning.rates(LAYERS, 1)
    slopes = [jax.jit(jax.grad(partial(loss, rates=each))) for each in (None, rates)]
    all_of_them, some = (flatten(slope(params)) for slope in slopes)
    for name, slope in some.items():
        if name.startswith(("trunk/stem", "trunk/block1")):
            assert not np.any(slope)
            assert np.any(all_of_them[name])
        else:
            np.testing.assert_allclose(slope, all_of_them[name], rtol=1e-5)

    def products(rates: Any) -> int:
        return str(jax.make_jaxpr(jax.grad(lambda one: loss(one, rates)))(params)).count("dot_gen")

    # Forward 6 with the classifier; backward, for the latent layer and those of the trunk that
    # learn, one for the kernel, and one for the input of all but the first.
    assert (products(None), products(rates)) == (6 + 9, 6 + 5)


def test_what_learns_of_the_trunk_learns_at_a_tenth_of_the_rate() -> None:
    params = {
        "trunk": {name: {"kernel": jnp.ones(shape)} for name, shape in LAYERS.items()},
        "head": {"hidden": {"kernel": jnp.ones((2, 2))}, "latent": {"kernel": jnp.ones((2, 2))}},
    }
    recipe = Recipe(learning_rate=0.5, momentum=0.0, weight_decay=0.5, latent_rate=3, steps=2)
    optimizer = optimiser.build(recipe, 2, finetuning.rates(LAYERS, 1))
    slopes = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(slopes, optimizer.init(params), params)
    moved = flatten(optax.apply_updates(params, updates))
    one = 0.5 * 1.5  # of decay and gradient
    wanted = {"hidden": one, "latent": 3 * one, "block2": one / 10, "head": one / 10}
    for name, array in moved.items():
        np.testing.assert_allclose(array, 1 - wanted.get(name.split("/")[1], 0), rtol=1e-6)


def test_rates_of_blocks_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="finetune_blocks is 3, and the network has 2 blocks"):
        finetuning.rates(LAYERS, 3)
    real = [f"block{at}" for at in range(1, 17)]
    learned = [name for name, rate in finetuning.rates(["stem", *real, "head"], 5).items() if rate]
    assert learned == [*real[-5:], "head"]


def test_the_model_is_whole_and_another_one_than_on_the_network_as_it_is(
    pets: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    model = jaxhash.train(pets, run, **TUNED)
    loaded = jaxhash.load(run)
    assert models.fingerprint(loaded) == models.fingerprint(model)
    files = sorted(pets.rglob("*.png"))
    for name in ("codes", "features", "latent"):
        ours, theirs = getattr(model.encode(files), name), getattr(loaded.encode(files), name)
        np.testing.assert_array_equal(ours, theirs)
    assert not (run / runs.FEATURES).exists()
    jaxhash.index(loaded, pets, tmp_path / "tuned.index")
    frozen = jaxhash.train(pets, tmp_path / "frozen", **TUNED | {"finetune_blocks": 0})
    assert models.fingerprint(frozen) != models.fingerprint(model)
    jaxhash.index(frozen, pets, tmp_path / "frozen.index")
    with pytest.raises(ValueError, match="made by another model"):
        jaxhash.open_index(tmp_path / "frozen.index", run)
    assert jaxhash.open_index(tmp_path / "tuned.index", run).query(files[0], k=1).ids == [0]
    assert jaxhash.evaluate(run).codes.map is not None


def test_a_run_that_was_broken_off_goes_on(pets: Path, tmp_path: Path) -> None:
    config = Config(data=str(pets), **TUNED | {"eval_every": 1.0})
    whole = loop.train(config, tmp_path / "whole")

    class Broken(Exception):
        pass

    def stop(progress: loop.Progress) -> None:
        if progress.step >= 3:
            raise Broken

    with pytest.raises(Broken):
        loop.train(config, tmp_path / "run", on_step=stop)
    again = loop.train(config, tmp_path / "run", resume=True)
    assert models.fingerprint(again) == models.fingerprint(whole)
    other = dataclasses.replace(config, finetune_blocks=2)
    with pytest.raises(ValueError, match="started with another finetune_blocks"):
        loop.train(other, tmp_path / "run", resume=True)


def test_other_bits_go_on_from_fine_tuned_blocks(pets: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    first = jaxhash.train(pets, run, **TUNED)
    fields = TUNED | {"bits": 12, "learning_rate": 1e-30, "weights": run}
    again = jaxhash.train(pets, None, **fields)
    for name, array in trunk_of(first).items():
        np.testing.assert_array_equal(trunk_of(again)[name], array)
    with pytest.raises(ValueError, match=r"network was fine-tuned, .* give finetune_blocks too"):
        jaxhash.train(pets, None, **fields | {"finetune_blocks": 0})


def test_views_of_an_image_go_with_it(pets: Path) -> None:
    assert jaxhash.train(pets, None, mirror=True, **TUNED).spec.mirror


def test_fine_tuning_chooses_a_backbone_and_varies_images(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photographs, "are_photographs", lambda data: False)
    config = defaults.with_defaults(Config(data=str(pets), finetune_blocks=2, augment="flip"))
    assert (config.network, config.method) == ("blocks", defaults.METHOD_ON_BACKBONE)
    plan = planning.settle(config)
    assert plan.recipe.augment == "flip"
    assert planning.settle(dataclasses.replace(config, augment=None)).recipe.augment == "crop-flip"
    assert plan.numbers()["finetune_blocks"] == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"finetune_blocks": -1}, "finetune_blocks is -1; give 0 for none"),
        ({"finetune_blocks": 3}, "the network has 2 blocks; give at most so many"),
        ({"network": "dsh", "hidden": None}, "'dsh' has no pretrained blocks: all of it is train"),
        ({"network": "onnx:a.onnx"}, "onnx:a.onnx is run by onnxruntime, which trains nothing"),
        ({"weights": "a.pth"}, "weights is a.pth; with finetune_blocks give the folder of a fini"),
        ({"image_size": 32}, "image_size is given, and network 'blocks' has its own"),
        (
            {"method": "itq", "hidden": None, "epochs": None, "batch_size": None},
            "finetune_blocks is given, and method 'itq' is fitted in one go, on a network that is",
        ),
    ],
)
def test_what_cannot_be_fine_tuned_is_refused(
    fields: dict[str, Any], message: str, pets: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        jaxhash.train(pets, tmp_path / "run", **TUNED | fields)
    assert not (tmp_path / "run").exists()


def test_features_have_no_blocks() -> None:
    items, labels = np.ones((20, 6), np.float32), np.arange(20) % 2
    with pytest.raises(ValueError, match="takes images, and arrays holds features"):
        jaxhash.train((items, labels), None, **TUNED)
